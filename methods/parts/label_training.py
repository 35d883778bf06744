"""Fine-tuning of a given model on the labels of a task, as a `Training`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from methods.parts.batches import Batch
from methods.parts.bert import Bert
from methods.parts.losses import Term, label_loss
from methods.parts.recipe import Recipe
from methods.parts.run import Run
from methods.parts.splits import Splits, scorer, training_batches
from methods.parts.tasks import Task
from methods.parts.training import Losses, Training


def learn_labels(model: Bert) -> Losses:
    """The task's own loss: cross-entropy, or the squared error of a regression."""

    def losses(batch: Batch) -> Iterator[Sequence[Term]]:
        yield [label_loss(model(batch).logits, batch.labels)]

    return losses


def label_training(model: Bert, task: Task, splits: Splits, recipe: Recipe, run: Run) -> Training:
    """The task's own loss on the training rows; the best on the search half is kept.

    Args:
        model: with a classifier; trained in place.
        task: gives the score.
        splits: its rows.
        recipe: the numbers of the batches.
        run: the world.
    """
    data = training_batches(splits.train, recipe, run)
    return Training(model=model, data=data, losses=learn_labels(model), evaluate=scorer(task, splits.search, run))
