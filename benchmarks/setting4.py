"""What sharing stages saves: one sweep of ROSITA's setting 4 over twelve widths, and twelve runs that share nothing.

Run as `python benchmarks/setting4.py [--limit 3000]`. A small teacher on the built-in task; every run trains it, then
BERT(student), then BERT-8layer, then its students; the sweep trains each of these once. Both sides have two CPUs: the
sweep as two slots, the separate runs two at a time on one slot each. By turns in one run: four separate ones, the
sweep, four, the sweep again, four. A run's time is the whole command's, with process starts, report and export.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

from orchestrator import records
from orchestrator.folder import SweepFolder

HEADS, FFN_DIMS = (1, 2, 4), (32, 64, 128, 192)
SWEEP = """
name: widths
task: {{name: agreement, max_length: 32, limit: {limit}}}
teacher:
  architecture: {{layers: 6, heads: 4, hidden: 64, ffn_dim: 256, positions: 64, dropout: 0.1, init_std: 0.06}}
  finetune: {{epochs: 3, lr: 5.0e-4, batch_size: 32, token_loss: 5.0}}
method: rosita
fixed:
  setting: 4
  layers: 3
  embedding_rank: 16
  epochs: 3
  lr: 1.0e-3
  student_epochs: 3
  student_lr: 5.0e-4
  depth_epochs: 3
  depth_lr: 5.0e-4
  prune_period: 0.5
  evaluate_every: 0
space:
  heads: {{choice: [1, 2, 4]}}
  ffn_dim: {{choice: [32, 64, 128, 192]}}
search: {{sampler: random, trials: {trials}, start: {start}}}
stop: {{rule: none}}
resources: {{workers: 1, cpus: 1}}
"""
SHARED = ("teacher", "bert-student", "shallow-student")


def run(place: Path, widths: Sequence[dict[str, int]], cpus: int, limit: int) -> tuple[float, dict[str, int]]:
    """Seconds of the whole command in a folder of its own, and how often each shared stage was trained there."""
    place.mkdir()
    text = SWEEP.format(limit=limit, trials=len(widths), start=json.dumps(list(widths)))
    (place / "sweep.yaml").write_text(text, encoding="utf-8")
    (place / "cluster.yaml").write_text(f"kind: local\ncpus: {cpus}\ngpus: 0\n", encoding="utf-8")
    command = [sys.executable, "-m", "orchestrator", "run", "sweep.yaml", "--cluster", "cluster.yaml"]
    started_s = time.perf_counter()
    ended = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started_s
    if ended.returncode:
        raise SystemExit(ended.stdout + ended.stderr)
    folder = SweepFolder(place / "sweeps", "widths")
    assert len([record for record in records.read(folder) if record.status == "done"]) == len(widths) + 1
    return seconds, {name: len(list(folder.store.glob(f"{name}-*/manifest.json"))) for name in SHARED}


def separately(place: Path, widths: Sequence[dict[str, int]], limit: int) -> float:
    """Seconds of runs of one width each, two at a time."""
    started_s = time.perf_counter()
    with ThreadPoolExecutor(2) as pool:
        places = [place / f"alone-{width['heads']}-{width['ffn_dim']}" for width in widths]
        for _, built in pool.map(lambda pair: run(pair[0], [pair[1]], 1, limit), zip(places, widths, strict=True)):
            assert set(built.values()) == {1}, built
    return time.perf_counter() - started_s


def main() -> None:
    """Prints seconds of both sides and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", type=int, default=3000, help="training sentences")
    limit = parser.parse_args().limit
    widths = [{"heads": heads, "ffn_dim": ffn_dim} for heads, ffn_dim in product(HEADS, FFN_DIMS)]
    sweeps, alone = [], 0.0
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for turn, first in enumerate(range(0, len(widths), 4)):
            alone += separately(place, widths[first : first + 4], limit)
            if turn < 2:
                seconds, built = run(place / f"sweep-{turn}", widths, 2, limit)
                print(f"sweep of {len(widths)} widths: {seconds:.1f} s, shared stages trained: {built}", flush=True)
                sweeps.append(seconds)
    ratios = sorted(alone / seconds for seconds in sweeps)
    print(f"{len(widths)} separate runs, two at a time: {alone:.1f} s")
    print(f"separate / sweep: {ratios[0]:.2f} to {ratios[-1]:.2f}")


if __name__ == "__main__":
    main()
