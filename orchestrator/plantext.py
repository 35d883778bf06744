"""A plan in words, for `distilsweep plan`."""

from collections.abc import Iterator

from orchestrator.designs import KNOWLEDGE, Refusal, complete
from orchestrator.figures import cost
from orchestrator.plan import Plan, stored_knowledge
from orchestrator.preflight import teacher_source

PREDICTED = "of knowledge predicted"


def describe(plan: Plan) -> list[str]:
    """Tells a plan in lines for people."""
    spec, task = plan.spec, plan.task
    source = teacher_source(spec.teacher) or "trained from scratch"
    lines = [
        f"sweep      {spec.name} ({plan.hash()[:12]})",
        f"task       {task.name}: {task.num_outputs} outputs, {task.metric}, {task.max_length} tokens",
        f"teacher    {source}: {plan.teacher_layout.describe()}",
    ]
    for method in plan.methods:
        found = plan.feasible[method.name]
        lines.append(f"method     {method.name} over {', '.join(method.space.names) or 'nothing'}: {found.describe()}")
        if found.smallest is not None:
            lines.append(f"           smallest tried: {found.smallest.layout.describe()}")
    for index, (name, start) in enumerate(spec.starts()):
        space = next(method.space for method in plan.methods if method.name == name)
        resolved = plan.resolve(name, complete(space, start))
        if isinstance(resolved, Refusal):
            lines.append(f"           start point {index} will be refused: {resolved.reason}")
        elif (size := resolved.costs[KNOWLEDGE]) > plan.quota_bytes:
            lines.append(f"           start point {index} will be distilled live: {cost(KNOWLEDGE, size)} {PREDICTED}")
    limits = ", ".join(f"{name} <= {limit:,.0f}" for name, limit in spec.budget.items())
    goals = ", ".join(f"{name} {direction}" for name, direction in spec.objectives.items())
    return [
        *lines,
        f"budget     {limits or 'none'}",
        f"search     {spec.search.trials} trials, {spec.search.sampler}, seed {spec.search.seed}; {goals}",
        f"cluster    {plan.cluster.name}: {plan.cluster.describe()}",
        f"slots      {plan.slots} trials at a time, {spec.resources.workers} workers each, {spec.resources.gang} gangs",
        f"disk       at most {cost(KNOWLEDGE, plan.quota_bytes)} of stored knowledge, all trials together",
        *_knowledge_lines(plan),
    ]


def _knowledge_lines(plan: Plan) -> Iterator[str]:
    """Tells what methods would store of the teacher's outputs, and what of it does not fit."""
    for name, found in plan.feasible.items():
        if not any(found.knowledge):
            continue
        stored = stored_knowledge(plan, found)
        span = f"{cost(KNOWLEDGE, stored['smallest_bytes'])} to {cost(KNOWLEDGE, stored['largest_bytes'])}"
        yield f"knowledge  {name}: {span} {PREDICTED} for {plan.lengths.describe()}"
        if stored["live"]:
            text = f"{stored['live']} of the {stored['designs']} designs tried do not fit and will be distilled live"
            yield f"           {text}: the teacher runs beside them"
    if total := sum(map(plan.predicted_bytes, plan.wishes)):
        stores = "1 store" if len(plan.wishes) == 1 else f"{len(plan.wishes)} stores"
        yield f"           shared by all trials: {cost(KNOWLEDGE, total)} in {stores}"
    if total > plan.quota_bytes:
        yield "           which is more than the disk quota: what does not fit is stored in part or distilled live"
