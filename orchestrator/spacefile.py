"""Reads the `space` of a sweep file into a Space, or says everything that is wrong with it."""

from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.parameters import Choice, Float, Int, Parameter, When
from orchestrator.space import Space, condition_fault
from orchestrator.wording import Key, found, listed, nearest

Note = Callable[[Key, str], None]
"""Takes a complaint about the value at a key path below `space`."""

RESERVED = ("method",)
"""Names that a sample uses otherwise."""

_ALLOWED = {
    "choice": ("choice", "when"),
    "int": ("int", "step", "log", "when"),
    "float": ("float", "log", "when"),
}
_SHAPES = "{choice: [...]}, {int: [low, high]} or {float: [low, high]}"


def read_space(raw: object, note: Note) -> Space | None:
    """Reads the `space` of a sweep file.

    Args:
        raw: names mapped to `{choice: [...]}`, `{int: [low, high], step, log}` or `{float: [low, high], log}`, each
            with an optional `when: {other: [values]}`.
        note: takes each complaint and the key path below `space`.

    Returns:
        The space, or None after at least one complaint.
    """
    if not isinstance(raw, dict) or not raw:
        note((), found(raw, "a mapping of names to " + _SHAPES))
        return None
    complaints: list[tuple[Key, str]] = []
    parameters = {name: _read_parameter(name, entry, complaints) for name, entry in raw.items()}
    whole = {name: parameter for name, parameter in parameters.items() if parameter is not None}
    # A condition on a parameter that is itself wrong says nothing new.
    for name, parameter in whole.items():
        for other, values in parameter.when.items():
            if (other in whole or other not in raw) and (fault := condition_fault(name, other, values, whole)):
                complaints.append(((name, "when", other), fault))
    for key, text in complaints:
        note(key, text)
    return None if complaints else _close(whole, note)


def _close(parameters: Mapping[str, Parameter], note: Note) -> Space | None:
    """Makes the space, or notes that its conditions run in a circle."""
    try:
        return Space(parameters)
    except ValueError as error:
        note((), str(error))
        return None


def _read_parameter(name: str, entry: object, complaints: list[tuple[Key, str]]) -> Parameter | None:
    """Reads one parameter, or adds what is wrong with it to the complaints."""
    before = len(complaints)
    if name in RESERVED:
        complaints.append(((name,), f"the name '{name}' is taken by the sweep itself"))
    kinds = [kind for kind in _ALLOWED if isinstance(entry, dict) and kind in entry]
    if not isinstance(entry, dict) or len(kinds) != 1:
        complaints.append(((name,), found(entry, f"one of {_SHAPES}") + _hint(entry)))
        return None
    for key in entry:
        if key not in (options := _ALLOWED[kinds[0]]):
            complaints.append(((name, key), f"no such key; allowed: {listed(options)}{nearest(key, options)}"))
    when = _read_when(name, entry.get("when", {}), complaints)
    if not isinstance(entry.get("log", False), bool):
        complaints.append(((name, "log"), found(entry["log"], "true or false")))
    if len(complaints) > before:
        return None
    try:
        return _make(kinds[0], entry, when)
    except ValueError as error:
        complaints.append(((name, kinds[0]), str(error)))
        return None


def _hint(entry: object) -> str:
    """Guesses what an entry of no known shape was meant to be."""
    if isinstance(entry, list):
        return "; did you mean {choice: [...]}?"
    if not isinstance(entry, dict):
        return "; to keep it constant, move it to fixed"
    return next((hint for key in entry if key not in _ALLOWED and (hint := nearest(key, _ALLOWED))), "")


def _make(kind: str, entry: Mapping[str, Any], when: When) -> Parameter:
    """Makes a parameter from its entry.

    Raises:
        ValueError: the values are impossible.
    """
    values = entry[kind]
    if not isinstance(values, list):
        raise ValueError(found(values, "a list"))
    if kind == "choice":
        return Choice(tuple(values), when)
    if len(values) != 2:
        raise ValueError(found(values, "a pair [low, high]"))
    if kind == "int":
        return Int(values[0], values[1], entry.get("step", 1), entry.get("log", False), when)
    low, high = (float(value) if isinstance(value, int) and not isinstance(value, bool) else value for value in values)
    return Float(low, high, entry.get("log", False), when)


def _read_when(name: str, raw: object, complaints: list[tuple[Key, str]]) -> When:
    """Reads conditions; what a condition may name is checked when all parameters are known."""
    if not isinstance(raw, dict):
        complaints.append(((name, "when"), found(raw, "a mapping {other: [values]}")))
        return {}
    for other, values in raw.items():
        if not isinstance(values, list) or not values:
            complaints.append(((name, "when", other), found(values, "a list of values")))
    return {other: tuple(values) for other, values in raw.items() if isinstance(values, list)}
