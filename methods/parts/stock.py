"""A compressed model in the shape of an ordinary BERT, for readers that know no other: the same outputs, at a price.

`transformers.BertConfig` has one number of heads, one head width and one FFN width for all layers, heads that fill the
hidden width, and one word table. A smaller model computes the same in that shape if what it lacks is filled with zeros:
a zero head adds nothing to the attention's output, a zero neuron nothing to the FFN's, and two factors of a word table
multiply out to one. What was saved in heads, unequal widths and rank is lost again; depth, the common FFN width, hidden
width and vocabulary stay saved.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor
from torch.nn import functional as F

from methods.parts.bert import Bert, build
from methods.parts.layout import LayerLayout, Layout


def stock_layout(layout: Layout) -> Layout:
    """The smallest layout that stock transformers opens and that holds `layout`.

    Heads are as narrow as the hidden width allows, so that a pruned BERT gets its old number of heads back.

    Raises:
        ValueError: the heads of a layer are together wider than the hidden width can be divided into.
    """
    heads = max(layer.heads for layer in layout.layers)
    narrowest = max(layer.head_width for layer in layout.layers if layer.heads or not heads)
    widths = [
        width
        for width in range(1, layout.hidden + 1)
        if layout.hidden % width == 0 and width >= min(narrowest, layout.hidden) and layout.hidden // width >= heads
    ]
    if not widths or (heads and narrowest > layout.hidden):
        raise ValueError(
            f"a stock BERT cannot hold {heads} heads of width {narrowest}: found the hidden width {layout.hidden}, "
            "allowed is one that divides into as many heads at least as wide"
        )
    layer = LayerLayout(
        heads=layout.hidden // widths[0], head_width=widths[0], ffn=max(1, *(layer.ffn for layer in layout.layers))
    )
    return dataclasses.replace(layout, embedding_rank=None, layers=(layer,) * len(layout.layers))


@torch.no_grad()
def stock(model: Bert) -> Bert:
    """A model of `stock_layout` with the outputs of `model`, on its device.

    Scores are divided by the root of the head width, so queries grow by the root of the ratio where heads get wider.

    Raises:
        ValueError: see `stock_layout`; or the classifier's head is not the plain one, which stock BERT has.
    """
    if model.head != "plain":
        raise ValueError(
            f"head: found {model.head!r}, allowed is 'plain': a stock BERT has no {model.head.upper()} between pooler "
            "and classifier (export it as compact, onnx or torch-export)"
        )
    layout = stock_layout(model.layout)
    state = {name: value.detach() for name, value in model.state_dict().items()}
    factor = state.pop("bert.embeddings.word_projection.weight", None)
    if factor is not None:
        table = "bert.embeddings.word_embeddings.weight"
        state[table] = (state[table].double() @ factor.double().T).to(state[table].dtype)
    for number, (old, new) in enumerate(zip(model.layout.layers, layout.layers, strict=True)):
        prefix = f"bert.encoder.layer.{number}."
        state |= _attention({name: state[prefix + name] for name in _ATTENTION}, prefix, old, new)
        state |= _ffn({name: state[prefix + name] for name in _FFN}, prefix, new.ffn - old.ffn)
    return build(layout, state, like=model)


_INNER = ("attention.self.query", "attention.self.key", "attention.self.value")
_OUTER = "attention.output.dense.weight"
_ATTENTION = (*(f"{name}.{kind}" for name in _INNER for kind in ("weight", "bias")), _OUTER)
_FFN = ("intermediate.dense.weight", "intermediate.dense.bias", "output.dense.weight")


def _attention(parts: dict[str, Tensor], prefix: str, old: LayerLayout, new: LayerLayout) -> dict[str, Tensor]:
    """The matrices of one layer's attention with zeros in each head and after the last one."""
    wider, more = new.head_width - old.head_width, new.heads - old.heads
    padded = {}
    for name in _INNER:
        scale = math.sqrt(new.head_width / old.head_width) if name.endswith("query") else 1.0
        weight, bias = parts[f"{name}.weight"], parts[f"{name}.bias"]
        rows = weight.reshape(old.heads, old.head_width, weight.shape[1])
        padded[f"{prefix}{name}.weight"] = F.pad(rows, (0, 0, 0, wider, 0, more)).flatten(0, 1) * scale
        rows = bias.reshape(old.heads, old.head_width)
        padded[f"{prefix}{name}.bias"] = F.pad(rows, (0, wider, 0, more)).flatten() * scale
    columns = parts[_OUTER].reshape(len(parts[_OUTER]), old.heads, old.head_width)
    padded[prefix + _OUTER] = F.pad(columns, (0, wider, 0, more)).flatten(1)
    return padded


def _ffn(parts: dict[str, Tensor], prefix: str, more: int) -> dict[str, Tensor]:
    """The matrices of one layer's FFN with `more` neurons of zeros."""
    into, bias, out = (parts[name] for name in _FFN)
    padded = (F.pad(into, (0, 0, 0, more)), F.pad(bias, (0, more)), F.pad(out, (0, more)))
    return {prefix + name: value for name, value in zip(_FFN, padded, strict=True)}
