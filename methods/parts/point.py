"""Sub-networks as hyper-parameters: one that a sweep can search, and those that a supernet is trained for."""

from __future__ import annotations

from dataclasses import dataclass

from methods.parts.elastic import Choices, Keep, Sampling, Subnet, Width
from methods.parts.layout import Layout

NUM_FIELDS = 12
"""Layers with a width field of their own; deeper models take `layer_widths`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """The sub-network of a trial; nothing here has a part in the training of the supernet."""

    width: float = 2 / 3
    """Share of the heads, and of the neurons, kept in each layer; within the trained `widths`, listed or not."""
    ffn_width: float | None = None
    """Share of the neurons; null follows the heads."""
    depth: float = 1.0
    """Share of the layers kept; within the trained `depths`, listed or not."""
    layer_widths: tuple[float, ...] = ()
    """A width for each layer, bottom first, in place of `width`."""
    layer_ffn_widths: tuple[float, ...] = ()
    """A share of the neurons for each layer, in place of `ffn_width`."""
    per_layer: bool = False
    """Whether `width_1` to `width_12` count; a space can make them depend on it."""
    width_1: float | None = None
    """Width of layer 1, the bottom one; null is `width`. A layer that `depth` leaves out has no use for its own."""
    width_2: float | None = None
    """Width of layer 2."""
    width_3: float | None = None
    """Width of layer 3."""
    width_4: float | None = None
    """Width of layer 4."""
    width_5: float | None = None
    """Width of layer 5."""
    width_6: float | None = None
    """Width of layer 6."""
    width_7: float | None = None
    """Width of layer 7."""
    width_8: float | None = None
    """Width of layer 8."""
    width_9: float | None = None
    """Width of layer 9."""
    width_10: float | None = None
    """Width of layer 10."""
    width_11: float | None = None
    """Width of layer 11."""
    width_12: float | None = None
    """Width of layer 12."""

    @property
    def own_widths(self) -> dict[int, float]:
        """Layer, from 1, and the width that its own field gives it."""
        found = {number: getattr(self, f"width_{number}") for number in range(1, NUM_FIELDS + 1)}
        return {number: width for number, width in found.items() if width is not None}

    def widths_of(self, layers: int) -> tuple[Width, ...]:
        """The width of each of so many layers.

        Raises:
            ValueError: a list has another length, or a layer is named that is not there or does not count.
        """
        for name in ("layer_widths", "layer_ffn_widths"):
            if len(getattr(self, name)) not in (0, layers):
                found = len(getattr(self, name))
                raise ValueError(f"{name}: found {found} numbers, allowed are none, or one for each of {layers} layers")
        own = self.own_widths
        if own and not self.per_layer:
            raise ValueError(f"width_{min(own)}: found {own[min(own)]} with per_layer false, allowed is null")
        if own and max(own) > layers:
            raise ValueError(f"width_{max(own)}: found {own[max(own)]} for a model of {layers} layers, allowed is null")
        shares = [*(self.layer_widths or (self.width,) * layers)]
        for number, share in own.items():
            shares[number - 1] = share
        neurons = self.layer_ffn_widths or (self.ffn_width,) * layers
        return tuple(zip(shares, neurons, strict=True))


@dataclass(frozen=True, kw_only=True, slots=True)
class Elastic(Point):
    """What a supernet is trained for, and the sub-network of a trial."""

    widths: tuple[float, ...] = (1.0, 5 / 6, 2 / 3, 1 / 2)
    """Trained shares of the heads of each layer; heads are rounded, and equal sub-networks trained once."""
    ffn_widths: tuple[float, ...] = ()
    """Trained shares of the FFN neurons, one for each of `widths`; none: neurons follow the heads."""
    depths: tuple[float, ...] = (1.0,)
    """Trained shares of the layers; 1 alone leaves the depth stage out."""
    keep: Keep = "last"
    """Which layer of a group survives a smaller depth; `first` is the released DynaBERT's, 0, 2, ... at depth 1/2."""
    sampling: Sampling = "all"
    """Sub-networks of an update: `all` (published), random ones, these with the largest and the smallest, or random
    ones of ever more choices."""
    samples: int = 2
    """Random sub-networks of an update."""
    sample_layers: bool = False
    """Whether a random sub-network has a width of its own in each layer."""
    frozen_layers: tuple[int, ...] = ()
    """Layers, from 1, that are never narrowed."""
    tied_layers: tuple[tuple[int, ...], ...] = ()
    """Groups of layers, from 1, that always take the width of their lowest."""

    @property
    def choices(self) -> Choices:
        """The sub-networks that the supernet is trained for."""
        return Choices(
            widths=self.widths,
            ffn_widths=self.ffn_widths,
            depths=self.depths,
            keep=self.keep,
            frozen=self.frozen_layers,
            tied=self.tied_layers,
            sampling=self.sampling,
            samples=self.samples,
            per_layer=self.sample_layers,
        )

    def subnet(self, whole: Layout) -> Subnet:
        """The trial's sub-network of a supernet of this layout.

        Raises:
            ValueError: it lies beyond what the supernet is trained for, or a number does not fit the model.
        """
        widths = self.widths_of(len(whole.layers))
        self.choices.check(widths, self.depth)
        return self.choices.subnet(whole, widths, self.depth)
