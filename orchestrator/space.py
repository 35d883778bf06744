"""What may vary in a sweep, as a pure value: named parameters, some of them active only under a condition.

A sample is a mapping from the names of the active parameters to values. The space knows no search library: a sampler
walks it in topological order (`walk`), so that every parameter's conditions are decided before the parameter itself is.
"""

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.parameters import Choice, Float, Int, Parameter, Scalar, When, same
from orchestrator.wording import listed, nearest, shown

__all__ = [
    "Choice",
    "Float",
    "Int",
    "Parameter",
    "Sample",
    "Scalar",
    "Space",
    "When",
    "condition_fault",
    "draw",
    "grid",
]

Sample = Mapping[str, Scalar]


@dataclass(frozen=True, slots=True)
class Space:
    """Named parameters in topological order: each comes after those that its conditions name.

    Raises:
        ValueError: a condition names an unknown parameter or an impossible value, or conditions run in a circle.
    """

    parameters: Mapping[str, Parameter] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Checks the conditions and puts the parameters in topological order."""
        for name, parameter in self.parameters.items():
            for other, values in parameter.when.items():
                if fault := condition_fault(name, other, values, self.parameters):
                    raise ValueError(f"{name}.when.{other}: {fault}")
        object.__setattr__(self, "parameters", _ordered(self.parameters))

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters' names in topological order."""
        return tuple(self.parameters)

    def active(self, name: str, sample: Mapping[str, object]) -> bool:
        """Whether a parameter's conditions hold, given the values of those before it."""
        when = self.parameters[name].when
        return all(other in sample and any(same(sample[other], v) for v in values) for other, values in when.items())

    def walk(self, pick: Callable[[str, Parameter], Scalar]) -> dict[str, Scalar]:
        """Builds a sample by asking `pick` for the value of each active parameter, in topological order."""
        sample: dict[str, Scalar] = {}
        for name, parameter in self.parameters.items():
            if self.active(name, sample):
                sample[name] = pick(name, parameter)
        return sample

    def faults(self, sample: Mapping[str, object], *, partial: bool = False) -> list[tuple[str, str]]:
        """Says what is wrong with a sample: pairs of a name and a complaint.

        Args:
            sample: names to values.
            partial: values may be missing, as in a start point whose gaps the sampler fills.
        """
        unknown = [name for name in sample if name not in self.parameters]
        wrong = [(n, f"no such parameter; allowed: {listed(self.names)}{nearest(n, self.names)}") for n in unknown]
        inactive: set[str] = set()
        for name, parameter in self.parameters.items():
            holds = _holds(parameter.when, sample, inactive, partial)
            if holds is False:
                inactive.add(name)
                wrong += [(name, f"not active: {_conditions(parameter.when)}")] if name in sample else []
            elif name in sample:
                wrong += [(name, fault)] if (fault := parameter.fault(sample[name])) else []
            elif not partial:
                wrong.append((name, "missing"))
        return wrong

    def contains(self, sample: Mapping[str, object]) -> bool:
        """Whether a sample gives every active parameter an allowed value, and nothing else."""
        return not self.faults(sample)

    def canonical(self, sample: Sample) -> dict[str, Scalar]:
        """Returns a sample's one normal form: topological order, numbers of the parameter's kind.

        Raises:
            ValueError: the sample is not in the space.
        """
        if wrong := self.faults(sample):
            raise ValueError("; ".join(f"{name}: {text}" for name, text in wrong))
        return {name: _normal(sample[name], self.parameters[name]) for name in self.parameters if name in sample}

    def size(self) -> float:
        """Counts the distinct samples exactly, conditions included; infinite with a range of real numbers."""
        return _count(self, {}, self.names, _gates(self.parameters))

    def to_json(self) -> dict[str, Any]:
        """Writes the space as in a sweep file; `spacefile.read_space` reads it back to an equal space."""
        return {name: parameter.to_json() for name, parameter in self.parameters.items()}


def draw(space: Space, rng: random.Random, given: Sample | None = None) -> dict[str, Scalar]:
    """Draws a sample, each active parameter evenly on its scale, except those with a given value."""
    known = given or {}
    return space.walk(lambda name, parameter: known[name] if name in known else parameter.draw(rng))


def grid(space: Space) -> Iterator[dict[str, Scalar]]:
    """Yields every sample once, the last parameter changing fastest.

    Raises:
        ValueError: there is a range of real numbers.
    """
    return _grid(space, {}, space.names)


def _grid(space: Space, sample: dict[str, Scalar], names: tuple[str, ...]) -> Iterator[dict[str, Scalar]]:
    if not names:
        yield sample
    elif not space.active(names[0], sample):
        yield from _grid(space, sample, names[1:])
    else:
        for value in space.parameters[names[0]].grid():
            yield from _grid(space, {**sample, names[0]: value}, names[1:])


def _count(space: Space, sample: dict[str, object], names: tuple[str, ...], gates: When) -> float:
    """Counts the ways to complete a sample; only parameters that conditions name are told apart by value."""
    if not names:
        return 1
    name, rest = names[0], names[1:]
    if not space.active(name, sample):
        return _count(space, sample, rest, gates)
    decisive = gates.get(name, ())
    total = sum(_count(space, {**sample, name: value}, rest, gates) for value in decisive)
    num_others = space.parameters[name].num_values - len(decisive)
    # One value that no condition names stands for all the others.
    return total + (num_others * _count(space, {**sample, name: object()}, rest, gates) if num_others else 0)


def _holds(when: When, sample: Mapping[str, object], inactive: set[str], partial: bool) -> bool | None:
    """Whether conditions hold; None when a partial sample does not say."""
    answer: bool | None = True
    for other, values in when.items():
        if other in sample and not any(same(sample[other], value) for value in values):
            return False
        if other not in sample and (other in inactive or not partial):
            return False
        answer = answer if other in sample else None
    return answer


def _normal(value: Scalar, parameter: Parameter) -> Scalar:
    """Writes a whole number as a float where the parameter ranges over floats."""
    return float(value) if isinstance(parameter, Float) and isinstance(value, int) else value


def _gates(parameters: Mapping[str, Parameter]) -> dict[str, tuple[Scalar, ...]]:
    """Collects, for each parameter that conditions name, the values they name."""
    gates: dict[str, tuple[Scalar, ...]] = {}
    for parameter in parameters.values():
        for other, values in parameter.when.items():
            for value in values:
                known = gates.get(other, ())
                gates[other] = known if any(same(value, k) for k in known) else (*known, value)
    return gates


def _conditions(when: When) -> str:
    """Says in words when a parameter is active."""
    return "needs " + " and ".join(f"{name} in {shown(list(values))}" for name, values in when.items())


def condition_fault(name: str, other: str, values: tuple[Scalar, ...], parameters: Mapping[str, Parameter]) -> str:
    """Says why a condition cannot hold, or nothing."""
    if other == name:
        return "a parameter cannot depend on itself"
    if other not in parameters:
        options = [option for option in parameters if option != name]
        return f"no such parameter; allowed: {listed(options)}{nearest(other, options)}"
    if isinstance(parameters[other], Float):
        return f"{other} is a range of real numbers; a condition needs a choice or a range of whole numbers"
    faults = (parameters[other].fault(value) for value in values)
    return next((fault for fault in faults if fault), "" if values else "found []; at least one value is due")


def _ordered(parameters: Mapping[str, Parameter]) -> dict[str, Parameter]:
    """Puts each parameter after those its conditions name, and otherwise keeps the order of the file.

    Raises:
        ValueError: conditions run in a circle.
    """
    ordered: dict[str, Parameter] = {}
    while len(ordered) < len(parameters):
        ready = [n for n, p in parameters.items() if n not in ordered and all(other in ordered for other in p.when)]
        if not ready:
            circle = [name for name in parameters if name not in ordered]
            raise ValueError(f"the conditions of {listed(circle)} run in a circle")
        ordered[ready[0]] = parameters[ready[0]]
    return ordered
