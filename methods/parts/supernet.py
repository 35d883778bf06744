"""A supernet: one BERT whose sub-networks run on the leading slices of its weights; nothing is copied.

Gradients of a sub-network flow into the slices it used, so backward passes of several of them add up in one model. A
sub-network that is cut out gives the same numbers.

References:
    Hou et al.: DynaBERT: Dynamic BERT with Adaptive Width and Depth, NeurIPS 2020, https://arxiv.org/abs/2004.04037,
    section 2
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from methods.parts.bert import Bert, Output
from methods.parts.elastic import Subnet
from methods.parts.importance import Importance
from methods.parts.layers import Attended, Layer, Tokens
from methods.parts.layout import LayerLayout
from methods.parts.surgery import cut, reorder


def rewired(model: Bert, importance: Importance) -> Bert:
    """The same function with the most important heads and neurons of each layer first.

    Raises:
        ValueError: the scores are not those of such a model.
    """
    return reorder(model, heads=orders(importance.heads), neurons=orders(importance.neurons))


def orders(scores: Sequence[Tensor]) -> list[list[int]]:
    """For each layer the numbers by descending score; the lower number wins a tie."""
    return [row.sort(descending=True, stable=True).indices.tolist() for row in scores]


def extract(model: Bert, subnet: Subnet) -> Bert:
    """A sub-network as a model of its own, with copies of its weights.

    Raises:
        ValueError: the model is narrower or shallower than the sub-network.
    """
    heads, neurons = ([range(count) for count in counts] for counts in (subnet.heads, subnet.neurons))
    return cut(model, heads=heads, neurons=neurons, layers=subnet.blocks)


def run_subnet(model: Bert, subnet: Subnet, batch: Tokens, *, hidden: bool = False) -> Output:
    """Run a sub-network on the supernet's own weights.

    Args:
        model: the supernet, in training or evaluation mode.
        subnet: what of it runs.
        batch: the sequences.
        hidden: keep the states, `len(subnet.blocks) + 1` of (B, L, D).
    """
    thin = [_Thin(model, number, subnet) for number in subnet.blocks]
    return cast(Output, model(batch, hidden=hidden, layers=thin))


class Slice(nn.Module):
    """A sub-network as a module, for `methods.parts.evaluate`; it has no parameters of its own."""

    def __init__(self, model: Bert, subnet: Subnet) -> None:
        super().__init__()
        self._whole = (model,)  # a tuple, so that the supernet is no part of this module
        self.subnet, self.training = subnet, model.training

    def train(self, mode: bool = True) -> Slice:
        """Set the mode of the supernet, too."""
        self._whole[0].train(mode)
        super().train(mode)
        return self

    def forward(self, batch: Tokens) -> Output:
        """Run the sub-network."""
        return run_subnet(self._whole[0], self.subnet, batch)


class _Thin:
    """The leading heads and neurons of one layer, called like the layer."""

    def __init__(self, model: Bert, number: int, subnet: Subnet) -> None:
        self._model, self._layer = model, model.layers[number]
        whole = model.layout.layers[number]
        self._layout = LayerLayout(heads=subnet.heads[number], head_width=whole.head_width, ffn=subnet.neurons[number])

    def __call__(self, states: Tensor, mask: Tensor, scores: bool, cls_scores: bool) -> Attended:
        model, width, ffn = self._model, self._layout.width, self._layout.ffn
        frame = _frame(self._layout, model.layout.hidden, (model.dropout, model.layer_norm_eps), model.training)
        weights = {name: _leading(name, value, width, ffn) for name, value in self._layer.named_parameters()}
        return cast(Attended, functional_call(frame, weights, (states, mask, scores, cls_scores)))


@lru_cache(maxsize=512)
def _frame(layer: LayerLayout, hidden: int, regular: tuple[float, float], training: bool) -> Layer:
    """A layer of this shape without weights."""
    with torch.device("meta"):
        return Layer(layer, hidden, *regular).train(training)


def _leading(name: str, value: Tensor, width: int, ffn: int) -> Tensor:
    """The leading part of one parameter of a layer, as a view."""
    if name.startswith("attention.self."):
        return value[:width]
    if name == "attention.output.dense.weight":
        return value[:, :width]
    if name.startswith("intermediate."):
        return value[:ffn]
    return value[:, :ffn] if name == "output.dense.weight" else value
