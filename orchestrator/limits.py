"""What a sweep wants and what it may cost at most: objectives, hard limits, and amounts with units."""

import math
import re
from collections.abc import Callable

from orchestrator.wording import Key, found, listed, nearest, shown

Note = Callable[[Key, str], None]
"""Takes a complaint about the value at a key path below the section."""

COSTS = ("params", "bytes", "flops", "latency_ms", "knowledge_bytes")
"""What a design can cost; less is better."""
OBJECTIVES = {"score": "max", **dict.fromkeys(COSTS, "min")}
DEFAULT_OBJECTIVES = {"score": "max", "params": "min"}


_FACTORS = {"K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9, "T": 1e12}
BYTES: dict[str, float] = {"B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
UNITS: dict[str, dict[str, float]] = {
    "params": _FACTORS,
    "flops": _FACTORS,
    "bytes": BYTES,
    "knowledge_bytes": BYTES,
    "latency_ms": {"ms": 1, "s": 1e3},
}
"""Cost -> the units it may be written with."""
_QUANTITY = re.compile(r"(\d+\.?\d*|\.\d+)\s*([A-Za-z]+)")


def read_objectives(raw: object, note: Note) -> dict[str, str]:
    """Reads what is wanted: names of OBJECTIVES with their directions, the score among them."""
    if not isinstance(raw, dict) or not raw:
        note((), found(raw, f"a mapping such as {{score: max, params: min}} of {listed(OBJECTIVES)}"))
        return {}
    for name, direction in raw.items():
        if name not in OBJECTIVES:
            note((name,), f"no such objective; allowed: {listed(OBJECTIVES)}{nearest(name, OBJECTIVES)}")
        elif direction != OBJECTIVES[name]:
            note((name,), f"found {shown(direction)}; allowed: {OBJECTIVES[name]}")
    if "score" not in raw:
        note((), "the score is missing; write score: max")
    return {name: direction for name, direction in raw.items() if isinstance(direction, str)}


def read_budget(raw: object, note: Note) -> dict[str, float]:
    """Reads hard upper limits: names of COSTS with numbers, or with numbers and units such as `15M` or `60MB`."""
    if not isinstance(raw, dict):
        note((), found(raw, f"a mapping such as {{params: 15M}} of {listed(COSTS)}"))
        return {}
    budget: dict[str, float] = {}
    for name, value in raw.items():
        if name not in COSTS:
            note((name,), f"no such cost; allowed: {listed(COSTS)}{nearest(name, COSTS)}")
        elif (limit := amount_of(value, UNITS[name])) is None:
            note((name,), found(value, f"a number of at least 1, or one with a unit of {listed(UNITS[name])},"))
        else:
            budget[name] = limit if name == "latency_ms" else int(limit)
    return budget


def amount_of(value: object, units: dict[str, float]) -> float | None:
    """Returns an amount of at least 1 (or a microsecond), or None when the value is none."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        number = float(value)
    else:
        match = _QUANTITY.fullmatch(value.strip()) if isinstance(value, str) else None
        if match is None or match[2] not in units:
            return None
        number = round(float(match[1]) * units[match[2]], 6)
    least = 0.001 if "ms" in units else 1
    return number if least <= number and math.isfinite(number) else None
