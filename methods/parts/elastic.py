"""The arithmetic of sub-networks: which heads, neurons and blocks of a supernet a width and a depth mean.

A sub-network keeps the leading heads and neurons of each layer, which rewiring has put in order of importance, and
some of the blocks. Everything here is numbers; `methods.parts.supernet` runs what is described.

Where the published codes part ways, or work for some numbers only: heads are rounded half up, and neurons follow the
heads that are kept, so any width fits any number of heads; blocks are spread over the depth by whole numbers, which
is the published rule wherever depth times layers is whole, and never runs past the last layer.

References:
    Hou et al.: DynaBERT: Dynamic BERT with Adaptive Width and Depth, NeurIPS 2020, https://arxiv.org/abs/2004.04037,
    section 2, and its released code; the depth rule that keeps the last block is PaddleNLP's
    Cai et al.: Once-for-All: Train One Network and Specialize it for Efficient Deployment, ICLR 2020,
    https://arxiv.org/abs/1908.09791, section 3 (progressive shrinking)
    Yu, Huang: Universally Slimmable Networks, ICCV 2019, https://arxiv.org/abs/1903.05134 (the sandwich rule)
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from methods.parts.layout import LayerLayout, Layout
from methods.parts.losses import layer_map
from methods.parts.rng import derive

Width: TypeAlias = tuple[float, float | None]
"""Shares of a layer's heads and of its neurons; None: the neurons follow the heads."""

Keep: TypeAlias = Literal["last", "first"]
"""Which block of a group survives a smaller depth: PaddleNLP and the paper keep the last, the released DynaBERT the
first."""

Sampling: TypeAlias = Literal["all", "random", "sandwich", "progressive"]

FULL: Width = (1.0, 1.0)

_SLACK = 1e-3
"""How far a share may miss a listed one, which may be a fraction that no decimal number spells."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Subnet:
    """One sub-network of a supernet."""

    heads: tuple[int, ...]
    """Leading heads kept, for each layer of the supernet."""
    neurons: tuple[int, ...]
    """Leading FFN neurons kept, for each layer of the supernet."""
    blocks: tuple[int, ...]
    """The layers that run, from 0, ascending."""

    def layout(self, whole: Layout) -> Layout:
        """The layout of the sub-network as a model of its own."""
        layers = (dataclasses.replace(whole.layers[b], heads=self.heads[b], ffn=self.neurons[b]) for b in self.blocks)
        return dataclasses.replace(whole, layers=tuple(layers))

    @property
    def deepest(self) -> Subnet:
        """The same widths with all layers."""
        return dataclasses.replace(self, blocks=tuple(range(len(self.heads))))

    @property
    def states(self) -> tuple[int, ...]:
        """The state of a teacher of full depth for each of its own; the first is the embedding output, 0."""
        return layer_map(len(self.heads), len(self.blocks))


def kept_heads(width: float, heads: int) -> int:
    """How many of `heads` heads a width keeps: rounded half up, and at least 1 of any."""
    return min(heads, max(1, math.floor(width * heads + 0.5)))


def kept_neurons(width: Width, layer: LayerLayout) -> int:
    """How many neurons of a layer a width keeps: its own share rounded half up, or as its heads, rounded down."""
    share, own = width
    if own is None and layer.heads:
        kept = kept_heads(share, layer.heads) * layer.ffn // layer.heads
    else:
        kept = math.floor((share if own is None else own) * layer.ffn + 0.5)
    return min(layer.ffn, max(1, kept))


def kept_blocks(depth: float, layers: int, keep: Keep = "last") -> tuple[int, ...]:
    """The blocks that run at a depth, from 0: one of each of round(depth * layers) groups of neighbours.

    Raises:
        ValueError: no block would be left.
    """
    count = round(depth * layers)
    if not 1 <= count <= layers:
        raise ValueError(f"depth: found {depth}, which keeps {count} of {layers} layers; allowed are 1 to {layers}")
    if keep == "first":
        return tuple(i * layers // count for i in range(count))
    return tuple(i * layers // count - 1 for i in range(1, count + 1))


@dataclass(frozen=True, kw_only=True, slots=True)
class Choices:
    """The sub-networks that a supernet is trained for."""

    widths: tuple[float, ...]
    """Shares of the heads."""
    ffn_widths: tuple[float, ...] = ()
    """Shares of the neurons, one for each of `widths`; none: neurons follow the heads."""
    depths: tuple[float, ...] = (1.0,)
    """Shares of the layers."""
    keep: Keep = "last"
    frozen: tuple[int, ...] = ()
    """Layers, from 1, that always keep their full width."""
    tied: tuple[tuple[int, ...], ...] = ()
    """Groups of layers, from 1, that take the width of the lowest of them."""
    sampling: Sampling = "all"
    """The sub-networks of an update: `all` that are listed; `random` draws; the `sandwich` of largest, smallest and
    random draws; `progressive`: random draws from the largest two choices at first, and from ever more."""
    samples: int = 2
    """Random draws of an update."""
    per_layer: bool = False
    """Whether a draw gives each layer a width of its own."""

    def __post_init__(self) -> None:
        """Refuse shares out of range and lists that do not fit."""
        for name in ("widths", "ffn_widths", "depths"):
            shares = getattr(self, name)
            if any(not 0 < share <= 1 for share in shares) or len({*shares}) < len(shares) != 0:
                raise ValueError(f"{name}: found {list(shares)}, allowed are shares in (0, 1], each once")
            if not shares and name != "ffn_widths":
                raise ValueError(f"{name}: found none, allowed is at least one share in (0, 1]")
        if len(self.ffn_widths) not in (0, len(self.widths)):
            raise ValueError(
                f"ffn_widths: found {len(self.ffn_widths)} for {len(self.widths)} widths, allowed are none or as many"
            )
        if self.samples < 1:
            raise ValueError(f"samples: found {self.samples}, allowed is at least 1")

    @property
    def pairs(self) -> tuple[Width, ...]:
        """The listed widths with their shares of the neurons, largest first."""
        own: Sequence[float | None] = self.ffn_widths or (None,) * len(self.widths)
        return tuple(sorted(zip(self.widths, own, strict=True), key=lambda pair: (-pair[0], -(pair[1] or 0.0))))

    @property
    def deep(self) -> tuple[float, ...]:
        """The listed depths, largest first."""
        return tuple(sorted(self.depths, reverse=True))

    def check(self, widths: Sequence[Width], depth: float) -> None:
        """Refuse what lies beyond the smallest sub-networks that are trained.

        Raises:
            ValueError: a share is smaller than all that are listed, or larger than 1.
        """
        neurons = min(self.ffn_widths or self.widths)
        for name, found, least in (
            *(("width", width, min(self.widths)) for width, _ in widths),
            *(("ffn_width", own, neurons) for _, own in widths if own is not None),
            ("depth", depth, min(self.depths)),
        ):
            if not least - _SLACK <= found <= 1.0:
                raise ValueError(f"{name}: found {found}, allowed is the range that is trained, {least:g} to 1")

    def subnet(self, whole: Layout, widths: Sequence[Width], depth: float) -> Subnet:
        """The sub-network of these widths, one for each layer, and depth; frozen and tied layers get what is theirs.

        Raises:
            ValueError: the model has another number of layers, or no block would be left.
        """
        count = len(whole.layers)
        if len(widths) != count:
            raise ValueError(f"layer widths: found {len(widths)}, allowed is one for each of {count} layers")
        own = list(widths)
        for group in self.tied:
            for number in group:
                own[self._place("tied_layers", number, count)] = widths[min(group) - 1]
        for number in self.frozen:
            own[self._place("frozen_layers", number, count)] = FULL
        return Subnet(
            heads=tuple(kept_heads(share, layer.heads) for (share, _), layer in zip(own, whole.layers, strict=True)),
            neurons=tuple(kept_neurons(width, layer) for width, layer in zip(own, whole.layers, strict=True)),
            blocks=kept_blocks(depth, count, self.keep),
        )

    @staticmethod
    def _place(field: str, number: int, count: int) -> int:
        """A layer's number from 0."""
        if not 1 <= number <= count:
            raise ValueError(f"{field}: found {number}, allowed are the layers 1 to {count}")
        return number - 1

    def listed(self, whole: Layout) -> Mapping[str, Subnet]:
        """Every listed width at every listed depth, by name (`w0.5-d0.75`), largest first.

        Widths that keep the same heads and neurons are one sub-network, with the name of the first.
        """
        named: dict[str, Subnet] = {}
        for width in self.pairs:
            for depth in self.deep:
                subnet = self.subnet(whole, [width] * len(whole.layers), depth)
                if subnet not in named.values():
                    own = "" if width[1] is None else f"-f{width[1]:.4g}"
                    named[f"w{width[0]:.4g}{own}-d{depth:.4g}"] = subnet
        return named

    def of_step(self, whole: Layout, step: int, total_steps: int, seed: int) -> tuple[Subnet, ...]:
        """The sub-networks of an update; the same on every rank, in every micro-batch and after a resume."""
        if self.sampling == "all":
            return tuple(self.listed(whole).values())
        draw = random.Random(derive(seed, "subnets", step))
        widths, depths = self._exposed(step, total_steps) if self.sampling == "progressive" else (self.pairs, self.deep)
        drawn = [self._drawn(whole, widths, depths, draw) for _ in range(self.samples)]
        if self.sampling == "sandwich":
            every = [*self.listed(whole).values()]
            drawn = [every[0], *drawn, every[-1]]
        return tuple(drawn)

    def _exposed(self, step: int, total_steps: int) -> tuple[Sequence[Width], Sequence[float]]:
        """The choices of progressive shrinking: two at first, all at last, of the depths if these vary."""
        choices = len(self.deep) if len(self.deep) > 1 else len(self.pairs)
        phases = max(choices - 1, 1)
        shown = 2 + min(step * phases // max(total_steps, 1), phases - 1)
        return (self.pairs, self.deep[:shown]) if len(self.deep) > 1 else (self.pairs[:shown], self.deep)

    def _drawn(self, whole: Layout, widths: Sequence[Width], depths: Sequence[float], draw: random.Random) -> Subnet:
        """One random sub-network; heads and neurons of a layer are drawn apart where both have choices."""
        one = draw.choice(widths)
        each: list[Width] = [one] * len(whole.layers)
        if self.per_layer:
            each = [(draw.choice(widths)[0], draw.choice(widths)[1]) for _ in whole.layers]
        return self.subnet(whole, each, draw.choice(depths))
