"""The whole shape of a BERT as one frozen value, with its exact costs.

A `Layout` says how many weights a model has and what a forward pass costs before any tensor exists, so a budget can
refuse a design without building it. The residual stream keeps one width everywhere; heads, head width and FFN width
may differ between layers, and the word table may be factorised, which covers every architecture of the methods in
this package.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


def _check_int(field: str, value: object, least: int) -> None:
    """Raise a ValueError unless `value` is an int (no bool, no float) of at least `least`."""
    if type(value) is not int or value < least:
        raise ValueError(f"{field}: found {value!r}, allowed is an integer of at least {least}")


def _check_bool(field: str, value: object) -> None:
    """Raise a ValueError unless `value` is a bool."""
    if type(value) is not bool:
        raise ValueError(f"{field}: found {value!r}, allowed is true or false")


def _check_keys(where: str, found: object, names: frozenset[str], required: frozenset[str]) -> Mapping[str, Any]:
    """Return `found` as a mapping, or raise a ValueError naming the unknown and the missing keys."""
    if not isinstance(found, Mapping):
        raise ValueError(f"{where}: found {found!r}, allowed is a mapping with the keys {sorted(names)}")
    unknown, missing = sorted(set(found) - names), sorted(required - set(found))
    if unknown or missing:
        raise ValueError(f"{where}: unknown keys {unknown}, missing keys {missing}; allowed are {sorted(names)}")
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerLayout:
    """The widths of one transformer layer."""

    heads: int
    """Attention heads; 0 leaves only the attention output's bias and LayerNorm."""
    head_width: int
    """Dimensions of a head; attention scores are divided by its square root."""
    ffn: int
    """Neurons of the feed-forward network; 0 leaves only its output bias and LayerNorm."""

    def __post_init__(self) -> None:
        """Refuse impossible widths."""
        _check_int("LayerLayout.heads", self.heads, 0)
        _check_int("LayerLayout.head_width", self.head_width, 1)
        _check_int("LayerLayout.ffn", self.ffn, 0)

    @property
    def width(self) -> int:
        """Rows of the query, key and value matrices: heads times head width."""
        return self.heads * self.head_width

    def params(self, hidden: int) -> int:
        """Count the weights and biases of this layer on a residual stream of `hidden` dimensions."""
        attention = 3 * (hidden + 1) * self.width + self.width * hidden + hidden
        ffn = (hidden + 1) * self.ffn + self.ffn * hidden + hidden
        return attention + ffn + 4 * hidden  # two LayerNorms

    def flops(self, hidden: int, length: int) -> int:
        """Count the floating-point operations of this layer for one sequence of `length` tokens."""
        projections = 4 * hidden * self.width + 2 * hidden * self.ffn
        attention = 2 * length * self.width
        return 2 * length * (projections + attention)


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """The whole shape of a BERT; equal layouts have equal parameter names and shapes."""

    vocab: int
    """Rows of the word table."""
    positions: int
    """Longest sequence."""
    types: int
    """Token types (segments)."""
    hidden: int
    """Width of the residual stream."""
    embedding_rank: int | None
    """Width of the factorised word table; None keeps the full (vocab, hidden) table."""
    layers: tuple[LayerLayout, ...]
    """The layers, bottom first."""
    pooler: bool = True
    """Whether the [CLS] pooler exists; a classifier needs it."""
    labels: int = 2
    """Outputs of the classifier: 1 is regression, 0 is no classifier."""
    masked_lm: bool = False
    """Whether the masked-LM head exists: transform, LayerNorm, decoder, bias."""
    tied: bool = True
    """Whether the masked-LM decoder is the word table itself; without that head it says nothing."""

    def __post_init__(self) -> None:
        """Refuse impossible shapes."""
        for field in ("vocab", "positions", "types", "hidden"):
            _check_int(f"Layout.{field}", getattr(self, field), 1)
        if self.embedding_rank is not None:
            _check_int("Layout.embedding_rank", self.embedding_rank, 1)
        _check_int("Layout.labels", self.labels, 0)
        _check_bool("Layout.pooler", self.pooler)
        _check_bool("Layout.masked_lm", self.masked_lm)
        _check_bool("Layout.tied", self.tied)
        if not isinstance(self.layers, tuple) or not all(isinstance(layer, LayerLayout) for layer in self.layers):
            raise ValueError(f"Layout.layers: found {self.layers!r}, allowed is a tuple of LayerLayout")
        if not self.layers:
            raise ValueError("Layout.layers: found no layer, allowed is at least 1")
        if self.labels and not self.pooler:
            raise ValueError(f"Layout.pooler: found False with {self.labels} labels; a classifier reads the pooler")

    @classmethod
    def uniform(  # noqa: PLR0913  the numbers of a BERT configuration
        cls,
        *,
        vocab: int,
        hidden: int,
        num_layers: int,
        heads: int,
        head_width: int,
        ffn: int,
        positions: int = 512,
        types: int = 2,
        embedding_rank: int | None = None,
        pooler: bool = True,
        labels: int = 2,
        masked_lm: bool = False,
    ) -> Layout:
        """Make a layout whose layers are all alike."""
        _check_int("Layout.num_layers", num_layers, 1)
        return cls(
            vocab=vocab,
            positions=positions,
            types=types,
            hidden=hidden,
            embedding_rank=embedding_rank,
            layers=(LayerLayout(heads=heads, head_width=head_width, ffn=ffn),) * num_layers,
            pooler=pooler,
            labels=labels,
            masked_lm=masked_lm,
        )

    @property
    def is_uniform(self) -> bool:
        """Whether all layers are alike."""
        return len(set(self.layers)) == 1

    @property
    def is_stock(self) -> bool:
        """Whether `transformers.BertConfig` fits: uniform layers, heads that fill the hidden width, full word table."""
        first = self.layers[0]
        return self.is_uniform and self.embedding_rank is None and first.width == self.hidden and first.ffn > 0

    def params(self) -> int:
        """Count the parameters; a masked-LM decoder that shares the word table is counted once."""
        hidden, rank = self.hidden, self.embedding_rank
        words = self.vocab * hidden if rank is None else (self.vocab + hidden) * rank
        total = words + (self.positions + self.types + 2) * hidden
        total += sum(layer.params(hidden) for layer in self.layers)
        total += (hidden + 1) * hidden if self.pooler else 0
        total += (hidden + 1) * self.labels
        decoder = self.vocab * (1 if self.tied else hidden + 1)
        return total + ((hidden + 3) * hidden + decoder if self.masked_lm else 0)

    def bytes(self) -> int:
        """Size of the weights in bytes at fp32."""
        return 4 * self.params()

    def flops(self, length: int) -> int:
        """Floating-point operations of one forward pass over one sequence of `length` tokens.

        A multiply-add counts as two. Matrix products only, as `torch.utils.flop_counter` counts them: projections,
        the two attention products, FFN, embedding projection, and pooler and classifier where a classifier exists.
        The masked-LM head is not counted, since it runs only on chosen positions.

        Raises:
            ValueError: `length` is not in 1..positions.
        """
        _check_int("Layout.flops(length)", length, 1)
        if length > self.positions:
            raise ValueError(f"Layout.flops(length): found {length}, allowed is at most positions = {self.positions}")
        total = sum(layer.flops(self.hidden, length) for layer in self.layers)
        total += 2 * length * self.hidden * (self.embedding_rank or 0)
        return total + (2 * self.hidden * (self.hidden + self.labels) if self.labels else 0)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able dict that `from_json` reads back to an equal layout."""
        data = {**dataclasses.asdict(self), "layers": [dataclasses.asdict(layer) for layer in self.layers]}
        if self.tied:
            del data["tied"]  # what was stored before there were others stays valid
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Layout:
        """Read what `to_json` wrote.

        Raises:
            ValueError: unknown or missing keys, or a value out of range.
        """
        fields = dataclasses.fields(cls)
        required = frozenset(field.name for field in fields if field.default is dataclasses.MISSING)
        data = _check_keys("Layout", data, frozenset(field.name for field in fields), required)
        names = frozenset(field.name for field in dataclasses.fields(LayerLayout))
        if not isinstance(data["layers"], (list, tuple)):
            raise ValueError(f"Layout.layers: found {data['layers']!r}, allowed is a list of mappings")
        rows = [_check_keys(f"Layout.layers[{i}]", row, names, names) for i, row in enumerate(data["layers"])]
        return cls(**{**data, "layers": tuple(LayerLayout(**row) for row in rows)})

    def describe(self) -> str:
        """Say the shape in one line, for example "2 heads x 8 layers, FFN 512, rank 128, 14.47 M parameters"."""
        heads = _span([layer.heads for layer in self.layers])
        ffn = _span([layer.ffn for layer in self.layers])
        rank = "" if self.embedding_rank is None else f", rank {self.embedding_rank}"
        return f"{heads} heads x {len(self.layers)} layers, FFN {ffn}{rank}, {_count(self.params())} parameters"


def _span(values: list[int]) -> str:
    """Write equal values as one number, others as "lowest-highest"."""
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low}-{high}"


def _count(number: int) -> str:
    """Write a count with the unit that leaves at most four digits before the point."""
    if number >= 100_000:
        return f"{number / 1e6:.2f} M"
    return f"{number / 1e3:.1f} k" if number >= 1_000 else str(number)
