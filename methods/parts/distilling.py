"""Losses of a student that learns from a teacher's knowledge: its states, or its predictions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from methods.parts.batches import Batch
from methods.parts.bert import Bert
from methods.parts.lesson import Knowledge
from methods.parts.losses import Term, regression_mse, soft_cross_entropy, state_mse
from methods.parts.optim import Group, named
from methods.parts.projection import Projection
from methods.parts.training import Losses, Steps, Training


def learn_states(
    student: Bert,
    knowledge: Knowledge,
    states: Sequence[int],
    *,
    projection: Projection | None = None,
    compat: str | None = None,
) -> Losses:
    """Squared distances of chosen states; the student runs only as deep as the deepest of them.

    Args:
        student: the model that is trained.
        knowledge: gives one teacher state for each of `states`, in their order.
        states: student states, ascending; 0 is the embedding output.
        projection: lifts them to the teacher's width; None leaves them.
        compat: see `methods.parts.losses.state_mse`.
    """

    def losses(batch: Batch) -> Iterator[Sequence[Term]]:
        lesson = knowledge(batch)
        hidden = student(batch, hidden=True, depth=states[-1]).hidden
        mine = tuple(hidden[state] for state in states)
        lifted = mine if projection is None else projection(mine)
        yield [state_mse(lifted, lesson, batch.attention_mask, compat=compat)]

    return losses


def learn_predictions(student: Bert, knowledge: Knowledge | None, *, temperature: float = 1.0) -> Losses:
    """Soft cross-entropy against the teacher, mean over classes as published; a regression learns its gold values.

    Args:
        student: the model that is trained.
        knowledge: gives logits; None for a regression.
        temperature: both logits are divided by it.

    Raises:
        ValueError: in training, a batch has classes and there is no knowledge of them.
    """

    def losses(batch: Batch) -> Iterator[Sequence[Term]]:
        logits = student(batch).logits
        if batch.labels.is_floating_point():
            yield [regression_mse(logits, batch.labels)]
            return
        lesson = None if knowledge is None else knowledge(batch)
        if lesson is None or lesson.logits is None:
            raise ValueError("learn_predictions: found no logits of the teacher, which a task with classes needs")
        yield [soft_cross_entropy(logits, lesson.logits, temperature=temperature, mean_over_classes=True)]

    return losses


def state_training(
    student: Bert,
    data: Steps,
    knowledge: Knowledge,
    states: Sequence[int],
    projection: Projection | None = None,
    compat: str | None = None,
) -> Training:
    """A stage of `learn_states`: a projection trains as its own group; without a metric the last weights stay."""
    groups = [Group(name="model", parameters=named(student))]
    if projection is not None:
        groups.append(Group(name="projection", parameters=named(projection)))
    return Training(
        model=student,
        data=data,
        losses=learn_states(student, knowledge, states, projection=projection, compat=compat),
        groups=groups,
        best={},
        keep={} if projection is None else {"projection": projection},
    )
