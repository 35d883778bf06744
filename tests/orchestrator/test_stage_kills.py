"""SIGKILL of the worker in each kind of stage and of each kind of builder: eight fixed designs end bit-equal."""

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from orchestrator import records
from orchestrator.folder import SweepFolder
from orchestrator.records import TrialRecord
from tests.orchestrator.clusters import environment

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]

SWEEP = """
name: kills
task: {name: agreement, max_length: 32, limit: 3000}
corpus: {data: corpus.txt}
teacher:
  architecture: {layers: 6, heads: 4, hidden: 64, ffn_dim: 256, positions: 64, dropout: 0.1, init_std: 0.06}
  finetune: {epochs: 3, lr: 5.0e-4, batch_size: 64, token_loss: 5.0}
method:
  rosita:
    fixed:
      heads: 2
      layers: 3
      ffn_dim: 96
      embedding_rank: 16
      epochs: 3
      lr: 1.0e-3
      student_epochs: 2
      student_lr: 5.0e-4
      depth_epochs: 2
      depth_lr: 5.0e-4
      prune_period: 0.5
      importance_examples: 2000
      evaluate_every: 20
    space: {setting: {choice: [1, 2, 3, 4]}}
  hsk:
    fixed: {heads: 2, layers: 3, ffn_dim: 96, embedding_rank: 16, top: 6, hsk_epochs: 3, epochs: 3, lr: 1.0e-3}
    space: {stages: {choice: [both, prediction]}}
  tinybert:
    fixed:
      layers: 3
      heads: 4
      ffn_dim: 64
      general_epochs: 2
      general_length: 32
      general_batch_size: 32
      epochs: 3
      prediction_epochs: 3
    space: {hidden: {choice: [32, 48]}}
search:
  sampler: random
  trials: 8
  start:
    - {method: rosita, setting: 1}
    - {method: rosita, setting: 2}
    - {method: rosita, setting: 3}
    - {method: rosita, setting: 4}
    - {method: hsk, stages: both}
    - {method: hsk, stages: prediction}
    - {method: tinybert, hidden: 32}
    - {method: tinybert, hidden: 48}
stop: {rule: none}
resources: {workers: 1, cpus: 1}
"""

BUILDS = {"teacher", "importance", "bert-student", "shallow-student", "knowledge", "general"}
STAGES = {"distil", "width", "hsk", "predict", "intermediate", "prediction"}
MOST_KILLS = 2
"""Of one trial: a job that loses three worker groups has failed."""


def start(root: Path) -> subprocess.Popen[str]:
    """The command on one slot, with room of its own."""
    (root / "sweep.yaml").write_text(SWEEP, encoding="utf-8")
    (root / "one.yaml").write_text("kind: local\ncpus: 1\ngpus: 0\n", encoding="utf-8")
    lines = [f"the {noun} of the {other} {verb} here" for noun in NOUNS for other in NOUNS for verb in VERBS]
    (root / "corpus.txt").write_text("\n\n".join(lines), encoding="utf-8")
    command = [sys.executable, "-m", "orchestrator", "run", "sweep.yaml", "--cluster", "one.yaml"]
    return subprocess.Popen(
        command, cwd=root, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )


NOUNS = ("cat", "dog", "author", "pilot", "farmer", "guard", "senator", "teacher", "key", "picture", "book", "lawyer")
VERBS = ("sleeps", "laughs", "waits", "is old", "was red", "has come", "knows it", "sees us", "likes them", "runs")


def under_way(folder: SweepFolder) -> Iterator[str]:
    """The kinds of builds and of stages that are unfinished now."""
    for claim in folder.store.glob("*.claim"):
        yield re.sub(r"-[0-9a-f]{16}\.claim$", "", claim.name)
    for stage in folder.path.glob("trials/*/stages/*"):
        if not (stage / "done").exists():
            yield re.sub(r"-\d+$", "", stage.name)
    for path in folder.path.glob("history/*.jsonl"):  # a stage without evaluations has nothing on disk but reports
        if not folder.record(path.stem).exists() and (lines := path.read_text(encoding="utf-8").splitlines()):
            yield re.sub(r"-\d+$", "", re.findall(r'"stage": "([^"]+)"', lines[-1])[-1])


def kill_worker(driver: psutil.Process) -> bool:
    """Ends the one worker of the one slot without a word."""
    for process in driver.children(recursive=True):
        try:
            if "RayTrainWorker" in "".join(process.cmdline()):
                process.send_signal(signal.SIGKILL)
                return True
        except psutil.Error:
            continue
    return False


def run(root: Path, *, kinds: set[str]) -> tuple[dict[str, TrialRecord], set[str]]:
    """Runs the sweep and kills its worker once in each of the kinds; returns the records, and the kinds it hit."""
    root.mkdir()
    hit: set[str] = set()
    with environment():
        process = start(root)
        folder = SweepFolder(root / "sweeps", "kills")
        try:
            strike(process, folder, kinds, hit)
            told, error = process.communicate(timeout=60)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert process.returncode == 0, told + error
    return {record.trial: record for record in records.read(folder)}, hit


def strike(process: subprocess.Popen[str], folder: SweepFolder, kinds: set[str], hit: set[str]) -> None:
    """Kills until the sweep has ended, each kind once, and no trial too often."""
    driver, kills = psutil.Process(process.pid), Counter[int]()
    while process.poll() is None:
        time.sleep(0.005)
        trial = len(list(folder.path.glob("records/*.json")))  # one after the other, on one slot
        for kind in set(under_way(folder)) & (kinds - hit):
            if kills[trial] < MOST_KILLS and kill_worker(driver):
                time.sleep(0.02)  # the process ends, and what it did last is on disk
                if kind in under_way(folder):
                    hit.add(kind)
                kills[trial] += 1
                break


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TrialRecord]:
    return run(tmp_path_factory.mktemp("calm") / "place", kinds=set())[0]


def test_a_worker_killed_in_each_kind_of_stage_changes_no_number(
    undisturbed: dict[str, TrialRecord], tmp_path: Path
) -> None:
    assert [record.status for record in undisturbed.values()] == ["done"] * 9
    assert {record.attempts for record in undisturbed.values()} == {1}
    disturbed, hit = run(tmp_path / "place", kinds=BUILDS | STAGES)
    assert hit == BUILDS | STAGES
    assert sum(record.attempts - 1 for record in disturbed.values()) >= len(hit)
    for trial, record in undisturbed.items():
        assert disturbed[trial].status == "done", disturbed[trial].reason
        assert disturbed[trial].metrics == record.metrics, trial
