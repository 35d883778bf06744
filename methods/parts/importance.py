"""First-order Taylor scores of heads and FFN neurons, and the choice of the best.

The score of a weight is |w * sum over steps of |dL/dw||, where L is the mean loss of a step's whole batch, dropout
active. A head's score is the sum over its columns of the attention output matrix; a neuron's is the sum over its row
of the first and its column of the second FFN matrix. Choices are made within a layer, so scores are never compared
across layers.

The published variants are compositions: A (label loss) and B (distillation loss) call `observe` after each backward
pass over the data, A without any optimizer step and B with one; C calls it from the loop's `before_step` hook during
training.

References:
    Liu, Lin, Yuan: ROSITA: Refined BERT cOmpreSsion with InTegrAted techniques, AAAI 2021,
    https://arxiv.org/abs/2103.11367 Molchanov et al.: Importance Estimation for Neural Network Pruning, 2019,
    https://arxiv.org/abs/1906.10771
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from methods.parts.bert import Bert
from methods.parts.layers import LINEARS, Layer

MATRICES = LINEARS
"""The weight matrices of a layer that have a Taylor score; the last three decide heads and neurons."""

WEIGHTS = ("current", "final")
"""Which weights a gradient is multiplied with: those of its own step, or those at the end."""


@dataclass(frozen=True, slots=True)
class Importance:
    """Scores per layer, bottom first; higher is more important."""

    heads: tuple[Tensor, ...]
    """Per layer (h,)."""
    neurons: tuple[Tensor, ...]
    """Per layer (ffn,)."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What survives in each layer, in stored order."""

    heads: tuple[tuple[int, ...], ...]
    """Head numbers by descending score."""
    neurons: tuple[tuple[int, ...], ...]
    """Neuron numbers, ascending."""


class TaylorScores:
    """Sums of |gradient| over steps, and the scores they give.

    With `weights="current"` each step's |gradient| is multiplied with the weights it was taken at and only sums per
    head and neuron are kept. With `weights="final"` the sums of |gradient| are kept as whole matrices and multiplied
    with the weights that `scores` is given: the published code's variants B and C, where the weights have moved on
    meanwhile. While weights are frozen both agree.

    Gradients must already be those of the whole batch over all ranks; then every rank holds equal sums.
    """

    def __init__(self, weights: str = "current") -> None:
        """Start with no step.

        Raises:
            ValueError: `weights` is not one of `WEIGHTS`.
        """
        if weights not in WEIGHTS:
            raise ValueError(f"TaylorScores(weights): found {weights!r}, allowed are {list(WEIGHTS)}")
        self.weights = weights
        self.num_steps = 0
        self._sums: dict[str, Tensor] = {}

    @torch.no_grad()
    def observe(self, model: Bert) -> None:
        """Add the gradients that the last backward pass left in `model.grad`; call it before clipping.

        Raises:
            ValueError: a matrix has no gradient.
        """
        for number, layer in enumerate(model.layers):
            for name in MATRICES[3:] if self.weights == "current" else MATRICES:
                weight = _matrix(layer, name)
                gradient = weight.grad if weight.numel() else torch.zeros_like(weight)
                if gradient is None:
                    raise ValueError(f"TaylorScores: layer {number} {name} has no gradient; call after backward")
                self._add(f"{number}.{name}", gradient.abs(), weight)
        self.num_steps += 1

    def _add(self, key: str, gradient: Tensor, weight: Tensor) -> None:
        """Add |gradient| (out, in), or with current weights its product summed over the residual stream's axis."""
        if self.weights == "current":
            gradient = (gradient * weight.abs()).sum(_stream_axis(key))
        self._sums[key] = self._sums[key] + gradient if key in self._sums else gradient

    def scores(self, model: Bert, *, per_step: bool = False) -> Importance:
        """Return the scores of heads and neurons.

        Args:
            model: gives the head counts and, with `weights="final"`, the weights.
            per_step: divide by the number of steps, which changes no ranking.

        Raises:
            ValueError: nothing was observed, or `model` has other shapes than the one observed.
        """
        if not self.num_steps:
            raise ValueError("TaylorScores: nothing observed yet")
        scale = 1 / self.num_steps if per_step else 1.0
        heads, neurons = [], []
        for number, layer in enumerate(model.layers):
            out, first, second = (self._line(number, name, layer) * scale for name in MATRICES[3:])
            attention = layer.attention.self
            heads.append(out.view(attention.heads, attention.head_width).sum(1))
            neurons.append(first + second)
        return Importance(tuple(heads), tuple(neurons))

    def _line(self, number: int, name: str, layer: Layer) -> Tensor:
        """Return one score per column of an output matrix, or per row of an input matrix."""
        key = f"{number}.{name}"
        if self.weights == "current":
            return self._sums[key]
        return self.matrix(number, name, layer).sum(_stream_axis(key))

    @torch.no_grad()
    def matrix(self, number: int, name: str, layer: Layer) -> Tensor:
        """Return the score of every weight of one matrix, for `weights="final"`; `name` is one of `MATRICES`."""
        return (_matrix(layer, name) * self._sums[f"{number}.{name}"]).abs()

    def state_dict(self) -> dict[str, Tensor]:
        """Return the sums and the step count as tensors, for a checkpoint."""
        return {**self._sums, "num_steps": torch.tensor(self.num_steps)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what `state_dict` returned."""
        self._sums = {key: value.clone() for key, value in state.items() if key != "num_steps"}
        self.num_steps = int(state["num_steps"])


def top(importance: Importance, heads: int | Sequence[int], ffn: int | Sequence[int]) -> Kept:
    """Choose the best heads and neurons of every layer.

    A layer that keeps all of its heads keeps their order. Equal scores go to the lower number.

    Args:
        importance: the scores.
        heads: heads to keep in every layer, or a number for each layer.
        ffn: neurons to keep, likewise.

    Raises:
        ValueError: a layer has fewer heads or neurons than asked for.
    """
    kept_heads = _chosen("heads", importance.heads, heads)
    kept_neurons = _chosen("neurons", importance.neurons, ffn)
    return Kept(kept_heads, tuple(tuple(sorted(kept)) for kept in kept_neurons))


def _chosen(what: str, scores: Sequence[Tensor], counts: int | Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Return the best of each layer, best first."""
    each = [counts] * len(scores) if isinstance(counts, int) else counts
    return tuple(
        tuple(_best(row, count, f"layer {i} {what}")) for i, (row, count) in enumerate(zip(scores, each, strict=True))
    )


def _best(scores: Tensor, count: int, what: str) -> Sequence[int]:
    """Return the numbers of the `count` highest scores, best first."""
    if not 0 <= count <= len(scores):
        raise ValueError(f"top: {what}: found {count}, allowed are 0 to {len(scores)}")
    if count == len(scores):
        return range(count)
    order: list[int] = scores.sort(descending=True, stable=True).indices[:count].tolist()
    return order


def _matrix(layer: Layer, name: str) -> Tensor:
    """Return a layer's weight matrix (out, in)."""
    return layer.get_parameter(f"{name}.weight")


def _stream_axis(key: str) -> int:
    """Return which axis of a matrix is the residual stream: 0 for the two output matrices, 1 for the others."""
    return 0 if key.endswith("output.dense") else 1
