"""What every method does first: open the task's rows, halve the development set, deal out batches, score a model.

The development set is halved once and for all by row number: methods, the search and the stop rule look at the
*search* half; the *held* half is only reported. A best epoch or a best design chosen on one half is then judged on
rows it was not chosen on.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from methods.parts.batches import Batches
from methods.parts.evaluate import evaluate
from methods.parts.recipe import Recipe
from methods.parts.rng import derive
from methods.parts.run import Run
from methods.parts.sharded import Sharded, encode_shards
from methods.parts.tasks import Task
from methods.parts.tokens import Encoded, dev_halves, encode
from methods.parts.training import Steps


@dataclass(frozen=True, kw_only=True, slots=True)
class Splits:
    """The encoded rows of a task."""

    train: Encoded
    search: Encoded
    """The half of dev that choices may look at."""
    held: Encoded
    """The other half, reported only."""
    augmented: tuple[Encoded, ...] = ()
    """Shards of the augmented set, if the task has one."""

    @property
    def distil(self) -> tuple[Encoded, ...]:
        """What a student is distilled on: the augmented set where there is one, else the training rows."""
        return self.augmented or (self.train,)


def open_splits(task: Task, tokenizer: Path, run: Run, *, augmented: bool = True) -> Splits:
    """Open the rows of a task, tokenising them if no trial has done it before.

    Args:
        task: the task.
        tokenizer: the folder of a BERT tokenizer.
        run: the world.
        augmented: whether to open the augmented set, if the task has one; false for whoever never distils on it.

    Raises:
        ValueError: a bad row, or no BERT tokenizer.
    """
    search, held = dev_halves(encode(task, "dev", tokenizer, run))
    train = encode(task, "train", tokenizer, run)
    shards = encode_shards(task, tokenizer, run) if augmented else ()
    return Splits(train=train, search=search, held=held, augmented=shards)


def training_batches(data: Encoded, recipe: Recipe, run: Run, *, pad_to: int | None = None) -> Batches:
    """The batches of a recipe, in an order that depends on the run's seed."""
    return _batches(data, recipe, run, pad_to, run.seed)


def distil_batches(splits: Splits, recipe: Recipe, run: Run, *, pad_to: int | None = None) -> Steps:
    """The batches that a student is distilled on: the augmented set shard by shard, else the training rows.

    Each epoch uses every row once and walks the shards in order; see `shard_batches`.
    """
    if not splits.augmented:
        return training_batches(splits.train, recipe, run, pad_to=pad_to)

    return shard_batches(splits.augmented, recipe, run, pad_to=pad_to)


def shard_batches(shards: Sequence[Encoded], recipe: Recipe, run: Run, *, pad_to: int | None = None) -> Sharded:
    """The batches of a set in shards: every row once an epoch, shard after shard, shuffled within each.

    With `recipe.drop_last` the rows that fill no whole batch are left out of each shard (other rows each epoch), but a
    shard smaller than a batch is used whole, since its rows would never be seen.
    """

    def of_shard(shard: Encoded, number: int) -> Batches:
        fitting = replace(recipe, drop_last=recipe.drop_last and len(shard) >= recipe.batch_size)
        return _batches(shard, fitting, run, pad_to, derive(run.seed, "shard", number))

    return Sharded(shards, of_shard)


def _batches(data: Encoded, recipe: Recipe, run: Run, pad_to: int | None, seed: int) -> Batches:
    """The batches of a recipe, in an order that depends on the seed."""
    return Batches(
        data,
        batch_size=recipe.batch_size,
        seed=seed,
        rank=run.rank,
        world_size=run.world_size,
        drop_last=recipe.drop_last,
        pad_to=pad_to,
        micro_batches=recipe.accumulation,
    )


def scorer(task: Task, data: Encoded, run: Run) -> Callable[[nn.Module], Mapping[str, float]]:
    """A function that scores a model on `data`, for `Training.evaluate`."""
    return lambda model: evaluate(model, task, data, run)
