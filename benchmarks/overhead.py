"""What a trial costs besides its training: seconds per trial on warm slots and with fresh gangs, in one run, by turns.

Run as `python benchmarks/overhead.py [--rounds 2] [--warm 20] [--fresh 4]`. The body of a trial trains nothing and
reports three times; records, histories, the study and MLflow are written as in any sweep, on two slots that work at the
same time. The first trial of each slot pays for the start of its gang and is told apart. Targets: warm at most 0.5 s a
trial, at least 20 times below fresh.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the body is found by name here and, through PYTHONPATH, in the workers
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])

from methods.parts.run import Run  # noqa: E402
from orchestrator.cluster import Cluster, Node  # noqa: E402
from orchestrator.courier import Tracker  # noqa: E402
from orchestrator.folder import SweepFolder  # noqa: E402
from orchestrator.plan import Design, Plan, make_plan  # noqa: E402
from orchestrator.records import TrialRecord  # noqa: E402
from orchestrator.session import ray_up  # noqa: E402
from orchestrator.spec import load_spec  # noqa: E402
from orchestrator.spool import Destination  # noqa: E402
from orchestrator.sweep import Settings, run_sweep  # noqa: E402

SLOTS = 2
SWEEP = """
name: {name}
task: agreement
teacher: {{architecture: {{layers: 4, heads: 4, hidden: 32, ffn_dim: 64, positions: 64}}, finetune: {{epochs: 1}}}}
method: finetune
space: {{layers: {{int: [1, 4]}}, lr: {{float: [1.0e-5, 1.0e-2], log: true}}, epochs: {{float: [1, 9]}}}}
search: {{trials: {trials}}}
stop: {{rule: none}}
resources: {{gang: {gang}}}
"""


def train_nothing(job: Mapping[str, Any], run: Run) -> dict[str, Any]:
    """The body of every trial."""
    score = 0.5 + job["config"]["lr"]
    with run.stage("nothing", final=True):
        for step in (1, 2, 3):
            run.report(step, {"score": score, "loss": 1 / step})
            run.poll()
    return {"layout": None, "metrics": {"score": score}, "notes": {}, "model": None}


class Clock:
    """Notes when each trial ended."""

    def __init__(self) -> None:
        self.started_s = time.perf_counter()
        self.ended_s: list[float] = []

    def on_start(self, plan: Plan) -> None:
        """Does nothing."""

    def on_trial(self, trial: str, design: Design) -> None:
        """Does nothing."""

    def on_report(self, trial: str, step: int, metrics: Mapping[str, float]) -> None:
        """Does nothing."""

    def on_building(self, trial: str, name: str, step: int, metrics: Mapping[str, float]) -> None:
        """Does nothing."""

    def on_record(self, record: TrialRecord) -> None:
        """Notes the time."""
        assert record.status == "done", record.reason
        self.ended_s.append(time.perf_counter() - self.started_s)

    def on_end(self, result: object) -> None:
        """Does nothing."""

    def per_trial_s(self) -> float:
        """Seconds per trial after the first of each slot."""
        return (self.ended_s[-1] - self.ended_s[SLOTS - 1]) / (len(self.ended_s) - SLOTS)


def sweep(root: Path, name: str, trials: int, gang: str) -> Clock:
    """Runs one sweep."""
    path = root / f"{name}.yaml"
    path.write_text(SWEEP.format(name=name, trials=trials, gang=gang), encoding="utf-8")
    plan = make_plan(load_spec(path), CLUSTER)
    folder = SweepFolder(root, name)
    clock = Clock()
    settings = Settings(body="benchmarks.overhead:train_nothing", with_teacher=False)
    run_sweep(plan, folder, [clock, Tracker(folder, Destination.of(folder))], settings=settings)
    return clock


CLUSTER = Cluster(name="bench", nodes=(Node(cpus=SLOTS),))


def told(name: str, values: list[float], unit: str) -> str:
    """A median with its range."""
    return f"{name:32} {statistics.median(values):8.3f} {unit:8} ({min(values):.3f} to {max(values):.3f})"


def main() -> None:
    """Runs warm and fresh sweeps by turns and prints seconds per trial and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--warm", type=int, default=20, help="trials of a warm sweep")
    parser.add_argument("--fresh", type=int, default=4, help="trials of a fresh sweep")
    args = parser.parse_args()
    warm, fresh, start = [], [], []
    with tempfile.TemporaryDirectory() as place, ray_up(CLUSTER, Path(place) / "ray.log"):
        for number in range(args.rounds):
            clock = sweep(Path(place), f"warm{number}", args.warm, "warm")
            warm.append(clock.per_trial_s())
            start.append(clock.ended_s[0])
            fresh.append(sweep(Path(place), f"fresh{number}", args.fresh, "fresh").per_trial_s())
    print(f"{args.rounds} rounds of {args.warm} warm and {args.fresh} fresh trials on {SLOTS} slots")
    print(told("warm, a trial", warm, "s"))
    print(told("fresh, a trial", fresh, "s"))
    print(told("warm, until the first trial", start, "s"))
    print(told("fresh / warm", [slow / fast for slow in fresh for fast in warm], "times"))


if __name__ == "__main__":
    main()
