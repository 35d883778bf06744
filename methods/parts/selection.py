"""Which of a teacher's outputs a student learns from: hidden-state knowledge compressed by depth, length and width.

The order is fixed: a selection first names states, then token positions of each state, then coordinates of each kept
position. Everything here is arithmetic on shapes; `methods.parts.knowledge` computes or stores what is selected.

Shape legend: `B` batch, `L` length, `K` kept positions, `D` the teacher's hidden width, `C` labels.

References:
    Liu, Li, Lin, Zhao: Marginal Utility Diminishes: Exploring the Minimum Knowledge for BERT Knowledge Distillation,
    ACL 2021, https://arxiv.org/abs/2106.05691, section 3
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

TOKEN_SCHEMES = ("all", "left_first", "right_first", "cls", "attention", "attention_no_sep")
WIDTH_SCHEMES = ("all", "random", "random_dynamic", "uniform", "importance")
THRESHOLDS = ("example", "token", "batch")
DTYPES = ("float32", "float16")


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """What is taken of a teacher's outputs on one example."""

    logits: bool = True
    states: tuple[int, ...] = ()
    """Teacher states by number, ascending; 0 is the embedding output, n the output of layer n."""
    scores: tuple[int, ...] = ()
    """Layers (from 1) whose raw attention scores are wanted, all heads and queries; never stored."""
    token_scheme: str = "all"
    """How positions are chosen, one of `TOKEN_SCHEMES`."""
    tokens: int | None = None
    """Positions kept of each state, at least 1; None with `all`."""
    attention: tuple[int, ...] = ()
    """With the schemes that rank by attention: for each state the layer (from 1) whose [CLS] scores rank its tokens."""
    width_scheme: str = "all"
    """How coordinates are chosen, one of `WIDTH_SCHEMES`."""
    width: float = 1.0
    """Share of coordinates kept, (0, 1]."""
    threshold: str = "example"
    """With `importance`: over what the largest magnitudes are ranked, one of `THRESHOLDS`."""
    seed: int = 0
    """Of the random width schemes."""
    dtype: str = "float32"
    """Of kept states, live or stored; logits are always float32."""

    def __post_init__(self) -> None:
        """Refuse what selects nothing or contradicts itself."""
        _one_of("token_scheme", self.token_scheme, TOKEN_SCHEMES)
        _one_of("width_scheme", self.width_scheme, WIDTH_SCHEMES)
        _one_of("threshold", self.threshold, THRESHOLDS)
        _one_of("dtype", self.dtype, DTYPES)
        _ascending("states", self.states, 0)
        _ascending("scores", self.scores, 1)
        if not (self.logits or self.states or self.scores):
            raise ValueError("Selection: found neither logits nor states nor scores, allowed is at least one of them")
        _check_tokens(self)
        if not 0.0 < self.width <= 1.0:
            raise ValueError(f"Selection.width: found {self.width!r}, allowed is a share in (0, 1]")
        if self.width_scheme == "all" and self.width != 1.0:
            raise ValueError(f"Selection.width: found {self.width!r} with width_scheme 'all', allowed is 1.0")
        if type(self.seed) is not int or self.seed < 0:
            raise ValueError(f"Selection.seed: found {self.seed!r}, allowed is an integer of at least 0")

    @property
    def whole(self) -> bool:
        """Whether all coordinates of a position are kept."""
        return self.width == 1.0

    @property
    def ranked(self) -> bool:
        """Whether positions are ranked by attention."""
        return self.token_scheme.startswith("attention")

    @property
    def storable(self) -> bool:
        """Whether an example's knowledge is the same in every batch and epoch, and small enough to be kept.

        Not so for raw attention scores (quadratic in the length), for masks that are drawn anew each time, and for a
        threshold that depends on the other examples of a batch.
        """
        if self.scores:
            return False
        moving = self.width_scheme == "random_dynamic" or (
            self.width_scheme == "importance" and self.threshold == "batch"
        )
        return not self.states or self.whole or not moving

    def depth(self, layers: int, /) -> int:
        """How many of a teacher's `layers` must run.

        Raises:
            ValueError: the teacher has fewer layers than the selection names.
        """
        deepest = max((*self.states, *self.scores, *self.attention), default=0)
        if deepest > layers:
            raise ValueError(f"Selection: found layer {deepest}, allowed are the teacher's 0 to {layers}")
        return layers if self.logits else deepest

    def kept(self, coordinates: int, /) -> int:
        """How many of some coordinates `importance` keeps: floor(width * coordinates), at least 1 if there is one."""
        return min(coordinates, max(1, int(coordinates * self.width)))

    def covers(self, other: Selection, /) -> bool:
        """Whether a store of this selection holds `other` bit for bit.

        It does for fewer states (each ranked by the same layer), fewer positions of the same scheme, since they are
        stored in order of preference, and fewer outputs. Coordinates must be chosen alike, and where their choice
        depends on the other positions of an example, these must be alike too.
        """
        if not (self.storable and other.storable) or (other.logits and not self.logits):
            return False
        if not other.states:
            return True
        theirs = dict(zip(self.states, self._rankings, strict=True))
        if any(theirs.get(state) != layer for state, layer in zip(other.states, other._rankings, strict=True)):
            return False
        if self.token_scheme != other.token_scheme or self.dtype != other.dtype:
            return False
        if (self.tokens or 0) < (other.tokens or 0) or self._mask != other._mask:
            return False
        together = self.width_scheme == "importance" and self.threshold == "example" and not self.whole
        return self.tokens == other.tokens or not together

    def merged(self, other: Selection, /) -> Selection | None:
        """The smallest selection that covers both, or None if none does."""
        larger = self if self.states and (self.tokens or 0) >= (other.tokens or 0) else other
        if not (self.states and other.states):
            both = dataclasses.replace(larger, logits=self.logits or other.logits)
        elif self.token_scheme != other.token_scheme:
            return None
        else:
            rankings = dict(zip((*self.states, *other.states), (*self._rankings, *other._rankings), strict=True))
            states = tuple(sorted(rankings))
            ranked = tuple(rankings[state] for state in states) if larger.ranked else ()
            logits = self.logits or other.logits
            both = dataclasses.replace(larger, logits=logits, states=states, attention=ranked)
        return both if both.covers(self) and both.covers(other) else None

    def canonical(self) -> Selection:
        """The selection with everything that has no effect put to its default: equal knowledge, equal selections."""
        if not self.states:
            return Selection(logits=self.logits, scores=self.scores)
        scheme, threshold = self.width_scheme, self.threshold
        return dataclasses.replace(
            self,
            width_scheme="all" if self.whole else scheme,
            threshold=threshold if scheme == "importance" and not self.whole else "example",
            seed=self.seed if scheme == "random" and not self.whole else 0,
        )

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able dict that `from_json` reads back."""
        return {name: list(found) if isinstance(found, tuple) else found for name, found in self._fields()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], /) -> Selection:
        """Read what `to_json` wrote.

        Raises:
            ValueError: unknown keys, or a value out of range.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(data) - known):
            raise ValueError(f"Selection: found unknown keys {unknown}, allowed are {sorted(known)}")
        found: dict[str, Any] = {name: tuple(part) if isinstance(part, list) else part for name, part in data.items()}
        return cls(**found)

    def _fields(self) -> list[tuple[str, Any]]:
        return [(field.name, getattr(self, field.name)) for field in dataclasses.fields(self)]

    @property
    def _rankings(self) -> tuple[int, ...]:
        """For each state the layer that ranks its tokens; 0 where no layer does."""
        return self.attention or (0,) * len(self.states)

    @property
    def _mask(self) -> tuple[str, float, str, int]:
        """What decides the coordinates."""
        plain = self.canonical()
        return plain.width_scheme, plain.width, plain.threshold, plain.seed


def merged_all(selections: Iterable[Selection]) -> tuple[Selection, ...]:
    """Few selections that cover all of these, each merged with the first that it can be merged with."""
    found: list[Selection] = []
    for selection in selections:
        for number, earlier in enumerate(found):
            if both := earlier.merged(selection):
                found[number] = both
                break
        else:
            found.append(selection)
    return tuple(found)


def _one_of(field: str, found: str, allowed: Sequence[str]) -> None:
    """Refuse an unknown name."""
    if found not in allowed:
        raise ValueError(f"Selection.{field}: found {found!r}, allowed are {', '.join(allowed)}")


def _ascending(field: str, found: tuple[int, ...], least: int) -> None:
    """Refuse numbers that are not strictly ascending from `least`."""
    numbers = isinstance(found, tuple) and all(type(number) is int for number in found)
    if not numbers or list(found) != sorted(set(found)) or (found and found[0] < least):
        raise ValueError(f"Selection.{field}: found {found!r}, allowed are ascending numbers from {least}")


def _check_tokens(selection: Selection) -> None:
    """Refuse numbers of positions, and rankings, that do not fit the scheme."""
    scheme, tokens, states = selection.token_scheme, selection.tokens, selection.states
    if scheme == "all" and tokens is not None:
        raise ValueError(f"Selection.tokens: found {tokens!r} with token_scheme 'all', allowed is None")
    if scheme != "all" and (type(tokens) is not int or tokens < 1 or (scheme == "cls" and tokens != 1)):
        allowed = "1" if scheme == "cls" else "an integer of at least 1"
        raise ValueError(f"Selection.tokens: found {tokens!r} with token_scheme {scheme!r}, allowed is {allowed}")
    wanted = len(states) if selection.ranked else 0
    layers = selection.attention
    if len(layers) != wanted or any(type(layer) is not int or layer < 1 for layer in layers):
        raise ValueError(
            f"Selection.attention: found {layers!r} with token_scheme {scheme!r} and {len(states)} states, "
            f"allowed are {wanted} layers from 1"
        )
