"""What every method does first: open the task's rows, halve the development set, deal out batches, score a model.

The development set is halved once and for all by row number: methods, the search and the stop rule look at the
*search* half; the *held* half is only reported. A best epoch or a best design chosen on one half is then judged on
rows it was not chosen on.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from methods.parts.batches import Batches
from methods.parts.evaluate import evaluate
from methods.parts.recipe import Recipe
from methods.parts.run import Run
from methods.parts.tasks import Task
from methods.parts.tokens import Encoded, dev_halves, encode


@dataclass(frozen=True, kw_only=True, slots=True)
class Splits:
    """The encoded rows of a task."""

    train: Encoded
    search: Encoded
    """The half of dev that choices may look at."""
    held: Encoded
    """The other half, reported only."""


def open_splits(task: Task, tokenizer: Path, run: Run) -> Splits:
    """Open the rows of a task, tokenising them if no trial has done it before."""
    search, held = dev_halves(encode(task, "dev", tokenizer, run))
    return Splits(train=encode(task, "train", tokenizer, run), search=search, held=held)


def training_batches(data: Encoded, recipe: Recipe, run: Run, *, pad_to: int | None = None) -> Batches:
    """The batches of a recipe, in an order that depends on the run's seed."""
    return Batches(
        data,
        batch_size=recipe.batch_size,
        seed=run.seed,
        rank=run.rank,
        world_size=run.world_size,
        drop_last=recipe.drop_last,
        pad_to=pad_to,
        micro_batches=recipe.accumulation,
    )


def scorer(task: Task, data: Encoded, run: Run) -> Callable[[nn.Module], Mapping[str, float]]:
    """A function that scores a model on `data`, for `Training.evaluate`."""
    return lambda model: evaluate(model, task, data, run)
