"""Checkpoints of the published programs, renamed and measured so that `Bert` computes what they computed.

ROSITA's, HSK's and TinyBERT's code saves a dictionary of tensors and a config.json that stock transformers cannot open:
the word table is two factors, the attention is narrower than the hidden states, a projection that only a loss needed is
stored with the model. LAD's, DynaBERT's and WID's are renamed by `methods.parts.foreign` first. Everything here is a
pure function of that dictionary and that mapping. Sizes are taken from the tensors, since the published configurations
leave some out; where both say one, they must agree.

References:
    Liu, Lin, Yuan: ROSITA: Refined BERT cOmpreSsion with InTegrAted techniques, AAAI 2021,
    https://arxiv.org/abs/2103.11367 Liu et al.: Marginal Utility Diminishes: Exploring the Minimum Knowledge for BERT
    Knowledge Distillation, ACL 2021, https://arxiv.org/abs/2106.05691 Jiao et al.: TinyBERT: Distilling BERT for
    Natural Language Understanding, 2020, https://arxiv.org/abs/1909.10351
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from methods.parts.bert import Bert
from methods.parts.card import ALLOWED
from methods.parts.foreign import FOREIGN, LAD_ORDER, WHOLE, Part, foreign_kind, translate
from methods.parts.layout import LayerLayout, Layout

KINDS = ("rosita", "tinybert", "hsk", *FOREIGN)
"""The programs whose checkpoints are read. The first three distil through a ReLU between pooler and classifier."""

LABEL_ORDER: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "mnli": ("contradiction", "entailment", "neutral"),
        "qnli": ("entailment", "not_entailment"),
        "rte": ("entailment", "not_entailment"),
    }
)
"""The programs' order of the classes where the files name them; elsewhere it is 0, 1, as in the files."""

_RENAMED = (
    (re.compile(r"^module\."), ""),  # of DataParallel
    (re.compile(r"\.gamma$"), ".weight"),
    (re.compile(r"\.beta$"), ".bias"),
    (re.compile(r"^(?=(embeddings|encoder|pooler)\.)"), "bert."),
    (re.compile(r"\.word_embeddings1\.weight$"), ".word_embeddings.weight"),
    (re.compile(r"\.word_embeddings2\.weight$"), ".word_projection.weight"),
)
_PROJECTION = "fit_dense."
_LAYER = re.compile(r"^bert\.encoder\.layer\.(\d+)\.")
_WORDS, _FACTOR = "bert.embeddings.word_embeddings.weight", "bert.embeddings.word_projection.weight"


@dataclass(frozen=True, kw_only=True, slots=True)
class Converted:
    """A published checkpoint as a model of ours, and what was left out or assumed."""

    model: Bert
    kind: str
    """One of `KINDS`."""
    projection: Mapping[str, Tensor]
    """`weight` (teacher's width, student's width) and `bias` of the distillation loss, no part of the model."""
    notes: tuple[str, ...]
    """One line each, for the user."""


def convert(
    state: Mapping[str, Tensor],
    config: Mapping[str, Any],
    *,
    kind: str | None = None,
    head: str | None = None,
    part: Part = WHOLE,
) -> Converted:
    """Make a model of a published checkpoint.

    Args:
        state: the tensors by their published names.
        config: the parsed config.json.
        kind: one of `KINDS`; None is seen from the tensors and the configuration.
        head: kind of the classifier head, one of `bert.HEADS`; None is the program's own.
        part: DynaBERT: what to keep.

    Raises:
        ValueError: the tensors are no such checkpoint, or do not go with the configuration.
    """
    kind = kind or kind_of(state, config)
    said: tuple[str, ...] = ()
    if kind in FOREIGN or not part.whole:
        plain = {name.removeprefix("module."): value for name, value in state.items()}
        found = translate(kind, plain, config, part)
        state, config, said = found.state, found.config, found.notes
    named, notes = _renamed(state)
    notes += said
    projection = {
        name.removeprefix(_PROJECTION): named.pop(name) for name in sorted(named) if name.startswith(_PROJECTION)
    }
    layout = _layout(named, config)
    notes += _assumed(layout, config, kind)
    if projection:
        shape = " x ".join(map(str, reversed(projection["weight"].shape))) if "weight" in projection else "unknown"
        notes.append(f"fit_dense ({shape}) serves the distillation loss only; it is no part of the model")
    if layout.labels:
        notes.append(_about_head(head, kind))
    head = head or ("plain" if kind in FOREIGN else "relu")
    eps, dropout = _share(config, "layer_norm_eps", 1e-12), _share(config, "hidden_dropout_prob", 0.1)
    with torch.device("meta"):
        model = Bert(layout, head=head if layout.labels else "plain", dropout=dropout, layer_norm_eps=eps)
    _check(model.state_dict(), named)
    model.load_state_dict({name: value.to(torch.float32, copy=True) for name, value in named.items()}, assign=True)
    return Converted(model=model.eval(), kind=kind, projection=projection, notes=tuple(notes))


def kind_of(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> str:
    """Tell by what only the published programs write which of them wrote a checkpoint.

    HSK's students look like ROSITA's or TinyBERT's, and are converted the same way.

    Raises:
        ValueError: nothing tells it from a stock BERT.
    """
    names = {name.removeprefix("module.") for name in state}
    if any(name.startswith(_PROJECTION) for name in names):
        return "tinybert"
    if (foreign := foreign_kind(names)) is not None:
        return foreign
    if "prun_hidden_size" in config or any(".word_embeddings1." in name for name in state):
        return "rosita"
    raise ValueError(
        "found neither prun_hidden_size, word_embeddings1, fit_dense, linear_layer nor encoder.transformer, which "
        "ROSITA, HSK, TinyBERT, LAD or WID write; a stock BERT needs no import, DynaBERT's wants --kind dynabert; "
        f"allowed kinds are {', '.join(KINDS)}"
    )


def label_order(task: str, classes: tuple[str, ...], kind: str = "rosita") -> tuple[int, ...]:
    """Which output of a published checkpoint is our class 0, 1, ... of a task.

    Args:
        task: a name of `glue.CATALOGUE`.
        classes: our class names in order.
        kind: one of `KINDS`.
    """
    orders: Mapping[str, tuple[str, ...]] = {} if kind == "wid" else LAD_ORDER if kind == "lad" else LABEL_ORDER
    theirs = orders.get(task, classes)
    return tuple(theirs.index(name) for name in classes)


def _about_head(head: str | None, kind: str) -> str:
    """Say which head was taken, and why."""
    if head is not None:
        return f"head: {head}, as asked for"
    if kind in FOREIGN:
        return f"head: plain, which {kind}'s program computes"
    return "head: relu, which the distillation programs compute; a model of their fine-tuning script wants --head plain"


def _share(config: Mapping[str, Any], key: str, default: float) -> float:
    """A number from 0 up to 1 of the configuration."""
    found = config.get(key, default)
    if not isinstance(found, (int, float)) or not 0 <= found < 1:
        raise ValueError(f"config.json: {key}: found {found!r}, allowed is a number from 0 up to 1")
    return float(found)


def _renamed(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Give the tensors our names, without those that hold nothing `Bert` has."""
    named: dict[str, Tensor] = {}
    left_out = False
    for old, value in state.items():
        name = old
        for pattern, new in _RENAMED:
            name = pattern.sub(new, name)
        if name.startswith("cls."):
            left_out = True
        elif not name.endswith(".position_ids"):
            if name in named:
                raise ValueError(f"{old}: found twice, under its old and its new name; allowed is one of them")
            if not torch.isfinite(value).all():
                raise ValueError(f"{old}: found NaN or infinite values, allowed are numbers")
            named[name] = value
    notes = ["the pre-training heads (cls.*) are left out; the general distillation does not train them"]
    return named, notes if left_out else []


def _layout(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> Layout:
    """Measure the tensors, and compare with what the configuration says."""
    for key, allowed in ALLOWED.items():
        if config.get(key, allowed[0]) not in allowed:
            raise ValueError(f"config.json: {key}: found {config[key]!r}, allowed is {allowed[0]!r}")
    words, positions = _table(state, _WORDS), _table(state, "bert.embeddings.position_embeddings.weight")
    types = _table(state, "bert.embeddings.token_type_embeddings.weight")
    numbers = sorted({int(found[1]) for name in state if (found := _LAYER.match(name))})
    if numbers != list(range(len(numbers))) or not numbers:
        raise ValueError(f"bert.encoder.layer: found the layers {numbers}, allowed are 0, 1, ... without a gap")
    layers = tuple(_layer(state, config, number) for number in numbers)
    labels = _table(state, "classifier.weight").shape[0] if "classifier.weight" in state else 0
    layout = Layout(
        vocab=words.shape[0],
        positions=positions.shape[0],
        types=types.shape[0],
        hidden=positions.shape[1],
        embedding_rank=words.shape[1] if _FACTOR in state else None,
        layers=layers,
        pooler="bert.pooler.dense.weight" in state,
        labels=labels,
    )
    _compare(layout, config)
    return layout


def _table(state: Mapping[str, Tensor], name: str) -> Tensor:
    """A matrix that every checkpoint has."""
    if name not in state or state[name].dim() != 2:
        raise ValueError(f"{name}: found {'no such tensor' if name not in state else 'no matrix'}, allowed is a matrix")
    return state[name]


def _layer(state: Mapping[str, Tensor], config: Mapping[str, Any], number: int) -> LayerLayout:
    """The widths of one layer; the head width follows from the number of heads, and need not be 64."""
    prefix = f"bert.encoder.layer.{number}."
    width = _table(state, prefix + "attention.self.query.weight").shape[0]
    ffn = _table(state, prefix + "intermediate.dense.weight").shape[0]
    heads, size = config.get("num_attention_heads"), config.get("attention_head_size")
    if type(size) is int:  # the heads of a layer that was cut are counted
        if size < 1 or width % size:
            raise ValueError(f"{prefix}attention: found the width {width}, allowed are multiples of {size}")
        return LayerLayout(heads=width // size, head_width=size, ffn=ffn)
    if type(heads) is not int or heads < 1 or width % heads:
        raise ValueError(
            f"config.json: num_attention_heads: found {heads!r}, allowed is a divisor of the attention's width {width}"
        )
    return LayerLayout(heads=heads, head_width=width // heads, ffn=ffn)


def _compare(layout: Layout, config: Mapping[str, Any]) -> None:
    """Refuse a configuration of other sizes."""
    rank = layout.embedding_rank
    measured: dict[str, tuple[int, ...]] = {
        "vocab_size": (layout.vocab,),
        "max_position_embeddings": (layout.positions,),
        "type_vocab_size": (layout.types,),
        "hidden_size": (layout.hidden,),
        "num_hidden_layers": (len(layout.layers),),
        "emb_hidden_dim": (-1, layout.hidden) if rank is None else (rank,),
        **{key: (value,) for key, value in _pruned(layout).items()},
    }
    for key, allowed in measured.items():
        if config.get(key, allowed[0]) not in allowed:
            raise ValueError(f"config.json: {key}: found {config[key]!r}, the weights have {allowed[0]}")


def _assumed(layout: Layout, config: Mapping[str, Any], kind: str) -> list[str]:
    """Say what the configuration leaves out, and what of it is not kept."""
    notes = []
    pruned = _pruned(layout)
    missing = [key for key in pruned if key not in config]
    if missing and (kind == "rosita" or "emb_hidden_dim" in config or len(missing) < len(pruned)):
        sizes = ", ".join(f"{key} {pruned[key]}" for key in missing)
        notes.append(f"config.json lacks {' and '.join(missing)}; taken from the weights: {sizes}")
    dropout = config.get("hidden_dropout_prob", 0.1)
    if (other := config.get("attention_probs_dropout_prob", dropout)) != dropout:
        notes.append(f"attention_probs_dropout_prob {other} is not kept: one dropout serves all places")
    return notes


def _pruned(layout: Layout) -> dict[str, int]:
    """The widths that the programs' configurations add to a BERT's."""
    first = layout.layers[0]
    return {"prun_hidden_size": first.width, "prun_intermediate_size": first.ffn}


def _check(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Refuse a checkpoint with tensors missing, unknown or of another shape, all in one message."""
    shapes = [
        f"{name} of shape {tuple(found[name].shape)} instead of {tuple(value.shape)}"
        for name, value in wanted.items()
        if name in found and found[name].shape != value.shape
    ]
    missing = [f"no {name}" for name in wanted if name not in found]
    unknown = [f"the unknown {name}" for name in found if name not in wanted]
    problems = [*shapes, *missing, *unknown]
    if problems:
        more = f" and {len(problems) - 4} more" if len(problems) > 4 else ""
        raise ValueError(f"weights: found {', '.join(problems[:4])}{more}; allowed is what a BERT of these sizes has")
