"""What a sweep found, worked out once from its plan and records for every page that tells it."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from methods.parts.layout import Layout
from orchestrator import figures
from orchestrator.designs import KNOWLEDGE
from orchestrator.front import best_within, front, knee, smallest_within, value, within_noise
from orchestrator.records import TEACHER, TrialRecord

NOISE = 2 * math.sqrt(2)
"""Standard errors of one score that make two of the difference of two such scores."""


def fits(record: TrialRecord, budget: Mapping[str, float]) -> bool:
    """Whether none of a record's costs exceeds its limit; a cost that nobody measured exceeds nothing."""
    return not any(value(record, name) > limit for name, limit in budget.items())


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """A trial worth choosing, and why."""

    record: TrialRecord
    why: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Findings:
    """The plan's facts and the records, in the words of the report."""

    name: str
    task: str
    metric: str
    """What `score` is, e.g. `accuracy`."""
    length: int
    """Tokens at which FLOPs are counted."""
    methods: tuple[str, ...]
    objectives: Mapping[str, str]
    budget: Mapping[str, float]
    planned: int
    seed: int
    teacher_layout: Layout
    teacher: TrialRecord | None
    trials: tuple[TrialRecord, ...]
    """All records but the teacher's."""

    def fits(self, record: TrialRecord) -> bool:
        """Whether no cost exceeds the budget."""
        return fits(record, self.budget)

    def feasible(self) -> list[TrialRecord]:
        """The trials within the budget."""
        return [record for record in self.trials if self.fits(record)]

    def front(self) -> list[TrialRecord]:
        """The non-dominated finished trials within the budget, cheapest first."""
        return front(self.feasible(), self.objectives)

    def of_status(self, status: str) -> list[TrialRecord]:
        """The trials that ended so."""
        return [record for record in self.trials if record.status == status]


def findings(plan: Mapping[str, Any], records: Sequence[TrialRecord]) -> Findings:
    """Reads a stored plan beside the records."""
    spec = plan["spec"]
    return Findings(
        name=spec["name"],
        task=spec["task"]["name"],
        metric=plan.get("metric", "score"),
        length=plan["length"],
        methods=tuple(plan["methods"]),
        objectives=plan["objectives"],
        budget=plan["budget"],
        planned=plan["trials"],
        seed=plan["seed"],
        teacher_layout=Layout.from_json(plan["teacher_layout"]),
        teacher=next((record for record in records if record.trial == TEACHER), None),
        trials=tuple(record for record in records if record.trial != TEACHER),
    )


def choices(found: Findings) -> list[Choice]:
    """The trials a reader may want, each once with every reason for it, the best first."""
    trials = found.feasible()
    reasons: dict[str, list[str]] = {}
    by_name = {record.trial: record for record in trials}
    for why, record in (
        ("best score" + (" within the budget" if found.budget else ""), best_within(trials, {})),
        ("smallest within noise of the best", within_noise(trials)),
        ("smallest within noise of the teacher", _like_teacher(found, trials)),
        ("knee of the front", knee(front(trials, {"score": "max", "params": "min"}))),
    ):
        if record is not None:
            reasons.setdefault(record.trial, []).append(why)
    return [Choice(record=by_name[trial], why=tuple(why)) for trial, why in reasons.items()]


def _like_teacher(found: Findings, trials: Sequence[TrialRecord]) -> TrialRecord | None:
    if found.teacher is None or "score" not in found.teacher.metrics:
        return None
    noise = NOISE * found.teacher.metrics.get("score_se", 0.0)
    return smallest_within(trials, value(found.teacher, "score") - noise)


def tally(found: Findings) -> dict[str, int]:
    """How many trials ended how, and how many of the planned ones have not ended."""
    counts = Counter(record.status for record in found.trials)
    ended = {status: counts[status] for status in ("done", "stopped", "failed", "refused") if counts[status]}
    missing = found.planned - sum(number for status, number in counts.items() if status != "refused")
    return {**ended, "to come": missing} if missing > 0 else ended


def verdict(found: Findings) -> str:
    """The answer in one or two sentences."""
    best = best_within(found.feasible(), {})
    if best is None:
        return "No trial has finished within the budget yet, so there is no model to choose."
    params = value(best, "params")
    text = f"Best{' within the budget' if found.budget else ''}: {best.trial}, {figures.shape(best.layout)}, "
    text += (
        f"{figures.count(params)} parameters ({found.teacher_layout.params() / params:.1f}x fewer than the teacher), "
    )
    text += f"{found.metric} {figures.scored(best, 'score')}"
    if found.teacher is not None:
        text += f"; the teacher has {figures.scored(found.teacher, 'score')}"
    return text + "."


def facts(found: Findings) -> str:
    """What was asked for, in one line."""
    aims = ", ".join(f"{name} {way}" for name, way in found.objectives.items())
    limits = (
        ", ".join(f"{name} up to {figures.cost(name, limit)}" for name, limit in found.budget.items()) or "no budget"
    )
    methods = ", ".join(found.methods)
    return f"Task {found.task}. Methods: {methods}. Objectives: {aims}. Budget: {limits}. Seed {found.seed}."


def progress(found: Findings) -> str:
    """How far the sweep is, and how long it took."""
    counts = ", ".join(f"{number} {status}" for status, number in tally(found).items()) or "no trial yet"
    return f"{found.planned} trials planned: {counts}. {times(found)}"


def varying(found: Findings) -> list[str]:
    """The names that the search gave more than one value, in the order of the samples."""
    values: dict[str, set[str]] = {}
    for record in found.trials:
        for name, choice in record.sample.items():
            values.setdefault(name, set()).add(str(choice))
    return [name for name, seen in values.items() if len(seen) > 1 or len(found.trials) == 1]


def times(found: Findings) -> str:
    """How long the sweep took and how much of that was trials."""
    ran = [record for record in found.trials if record.started_s and record.status != "refused"]
    if not ran:
        return ""
    span = max(record.started_s + record.wall_s for record in ran) - min(record.started_s for record in ran)
    work = sum(record.wall_s for record in ran)
    return (
        f"{figures.duration(span)} from the first start to the last end, {figures.duration(work)} of training in all."
    )


def optimism(found: Findings) -> str:
    """What the half of dev that chose nothing says about the front, in one sentence; empty if it was not measured."""
    both = [record for record in found.front() if {"score", "held"} <= set(record.metrics)]
    if not both:
        return ""
    gap = sum(value(record, "score") - value(record, "held") for record in both) / len(both)
    noise = sum(_gap_se(record) for record in both) / len(both)
    return (
        f"On the half of dev that had no part in any choice, the {len(both)} models of the front score {abs(gap):.4f} "
        f"{'lower' if gap >= 0 else 'higher'} on average; for one model, two standard errors of this difference are "
        f"{2 * noise:.4f}."
    )


def _gap_se(record: TrialRecord) -> float:
    return math.hypot(record.metrics.get("score_se", 0.0), record.metrics.get("held_se", 0.0))


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Rows of text under a heading."""

    title: str
    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def side_by_side(found: Findings) -> Table:
    """The teacher and the choices in columns."""
    chosen = choices(found)
    columns = [*([("the teacher", found.teacher)] if found.teacher else [])]
    columns += [("; ".join(choice.why), choice.record) for choice in chosen]
    whole = found.teacher_layout
    facts: list[tuple[str, Callable[[TrialRecord], str]]] = [
        ("trial", lambda record: record.trial),
        ("method", lambda record: record.method),
        ("architecture", lambda record: figures.shape(record.layout)),
        (f"{found.metric}, search half", lambda record: figures.scored(record, "score")),
        (f"{found.metric}, other half", lambda record: figures.scored(record, "held")),
        ("parameters", lambda record: _relative(value(record, "params"), whole.params())),
        (
            f"FLOPs at {found.length} tokens",
            lambda record: _relative(value(record, "flops"), whole.flops(found.length)),
        ),
        ("size at fp32", lambda record: figures.cost("bytes", value(record, "bytes"))),
        ("trained for", lambda record: figures.duration(record.wall_s)),
    ]
    if any(value(record, KNOWLEDGE) > 0 for _, record in columns):
        facts.append((figures.COSTS[KNOWLEDGE], lambda record: figures.cost(KNOWLEDGE, value(record, KNOWLEDGE))))
    rows = [(label, *(tell(record) for _, record in columns)) for label, tell in facts]
    return Table(title="The choices, side by side", head=("", *(why for why, _ in columns)), rows=rows)


def _relative(number: float, whole: float) -> str:
    text = figures.count(number) if math.isfinite(number) else "-"
    return text if not math.isfinite(number) or number == whole else f"{text} ({whole / number:.1f}x fewer)"


def other_half(found: Findings) -> Table:
    """The front's scores on both halves of dev."""
    head = ("trial", "search half", "other half", "difference", "two standard errors")
    rows = [
        (
            record.trial,
            figures.scored(record, "score"),
            figures.scored(record, "held"),
            f"{value(record, 'score') - value(record, 'held'):+.4f}",
            f"{2 * _gap_se(record):.4f}",
        )
        for record in found.front()
        if "held" in record.metrics
    ]
    return Table(title="Can the scores be trusted?", head=head, rows=rows)


def failures(found: Findings) -> Table:
    """What failed, and why."""
    rows = [
        (record.trial, record.method, str(record.attempts), record.reason, record.log or "-")
        for record in found.of_status("failed")
    ]
    return Table(title="What failed, and why", head=("trial", "method", "attempts", "reason", "log"), rows=rows)


def refusals(found: Findings) -> Table:
    """The designs that were never started, and why."""
    rows = [
        (record.trial, record.method, figures.shape(record.layout), record.reason)
        for record in found.of_status("refused")
    ]
    return Table(title="Refused before the start", head=("design", "method", "architecture", "reason"), rows=rows)


def stops(found: Findings) -> Table:
    """The trials a rule ended, and why."""
    rows = [
        (record.trial, figures.shape(record.layout), figures.scored(record, "score"), record.reason)
        for record in found.of_status("stopped")
    ]
    return Table(title="Stopped early", head=("trial", "architecture", f"last {found.metric}", "reason"), rows=rows)


def commands(found: Findings) -> list[tuple[str, str]]:
    """What to run next, each with what it does."""
    chosen = choices(found)
    trial = chosen[0].record.trial if chosen else "TRIAL"
    return [
        (f"distilsweep pick {found.name} --rule noise", "names the smallest model that is not worse than the best"),
        (f"distilsweep export {found.name} {trial}", "writes a folder that loads anywhere, proved by reopening it"),
        (f"distilsweep ui {found.name}", "compares the trials in MLflow, on this machine"),
        (f"distilsweep report {found.name}", "writes this page again"),
    ]
