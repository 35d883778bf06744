"""The front of a sweep, and the choices made on it: arithmetic on records."""

import math
from collections.abc import Iterable, Mapping, Sequence

from orchestrator.records import TEACHER, TrialRecord

Objectives = Mapping[str, str]
"""Name of a metric or cost -> "max" or "min"; the first is usually `score`."""


def value(record: TrialRecord, name: str) -> float:
    """A record's metric or cost of that name; NaN if it has none."""
    return float(record.metrics.get(name, record.costs.get(name, math.nan)))


def comparable(records: Iterable[TrialRecord], objectives: Objectives) -> list[TrialRecord]:
    """Finished trials that have a number for every objective; the teacher and partial trainings are left out."""
    return [
        record
        for record in records
        if record.status == "done"
        and record.trial != TEACHER
        and all(math.isfinite(value(record, name)) for name in objectives)
    ]


def _losses(record: TrialRecord, objectives: Objectives) -> tuple[float, ...]:
    return tuple(value(record, name) * (-1 if way == "max" else 1) for name, way in objectives.items())


def dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    """True if `one` is nowhere worse (larger) than `other` and somewhere better."""
    return all(a <= b for a, b in zip(one, other, strict=True)) and tuple(one) != tuple(other)


def front(records: Iterable[TrialRecord], objectives: Objectives) -> list[TrialRecord]:
    """The records no other record dominates, cheapest first; of equal ones the earliest trial stays."""
    kept: dict[tuple[float, ...], TrialRecord] = {}
    for record in sorted(comparable(records, objectives), key=lambda item: item.trial):
        kept.setdefault(_losses(record, objectives), record)
    best = [losses for losses in kept if not any(dominates(other, losses) for other in kept)]
    return [kept[losses] for losses in sorted(best, key=lambda item: (*item[1:], item[0]))]


def smallest_within(records: Iterable[TrialRecord], target: float, cost: str = "params") -> TrialRecord | None:
    """The cheapest finished trial whose score is at least `target`; None if there is none."""
    good = [record for record in comparable(records, {"score": "max", cost: "min"}) if value(record, "score") >= target]
    return min(good, key=lambda record: (value(record, cost), -value(record, "score")), default=None)


def best_within(records: Iterable[TrialRecord], budget: Mapping[str, float]) -> TrialRecord | None:
    """The best-scoring finished trial none of whose costs exceeds its budget; of equal scores the smaller one."""
    fitting = [
        record
        for record in comparable(records, {"score": "max", "params": "min"})
        if all(value(record, name) <= limit for name, limit in budget.items())
    ]
    return max(fitting, key=lambda record: (value(record, "score"), -value(record, "params")), default=None)


def within_noise(records: Iterable[TrialRecord], cost: str = "params") -> TrialRecord | None:
    """The cheapest trial that is not worse than the best by more than two standard errors of their difference."""
    finished = comparable(records, {"score": "max", cost: "min"})
    if not finished:
        return None
    best = max(finished, key=lambda record: value(record, "score"))
    noise = 2 * math.sqrt(2) * best.metrics.get("score_se", 0.0)
    return smallest_within(finished, value(best, "score") - noise, cost)


def knee(points: Sequence[TrialRecord], cost: str = "params") -> TrialRecord | None:
    """The front's record farthest above the line between its ends, score against the logarithm of the cost."""
    if len(points) < 3:
        return points[-1] if points else None
    costs = [math.log(max(value(point, cost), 1.0)) for point in points]
    scores = [value(point, "score") for point in points]
    low, high = costs.index(min(costs)), costs.index(max(costs))
    span = costs[high] - costs[low] or 1.0
    lift = [
        score - (scores[low] + (scores[high] - scores[low]) * (at - costs[low]) / span)
        for at, score in zip(costs, scores, strict=True)
    ]
    return points[max(range(len(points)), key=lambda index: lift[index])]
