"""The learned projection that lifts the states of a narrow student to its teacher's width."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from methods.parts.layers import Linear
from methods.parts.rng import derive


class Projection(nn.Module):
    """One linear layer with bias, shared by all states of a student.

    It trains beside the student as a group of its own, is kept with the stage, and is thrown away at its end.

    References:
        Jiao et al.: TinyBERT: Distilling BERT for Natural Language Understanding, Findings of EMNLP 2020,
        https://arxiv.org/abs/1909.10351, equations 8 and 9; the released code shares one layer (`fit_dense`)
    """

    def __init__(self, student: int, teacher: int, *, seed: int) -> None:
        """Draw the weight from N(0, 0.02); the bias starts at 0.

        Args:
            student: d, the student's hidden width.
            teacher: D, the teacher's.
            seed: of the weight; torch's global generator is neither read nor moved.
        """
        super().__init__()
        self.dense = Linear(student, teacher)
        with torch.no_grad():
            self.dense.weight.normal_(0.0, 0.02, generator=torch.Generator().manual_seed(derive(seed, "projection")))
            self.dense.bias.zero_()

    def forward(self, states: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Map states (B, L, d) to (B, L, D)."""
        return tuple(self.dense(state) for state in states)
