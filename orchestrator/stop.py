"""Stops a trial that another one beats at no greater cost: early stopping by the front instead of by the score alone.

A small model is not stopped for scoring less than a large one. At each rung (a number of comparable reports) a trial is
compared with those that cost no more in anything known beforehand; it ends when one of them had a score at this rung
that is better by more than two standard errors of the difference. What it could still reach would be dominated.

References:
    Li et al., A System for Massively Parallel Hyperparameter Tuning, 2020, https://arxiv.org/abs/1810.05934 (rungs)
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from orchestrator.jobqueue import MESSAGE
from orchestrator.ledger import Curve, Ledger

NOISE = 2.0
"""Standard errors of the difference of two scores that count as noise."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """When a trial is compared."""

    rungs: tuple[int, ...]
    """Numbers of comparable reports."""
    grace: int = 0
    """Reports during which no trial is ended."""


def better(trial: str, curves: Mapping[str, Curve], rule: Rule) -> str:
    """The trial that makes going on with `trial` pointless at its present rung, or nothing."""
    own = curves[trial]
    rung = len(own.scores)
    if rung not in rule.rungs or rung <= rule.grace:
        return ""
    rivals = ((name, other) for name, other in curves.items() if name != trial and _no_dearer(other, own))
    return _best(own.scores[-1], ((name, score) for name, other in rivals if (score := _at(other, rung))))


def _no_dearer(other: Curve, own: Curve) -> bool:
    """Whether no known cost of `other` is greater."""
    shared = other.costs.keys() & own.costs.keys()
    return bool(shared) and all(other.costs[name] <= own.costs[name] for name in shared)


def _at(curve: Curve, rung: int) -> tuple[float, float] | None:
    """A trial's score at a rung; a finished trial that needed fewer reports is taken at its last."""
    if len(curve.scores) >= rung:
        return curve.scores[rung - 1]
    return curve.scores[-1] if curve.finished and curve.scores else None


def _best(own: tuple[float, float], rivals: Iterable[tuple[str, tuple[float, float]]]) -> str:
    """The rival with the highest score that is better beyond noise."""
    beaten_by = [(score, name) for name, (score, error) in rivals if score - own[0] > NOISE * math.hypot(error, own[1])]
    return max(beaten_by, default=(0.0, ""))[1]


class FrontStop(FIFOScheduler):  # type: ignore[misc]  # Ray is untyped
    """Enters every report into the ledger and answers whether its trial goes on; Tune asks it before anybody else."""

    def __init__(self, ledger: Ledger, rule: Rule | None) -> None:
        """Decides by `rule`; None lets every trial run to its end."""
        super().__init__()
        self._ledger, self._rule = ledger, rule

    def __getstate__(self) -> dict[str, Any]:
        """Empty: Tune stores its parts, and nothing of this one is worth it."""
        return {}

    def on_trial_result(self, tune_controller: Any, trial: Any, result: Mapping[str, Any]) -> str:  # noqa: ANN401
        """Takes a message of a proxy; an ending is left to the search, which Tune tells when the proxy has returned."""
        message = json.loads(result[MESSAGE])
        if "end" in message:
            return str(TrialScheduler.CONTINUE)
        name = str(trial.config["trial"])
        self._ledger.report(name, message)
        rival = better(name, self._ledger.curves, self._rule) if self._rule else ""
        if not rival:
            return str(TrialScheduler.CONTINUE)
        self._ledger.live[name].stopped = f"{rival} costs no more and was better at report {self._rung(name)}"
        return str(TrialScheduler.STOP)

    def _rung(self, name: str) -> int:
        return len(self._ledger.curves[name].scores)
