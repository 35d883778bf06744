"""How a supernet is trained: the losses of an update's sub-networks, the mentor they learn from, and their scores.

    lesson <- mentor(batch)                                    once, or once for each width
    for each sub-network: back-propagate                       the gradients add up
        prediction_weight * soft cross-entropy(logits)         a regression: squared distance of the outputs
        + hidden_weight * sum over states of MSE(state, mentor's state)

References:
    Hou et al.: DynaBERT: Dynamic BERT with Adaptive Width and Depth, NeurIPS 2020, https://arxiv.org/abs/2004.04037,
    section 2
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

from methods.parts.batches import Batch
from methods.parts.bert import Bert
from methods.parts.elastic import Choices, Subnet
from methods.parts.evaluate import evaluate
from methods.parts.lesson import Knowledge
from methods.parts.losses import Term, hidden_mse, label_loss, regression_mse, soft_cross_entropy
from methods.parts.run import Run
from methods.parts.supernet import Slice, run_subnet
from methods.parts.tasks import Task
from methods.parts.tokens import Encoded
from methods.parts.training import Losses

COMPAT = ("accumulated-gradients", "padding", "no-regression-loss")
"""Published behaviours: importance from gradients that are never cleared; batches padded to the task's length, padding
counting in the hidden loss; a regression that learns hidden states only, so that its head gets no gradient."""

Said: TypeAlias = tuple[Tensor | None, Mapping[int, Tensor]]
"""A mentor's logits (B, C), and its states (B, L, D) by number; without gradients."""

Mentor: TypeAlias = Callable[[Batch], Callable[[Subnet], Said]]
"""Whom sub-networks learn from: asked about a batch, then once for each of them."""


def one_mentor(knowledge: Knowledge, states: Sequence[int]) -> Mentor:
    """The same teacher for all sub-networks; asked once for each batch.

    Args:
        knowledge: of `states`, in their order.
        states: numbers of the teacher's states.
    """

    def mentor(batch: Batch) -> Callable[[Subnet], Said]:
        lesson = knowledge(batch)
        said = lesson.logits, dict(zip(states, (state.values for state in lesson.states), strict=True))
        return lambda _subnet: said

    return mentor


def same_width_mentor(model: Bert) -> Mentor:
    """A supernet that teaches each sub-network by its own one of the same widths and full depth."""
    model.eval()

    def mentor(batch: Batch) -> Callable[[Subnet], Said]:
        last: list[tuple[Subnet, Said]] = []

        @torch.no_grad()
        def of(subnet: Subnet) -> Said:
            deepest = subnet.deepest
            if not last or last[0][0] != deepest:
                output = run_subnet(model, deepest, batch, hidden=True)
                logits = None if model.classifier is None else output.logits.float()
                last[:] = [(deepest, (logits, dict(enumerate(output.hidden))))]
            return last[0][1]

        return of

    return mentor


@dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """Of the two losses of a sub-network; 0 leaves one out."""

    prediction: float = 1.0
    hidden: float = 0.1


def distilled(
    model: Bert, subnet: Subnet, batch: Batch, said: Said, weights: Weights, compat: Sequence[str] = ()
) -> list[Term]:
    """The losses of one sub-network on one batch.

    Args:
        model: the supernet.
        subnet: what of it learns.
        batch: the rows.
        said: what its mentor says about them.
        weights: of the losses.
        compat: any of `COMPAT`.
    """
    output = run_subnet(model, subnet, batch, hidden=weights.hidden > 0)
    terms, (logits, states) = [], said
    if weights.prediction and logits is not None:
        if batch.labels.is_floating_point():
            if "no-regression-loss" not in compat:
                term = regression_mse(output.logits, logits[:, 0])
                terms.append(weights.prediction * dataclasses.replace(term, name="prediction"))
        else:
            terms.append(weights.prediction * soft_cross_entropy(output.logits, logits))
    if weights.hidden:
        padding = "padding" if "padding" in compat else None
        targets = [states[state] for state in subnet.states]
        terms.append(weights.hidden * hidden_mse(output.hidden, targets, batch.attention_mask, compat=padding))
    return terms


class Cursor:
    """Which update is under way; checkpointed with a stage, so that a resumed one draws the same sub-networks."""

    def __init__(self) -> None:
        self.step = 0

    def state_dict(self) -> dict[str, Tensor]:
        """The number of the update."""
        return {"step": torch.tensor(self.step)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what `state_dict` gave."""
        self.step = int(state["step"])


Subnets: TypeAlias = Callable[[], Sequence[Subnet]]
"""The sub-networks of the update that is under way."""


def learn_together(
    model: Bert, subnets: Subnets, mentor: Mentor | None, weights: Weights, compat: Sequence[str] = ()
) -> Losses:
    """The joint loss: one graph for each sub-network, so that no two of them are in memory at once.

    Args:
        model: the supernet.
        subnets: those of the update.
        mentor: whom they learn from; None: the labels.
        weights: of the losses of distillation.
        compat: any of `COMPAT`.
    """

    def losses(batch: Batch) -> Iterator[Sequence[Term]]:
        asked = None if mentor is None else mentor(batch)
        for subnet in subnets():
            if asked is None:
                yield [label_loss(run_subnet(model, subnet, batch).logits, batch.labels)]
            else:
                yield distilled(model, subnet, batch, asked(subnet), weights, compat)

    return losses


def all_scores(choices: Choices, task: Task, data: Encoded, run: Run) -> Callable[[nn.Module], Mapping[str, float]]:
    """Scores every listed sub-network, for `Training.evaluate`: `score` is their mean, `score/NAME` each.

    The published code selects by the sum, which has the same best.
    """

    def evaluated(model: nn.Module) -> dict[str, float]:
        assert isinstance(model, Bert)
        found = {
            name: evaluate(Slice(model, subnet), task, data, run)
            for name, subnet in choices.listed(model.layout).items()
        }
        each = {f"score/{name}": metrics["score"] for name, metrics in found.items()}
        means = {key: sum(metrics[key] for metrics in found.values()) / len(found) for key in ("score", "loss")}
        return {**means, **each}

    return evaluated
