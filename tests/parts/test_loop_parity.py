"""The loop itself against the original ROSITA code: three updates of both distillation losses after the first cut."""

from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from torch.optim import Optimizer

from methods.parts.batches import Batch
from methods.parts.importance import TaylorScores
from methods.parts.loop import Recipe, Training, fit
from methods.parts.losses import Term
from methods.parts.run import LocalRun
from tests.parts import rosita_parity
from tests.strategies import Rows

Result = TypeVar("Result")
PARITY = pytest.mark.skipif(not rosita_parity.GOLDEN.exists(), reason="no golden_rosita.npz under $DISTILSWEEP_SHARED")


class Golden:
    """The three golden batches, whole or dealt row by row to micro-batches."""

    num_steps = 3

    def __init__(self, batches: Sequence[Rows], micro_batches: int) -> None:
        self.batches, self.micro_batches = batches, micro_batches

    def step(self, step: int) -> list[Batch]:
        return [self.dealt(self.batches[step], part) for part in range(self.micro_batches)]

    def dealt(self, batch: Rows, part: int) -> Batch:
        ids, mask, types, labels = (getattr(batch, name)[part :: self.micro_batches] for name in rosita_parity.FIELDS)
        sizes = {"examples": len(ids), "tokens": int(mask.sum()), "positions": ids.numel()}
        return Batch(ids, mask, types, labels, torch.arange(len(ids)), None, sizes)


@pytest.mark.shared
@PARITY
@pytest.mark.parametrize("micro_batches", [1, 3])
def test_three_updates_of_the_original_code(tmp_path: Path, micro_batches: int) -> None:
    golden = dict(np.load(rosita_parity.GOLDEN))
    case = rosita_parity.golden_case(golden)
    teacher = rosita_parity.with_head(case.teacher, "relu")
    student = rosita_parity.with_head(case.student, "relu")
    student = last(rosita_parity.cut_to("P", student, last(rosita_parity.variant_a(case)), case.first))
    scores, rates = TaylorScores("final"), []

    def losses(batch: Batch) -> Iterator[Sequence[Term]]:
        yield rosita_parity.both_losses(teacher, student, batch)  # type: ignore[arg-type]

    def hook(step: int, optimizer: Optimizer) -> None:
        scores.observe(student)
        rates.append(optimizer.param_groups[0]["lr"])

    run = LocalRun(tmp_path)
    recipe = Recipe(total_steps=20, lr=1e-3, warmup=0.1, weight_decay=0.01, optimizer="bert_adam", clip="tensor")
    training = Training(
        model=student, data=Golden(case.batches, micro_batches), losses=losses, before_step=hook, report_every=1
    )
    with run.stage("golden") as stage:
        fit(training, recipe, stage, run, until=3)
    assert rates == pytest.approx(golden["STEP.lrs"].tolist())
    assert [report.metrics["train/loss"] for report in run.reports] == pytest.approx(golden["STEP.losses"], rel=1e-4)
    for name, value in rosita_parity.parameters("P3", student):
        assert rosita_parity.error(value, golden[name]) < 1e-4, name
    importance = scores.scores(student, per_step=True)
    assert rosita_parity.error(torch.stack(importance.heads), golden["C.head_score"]) < 1e-4


def last(items: Generator[Any, None, Result]) -> Result:
    """Exhaust a generator and give what it returns."""
    while True:
        try:
            next(items)
        except StopIteration as stop:
            result: Result = stop.value
            return result
