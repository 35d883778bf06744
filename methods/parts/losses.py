"""Losses as sums, each with the name of what to divide it by.

A mean of means is wrong as soon as ranks, micro-batches or padded lengths differ in size, so no loss here divides by
anything it counts itself: it returns a `Term`, and the training loop divides the sum over all ranks and micro-batches
by the matching count.

Shape legend: `B` batch, `L` length, `D` hidden, `C` labels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from methods.parts.lesson import Lesson

RULES = ("floor", "round")
"""How `layer_map` rounds i * teacher_layers / student_layers: down, or half to even."""


@dataclass(frozen=True, slots=True)
class Term:
    """One named part of a loss; its value is weight * (global sum) / (global count of `per`)."""

    name: str
    sum: Tensor
    """Scalar, summed over this batch."""
    per: str
    """What the global sum is divided by: a key of `Batch.sizes`."""
    weight: float = 1.0
    watched: bool = False
    """Whether it is only reported beside the losses, and no part of them."""

    def __rmul__(self, weight: float) -> Term:
        """Return this term with its weight multiplied, so that `0.5 * term` reads like the paper."""
        return dataclasses.replace(self, weight=weight * self.weight)


def soft_cross_entropy(
    student: Tensor, teacher: Tensor, *, temperature: float = 1.0, mean_over_classes: bool = False
) -> Term:
    """Cross-entropy of the student's softened classes against the teacher's, summed over the examples.

    There is no temperature**2 factor; multiply the term where a paper has one.

    Args:
        student: (B, C) logits.
        teacher: (B, C) logits; no gradient flows into them.
        temperature: both logits are divided by it.
        mean_over_classes: divide by C as well. The ROSITA and TinyBERT code takes the mean over all B * C elements,
            so its prediction loss is 1/C of the cross-entropy, which matters beside a second loss.

    Raises:
        ValueError: the shapes differ, or the temperature is not positive.

    References:
        Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, 2015, https://arxiv.org/abs/1503.02531,
        section 2
    """
    _same_shape("soft_cross_entropy", student, teacher)
    if temperature <= 0:
        raise ValueError(f"soft_cross_entropy(temperature): found {temperature!r}, allowed is a positive number")
    target = (teacher.detach().float() / temperature).softmax(-1)
    total = -(target * (student.float() / temperature).log_softmax(-1)).sum()
    return Term("prediction", total / student.shape[-1] if mean_over_classes else total, "examples")


def kl_divergence(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Term:
    """Kullback-Leibler divergence of the student's softened classes from the teacher's, summed over the examples.

    This is `soft_cross_entropy` less the teacher's entropy: the same gradients, and 0 where both agree. There is no
    temperature**2 factor here either.

    Args:
        student: (B, C) logits.
        teacher: (B, C) logits; no gradient flows into them.
        temperature: both logits are divided by it.

    Raises:
        ValueError: the shapes differ, or the temperature is not positive.
    """
    cross = soft_cross_entropy(student, teacher, temperature=temperature)
    target = (teacher.detach().float() / temperature).log_softmax(-1)
    return dataclasses.replace(cross, sum=cross.sum + (target.exp() * target).sum())


def hidden_mse(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    mask: Tensor,
    *,
    compat: str | None = None,
    moving: bool = False,
) -> Term:
    """Squared distance of hidden states, averaged over D, summed over real tokens and over the pairs of states.

    Padding is left out, so the value does not depend on how far a batch is padded. With `compat="padding"` every
    position counts and the sum is divided by the positions, as in the ROSITA, TinyBERT and DynaBERT code.

    Args:
        student: states (B, L, D), one per pair.
        teacher: states (B, L, D), one per pair.
        mask: (B, L), 1 at real tokens.
        compat: None or "padding".
        moving: whether gradients flow into the teacher's states as well, because modules that train made them.

    Raises:
        ValueError: the numbers of states or their shapes differ, or `compat` is unknown.
    """
    if compat not in (None, "padding"):
        raise ValueError(f"hidden_mse(compat): found {compat!r}, allowed are None and 'padding'")
    if len(student) != len(teacher):
        raise ValueError(f"hidden_mse: found {len(student)} student, {len(teacher)} teacher states; must be equal")
    per_position = torch.zeros(mask.shape, device=mask.device)
    for mine, theirs in zip(student, teacher, strict=True):
        _same_shape("hidden_mse", mine, theirs)
        target = theirs if moving else theirs.detach()
        per_position = per_position + (mine.float() - target.float()).square().mean(-1)
    if compat == "padding":
        return Term("hidden", per_position.sum(), "positions")
    return Term("hidden", torch.where(mask.bool(), per_position, 0.0).sum(), "tokens")


def state_mse(student: Sequence[Tensor], lesson: Lesson, mask: Tensor, *, compat: str | None = None) -> Term:
    """Squared distance of the student's states to the teacher's at the kept positions, averaged over D.

    Without a choice of positions this is `hidden_mse`. Otherwise it is averaged over an example's real slots and
    summed over examples and pairs of states; with `compat="padding"` every slot counts, so that short rows weigh
    less. Coordinates that were not kept are 0 in the teacher's states only, so they draw the student to 0.

    Args:
        student: states (B, L, D), already at the teacher's width, one for each state of the lesson.
        lesson: the teacher's states; no gradient flows into them.
        mask: (B, L), 1 at real tokens.
        compat: None or "padding".

    Raises:
        ValueError: the numbers of states or their shapes differ, or `compat` is unknown.

    References:
        Liu et al.: Marginal Utility Diminishes, 2021, https://arxiv.org/abs/2106.05691, section 3, and the released
        code (a plain mean over B, K and D)
    """
    targets = lesson.states
    if compat not in (None, "padding"):
        raise ValueError(f"state_mse(compat): found {compat!r}, allowed are None and 'padding'")
    if len(student) != len(targets):
        raise ValueError(f"state_mse: found {len(student)} student, {len(targets)} teacher states; must be equal")
    if all(target.positions is None for target in targets):
        return hidden_mse(student, [target.values for target in targets], mask, compat=compat)
    total = torch.zeros((), device=mask.device)
    for mine, target in zip(student, targets, strict=True):
        if target.positions is not None:
            mine = mine.gather(1, target.positions[..., None].expand(-1, -1, mine.shape[-1]))
        _same_shape("state_mse", mine, target.values)
        distance = (mine.float() - target.values.detach().float()).square().mean(-1)
        slots = target.real.sum(1).clamp(min=1) if compat is None else target.real.shape[1]
        total = total + (torch.where(target.real, distance, 0.0).sum(1) / slots).sum()
    return Term("hidden", total, "examples")


def regression_mse(logits: Tensor, labels: Tensor) -> Term:
    """Squared error of (B, 1) outputs against (B,) values, summed over the examples.

    Raises:
        ValueError: the model does not have exactly one output, or the label counts differ.
    """
    if logits.shape != (len(labels), 1):
        raise ValueError(f"regression_mse: found logits {tuple(logits.shape)}, allowed are ({len(labels)}, 1)")
    return Term("label", (logits[:, 0].float() - labels.float()).square().sum(), "examples")


def hard_cross_entropy(logits: Tensor, labels: Tensor) -> Term:
    """Cross-entropy of (B, C) logits against (B,) class numbers, summed over the examples."""
    return Term("label", F.cross_entropy(logits.float(), labels, reduction="sum"), "examples")


def label_loss(logits: Tensor, labels: Tensor) -> Term:
    """Return the task's own loss: `regression_mse` for float labels, else `hard_cross_entropy`."""
    return regression_mse(logits, labels) if labels.is_floating_point() else hard_cross_entropy(logits, labels)


def layer_map(teacher_layers: int, student_layers: int, rule: str = "floor") -> tuple[int, ...]:
    """Return the teacher state for each student state: num_student + 1 numbers, the first 0, the last `teacher_layers`.

    State 0 is the embedding output. "floor" pairs i with floor(i * teacher / student): TinyBERT's blocks where the
    division is exact, and the map of ROSITA's modulo rule wherever that rule gives the right number of states. Where
    it gives too many (12 to 5, 7 and 11 layers) and the published code cuts the pairs silently, this function still
    gives one state each. "round" rounds half to even, as in Marginal Utility Diminishes.

    Raises:
        ValueError: the student is not between 1 and `teacher_layers` layers deep, or the rule is unknown.
    """
    if rule not in RULES:
        raise ValueError(f"layer_map(rule): found {rule!r}, allowed are {list(RULES)}")
    if not 1 <= student_layers <= teacher_layers:
        raise ValueError(f"layer_map: found {student_layers} student layers, allowed are 1 to {teacher_layers}")
    if rule == "floor":
        return tuple(i * teacher_layers // student_layers for i in range(student_layers + 1))
    return tuple(round(i * teacher_layers / student_layers) for i in range(student_layers + 1))


def _same_shape(where: str, student: Tensor, teacher: Tensor) -> None:
    """Raise a ValueError unless the shapes agree (broadcasting would hide a wrong pairing)."""
    if student.shape != teacher.shape:
        raise ValueError(
            f"{where}: found shapes {tuple(student.shape)} and {tuple(teacher.shape)}, which must be equal"
        )


def site_loss(logits: Tensor, mask: Tensor, sites: Tensor | None) -> Term:
    """Binary cross-entropy of "this word breaks the sentence", over the real tokens.

    Args:
        logits: (B, L, 1), from the last hidden states.
        mask: (B, L), 1 at real tokens.
        sites: (B, L), 1 at the words that break the sentence.

    Raises:
        ValueError: the task does not mark such words.
    """
    if sites is None:
        raise ValueError(
            "site_loss: the batch has no sites; only the built-in task marks the words that break a sentence"
        )
    real = mask.bool()
    total = F.binary_cross_entropy_with_logits(logits[..., 0][real].float(), sites[real].float(), reduction="sum")
    return Term("sites", total, "tokens")
