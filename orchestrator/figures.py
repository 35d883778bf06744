"""How numbers of a sweep are written for people, the same in the terminal, the report and MLflow."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from methods.parts.layout import Layout
from orchestrator.records import TrialRecord

COSTS = {
    "params": "parameters",
    "flops": "FLOPs per forward pass",
    "bytes": "size at fp32",
    "latency_ms": "latency",
    "knowledge_bytes": "stored knowledge, predicted",
}
"""Cost -> what it counts."""


def count(number: float) -> str:
    """A count with three or four digits and its unit: `14.47 M`, `2.51 G`, `512`."""
    for limit, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= limit:
            return f"{number / limit:.2f} {unit}"
    return f"{number:g}"


def cost(name: str, number: float) -> str:
    """A cost with its unit: `57.90 MB`, `8.1 ms`, `14.47 M`."""
    if not math.isfinite(number):
        return "-"
    if name.endswith("bytes"):
        written = count(number)
        return f"{written}B" if written[-1].isalpha() else f"{written} B"
    return f"{number:.1f} ms" if name.endswith("_ms") else count(number)


def score(number: float | None, error: float | None = None) -> str:
    """A score, with two standard errors if known: `0.912 ± 0.014`."""
    if number is None or not math.isfinite(number):
        return "-"
    return f"{number:.4f}" if not error else f"{number:.4f} ± {2 * error:.4f}"


def scored(record: TrialRecord, name: str) -> str:
    """A record's score of that name (`score`, `held`), with two standard errors if known."""
    return score(record.metrics.get(name), record.metrics.get(f"{name}_se"))


def building(name: str, step: int, metrics: Mapping[str, float]) -> str:
    """How far a build that trials share is: `building teacher: step 400, score 0.9300`."""
    shown: dict[str, Callable[[float], str]] = {
        "score": score,
        "loss": score,
        "progress": lambda part: f"{100 * part:.0f} %",
    }
    number = next((f", {key} {tell(metrics[key])}" for key, tell in shown.items() if key in metrics), "")
    return f"building {name}: step {step}{number}"


def duration(seconds: float) -> str:
    """A span of time in its two largest units: `2 h 13 min`, `41 s`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s" if whole else f"{seconds:.1f} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    hours = whole // 3600
    return f"{hours // 24} d {hours % 24} h" if hours >= 48 else f"{hours} h {whole % 3600 // 60} min"


def shape(layout: Mapping[str, Any] | None) -> str:
    """A layout's JSON in a few words: `2 heads x 8 layers, FFN 512, rank 128`; `-` if there is none."""
    return Layout.from_json(layout).describe().rsplit(", ", 1)[0] if layout else "-"


def choice(value: object) -> str:
    """One value that a search chose, briefly: `3e-05`, `True`; `-` where it chose none."""
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def chosen(sample: Mapping[str, Any]) -> str:
    """What a search chose: `heads 2, lr 3e-05`."""
    return ", ".join(f"{name} {choice(value)}" for name, value in sample.items())
