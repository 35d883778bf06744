"""One thing that may vary: a choice of values, a range of whole numbers, a range of numbers.

Each is a frozen value that refuses an impossible range when it is made, says why a value is not allowed, counts, lists
and draws its values. None knows a search library.
"""

import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.wording import found, listed, nearest, shown

Scalar = str | int | float | bool | None
When = Mapping[str, tuple[Scalar, ...]]
"""Other parameter -> the values under which this one is active; several conditions must all hold."""


def same(one: object, other: object) -> bool:
    """Whether two values are equal and of one kind: 1, 1.0 and true are three values."""
    return type(one) is type(other) and one == other


def is_int(value: object) -> bool:
    """Whether a value is a whole number and no truth value."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Whether a value is a finite number and no truth value."""
    return is_int(value) or (isinstance(value, float) and math.isfinite(value))


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few values.

    Raises:
        ValueError: there is no value, one is no scalar, or two count as the same (1, 1.0 and true do).
    """

    values: tuple[Scalar, ...]
    when: When = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Refuses an impossible list of values."""
        if not self.values:
            raise ValueError("found []; at least one value is due")
        for index, value in enumerate(self.values):
            if not (value is None or isinstance(value, str | bool) or is_number(value)):
                raise ValueError(found(value, "a single value (text, number, true, false or null)"))
            if value in self.values[:index]:
                raise ValueError(f"found {shown(value)} twice; distinct values are due (1, 1.0 and true count as one)")

    @property
    def num_values(self) -> int:
        """How many values there are."""
        return len(self.values)

    def fault(self, value: object) -> str:
        """Says why a value is not allowed, or nothing."""
        if any(same(value, allowed) for allowed in self.values):
            return ""
        return f"found {shown(value)}; allowed: {listed(self.values)}{nearest(value, self.values)}"

    def grid(self) -> Iterator[Scalar]:
        """Yields every value."""
        return iter(self.values)

    def draw(self, rng: random.Random) -> Scalar:
        """Draws a value, all alike."""
        return rng.choice(self.values)

    def to_json(self) -> dict[str, Any]:
        """Writes the parameter as in a sweep file."""
        return {"choice": list(self.values), **_when_json(self.when)}


@dataclass(frozen=True, slots=True)
class Int:
    """A whole number from `low` to `high`, both included, in steps or on a logarithmic scale.

    Raises:
        ValueError: the range is empty, the step does not divide it, or a logarithm would not exist.
    """

    low: int
    high: int
    step: int = 1
    log: bool = False
    when: When = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Refuses an impossible range."""
        for value in (self.low, self.high, self.step):
            if not is_int(value):
                raise ValueError(found(value, "a whole number"))
        _check_order(self.low, self.high)
        if self.step < 1:
            raise ValueError(f"found the step {self.step}; a step of at least 1 is due")
        if self.step > max(1, self.high - self.low):
            raise ValueError(f"the step {self.step} exceeds the range {self.low} to {self.high}")
        if (self.high - self.low) % self.step:
            last = self.high - (self.high - self.low) % self.step
            raise ValueError(f"the step {self.step} does not lead from {self.low} to {self.high}; it ends at {last}")
        if self.log and self.step != 1:
            raise ValueError(f"found the step {self.step} on a logarithmic scale; use one of the two")
        _check_log(self.log, self.low)

    @property
    def num_values(self) -> int:
        """How many values there are."""
        return (self.high - self.low) // self.step + 1

    def fault(self, value: object) -> str:
        """Says why a value is not allowed, or nothing."""
        if not isinstance(value, int) or isinstance(value, bool):
            return found(value, "a whole number")
        if self.low <= value <= self.high and not (value - self.low) % self.step:
            return ""
        steps = f" in steps of {self.step}" if self.step > 1 else ""
        return f"found {value}; allowed: {self.low} to {self.high}{steps}"

    def grid(self) -> Iterator[Scalar]:
        """Yields every value, lowest first."""
        return iter(range(self.low, self.high + 1, self.step))

    def draw(self, rng: random.Random) -> Scalar:
        """Draws a value, evenly on its scale."""
        if self.log:
            drawn = math.exp(rng.uniform(math.log(self.low - 0.5), math.log(self.high + 0.5)))
            return min(self.high, max(self.low, round(drawn)))
        return self.low + self.step * rng.randrange(self.num_values)

    def to_json(self) -> dict[str, Any]:
        """Writes the parameter as in a sweep file."""
        scale = {"step": self.step} if self.step > 1 else {}
        return {"int": [self.low, self.high], **scale, **({"log": True} if self.log else {}), **_when_json(self.when)}


@dataclass(frozen=True, slots=True)
class Float:
    """A number from `low` to `high`, both included, on a linear or a logarithmic scale.

    Raises:
        ValueError: the range is empty or a logarithm would not exist.
    """

    low: float
    high: float
    log: bool = False
    when: When = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Refuses an impossible range."""
        for value in (self.low, self.high):
            if not is_number(value):
                raise ValueError(found(value, "a finite number"))
        _check_order(self.low, self.high)
        _check_log(self.log, self.low)

    @property
    def num_values(self) -> float:
        """Infinite: a range of real numbers is not enumerated."""
        return math.inf

    def fault(self, value: object) -> str:
        """Says why a value is not allowed, or nothing."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return found(value, "a number")
        return "" if self.low <= value <= self.high else f"found {value}; allowed: {self.low} to {self.high}"

    def grid(self) -> Iterator[Scalar]:
        """A range of real numbers is not enumerated.

        Raises:
            ValueError: always.
        """
        raise ValueError(f"the range {self.low} to {self.high} has no finite grid; use a choice")

    def draw(self, rng: random.Random) -> Scalar:
        """Draws a value, evenly on its scale."""
        if not self.log:
            return rng.uniform(self.low, self.high)
        return min(self.high, max(self.low, math.exp(rng.uniform(math.log(self.low), math.log(self.high)))))

    def to_json(self) -> dict[str, Any]:
        """Writes the parameter as in a sweep file."""
        return {"float": [self.low, self.high], **({"log": True} if self.log else {}), **_when_json(self.when)}


Parameter = Choice | Int | Float


def _check_order(low: float, high: float) -> None:
    if low > high:
        raise ValueError(f"found the range {low} to {high}; the lower end comes first")


def _check_log(log: bool, low: float) -> None:
    if log and low <= 0:
        raise ValueError(f"found the lower end {low} on a logarithmic scale; it must be above 0")


def _when_json(when: When) -> dict[str, Any]:
    return {"when": {name: list(values) for name, values in when.items()}} if when else {}
