"""Which dimensions a model that shrinks to a smaller width keeps: four kinds of masks, their schedule, their choice.

    residual       one for the whole model: the states between layers
    attention.<l>  one a layer: the concatenated heads
    ffn.<l>        one a layer: the FFN neurons
    words          one: the states of the masked-LM head before its decoder

Every matrix that touches such a dimension is a member of its group, so that what is cut on one side is cut on the
other. Kept are the dimensions of the highest score, chosen by index: of equal scores the lower number wins.

Shape legend: `D` hidden, `h` heads, `d` head width, `F` FFN neurons; `n` counts mask steps, the first being 1.

References:
    Wu et al.: Weight-Inherited Distillation for Task-Agnostic BERT Compression, Findings of NAACL 2024,
    https://arxiv.org/abs/2305.09098, and its released code
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from methods.parts.layout import Layout

STRATEGIES = ("dim", "head")
"""How attention shrinks: every head by the same number of dimensions, or by whole heads."""

SCORINGS = ("single", "group")
"""What a dimension is scored by: the matrix the published code looks at, or all matrices of its group. With "group"
residual dimensions are chosen from all, not the same number from every head's width."""

RESIDUAL, WORDS = "residual", "words"

EMBEDDINGS, TRANSFORM, DECODER = "bert.embeddings", "cls.predictions.transform", "cls.predictions.decoder"


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """A set of dimensions and all that has them; members are named by module."""

    name: str
    scored: str
    """The linear map whose input compactor gives the published score."""
    inputs: tuple[str, ...]
    """Linear maps that read these dimensions: columns of their input compactors."""
    outputs: tuple[str, ...]
    """Linear maps that write them: rows of their output compactors."""
    norms: tuple[str, ...] = ()
    """LayerNorms over these dimensions."""

    @property
    def vectors(self) -> tuple[str, ...]:
        """Names of the biases and LayerNorm parameters over these dimensions; the embeddings' sum has no bias."""
        biases = tuple(f"{name}.bias" for name in self.outputs if name != EMBEDDINGS)
        return biases + tuple(f"{norm}.{name}" for norm in self.norms for name in ("weight", "bias"))


def layer_name(number: int) -> str:
    """The module name of a layer."""
    return f"bert.encoder.layer.{number}"


def groups_of(num_layers: int) -> tuple[Group, ...]:
    """All groups of a model: residual, attention and FFN of each layer bottom first, words."""
    names = [layer_name(number) for number in range(num_layers)]
    projections = ("query", "key", "value")
    queries = {name: tuple(f"{name}.attention.self.{part}" for part in projections) for name in names}
    outputs = [f"{name}.{part}" for name in names for part in ("attention.output", "output")]
    residual = Group(
        name=RESIDUAL,
        scored=f"{names[0]}.attention.self.value",
        inputs=(
            *(part for name in names for part in (*queries[name], f"{name}.intermediate.dense")),
            f"{TRANSFORM}.dense",
        ),
        outputs=(EMBEDDINGS, *(f"{name}.dense" for name in outputs)),
        norms=(f"{EMBEDDINGS}.LayerNorm", *(f"{name}.LayerNorm" for name in outputs)),
    )
    inner: list[Group] = []
    for number, name in enumerate(names):
        context, second = f"{name}.attention.output.dense", f"{name}.output.dense"
        first = f"{name}.intermediate.dense"
        inner.append(Group(name=f"attention.{number}", scored=context, inputs=(context,), outputs=queries[name]))
        inner.append(Group(name=f"ffn.{number}", scored=second, inputs=(second,), outputs=(first,)))
    norms = (f"{TRANSFORM}.LayerNorm",)
    words = Group(name=WORDS, scored=DECODER, inputs=(DECODER,), outputs=(f"{TRANSFORM}.dense",), norms=norms)
    return (residual, *inner, words)


@dataclass(frozen=True, slots=True)
class Removed:
    """How many dimensions are removed at a mask step."""

    residual: int
    attention: int
    ffn: int
    words: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Narrowing:
    """From which layout to which width, and how fast."""

    layout: Layout
    """The teacher's: all layers alike, heads that fill the hidden width, a full word table."""
    target: int
    """The student's hidden width; heads or head width and FFN shrink in proportion."""
    strategy: str = "dim"
    """One of `STRATEGIES`."""
    scoring: str = "single"
    """One of `SCORINGS`."""
    ramp_residual: int | None = None
    """Mask steps until residual and attention width are reached; None is the published 8 (dim), or 2 a head (head).
    With "dim" whole dimensions of each head are removed at a time, so it may take up to twice as many."""
    ramp_ffn: int = 16
    """Mask steps until the widths of FFN and words are reached."""

    def __post_init__(self) -> None:
        """Refuse what does not fit the layout."""
        for name, found, allowed in (("strategy", self.strategy, STRATEGIES), ("scoring", self.scoring, SCORINGS)):
            if found not in allowed:
                raise ValueError(f"{name}: found {found!r}, allowed are {', '.join(allowed)}")
        if not self.layout.is_stock:
            raise ValueError(
                f"teacher: found {self.layout.describe()}, allowed are equal layers whose heads fill the hidden width, "
                "with a full word table"
            )
        self._check_target()
        for name, ramp in (("ramp_residual", self.ramp_residual), ("ramp_ffn", self.ramp_ffn)):
            if ramp is not None and ramp < 1:
                raise ValueError(f"{name}: found {ramp}, allowed is at least 1")

    def _check_target(self) -> None:
        """Refuse targets that do not divide, of which the published code makes students that do not fit together."""
        target, hidden, layer = self.target, self.layout.hidden, self.layout.layers[0]
        if not 1 <= target <= hidden:
            raise ValueError(f"target: found {target}, allowed are 1 to the teacher's {hidden}")
        unit, what = (layer.heads, "heads") if self.strategy == "dim" else (layer.head_width, "head width")
        if target % unit:
            found = f"{target} with strategy {self.strategy!r}"
            raise ValueError(f"target: found {found}, allowed are multiples of {unit}, the teacher's {what}")
        if layer.ffn * target % hidden:
            found = f"{target} of {hidden} with {layer.ffn} FFN neurons"
            raise ValueError(f"target: found {found}, allowed are widths that leave a whole number of neurons")

    @property
    def student(self) -> Layout:
        """The student's layout: that of the teacher but for its widths."""
        layer, target, hidden = self.layout.layers[0], self.target, self.layout.hidden
        narrow = {"head_width": target // layer.heads} if self.strategy == "dim" else {}
        narrow |= {"heads": target // layer.head_width} if self.strategy == "head" else {}
        layer = dataclasses.replace(layer, ffn=layer.ffn * target // hidden, **narrow)
        return dataclasses.replace(self.layout, hidden=target, layers=(layer,) * len(self.layout.layers))

    def removed(self, number: int) -> Removed:
        """How many dimensions are removed at mask step `number`; rounded down, as published."""
        layer, surplus = self.layout.layers[0], self.layout.hidden - self.target
        words = min(number * surplus // self.ramp_ffn, surplus)
        neurons = surplus * layer.ffn // self.layout.hidden
        ffn = min(number * surplus * layer.ffn // (self.layout.hidden * self.ramp_ffn), neurons)
        if self.strategy == "dim":
            each = surplus // layer.heads
            # Published: each // 8, which is 0 for a surplus below 8 a head; the width would never shrink.
            width = layer.heads * min(number * max(each // (self.ramp_residual or 8), 1), each)
        else:
            heads = surplus // layer.head_width
            ramp = self.ramp_residual or 2 * heads
            width = layer.head_width * min(number * heads // max(ramp, 1), heads)
        return Removed(residual=width, attention=width, ffn=ffn, words=words)

    @property
    def complete(self) -> int:
        """The first mask step at which the target is reached; 0 if there is nothing to remove."""
        number, end = 0, self.removed(10**9)
        while self.removed(number) != end:
            number += 1
        return number

    @torch.no_grad()
    def select(self, compactors: Mapping[str, Tensor], number: int) -> dict[str, Tensor]:
        """Choose what is kept at mask step `number`, from scratch: what was removed before may come back.

        Args:
            compactors: all of a model's, by `<module>.in` and `<module>.out`, (out, in) each.
            number: the mask step, from 1.

        Returns:
            For each group's name a bool mask, true where a dimension is kept.
        """
        removed, width = self.removed(number), self.layout.layers[0].head_width
        chosen = {}
        for group in groups_of(len(self.layout.layers)):
            scores = self._scores(group, compactors)
            if group.name == WORDS:
                chosen[group.name] = keep_top(scores[None], len(scores) - removed.words)[0]
            elif group.name.startswith("ffn."):
                chosen[group.name] = keep_top(scores[None], len(scores) - removed.ffn)[0]
            elif group.name == RESIDUAL and self.scoring == "group":
                chosen[group.name] = keep_top(scores[None], len(scores) - removed.residual)[0]
            else:
                chosen[group.name] = self._keep_heads(scores.view(-1, width), removed.attention)
        return chosen

    def _scores(self, group: Group, compactors: Mapping[str, Tensor]) -> Tensor:
        """Score the dimensions of a group."""
        if self.scoring == "single":
            return compactors[f"{group.scored}.in"].square().sum(0).sqrt()
        read = [compactors[f"{name}.in"].square().sum(0) for name in group.inputs]
        written = [compactors[f"{name}.out"].square().sum(1) for name in group.outputs]
        return torch.stack([*read, *written]).sum(0)

    def _keep_heads(self, scores: Tensor, removed: int) -> Tensor:
        """Keep dimensions, given as scores (h, d): equally many of every head, or whole heads."""
        heads, width = scores.shape
        if self.strategy == "dim":
            return keep_top(scores, width - removed // heads).flatten()
        return keep_top(scores.sum(1)[None], heads - removed // width)[0].repeat_interleave(width)


def keep_top(scores: Tensor, count: int) -> Tensor:
    """True at the `count` highest scores of each row of (rows, N); equal scores go to the lower number."""
    order = scores.sort(dim=1, descending=True, stable=True).indices[:, :count]
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, order, True)
