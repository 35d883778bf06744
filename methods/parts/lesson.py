"""A teacher's knowledge of one batch, as a student sees it: the values that pass between teacher, store and losses.

Shape legend: `B` batch, `L` length, `K` kept positions, `D` the teacher's hidden width, `C` labels, `h` heads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

from methods.parts.batches import Batch


@dataclass(frozen=True, slots=True)
class State:
    """One teacher state at the kept positions of a batch."""

    values: Tensor
    """(B, K, D) float32; 0 at coordinates and positions that were not kept. K is L when all positions are; then a live
    teacher also gives its values at padding, where a store gives 0, and no loss should look."""
    positions: Tensor | None
    """(B, K) int64 places in the padded batch, best first; None means all L of them in order."""
    real: Tensor
    """(B, K) bool, false at slots that hold padding because the row is shorter than K."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """What the teacher says about a batch."""

    logits: Tensor | None
    """(B, C) float32."""
    states: tuple[State, ...]
    """In the order of `Selection.states`."""
    scores: tuple[Tensor, ...]
    """Raw attention scores (B, h, L, L), in the order of `Selection.scores`."""


Knowledge: TypeAlias = Callable[[Batch], Lesson]
"""The teacher as a student sees it; without gradients, on the batch's device."""
