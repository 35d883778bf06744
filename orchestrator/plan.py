"""A sweep resolved against its data, teacher and cluster: what will run, what each design costs, and what is refused.

Everything here is arithmetic on layouts. `Plan.resolve` turns a sample into a complete Design or a Refusal with
numbers, so a design over the budget never reaches a worker, and `make_plan` refuses what could not run at all.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from methods.parts.knowledge import knowledge_bytes
from methods.parts.layout import Layout
from methods.parts.selection import Selection, merged_all
from methods.parts.tasks import Task
from orchestrator.cluster import Cluster, this_machine
from orchestrator.configs import Method, build, combine, config_json, load_method
from orchestrator.designs import KNOWLEDGE, Design, Feasible, Refusal, estimate, layout_costs
from orchestrator.folder import SweepFolder, default_root
from orchestrator.hubcache import tokenizer_at_hand
from orchestrator.lengths import RowLengths, predict_lengths
from orchestrator.methodspec import MethodSpec
from orchestrator.preflight import planned_task, raise_all, teacher_layout, teacher_section, teacher_source
from orchestrator.quota import resolve_quota
from orchestrator.space import Sample
from orchestrator.spec import SweepSpec
from orchestrator.wording import Key

__all__ = ["Design", "Plan", "Refusal", "make_plan", "stored_knowledge"]

ARITHMETIC = ("params", "bytes", "flops", KNOWLEDGE)
"""Costs known before anything is trained."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a sweep will do."""

    spec: SweepSpec
    cluster: Cluster
    task: Task
    teacher_layout: Layout
    """Of the teacher once it is tuned on the task."""
    slots: int
    """Trials at a time."""
    quota_bytes: int
    """What the store may hold of the teacher's knowledge; designs that need more are distilled live."""
    package: str = "methods"
    """Where methods are looked up."""

    @property
    def methods(self) -> tuple[MethodSpec, ...]:
        """The methods with their fixed values and spaces."""
        return self.spec.methods

    @cached_property
    def _loaded(self) -> dict[str, tuple[MethodSpec, Method]]:
        """The methods' specs and code by name."""
        return {spec.name: (spec, load_method(spec.name, self.package)) for spec in self.methods}

    @cached_property
    def teacher(self) -> dict[str, Any]:
        """The teacher as in the sweep file, with every number of its training."""
        return teacher_section(self.spec.teacher, self.package)

    @cached_property
    def lengths(self) -> RowLengths:
        """The rows that students are distilled on, as far as they can be told beforehand."""
        return predict_lengths(self.task, tokenizer_at_hand(teacher_source(self.spec.teacher)))

    @cached_property
    def wishes(self) -> tuple[Selection, ...]:
        """What trials may come to store of the teacher's outputs, in as few stores as can hold it."""
        return merged_all(selection for found in self.feasible.values() for selection in found.selections)

    def _knowledge(self, loaded: Method, config: object) -> Selection | None:
        """What a trial stores of the teacher's outputs, whatever the quota says."""
        selection = loaded.knowledge(config, self.teacher_layout) if loaded.knowledge else None
        return selection if selection is not None and selection.storable else None

    def predicted_bytes(self, selection: Selection | None) -> int:
        """Predicts the size of a store."""
        if selection is None:
            return 0
        return self.lengths.scaled(knowledge_bytes(selection, self.teacher_layout, self.lengths.sample))

    def resolve(self, method: str, sample: Sample) -> Design | Refusal:
        """Turns a sample into a complete design, or says with numbers why it is refused."""
        spec, loaded = self._loaded[method]
        try:
            sample = spec.space.canonical(sample)
            config = build(loaded, combine(loaded, spec.fixed, sample))
            layout = loaded.layout(config, self.teacher_layout)
            knowledge = self._knowledge(loaded, config)
            costs = layout_costs(layout, self.task.max_length, self.predicted_bytes(knowledge))
        except ValueError as error:
            return Refusal(method=method, sample=sample, reason=" ".join(str(error).split()))
        if over := _over(costs, self.spec.budget):
            reason = f"{over} ({layout.describe()})"
            return Refusal(method=method, sample=sample, reason=reason, layout=layout, costs=costs)
        values = config_json(config)
        key = _digest({"method": method, "config": values, "task": self.task.fingerprint, "teacher": self.teacher})
        return Design(
            method=method, sample=sample, config=values, layout=layout, costs=costs, key=key, knowledge=knowledge
        )

    @cached_property
    def feasible(self) -> dict[str, Feasible]:
        """How much of each method's space is feasible: exact for small spaces, else estimated from draws."""
        found = {}
        for spec in self.methods:
            starts = [sample for name, sample in self.spec.starts() if name == spec.name]
            found[spec.name] = estimate(spec.space, starts, partial(self.resolve, spec.name))
        return found

    def hash(self) -> str:
        """Returns the SHA-256 of what decides the results: data, teacher, the sweep file but resources and tracking."""
        spec = {key: value for key, value in self.spec.to_json().items() if key not in ("resources", "tracking")}
        return _digest({"spec": spec, "task": self.task.fingerprint, "teacher": self.teacher_layout.to_json()})

    def to_json(self) -> dict[str, Any]:
        """Returns what the sweep folder keeps of the plan."""
        return {
            "hash": self.hash(),
            "spec": self.spec.to_json(),
            "methods": [method.name for method in self.methods],
            "metric": self.task.metric,
            "labels": list(self.task.labels),
            "length": self.task.max_length,
            "task_fingerprint": self.task.fingerprint,
            "teacher_layout": self.teacher_layout.to_json(),
            "objectives": dict(self.spec.objectives),
            "budget": dict(self.spec.budget),
            "trials": self.spec.search.trials,
            "seed": self.spec.search.seed,
            "cluster": self.cluster.to_json(),
            "slots": self.slots,
            "workers": self.spec.resources.workers,
            "quota_bytes": self.quota_bytes,
            "knowledge": {
                name: stored_knowledge(self, found) for name, found in self.feasible.items() if any(found.knowledge)
            },
            "feasible": {name: found.describe() for name, found in self.feasible.items()},
        }


def _digest(value: Mapping[str, Any]) -> str:
    """Hashes JSON values in their canonical form."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _over(costs: Mapping[str, float], budget: Mapping[str, float]) -> str:
    """Says which limits are exceeded and by how much, or nothing."""
    return ", ".join(
        f"{costs[name]:,.0f} {name} exceed the budget of {limit:,.0f} {_excess(costs[name] / limit)}"
        for name, limit in budget.items()
        if name in costs and costs[name] > limit
    )


def _excess(ratio: float) -> str:
    """Says how much more than 1 a ratio is."""
    return f"by {100 * (ratio - 1):.1f} %" if ratio < 10 else f"{ratio:,.0f} times"


def make_plan(
    spec: SweepSpec, cluster: Cluster | None = None, *, package: str = "methods", root: Path | None = None
) -> Plan:
    """Resolves a sweep file.

    Args:
        spec: the file.
        cluster: where it runs; None is this machine.
        package: where methods are looked up.
        root: the folder of all sweeps, whose disk counts; None is the default one.

    Raises:
        PlanError: data, teacher, cluster or budget do not go together; every problem found, one a line.
    """
    cluster = cluster or this_machine()
    problems = [*_unmeasured(spec), *_misfits(spec, cluster)]
    layout = None
    task, faults = planned_task(spec.task_arguments())
    problems += [_at(spec, section, fault) for section, fault in faults]
    try:
        layout = teacher_layout(spec.teacher, task, package) if task else None
    except (ValueError, OSError) as error:
        problems.append(_at(spec, "teacher", str(error)))
    raise_all(problems)
    assert task is not None
    assert layout is not None
    slots = spec.resources.slots if spec.resources.slots != "auto" else cluster.num_trials(spec.resources)
    slots = min(int(slots), spec.search.trials)
    plan = Plan(
        spec=spec,
        cluster=cluster,
        task=task,
        teacher_layout=layout,
        slots=slots,
        quota_bytes=resolve_quota(spec.resources.disk, SweepFolder(root or default_root(), spec.name)),
        package=package,
    )
    raise_all(_infeasible(plan))
    return plan


def _at(spec: SweepSpec, section: str, text: str) -> str:
    """Says a problem on the line of its section."""
    return spec.source.say((section,), " ".join(text.split()))


def _unmeasured(spec: SweepSpec) -> list[str]:
    """Refuses costs that nothing measures, because a limit that is not kept is worse than none."""
    text = "is not measured before or after training; allowed: "
    goals = [("objectives", name) for name in spec.objectives if name not in ("score", *ARITHMETIC)]
    limits = [("budget", name) for name in spec.budget if name not in ARITHMETIC]
    allowed = {"objectives": ("score", *ARITHMETIC), "budget": ARITHMETIC}
    return [spec.source.say(key, text + ", ".join(allowed[key[0]])) for key in goals + limits]


def _misfits(spec: SweepSpec, cluster: Cluster) -> list[str]:
    """Refuses trials that the cluster cannot hold."""
    wanted, room = spec.resources.slots, cluster.num_trials(spec.resources)
    if reason := cluster.misfit(spec.resources):
        return [spec.source.say(("resources", cluster.scarce(spec.resources)), reason)]
    if wanted != "auto" and wanted > room:
        text = f"found {wanted}; cluster '{cluster.name}' has {cluster.describe()}, room for {room} trials at a time"
        return [spec.source.say(("resources", "slots"), text)]
    return []


def _infeasible(plan: Plan) -> list[str]:
    """Refuses methods of which no design can run."""
    key: Key = ("method",)
    if plan.spec.budget:
        key = ("budget", *plan.spec.budget) if len(plan.spec.budget) == 1 else ("budget",)
    lines = []
    for name, found in plan.feasible.items():
        if not found.fitting:
            tried = f"{'all' if found.exact else 'the'} {found.tried} tried"
            text = f"no design of {name} is feasible, {tried} are refused: {found.refusal}"
            lines.append(plan.spec.source.say(key, text))
    return lines


def stored_knowledge(plan: Plan, found: Feasible) -> dict[str, Any]:
    """What the designs of a method that were tried would store."""
    sizes = found.knowledge
    live = sum(size > plan.quota_bytes for size in sizes)
    return {"smallest_bytes": min(sizes), "largest_bytes": max(sizes), "designs": len(sizes), "live": live}
