"""The distance of a student's attention scores to its teacher's.

Shape legend: `B` batch, `h` heads, `L` length.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from methods.parts.losses import Term

FLOOR = -100.0
"""With `compat="padding"` scores at or below it become 0: those of padded keys, to which -10000 was added."""


def attention_mse(
    student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor, *, compat: str | None = None
) -> Term:
    """Squared distance of raw attention scores, averaged over heads, summed over the pairs of layers.

    Averaged over an example's pairs of a real query and a real key, then over the examples: the value does not depend
    on how far a batch is padded. With `compat="padding"` it is the published code's: queries that are padding count
    too, padded keys have distance 0 yet count in the mean over B * h * L * L, and so has a real score that either
    model puts at -100 or below.

    Args:
        student: scaled dot products plus mask, before the softmax: (B, h, L, L), query before key, one per pair.
        teacher: the same of the teacher, as many heads; no gradient flows into them.
        mask: (B, L), 1 at real tokens.
        compat: None or "padding".

    Raises:
        ValueError: the numbers of layers or their shapes differ, or `compat` is unknown.

    References:
        Jiao et al.: TinyBERT: Distilling BERT for Natural Language Understanding, Findings of EMNLP 2020,
        https://arxiv.org/abs/1909.10351, equation 7
    """
    if compat not in (None, "padding"):
        raise ValueError(f"attention_mse(compat): found {compat!r}, allowed are None and 'padding'")
    if len(student) != len(teacher):
        raise ValueError(f"attention_mse: found {len(student)} student, {len(teacher)} teacher layers; must be equal")
    real = mask.bool()
    pairs = (real[:, :, None] & real[:, None, :])[:, None]
    total = torch.zeros(len(mask), device=mask.device)
    for mine, theirs in zip(student, teacher, strict=True):
        if mine.shape != theirs.shape:
            found = f"{tuple(mine.shape)} and {tuple(theirs.shape)}"
            raise ValueError(f"attention_mse: found scores {found}, which must be equal; do the head counts differ?")
        total = total + _squares(mine.float(), theirs.detach().float(), None if compat else pairs)
    if compat == "padding":
        return Term("attention", total.sum() / mask.shape[1], "positions")
    return Term("attention", (total / real.sum(1).clamp(min=1).square()).sum(), "examples")


def _squares(student: Tensor, teacher: Tensor, pairs: Tensor | None) -> Tensor:
    """Squared distances over the pairs (B, 1, L, L), None for all, averaged over heads: (B,)."""
    if pairs is None:
        distance = student.masked_fill(student <= FLOOR, 0.0) - teacher.masked_fill(teacher <= FLOOR, 0.0)
    else:
        distance = torch.where(pairs, student - teacher, 0.0)
    return distance.square().mean(1).sum((1, 2))
