"""Whole sweeps on a real cluster, with bodies that train nothing: recorded, stopped, refused, killed, continued."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from orchestrator import records
from orchestrator.cluster import Cluster, Node
from orchestrator.errors import PlanError, SweepError, TrialError
from orchestrator.folder import SweepFolder
from orchestrator.jobqueue import Limits
from orchestrator.plan import Design, Plan
from orchestrator.records import TrialRecord
from orchestrator.session import locked
from orchestrator.status import describe_status, read_status
from orchestrator.sweep import Settings, SweepResult, run_sweep
from tests.doubles.plans import toy_plan
from tests.orchestrator.clusters import ROOT, environment, small_cluster

pytestmark = [pytest.mark.ray, pytest.mark.timeout(280)]

SPACE = {
    "heads": {"int": [1, 4]},
    "layers": {"int": [1, 4]},
    "lr": {"float": [1e-4, 1e-2], "log": True},
}
SETTINGS = Settings(
    body="tests.doubles.bodies:walk", limits=Limits(beat_s=6.0, gate_s=10.0), patience_s=5.0, with_teacher=False
)


class Diary:
    """A watcher that writes down what it is told, and now and then does something about it."""

    def __init__(self, folder: SweepFolder, stop_after: int = 0) -> None:
        self.events: list[tuple[str, str]] = []
        self.reports: list[tuple[str, int, Mapping[str, float]]] = []
        self.result: Any = None
        self._folder, self._stop_after = folder, stop_after

    def on_start(self, plan: Plan) -> None:
        self.events.append(("start", plan.spec.name))

    def on_trial(self, trial: str, design: Design) -> None:
        self.events.append(("trial", trial))

    def on_report(self, trial: str, step: int, metrics: Mapping[str, float]) -> None:
        self.reports.append((trial, step, metrics))
        if self._stop_after and len(self.reports) == self._stop_after:
            self._folder.file("stop").touch()

    def on_building(self, trial: str, name: str, step: int, metrics: Mapping[str, float]) -> None:
        self.events.append(("building", trial))

    def on_record(self, record: TrialRecord) -> None:
        assert records.read_one(self._folder.record(record.trial)) == record, "told only when it is on disk"
        self.events.append(("record", record.trial))
        if len(self.of("record")) == 2:
            raise RuntimeError("a watcher that fails harms nobody")

    def on_end(self, result: object) -> None:
        self.result = result

    def of(self, kind: str) -> list[str]:
        return [trial for event, trial in self.events if event == kind]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with small_cluster(num_cpus=2):
        yield


def sweep(plan: Plan, root: Path, settings: Settings = SETTINGS, stop_after: int = 0) -> tuple[SweepResult, Diary]:
    folder = SweepFolder(root, "toy")
    diary = Diary(folder, stop_after)
    return run_sweep(plan, folder, [diary], settings=settings), diary


def history(root: Path, trial: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in SweepFolder(root, "toy").history(trial).read_text().splitlines()]


@pytest.mark.usefixtures("cluster")
def test_twenty_trials_on_two_slots(tmp_path: Path) -> None:
    """First in first out, no trial sees another's numbers, each is recorded once, and a second run trains nothing."""
    search = {"trials": 20, "sampler": "random"}
    plan = toy_plan(tmp_path, space=SPACE, search=search, budget={"params": 45_000})
    result, diary = sweep(plan, tmp_path)
    ran = [record for record in result.records if record.status != "refused"]
    assert (result.status, result.reason) == ("complete", "all 20 trials have been run")
    assert [record.trial for record in ran] == [f"t{number:04d}" for number in range(20)]
    assert {record.status for record in ran} == {"done"}, [record.reason for record in ran]
    assert sorted(diary.of("record")) == sorted(record.trial for record in result.records)
    assert diary.of("trial") == [record.trial for record in ran]
    assert diary.result == result
    for record in ran:
        expected = 0.5 + 0.04 * record.config["heads"] + 0.03 * record.config["layers"]
        assert record.metrics["score"] == pytest.approx(expected)
        reported = [item["metrics"]["score"] for item in history(tmp_path, record.trial)]
        assert reported == pytest.approx([expected / 3, 2 * expected / 3, expected])
        assert record.costs["params"] <= 45_000
    refused = [record for record in result.records if record.status == "refused"]
    assert refused
    assert all("exceed the budget" in record.reason for record in refused)
    started = [record.started_s for record in ran]
    assert started == sorted(started)
    pids = [record.notes["pid"] for record in ran]
    assert len(set(pids)) == 2, "both slots served"
    assert min(pids.count(pid) for pid in set(pids)) >= 3
    assert len({str(record.notes["draws"]) for record in ran}) == 1
    status = read_status(SweepFolder(tmp_path, "toy"))
    assert (status["state"], status["done"], status["to_come"], status["running"]) == ("complete", 20, 0, [])
    assert status["front"]
    assert describe_status(status)[0] == "complete: all 20 trials have been run"

    began_s = time.monotonic()
    again, diary = sweep(plan, tmp_path)
    assert time.monotonic() - began_s < 5
    assert (again.status, again.records) == ("complete", result.records)
    assert diary.of("trial") == []


@pytest.mark.usefixtures("cluster")
def test_failures_stops_and_a_teacher_are_results(tmp_path: Path) -> None:
    """One slot: a good trial, one that fails, one that the rule stops in mid-training, and those after them."""
    starts = [
        {"layers": 2, "score": 0.9, "crash": ""},
        {"layers": 2, "score": 0.9, "crash": "raise:0:2:always"},
        {"layers": 3, "score": 0.3, "crash": ""},
        {"layers": 1, "score": 0.4, "crash": ""},
        {"layers": 1, "score": 0.5, "crash": "kill:0:2"},
    ]
    space = {
        "layers": {"int": [1, 3]},
        "score": {"choice": [0.9, 0.3, 0.4, 0.5]},
        "crash": {"choice": ["", "raise:0:2:always", "kill:0:2"]},
    }
    plan = toy_plan(
        tmp_path,
        cpus=1,
        space=space,
        search={"trials": 5, "start": starts},
        stop={"rule": "pareto", "rungs": [1, 2], "grace": 0},
        fixed={"steps": 6},
    )
    settings = Settings(body=SETTINGS.body, limits=SETTINGS.limits, patience_s=5.0)
    result, diary = sweep(plan, tmp_path, settings)
    by_name = {record.trial: record for record in result.records}
    assert diary.of("record")[0] == "teacher"
    assert by_name["teacher"].layout == plan.teacher_layout.to_json()
    assert [by_name[f"t{number:04d}"].status for number in range(5)] == ["done", "failed", "stopped", "done", "done"]
    assert by_name["t0001"].reason == "ValueError: planned failure at step 2 on rank 0"
    assert by_name["t0001"].log == "logs/t0001.log"
    assert "planned failure" in (tmp_path / "toy" / "logs" / "t0001.log").read_text()
    assert by_name["t0002"].reason == "t0000 costs no more and was better at report 1"
    assert len(history(tmp_path, "t0002")) == 1
    assert by_name["t0002"].metrics["score"] == pytest.approx(0.05)
    killed = by_name["t0004"]
    assert (killed.attempts, killed.notes["started_at"]) == (2, 1)
    assert [item["step"] for item in history(tmp_path, "t0004")] == [1, 2, 3, 4, 5, 6]


DRIVER = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.orchestrator.test_sweep import slow_plan, SETTINGS
from orchestrator.folder import SweepFolder
from orchestrator.sweep import run_sweep
folder = Path({folder!r})
run_sweep(slow_plan(folder), SweepFolder(folder, "toy"), settings=SETTINGS)
"""


def slow_plan(folder: Path) -> Plan:
    """Four trials of four seconds on one slot."""
    return toy_plan(folder, cpus=1, space=SPACE, search={"trials": 4}, fixed={"steps": 40, "nap_s": 0.1})


@pytest.mark.usefixtures("cluster")
def test_a_killed_driver_and_a_stop_request_lose_nothing(tmp_path: Path) -> None:
    """SIGKILL the driver in the middle of its second trial; run again and ask it to stop; run again to the end."""
    folder = SweepFolder(tmp_path, "toy")
    with environment() as env:
        command = [sys.executable, "-c", DRIVER.format(root=str(ROOT), folder=str(tmp_path))]
        driver = subprocess.Popen(command, env=env, start_new_session=True)
        try:
            wait_for(lambda: folder.history("t0001").exists() and len(history(tmp_path, "t0001")) >= 5, driver)
            with pytest.raises(SweepError, match=f"another driver is at work \\(process {driver.pid} on"):
                run_sweep(slow_plan(tmp_path), folder, settings=SETTINGS)
        finally:
            driver.kill()
            driver.wait()
    assert read_status(folder)["state"] in ("running", "dead")
    assert [record.trial for record in records.read(folder)] == ["t0000"]
    before = len(history(tmp_path, "t0001"))

    stopped, diary = sweep(slow_plan(tmp_path), tmp_path, stop_after=37)
    assert (stopped.status, stopped.reason) == ("stopped", "asked to stop")
    assert diary.of("trial")[0] == "t0001", "the trial that was lost comes first, under its name"
    assert diary.reports[0][:2] == ("t0001", before + 1), "from its checkpoint, and nothing is told twice"
    names = [record.trial for record in stopped.records]
    assert names == sorted(set(names))
    assert "t0001" in names
    assert len(names) < 4

    result, diary = sweep(slow_plan(tmp_path), tmp_path)
    assert result.status == "complete"
    assert [record.trial for record in result.records] == ["t0000", "t0001", "t0002", "t0003"]
    assert {record.status for record in result.records} == {"done"}
    for record in result.records:
        assert [item["step"] for item in history(tmp_path, record.trial)] == list(range(1, 41))
    resumed = [record for record in result.records if record.notes["started_at"] > 0]
    assert "t0001" in {record.trial for record in resumed}
    assert len(resumed) == 2, "the one that was killed and the one that was asked to stop"
    for record in resumed:
        assert record.attempts == 2, "one in each driver"
        assert record.wall_s > 3.9, "40 steps of 0.1 s, whoever saw them"
    assert not list((tmp_path / "toy" / "trials").glob("*/stages")), "no checkpoint outlives its record"
    assert len({record.key for record in result.records}) == 4


def wait_for(condition: Any, driver: subprocess.Popen[bytes]) -> None:
    until_s = time.monotonic() + 120
    while not condition():
        assert driver.poll() is None, "the driver has ended"
        assert time.monotonic() < until_s
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_fresh_gangs_run_each_trial_in_processes_of_its_own(tmp_path: Path) -> None:
    plan = toy_plan(tmp_path, search={"trials": 2}, resources={"gang": "fresh"}, cpus=2)
    result, _ = sweep(plan, tmp_path)
    assert [record.status for record in result.records] == ["done", "done"]
    assert len({record.notes["pid"] for record in result.records}) == 2


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_workers_that_cannot_start_end_the_sweep_with_their_error(tmp_path: Path) -> None:
    settings = Settings(body="tests.doubles.bodies:there_is_none", limits=SETTINGS.limits, with_teacher=False)
    plan = toy_plan(tmp_path, cpus=1, search={"trials": 2})
    with pytest.raises(
        SweepError, match=r"^no worker could start: AttributeError: .* 'there_is_none' \(log: .*driver.log\)$"
    ):
        sweep(plan, tmp_path, settings)
    status = read_status(SweepFolder(tmp_path, "toy"))
    assert status["state"] == "failed"
    assert records.read(SweepFolder(tmp_path, "toy")) == []


@pytest.mark.usefixtures("cluster")
def test_what_does_not_fit_is_told_with_numbers(tmp_path: Path) -> None:
    plan = toy_plan(tmp_path, cpus=8, resources={"workers": 4, "cpus": 2})
    with pytest.raises(PlanError, match="4 workers of 2 CPUs and 0 GPUs each; cluster 'ray' has 1 node with 2 CPUs"):
        sweep(plan, tmp_path)


@pytest.mark.usefixtures("cluster")
def test_a_teacher_that_fails_ends_the_sweep(tmp_path: Path) -> None:
    settings = Settings(body="tests.doubles.bodies:refuse_teacher", limits=SETTINGS.limits)
    with pytest.raises(TrialError, match=r"teacher: ValueError: no such teacher \(log: .*teacher.log\)"):
        sweep(toy_plan(tmp_path, cpus=1), tmp_path, settings)
    assert [record.status for record in records.read(SweepFolder(tmp_path, "toy"))] == ["failed"]


def test_the_lock_of_a_dead_driver_is_free(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path, "toy")
    code = "import sys, time; from pathlib import Path; from orchestrator.session import locked\n"
    code += "from orchestrator.folder import SweepFolder\n"
    code += "with locked(SweepFolder(Path(sys.argv[1]), 'toy')): print('in', flush=True); time.sleep(60)"
    owner = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, cwd=ROOT)
    assert owner.stdout is not None
    assert owner.stdout.readline() == b"in\n"
    with pytest.raises(SweepError, match=f"process {owner.pid} on"), locked(folder):
        pass
    os.kill(owner.pid, signal.SIGKILL)
    owner.wait()
    owner.stdout.close()
    with locked(folder):
        assert json.loads(folder.file("lock").read_text())["pid"] == os.getpid()


def test_a_cluster_is_counted_worker_by_worker(tmp_path: Path) -> None:
    resources = toy_plan(tmp_path, resources={"workers": 2, "cpus": 2}, cpus=8).spec.resources
    assert Cluster(name="ray", nodes=(Node(cpus=3), Node(cpus=3))).num_trials(resources) == 1
