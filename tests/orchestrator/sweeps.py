"""A small sweep that was never trained: a real plan, and records as a real sweep would leave them."""

import math
import random
from pathlib import Path

from orchestrator import records
from orchestrator.folder import SweepFolder
from orchestrator.plan import Design, Plan, make_plan
from orchestrator.records import TEACHER, TrialRecord
from orchestrator.space import draw
from orchestrator.spec import load_spec

SPEC = """
name: {name}
task: {{name: agreement, limit: 200}}
teacher:
  architecture: {{layers: 6, heads: 6, hidden: 96, ffn_dim: 192, positions: 64}}
  finetune: {{epochs: 1, lr: 5.0e-4, batch_size: 32}}
method: rosita
fixed: {{epochs: 1}}
space:
  heads: {{int: [1, 6]}}
  layers: {{int: [1, 6]}}
  ffn_dim: {{choice: [32, 64, 96, 192]}}
  embedding_rank: {{choice: [8, 16, 32]}}
  lr: {{float: [1.0e-4, 1.0e-2], log: true}}
budget: {{params: 250K}}
search: {{trials: {trials}, sampler: random, seed: 0}}
"""


def small_plan(folder: Path, name: str = "small", trials: int = 12) -> Plan:
    path = folder / f"{name}.yaml"
    path.write_text(SPEC.format(name=name, trials=trials))
    return make_plan(load_spec(path))


def ended(plan: Plan, number: int, status: str | None = None) -> TrialRecord:
    """Trial `number` as it ended: refused over the budget, else stopped, failed or done, fixed by the number."""
    rng = random.Random(number)
    found = plan.resolve("rosita", draw(plan.methods[0].space, rng, {}))
    if not isinstance(found, Design):
        reason, status = found.reason, "refused"
    elif status is None:
        status = {3: "stopped", 5: "failed"}.get(number % 7, "done")
        reason = {"stopped": "smaller t0001 is better beyond noise", "failed": "loss is not finite"}.get(status, "")
    else:
        reason = ""
    score = 0.9 - 0.3 * math.exp(-found.costs.get("params", 1.0) / 50_000) + rng.gauss(0, 0.01)
    numbers = {"score": score, "score_se": 0.012, "held": score - 0.005, "held_se": 0.013}
    return TrialRecord(
        trial=f"t{number:04d}",
        method="rosita",
        sample=found.sample,
        config=found.config if isinstance(found, Design) else {},
        key=found.key if isinstance(found, Design) else f"refused-{number}",
        seed=number,
        status=status,
        reason=reason,
        layout=found.layout.to_json() if found.layout else None,
        costs=found.costs,
        metrics=numbers if status == "done" else {"score": score, "score_se": 0.012} if status == "stopped" else {},
        started_s=0.0 if status == "refused" else 1.75e9 + 60 * number,
        wall_s=0.0 if status == "refused" else 50.0 + number,
        model=f"trials/t{number:04d}/model" if status == "done" else None,
        log=None if status == "refused" else f"logs/t{number:04d}.log",
    )


def teacher(plan: Plan) -> TrialRecord:
    layout, length = plan.teacher_layout, plan.task.max_length
    return TrialRecord(
        trial=TEACHER,
        method="finetune",
        sample={},
        config={},
        key="teacher",
        seed=0,
        status="done",
        layout=layout.to_json(),
        costs={"params": layout.params(), "bytes": layout.bytes(), "flops": layout.flops(length)},
        metrics={"score": 0.93, "score_se": 0.011, "held": 0.926, "held_se": 0.012},
        started_s=1.75e9 - 300,
        wall_s=250.0,
    )


def small_sweep(plan: Plan, trials: int) -> list[TrialRecord]:
    return [teacher(plan), *(ended(plan, number) for number in range(trials))]


def design(plan: Plan, record: TrialRecord) -> Design:
    found = plan.resolve(record.method, record.sample)
    assert isinstance(found, Design)
    return found


def store(folder: SweepFolder, record: TrialRecord) -> None:
    """The files a trial leaves behind."""
    records.write(folder, record)
    if record.model:
        path = folder.path / record.model / "config.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
