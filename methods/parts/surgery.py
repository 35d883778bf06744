"""Cutting a BERT: fewer heads, neurons and layers, a word table of lower rank; real smaller matrices, no masks.

All functions are pure: the model given is not touched, the new one shares no memory with it, and no random number is
drawn. What is kept is said by index, so an exact zero in a weight is as good as any other number.

References:
    Liu, Lin, Yuan: ROSITA: Refined BERT cOmpreSsion with InTegrAted techniques, AAAI 2021,
    https://arxiv.org/abs/2103.11367
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from methods.parts.bert import Bert, build
from methods.parts.layout import LayerLayout, Layout

Indices = Sequence[Sequence[int]]
"""For each layer of the model given, the numbers that survive, in the order in which they will be stored."""

WORDS, PROJECTION = "bert.embeddings.word_embeddings.weight", "bert.embeddings.word_projection.weight"


def narrower(
    layout: Layout,
    *,
    heads: int | None = None,
    ffn: int | None = None,
    layers: int | None = None,
    rank: int | None = None,
) -> Layout:
    """Return the layout with new widths, the bottom `layers` layers and a new embedding rank; None leaves a number.

    Raises:
        ValueError: a width would grow.
    """
    count = len(layout.layers) if layers is None else layers
    if not 1 <= count <= len(layout.layers):
        raise ValueError(f"narrower(layers): found {layers!r}, allowed are 1 to {len(layout.layers)}")
    kept = tuple(_narrower_layer(i, layer, heads, ffn) for i, layer in enumerate(layout.layers[:count]))
    return dataclasses.replace(layout, layers=kept, embedding_rank=_check_rank(layout, rank))


def _narrower_layer(number: int, layer: LayerLayout, heads: int | None, ffn: int | None) -> LayerLayout:
    """Return one layer with new widths that do not grow."""
    for name, wanted, have in (("heads", heads, layer.heads), ("ffn", ffn, layer.ffn)):
        if wanted is not None and not 0 <= wanted <= have:
            raise ValueError(f"narrower({name}): found {wanted!r}, layer {number} allows 0 to {have}")
    return dataclasses.replace(
        layer, heads=layer.heads if heads is None else heads, ffn=layer.ffn if ffn is None else ffn
    )


def _check_rank(layout: Layout, rank: int | None) -> int | None:
    """Return the embedding rank that a request for `rank` leads to."""
    largest = min(layout.vocab, layout.hidden) if layout.embedding_rank is None else layout.embedding_rank
    if rank is not None and not 1 <= rank <= largest:
        raise ValueError(f"embedding rank: found {rank!r}, allowed are 1 to {largest}, or None to leave it")
    return layout.embedding_rank if rank is None else rank


def cut(
    model: Bert,
    *,
    heads: Indices | None = None,
    neurons: Indices | None = None,
    layers: Sequence[int] | None = None,
    rank: int | None = None,
) -> Bert:
    """Return a smaller model holding the chosen parts; None keeps all.

    Args:
        model: stays as it is.
        heads: for each layer of `model`, the heads that survive, in their new order.
        neurons: for each layer of `model`, the FFN neurons that survive, in their new order.
        layers: the layers that survive, in their new order; the published methods keep the bottom ones, `range(n)`.
        rank: of the word table. A full table is factorised by a thin SVD; a factorised one keeps its first `rank`
            columns.

    Returns:
        A model in the same mode and on the same device; all its parameters take gradients.

    Raises:
        ValueError: an index is unknown or named twice, a list per layer is missing, or the rank would grow.
    """
    old = model.layout
    every = range(len(old.layers))
    head_lists = _check("heads", heads, [layer.heads for layer in old.layers])
    neuron_lists = _check("neurons", neurons, [layer.ffn for layer in old.layers])
    kept = every if layers is None else _check("layers", [layers], [len(old.layers)])[0]
    new = tuple(dataclasses.replace(old.layers[i], heads=len(head_lists[i]), ffn=len(neuron_lists[i])) for i in kept)
    layout = dataclasses.replace(old, layers=new, embedding_rank=_check_rank(old, rank))
    state = _word_table(model, layout.embedding_rank)
    for name, value in model.state_dict().items():
        if name not in (WORDS, PROJECTION) and not name.startswith("bert.encoder.layer."):
            state[name] = value.clone()
    for number, i in enumerate(kept):
        rows = [head * old.layers[i].head_width + j for head in head_lists[i] for j in range(old.layers[i].head_width)]
        for name, value in model.layers[i].state_dict().items():
            state[f"bert.encoder.layer.{number}.{name}"] = _part(name, value, rows, neuron_lists[i])
    return build(layout, state, like=model)


def reorder(model: Bert, *, heads: Indices | None = None, neurons: Indices | None = None) -> Bert:
    """Return the same function with heads and neurons stored in another order.

    Raises:
        ValueError: a layer's list is not a permutation.
    """
    new = cut(model, heads=heads, neurons=neurons)
    if new.layout != model.layout:
        raise ValueError("reorder: every head and neuron of a layer must be named exactly once")
    return new


def factorise(weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return the best rank-r factors (V, r) and (D, r) of a (V, D) table; their product is first @ second.T.

    This is the thin SVD with all singular values in the first factor, columns in descending order of them. It is
    computed in fp64 from the (D, D) matrix of inner products: as exact as the fp32 table allows, the same to rounding
    on every machine, and never the (V, V) matrix of a full SVD. Signs are free, so each column of the second factor
    gets the one that makes its largest entry positive.

    References:
        Eckart, Young: The approximation of one matrix by another of lower rank, 1936,
        https://doi.org/10.1007/BF02288367
    """
    table = weight.detach().double().cpu()
    right = torch.linalg.eigh(table.T @ table).eigenvectors.flip(1)[:, :rank]
    largest = right.gather(0, right.abs().argmax(0, keepdim=True))
    right = torch.where(largest < 0, -right, right)
    return (table @ right).to(weight), right.to(weight)


def truncate(first: Tensor, second: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return the first `rank` columns of both factors; there is no new SVD, though training may have mixed them."""
    return first[:, :rank].clone(), second[:, :rank].clone()


def _word_table(model: Bert, rank: int | None) -> dict[str, Tensor]:
    """Return the word table's parameters at the new rank."""
    words = model.bert.embeddings.word_embeddings.weight.detach()
    projection = model.bert.embeddings.word_projection
    if rank is None:
        return {WORDS: words.clone()}
    first, second = factorise(words, rank) if projection is None else truncate(words, projection.weight.detach(), rank)
    return {WORDS: first.contiguous(), PROJECTION: second.contiguous()}


def _part(name: str, value: Tensor, rows: Sequence[int], neurons: Sequence[int]) -> Tensor:
    """Return the surviving rows or columns of one parameter of a layer."""
    inside, axis = None, 0
    if name.startswith("attention.self."):
        inside = rows
    elif name == "attention.output.dense.weight":
        inside, axis = rows, 1
    elif name.startswith("intermediate."):
        inside = neurons
    elif name == "output.dense.weight":
        inside, axis = neurons, 1
    if inside is None:
        return value.clone()
    return value.index_select(axis, torch.tensor(inside, dtype=torch.long, device=value.device))


def _check(what: str, chosen: Indices | None, sizes: Sequence[int]) -> Indices:
    """Return the choice with None written out, or raise a ValueError naming the layer and the wrong index."""
    if chosen is None:
        return [range(size) for size in sizes]
    if len(chosen) != len(sizes):
        raise ValueError(f"cut({what}): found {len(chosen)} lists, allowed is one for each of {len(sizes)} layers")
    for number, (indices, size) in enumerate(zip(chosen, sizes, strict=True)):
        wrong = [i for i in indices if not 0 <= i < size]
        if wrong or len(set(indices)) != len(indices):
            problem = f"unknown {wrong}" if wrong else f"an index twice in {list(indices)}"
            raise ValueError(f"cut({what}): list {number}: found {problem}, allowed are 0 to {size - 1}, each once")
    return chosen
