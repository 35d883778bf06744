"""Highway gates that fold a teacher's layers into one running aggregate: LAD's only trained part beside the student.

    A_1 = H_1
    A_i = norm(g * H_i + (1 - g) * A_{i-1}),  g = sigmoid(W_i A_{i-1} + b_i)

A gate looks at the aggregate so far only, not at the layer that it lets in. The chain starts at the first state: there
the published code asks whether the aggregate is zero everywhere, and its gate 0 never learns.

What is normalised over what, by the name of the norm (epsilon 1e-5 in all; B sentences of L positions, D features):

    sequence   (default) one mean and variance for a sentence, over its real tokens and all features; scale and shift
               for each feature. A row without padding gives the published values as long as scale and shift are those
               of a new gate, and no row depends on how far it is padded.
    token      one mean and variance for each token, over its features; scale and shift for each feature. The usual
               LayerNorm: tokens no longer depend on each other, but their norms relative to each other are lost.
    position   the published one: a mean and variance for a sentence over all L * D values, padding too, and a scale
               and shift for each position and feature. Targets depend on the padded length, which must be fixed.

Shape legend: `B` batch, `L` length, `D` hidden.

References:
    Lin, Chen, Kao: LAD: Layer-Wise Adaptive Distillation for BERT Model Compression, Sensors 2023, 23(3):1483,
    https://doi.org/10.3390/s23031483, section 3, and the released code
    Srivastava, Greff, Schmidhuber: Highway Networks, 2015, https://arxiv.org/abs/1505.00387
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from methods.parts.layers import Linear
from methods.parts.optim import Group, named
from methods.parts.rng import derive

NORMS = ("sequence", "token", "position")
EPS = 1e-5


class SequenceNorm(nn.Module):
    """Normalise the real tokens of a sentence together; scale and shift each feature."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden))
        self.bias = nn.Parameter(torch.zeros(hidden))

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """Map (B, L, D) to (B, L, D); `mask` (B, L) is 1 at real tokens, and padding takes no part in the statistics.

        Every row has a real token.
        """
        states, real = states.float(), mask[..., None].float()
        count = real.sum((1, 2), keepdim=True) * states.shape[-1]
        centred = states - (states * real).sum((1, 2), keepdim=True) / count
        variance = (centred.square() * real).sum((1, 2), keepdim=True) / count
        return centred * (variance + EPS).rsqrt() * self.weight + self.bias


class Gate(nn.Module):
    """One gate; parameters have the published names, `linear` and `layernorm`."""

    def __init__(self, hidden: int, *, norm: str = "sequence", length: int | None = None, seed: int = 0) -> None:
        """Draw the weights: W by Glorot's uniform rule, b uniform below 1 / sqrt(D), scale 1 and shift 0.

        Args:
            hidden: D.
            norm: one of `NORMS`.
            length: L, for the norm `position` only.
            seed: of the weights; torch's global generator is neither read nor moved.

        Raises:
            ValueError: the norm is unknown, or a length is missing or too much.
        """
        super().__init__()
        if norm not in NORMS:
            raise ValueError(f"norm: found {norm!r}, allowed are {', '.join(NORMS)}")
        if (length is None) == (norm == "position"):
            allowed = "the padded length" if norm == "position" else "None"
            raise ValueError(f"length: found {length!r} with norm {norm!r}, allowed is {allowed}")
        self.norm, self.length = norm, length
        self.linear = Linear(hidden, hidden)
        self.layernorm = (
            SequenceNorm(hidden) if norm == "sequence" else nn.LayerNorm([*([length] * bool(length)), hidden])
        )
        generator = torch.Generator().manual_seed(seed)
        nn.init.xavier_uniform_(self.linear.weight, generator=generator)
        bound = 1.0 / math.sqrt(hidden)
        nn.init.uniform_(self.linear.bias, -bound, bound, generator=generator)

    def forward(self, aggregate: Tensor, state: Tensor, mask: Tensor) -> Tensor:
        """The next aggregate (B, L, D), on the gate's device.

        Args:
            aggregate: (B, L, D), the one so far.
            state: (B, L, D), of the layer that is let in.
            mask: (B, L), 1 at real tokens.

        Raises:
            ValueError: shapes differ, or a norm of a fixed length meets another.
        """
        if aggregate.shape != state.shape:
            raise ValueError(
                f"Gate: found shapes {tuple(aggregate.shape)} and {tuple(state.shape)}, which must be equal"
            )
        if self.length not in (None, state.shape[1]):
            raise ValueError(f"Gate: found {state.shape[1]} positions, allowed are {self.length} with norm 'position'")
        device = self.linear.weight.device
        aggregate, state = aggregate.to(device), state.to(device)
        gate = torch.sigmoid(self.linear(aggregate))
        mixed = gate * state + (1.0 - gate) * aggregate
        found: Tensor = self.layernorm(mixed, mask.to(device)) if self.norm == "sequence" else self.layernorm(mixed)
        return found


class Gates(nn.Module):
    """A chain of gates, one for each layer; the first, `gate.0`, lets its layer pass and has no parameters."""

    def __init__(
        self,
        layers: int,
        hidden: int,
        *,
        norm: str = "sequence",
        length: int | None = None,
        reverse: bool = False,
        seed: int = 0,
    ) -> None:
        """Draw the gates.

        Args:
            layers: states that are folded.
            hidden: D.
            norm: one of `NORMS`.
            length: L, for the norm `position` only.
            reverse: fold from the top layer down, so that `gate.0` is the top layer's.
            seed: of the weights.

        Raises:
            ValueError: see `Gate`.
        """
        super().__init__()
        self.reverse = reverse
        seeds = [derive(seed, "gate", number) for number in range(1, layers)]
        gates = [Gate(hidden, norm=norm, length=length, seed=each) for each in seeds]
        self.gate = nn.ModuleList([nn.Identity(), *gates])

    def forward(self, states: Sequence[Tensor], mask: Tensor) -> tuple[Tensor, ...]:
        """Fold states (B, L, D), bottom layer first; returns as many aggregates, in the order of their layers.

        An aggregate holds its own layer and all below it; in reverse, all above it.

        Raises:
            ValueError: the number of states is not that of the gates.
        """
        if len(states) != len(self.gate):
            raise ValueError(f"Gates: found {len(states)} states, allowed are {len(self.gate)}")
        order = states[::-1] if self.reverse else states
        aggregates = [order[0]]
        for gate, state in zip(list(self.gate)[1:], order[1:], strict=True):
            aggregates.append(gate(aggregates[-1], state, mask))
        return tuple(aggregates[::-1] if self.reverse else aggregates)

    def groups(self, like: Group) -> tuple[Group, ...]:
        """A parameter group for each gate but the first, trained as `like`, so that each is clipped by itself."""
        return tuple(
            Group(
                name=f"{like.name}.{number}",
                parameters=named(gate),
                lr=like.lr,
                weight_decay=like.weight_decay,
                clip_norm=like.clip_norm,
                betas=like.betas,
                eps=like.eps,
            )
            for number, gate in enumerate(self.gate)
            if number
        )
