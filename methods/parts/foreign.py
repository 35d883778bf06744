"""Dictionaries of tensors of three published programs under Hugging Face's names, with what their configurations say.

LAD and WID name modules of their own; DynaBERT uses Hugging Face's names, but one checkpoint holds every width. What
comes out is read by `methods.parts.originals` like any other checkpoint.

References:
    Lin, Chen, Kao: LAD: Layer-Wise Adaptive Distillation for BERT Model Compression, Sensors 2023, 23(3):1483,
    https://doi.org/10.3390/s23031483

    Hou et al.: DynaBERT: Dynamic BERT with Adaptive Width and Depth, 2020, https://arxiv.org/abs/2004.04037

    Wu et al.: Weight-Inherited Distillation for Task-Agnostic BERT Compression, 2024,
    https://arxiv.org/abs/2305.09098 (its code is a part of UER-py, https://github.com/dbiir/UER-py)
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from torch import Tensor

from methods.parts.elastic import Keep, kept_blocks

FOREIGN = ("lad", "dynabert", "wid")
"""The programs that are translated here. All three have a plain classifier head."""


LAD_ORDER: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "mnli": ("entailment", "neutral", "contradiction"),
        "qnli": ("not_entailment", "entailment"),
        "rte": ("not_entailment", "entailment"),
    }
)
"""LAD's order of the classes. WID's program takes the numbers of its user's files, which are taken for ours."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Translated:
    """A checkpoint under Hugging Face's names."""

    state: Mapping[str, Tensor]
    config: Mapping[str, Any]
    """The sizes of the configuration under Hugging Face's keys."""
    notes: tuple[str, ...]
    """One line each, for the user."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """The sub-network of a DynaBERT supernet that is wanted."""

    width: float | None = None
    """Share of heads and neurons; None keeps what the tensors hold."""
    depth: float | None = None
    """Share of the layers; None keeps all."""
    keep: Keep = "first"
    """Which layer of a group survives a smaller depth: the released program keeps the first."""

    @property
    def whole(self) -> bool:
        """Whether nothing is left out."""
        return self.width is None and self.depth is None


WHOLE = Part()
"""All of a checkpoint."""


def translate(kind: str, state: Mapping[str, Tensor], config: Mapping[str, Any], part: Part = WHOLE) -> Translated:
    """Rename a checkpoint of one of `FOREIGN`.

    Args:
        kind: which.
        state: the tensors by their published names, without DataParallel's `module.`.
        config: the parsed config.json.
        part: DynaBERT: what to keep.

    Raises:
        ValueError: a size that is needed is not said, or the tensors are an unfinished model.
    """
    if kind == "dynabert":
        deep = _shallower(state, config, part)
        wide = _narrower(deep.state, deep.config, part.width)
        return Translated(state=wide.state, config=wide.config, notes=(*deep.notes, *wide.notes))
    for name in ("width", "depth"):
        if (share := getattr(part, name)) is not None:
            raise ValueError(f"{name}: found {share} for a checkpoint of {kind}; allowed for dynabert")
    return _lad(state, config) if kind == "lad" else _wid(state, config)


def foreign_kind(names: set[str]) -> str | None:
    """Which of `FOREIGN` wrote tensors of these names; DynaBERT's are those of any BERT."""
    if any(name.startswith("linear_layer.") for name in names):
        return "lad"
    return "wid" if any(name.startswith("encoder.transformer.") for name in names) else None


_LAD_HEADS = {"base": 12, "large": 16}
"""Attention heads by the size in `ptrain_ver`; a teacher's configuration names nothing else."""


def _lad(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> Translated:
    """LAD: the encoder's names under `encoder.`, the classifier's under `linear_layer.`."""
    renamed = {
        re.sub(r"^linear_layer\.", "classifier.", re.sub(r"^encoder\.", "bert.", name)): value
        for name, value in state.items()
    }
    version = str(config.get("ptrain_ver", ""))
    heads = config.get("num_attention_heads") or next(
        (number for size, number in _LAD_HEADS.items() if f"-{size}-" in version), None
    )
    if heads is None:
        raise ValueError(
            "config.json: found neither num_attention_heads nor a ptrain_ver like 'bert-base-uncased', allowed is one"
        )
    sizes = {
        ours: config[theirs]
        for ours, theirs in (
            ("num_hidden_layers", "num_hidden_layers"),
            ("hidden_size", "d_model"),
            ("type_vocab_size", "type_vocab_size"),
            ("hidden_dropout_prob", "dropout"),
        )
        if theirs in config
    }
    return Translated(state=renamed, config={**sizes, "num_attention_heads": heads}, notes=())


_LAYER = re.compile(r"^(bert\.encoder\.layer\.)(\d+)(\..*)$")


def _shallower(state: Mapping[str, Tensor], config: Mapping[str, Any], part: Part) -> Translated:
    """DynaBERT: the layers of a depth, numbered anew."""
    if part.depth is None:
        return Translated(state=state, config=config, notes=())
    count = 1 + max((int(found[2]) for found in map(_LAYER.match, state) if found), default=-1)
    kept = kept_blocks(part.depth, count, part.keep)
    moved: dict[str, Tensor] = {}
    for name, value in state.items():
        found = _LAYER.match(name)
        if found is None:
            moved[name] = value
        elif int(found[2]) in kept:
            moved[f"{found[1]}{kept.index(int(found[2]))}{found[3]}"] = value
    layers = ", ".join(str(block + 1) for block in kept)
    note = f"depth {part.depth:g}: layers {layers} of {count} (the {part.keep} of each group)"
    return Translated(state=moved, config={**config, "num_hidden_layers": len(kept)}, notes=(note,))


def _narrower(state: Mapping[str, Tensor], config: Mapping[str, Any], width: float | None) -> Translated:
    """DynaBERT: the leading heads and neurons of a rewired supernet, or a model that was cut already."""
    heads, hidden = config.get("num_attention_heads"), config.get("hidden_size")
    if type(heads) is not int or type(hidden) is not int or heads < 1 or hidden % heads:
        raise ValueError(
            f"config.json: found hidden_size {hidden!r} and num_attention_heads {heads!r}, allowed is a size that the "
            "whole model's heads divide"
        )
    head_width = hidden // heads
    told = {**config, "attention_head_size": head_width}
    if width is None:
        return Translated(state=state, config=told, notes=())
    if not 0 < width <= 1:
        raise ValueError(f"width: found {width}, allowed is a share above 0, up to 1")
    kept = max(1, math.floor(width * heads + 0.5))
    exact = "" if math.isclose(width * heads, kept) else f" (the nearest to {width:g} of {heads})"
    note = f"width {width:g}: the leading {kept} heads of each layer{exact} and as large a part of the neurons"
    return Translated(state=_leading(state, kept, heads, head_width), config=told, notes=(note,))


def _leading(state: Mapping[str, Tensor], kept: int, heads: int, head_width: int) -> dict[str, Tensor]:
    """The tensors with the first heads of each layer, and with the same share of its neurons, rounded down."""
    cut, rows = dict(state), kept * head_width
    for name, value in state.items():
        if re.search(r"\.attention\.self\.(query|key|value)\.(weight|bias)$", name):
            cut[name] = value[:rows]
        elif name.endswith(".attention.output.dense.weight"):
            cut[name] = value[:, :rows]
        elif re.search(r"\.intermediate\.dense\.(weight|bias)$", name):
            cut[name] = value[: kept * value.shape[0] // heads]
        elif name.endswith(".output.dense.weight"):
            cut[name] = value[:, : kept * value.shape[1] // heads]
    return cut


_UER = (
    (r"^embedding\.(word_embedding|word\.embedding)\.", "bert.embeddings.word_embeddings."),
    (r"^embedding\.(position_embedding|pos\.embedding)\.", "bert.embeddings.position_embeddings."),
    (r"^embedding\.(segment_embedding|seg\.embedding)\.", "bert.embeddings.token_type_embeddings."),
    (r"^embedding\.layer_norm\.", "bert.embeddings.LayerNorm."),
    (r"^encoder\.transformer\.(\d+)\.self_attn\.linear_layers\.0\.", r"bert.encoder.layer.\1.attention.self.query."),
    (r"^encoder\.transformer\.(\d+)\.self_attn\.linear_layers\.1\.", r"bert.encoder.layer.\1.attention.self.key."),
    (r"^encoder\.transformer\.(\d+)\.self_attn\.linear_layers\.2\.", r"bert.encoder.layer.\1.attention.self.value."),
    (r"^encoder\.transformer\.(\d+)\.self_attn\.final_linear\.", r"bert.encoder.layer.\1.attention.output.dense."),
    (r"^encoder\.transformer\.(\d+)\.layer_norm_1\.", r"bert.encoder.layer.\1.attention.output.LayerNorm."),
    (r"^encoder\.transformer\.(\d+)\.feed_forward\.linear_1\.", r"bert.encoder.layer.\1.intermediate.dense."),
    (r"^encoder\.transformer\.(\d+)\.feed_forward\.linear_2\.", r"bert.encoder.layer.\1.output.dense."),
    (r"^encoder\.transformer\.(\d+)\.layer_norm_2\.", r"bert.encoder.layer.\1.output.LayerNorm."),
    (r"^output_layer_1\.", "bert.pooler.dense."),
    (r"^output_layer_2\.", "classifier."),
    (r"\.gamma$", ".weight"),
    (r"\.beta$", ".bias"),
)
"""UER's names as its own conversion to Hugging Face pairs them, in the spelling of both of its versions."""

_TYPES = "bert.embeddings.token_type_embeddings.weight"


def _wid(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> Translated:
    """WID: UER's names, three segments of which the first is padding, another LayerNorm."""
    if any("compactor" in name for name in state):
        raise ValueError("found compactors, allowed is the model that WID's convert.py makes of them")
    renamed: dict[str, Tensor] = {}
    for old, value in state.items():
        name = old
        for pattern, new in _UER:
            name = re.sub(pattern, new, name)
        if not name.startswith("target."):
            renamed[name] = _folded(value) if name.endswith("LayerNorm.weight") else value
    if _TYPES in renamed:
        renamed[_TYPES] = renamed[_TYPES][1:]
    keys = (
        ("num_attention_heads", "heads_num"),
        ("num_hidden_layers", "layers_num"),
        ("hidden_size", "hidden_size"),
        ("hidden_act", "hidden_act"),
        ("hidden_dropout_prob", "dropout"),
    )
    notes = ["LayerNorm: UER divides by the standard deviation over N - 1; its weights are scaled to give the same"]
    if any(name.startswith("target.") for name in state):
        notes.append("the masked-LM head (target.*) is left out; a task's classifier takes its place")
    sizes = {ours: config[theirs] for ours, theirs in keys if theirs in config}
    return Translated(state=renamed, config=sizes, notes=tuple(notes))


def _folded(gamma: Tensor) -> Tensor:
    """The weight with which a LayerNorm over N computes what UER's computes over N - 1."""
    size = len(gamma)
    return gamma * math.sqrt((size - 1) / size)
