"""Choosing one model of a finished sweep, and saying why."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from methods.parts.layout import Layout
from orchestrator.errors import SpecError, SweepError
from orchestrator.front import best_within, front, knee, smallest_within, value, within_noise
from orchestrator.limits import read_budget
from orchestrator.records import TEACHER, TrialRecord
from orchestrator.wording import nearest

RULES = ("best", "noise", "knee", "smallest")


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """A chosen trial and the sentence that says why."""

    record: TrialRecord
    reason: str

    def to_json(self) -> dict[str, Any]:
        """The choice for machines."""
        record = self.record
        shape = Layout.from_json(record.layout).describe() if record.layout else ""
        numbers = {**record.costs, **record.metrics}
        return {"trial": record.trial, "method": record.method, "shape": shape, "reason": self.reason, **numbers}

    def lines(self) -> list[str]:
        """The choice for people."""
        found = self.to_json()
        half = f"{found.get('score', math.nan):.4f} on the search half, {found.get('held', math.nan):.4f} on the other"
        return [
            f"{found['trial']}: {found['method']}, {found['shape']}",
            f"  {half}",
            f"  chosen because: {self.reason}",
        ]


def read_limits(pairs: Sequence[str]) -> dict[str, float]:
    """Limits from `params=15M` and the like.

    Raises:
        SpecError: a pair is none, names no cost, or has no amount.
    """
    raw: dict[str, Any] = {}
    problems: list[str] = []
    for pair in pairs:
        name, equals, amount = pair.partition("=")
        if not equals:
            problems.append(f"--budget {pair}: found no '='; write e.g. params=15M")
        raw[name] = float(amount) if amount.replace(".", "", 1).isdigit() else amount
    limits = read_budget(raw, lambda key, text: problems.append(f"--budget {'.'.join(map(str, key))}: {text}"))
    if problems:
        raise SpecError(problems)
    return limits


def pick(records: Sequence[TrialRecord], rule: str, budget: Mapping[str, float], within: float | None) -> Choice:
    """Chooses a trial by a rule among those that fit the budget.

    Args:
        records: All records of the sweep.
        rule: `best` score; cheapest within `noise` of the best (two standard errors of the difference); `knee` of the
            front; `smallest` that stays `within` points of the teacher.
        budget: Upper limits by cost, e.g. `{"params": 15e6}`.
        within: Points of score below the teacher (as a fraction: 0.02 is two points); for `smallest` only.

    Raises:
        SpecError: there is no such rule.
        SweepError: no finished trial satisfies the rule.
    """
    if rule not in RULES:
        raise SpecError([f"--rule {rule}: no such rule; allowed: {', '.join(RULES)}{nearest(rule, RULES)}"])
    fitting = [record for record in records if all(value(record, name) <= limit for name, limit in budget.items())]
    if rule == "best":
        chosen, reason = best_within(fitting, {}), "the best score on the search half of dev"
    elif rule == "noise":
        chosen, reason = within_noise(fitting), "the smallest not worse than the best beyond two standard errors"
    elif rule == "knee":
        chosen, reason = knee(front(fitting, {"score": "max", "params": "min"})), "the knee of the front"
    else:
        teacher = next((record for record in records if record.trial == TEACHER), None)
        if teacher is None or within is None:
            raise SweepError("pick --rule smallest: needs --within POINTS and a sweep whose teacher was evaluated")
        chosen = smallest_within(fitting, value(teacher, "score") - within)
        reason = f"the smallest within {within:g} of the teacher's {value(teacher, 'score'):.4f}"
    if chosen is None:
        limits = ", ".join(f"{name} <= {limit:g}" for name, limit in budget.items()) or "no budget"
        raise SweepError(f"pick: no finished trial satisfies rule {rule!r} with {limits}")
    return Choice(record=chosen, reason=reason)
