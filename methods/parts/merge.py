"""Cutting a compacted BERT to the dimensions it keeps, and multiplying its compactors into the weights.

    W' = C_out[kept, :] W C_in[:, kept]      b' = C_out[kept, :] b      tables: E C_emb[kept, :]^T

The result is an ordinary, smaller `Bert` with a masked-LM head. It computes what the compacted model computes if the
columns that are cut from every C_in are 0, and the rows that are cut from the C_out of queries and keys; nothing else
that is cut reaches what is kept. Attention is scaled by the width of a head, which falls where every head shrinks, so
the queries are multiplied by the root of the ratio; the published script leaves that out, and its students compute
something else than what was trained.

References:
    Wu et al.: Weight-Inherited Distillation for Task-Agnostic BERT Compression, Findings of NAACL 2024,
    https://arxiv.org/abs/2305.09098
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import torch
from torch import Tensor

from methods.parts.bert import Bert
from methods.parts.compactors import COMPAT, CompactedBert
from methods.parts.files import read_json, read_tensors, wait_for
from methods.parts.layers import LINEARS
from methods.parts.layout import LayerLayout, Layout
from methods.parts.mask_groups import DECODER, EMBEDDINGS, RESIDUAL, TRANSFORM, WORDS, layer_name

TOLERANCE = 1e-4
"""Largest value that may be cut where it counts; compactors start with ones."""

TABLES = ("word_embeddings", "position_embeddings", "token_type_embeddings")


@torch.no_grad()
def leak(model: CompactedBert) -> float:
    """The largest absolute value that a cut drops where it counts: C_in columns, and C_out rows of queries and keys."""
    largest = torch.zeros((), device=model.unbiased.device)
    for group in model.groups:
        cut = ~model.mask(group.name)
        columns = [model.compactor(f"{name}.in")[:, cut] for name in group.inputs]
        rows = [model.compactor(f"{name}.out")[cut] for name in group.outputs if name.endswith(("query", "key"))]
        for values in (*columns, *rows):
            if values.numel():
                largest = torch.maximum(largest, values.abs().max())
    return float(largest)


def merged_layout(model: CompactedBert) -> Layout:
    """The layout of what the masks keep.

    Raises:
        ValueError: the widths do not fit together, as in a model whose masks have not reached their target.
    """
    hidden, words = (int(model.mask(name).sum()) for name in (RESIDUAL, WORDS))
    if hidden != words:
        raise ValueError(
            f"merge: found {hidden} kept dimensions of the states and {words} of the words, allowed are equal numbers; "
            "train until the masks have reached their target"
        )
    layers = tuple(_layer(model, number) for number in range(len(model.layout.layers)))
    return dataclasses.replace(model.layout, hidden=hidden, layers=layers)


def _layer(model: CompactedBert, number: int) -> LayerLayout:
    """The widths of one layer: whole heads, or equally many dimensions of each."""
    old = model.layout.layers[number]
    kept = model.mask(f"attention.{number}").view(old.heads, old.head_width).sum(1).tolist()
    widths = {width for width in kept if width}
    if not widths or (len(set(kept)) > 1 and widths != {old.head_width}):
        raise ValueError(
            f"merge: layer {number}: found heads that keep {kept} dimensions, allowed are whole heads, or equally many "
            "of each"
        )
    ffn = int(model.mask(f"ffn.{number}").sum())
    return LayerLayout(heads=sum(width > 0 for width in kept), head_width=widths.pop(), ffn=ffn)


@torch.no_grad()
def merge(model: CompactedBert, *, tolerance: float = TOLERANCE, hard_zero: bool = False) -> Bert:
    """Cut and multiply out.

    Args:
        model: stays as it is.
        tolerance: the largest `leak` that is let through.
        hard_zero: let any through. What is cut has no part in the result, whatever its values are; only then the
            result is no longer what the compacted model computes.

    Returns:
        A model on the same device and in the same mode, with a masked-LM head that is not tied, without pooler and
        classifier.

    Raises:
        ValueError: what is cut is not zero enough, or the kept widths do not fit together.
    """
    layout, found = merged_layout(model), leak(model)
    if not found <= tolerance and not hard_zero:
        raise ValueError(
            f"merge: found values up to {found:.3g} where dimensions are cut, allowed are {tolerance:g}; train longer "
            "or with a larger penalty, or take hard_zero, which drops them whatever the model then computes"
        )
    state = {**_embedding_state(model), **_head_state(model)}
    for number, layer in enumerate(layout.layers):
        scale = math.sqrt(layer.head_width / model.layout.layers[number].head_width)
        state |= _layer_state(model, number, scale)
    merged = Bert(layout, head=model.head, dropout=model.dropout, layer_norm_eps=model.layer_norm_eps)
    merged.load_state_dict(state)
    return merged.to(model.unbiased.device).train(model.training)


def _embedding_state(model: CompactedBert) -> dict[str, Tensor]:
    """The tables and their LayerNorm."""
    kept = model.mask(RESIDUAL)
    compactor = model.compactor(f"{EMBEDDINGS}.out")[kept].double()
    names = [f"{EMBEDDINGS}.{table}.weight" for table in TABLES]
    state = {name: (model.get_parameter(name).double() @ compactor.T).float() for name in names}
    return state | _norm(model, f"{EMBEDDINGS}.LayerNorm", kept)


def _layer_state(model: CompactedBert, number: int, scale: float) -> dict[str, Tensor]:
    """The weights of a layer; queries are multiplied by `scale`."""
    where, stream = layer_name(number), model.mask(RESIDUAL)
    attention, ffn = model.mask(f"attention.{number}"), model.mask(f"ffn.{number}")
    ends = dict.fromkeys(LINEARS[:3], (stream, attention))
    ends |= {LINEARS[3]: (attention, stream), LINEARS[4]: (stream, ffn), LINEARS[5]: (ffn, stream)}
    state: dict[str, Tensor] = {}
    for name, (read, written) in ends.items():
        state |= _linear(model, f"{where}.{name}", read, written, scale if name == LINEARS[0] else 1.0)
    for name in ("attention.output", "output"):
        state |= _norm(model, f"{where}.{name}.LayerNorm", stream)
    return state


def _head_state(model: CompactedBert) -> dict[str, Tensor]:
    """The masked-LM head."""
    stream, words = model.mask(RESIDUAL), model.mask(WORDS)
    inner = model.compactor(f"{DECODER}.in")[:, words].double()
    state = _linear(model, f"{TRANSFORM}.dense", stream, words) | _norm(model, f"{TRANSFORM}.LayerNorm", words)
    state[f"{DECODER}.weight"] = (model.get_parameter(f"{DECODER}.weight").double() @ inner).float()
    return state | {"cls.predictions.bias": model.get_parameter("cls.predictions.bias").clone()}


def _linear(model: CompactedBert, name: str, read: Tensor, written: Tensor, scale: float = 1.0) -> dict[str, Tensor]:
    """Weight and bias of a linear map, in fp64 until they are done."""
    inner = model.compactor(f"{name}.in")[:, read].double()
    outer = scale * model.compactor(f"{name}.out")[written].double()
    weight, bias = (model.get_parameter(f"{name}.{part}").double() for part in ("weight", "bias"))
    return {f"{name}.weight": (outer @ weight @ inner).float(), f"{name}.bias": (outer @ bias).float()}


def _norm(model: CompactedBert, name: str, kept: Tensor) -> dict[str, Tensor]:
    """Weight and bias of a LayerNorm; an unbiased standard deviation is folded into the weight."""
    size = int(kept.sum())
    fold = math.sqrt((size - 1) / size) if bool(model.unbiased) else 1.0
    weight, bias = (model.get_parameter(f"{name}.{part}")[kept] for part in ("weight", "bias"))
    return {f"{name}.weight": weight * fold, f"{name}.bias": bias.clone()}


def load_compacted(folder: Path) -> CompactedBert:
    """Open a compacted model from a checkpoint or the result of a stage, its masks included.

    Raises:
        ValueError: the folder holds no such model.
    """
    values = read_json(wait_for(folder) / "values.json")
    state, about = read_tensors(folder / "model.safetensors"), values.get("bert")
    if about is None or "unbiased" not in state:
        raise ValueError(f"{folder}: found a model without compactors, expected one of a compaction stage")
    model = CompactedBert(
        Layout.from_json(about["layout"]),
        dropout=about["dropout"],
        layer_norm_eps=about["layer_norm_eps"],
        compat=COMPAT if bool(state["unbiased"]) else (),
    )
    model.load_state_dict(state)
    return model.eval()


def merge_checkpoint(folder: Path, *, tolerance: float = TOLERANCE, hard_zero: bool = False) -> Bert:
    """Merge any checkpoint of a compaction stage: it holds its masks.

    Raises:
        ValueError: see `load_compacted` and `merge`.
    """
    return merge(load_compacted(folder), tolerance=tolerance, hard_zero=hard_zero)
