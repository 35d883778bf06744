"""A method with its fixed values and its space, checked against the method's own Config.

Names and types come first. Then Configs are built from samples of the space, because only the Config knows that a value
or a combination of values is impossible; a value that no sample survives is a mistake in the file, not bad luck.
"""

import random
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.configs import RECIPE, Method, build, combine, due, fits
from orchestrator.space import Choice, Int, Parameter, Scalar, Space, draw
from orchestrator.spacefile import read_space
from orchestrator.wording import Key, found, listed, nearest, shown

Note = Callable[[Key, str], None]
"""Takes a complaint about the value at a key path below the method's entry."""

NUM_PROBES = 24
"""Samples of a space that are tried before values are blamed."""
MAX_VALUES = 64
"""Values of a parameter that are tried one by one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MethodSpec:
    """What a sweep file says about one method."""

    name: str
    fixed: Mapping[str, Any]
    """Config fields with one value, and `recipe`."""
    space: Space
    """Config fields that vary."""

    def to_json(self) -> dict[str, Any]:
        """Writes the entry as in a sweep file."""
        fixed = {"fixed": dict(self.fixed)} if self.fixed else {}
        return {**fixed, **({"space": self.space.to_json()} if self.space.names else {})}


def read_method(method: Method, entry: Mapping[str, Any], note: Note) -> MethodSpec:
    """Reads `fixed` and `space` of a method and notes everything that is wrong with them."""
    fixed: Any = entry.get("fixed", {})
    complaints: list[tuple[Key, str]] = []
    if not isinstance(fixed, dict):
        complaints.append((("fixed",), found(fixed, "a mapping of Config fields to values")))
        fixed = {}
    complaints += [(("fixed", *key), text) for key, text in check_values(method, fixed)]
    space = _read_space(entry, complaints)
    for name, parameter in space.parameters.items():
        complaints += [(("space", name, *key), text) for key, text in _check_parameter(method, name, parameter)]
        if name in fixed:
            complaints.append((("space", name), "found in fixed as well; keep one of the two"))
    spec = MethodSpec(name=method.name, fixed=fixed, space=space)
    for key, text in complaints or _check_samples(method, spec):
        note(key, text)
    return spec


def _read_space(entry: Mapping[str, Any], complaints: list[tuple[Key, str]]) -> Space:
    """Reads the space; without one, or with a broken one, nothing varies."""
    if "space" not in entry:
        return Space()
    space = read_space(entry["space"], lambda key, text: complaints.append((("space", *key), text)))
    return space or Space()


def check_values(method: Method, values: Mapping[str, Any]) -> Iterator[tuple[Key, str]]:
    """Compares fixed values with the fields of a Config and their types."""
    fields = method.fields
    for name, value in values.items():
        if name == RECIPE:
            if not isinstance(value, str) or value not in method.recipes:
                yield (name,), f"found {shown(value)}; {_recipes(method)}{nearest(value, method.recipes)}"
        elif name not in fields:
            yield (name,), _no_field(method, name)
        elif not fits(value, fields[name]):
            yield (name,), found(value, due(fields[name]))


def _no_field(method: Method, name: str) -> str:
    options = [*method.fields, RECIPE]
    return f"no such field in methods.{method.name}.Config; allowed: {listed(options)}{nearest(name, options)}"


def _recipes(method: Method) -> str:
    return f"allowed: {listed(method.recipes)}" if method.recipes else f"methods.{method.name} has no recipes"


def _check_parameter(method: Method, name: str, parameter: Parameter) -> Iterator[tuple[Key, str]]:
    """Compares the values of a parameter with the type of its field."""
    fields = method.fields
    if name != RECIPE and name not in fields:
        yield (), _no_field(method, name)
        return
    for key, value in _ends(parameter):
        for _, text in check_values(method, {name: value}):
            yield key, text


def _ends(parameter: Parameter) -> list[tuple[Key, Scalar]]:
    """The values of a choice, or the ends of a range, with the keys they were written at."""
    if isinstance(parameter, Choice):
        return [(("choice", index), value) for index, value in enumerate(parameter.values[:MAX_VALUES])]
    kind = "int" if isinstance(parameter, Int) else "float"
    return [((kind, 0), parameter.low), ((kind, 1), parameter.high)]


def refusal(method: Method, values: Mapping[str, Any]) -> str:
    """Says why the method's Config refuses a set of values, or nothing."""
    try:
        build(method, values)
    except ValueError as error:
        return " ".join(str(error).split())
    return ""


def _check_samples(method: Method, spec: MethodSpec) -> list[tuple[Key, str]]:
    """Blames the values that no sample with them survives; when none survives at all, whatever fails alone."""
    rng = random.Random(0)

    def refused(given: Mapping[str, Scalar]) -> list[tuple[dict[str, Scalar], str]]:
        samples = (draw(spec.space, rng, given) for _ in range(NUM_PROBES if spec.space.names else 1))
        return [(sample, refusal(method, combine(method, spec.fixed, sample))) for sample in samples]

    tried = refused({})
    if all(reason for _, reason in tried):
        return _blame(method, spec, tried[0][1])
    complaints: list[tuple[Key, str]] = []
    for name, parameter in spec.space.parameters.items():
        for key, value in _ends(parameter):
            reasons = [reason for sample, reason in refused({name: value}) if name in sample]
            if reasons and all(reasons):
                complaints.append((("space", name, *key), f"{shown(value)} is never allowed: {reasons[0]}"))
    return complaints


def _blame(method: Method, spec: MethodSpec, reason: str) -> list[tuple[Key, str]]:
    """Finds the values that the Config refuses on their own, or blames the fixed values as a whole."""
    singles: list[tuple[Key, str, Any]] = [(("fixed", name), name, value) for name, value in spec.fixed.items()]
    for name, parameter in spec.space.parameters.items():
        singles += [(("space", name, *key), name, value) for key, value in _ends(parameter)]
    blamed = []
    for key, name, value in singles:
        text = refusal(method, combine(method, {}, {name: value}))
        if re.match(rf"(\w+\.)*{name}\b", text) or (name == RECIPE and text):
            blamed.append((key, text.removeprefix(f"{name}: ")))
    whole: Key = ("fixed",) if spec.fixed else ("space",)
    return blamed or [(whole, f"no sample is allowed: {reason}")]
