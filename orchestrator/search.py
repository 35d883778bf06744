"""What is tried next: the sampler's wishes, less what is over the budget, impossible, or was tried before.

Refusing is arithmetic and costs no worker; a design that was tried before is answered from its record. Only designs
that are launched count against the number of trials. When the sampler has no new feasible design to offer, the space
itself is searched for one, so that a small space is used up and then said to be.
"""

import itertools
import json
import math
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ray.tune.search import Searcher

from methods.parts.rng import derive
from orchestrator.front import value
from orchestrator.jobqueue import HALTED, MESSAGE
from orchestrator.ledger import Ledger
from orchestrator.plan import Design, Plan, Refusal
from orchestrator.records import TEACHER, TrialRecord
from orchestrator.space import Sample, draw, grid
from orchestrator.study import Proposal, Study

GRID = "grid"
MAX_ASKS = 16
"""Questions to the sampler for one new design, before the space itself is searched."""
MAX_DRAWS = 2000
"""Designs of a space too large to be listed that are looked at for a new one."""
MAX_LISTED = 5000
"""Spaces up to this size are listed."""
NUM_FAILURES = 5
"""A sweep whose first trials all fail is ended after this many."""
EXHAUSTED = "every feasible design of the space has been tried"
IMPOSSIBLE = 1.0
"""Violation of a design that is refused for another reason than its costs."""


@dataclass(frozen=True, slots=True)
class Launch:
    """A design that is to run."""

    trial: str
    design: Design


class Explorer:
    """Chooses designs for a plan; knows no Ray."""

    def __init__(self, plan: Plan, study: Study, ledger: Ledger) -> None:
        """Takes up what records and study know, and what a dead driver left open."""
        self.plan, self.study, self.ledger = plan, study, ledger
        self.closed = ""
        """Why no further design is to be launched."""
        self._numbers: dict[str, int] = {}
        self._twins: dict[str, list[int]] = {}
        self._ended: list[TrialRecord] = []
        self._ready: list[Launch] = []
        self._interrupted: list[Proposal] = []
        self._recover()
        records = ledger.records.values()
        self._tried = {record.key: record.trial for record in records if launched(record)}
        self._refused = {_sample_key(record) for record in records if record.status == "refused"}
        names = {*ledger.records, *study.names}
        self._next = {letter: 1 + max(map(int, _numbers(names, letter)), default=-1) for letter in "tr"}
        search = plan.spec.search
        self._dice = random.Random(derive(search.seed, "draws", len(ledger.records)))
        self._small = [item for item in plan.methods if item.space.size() <= MAX_LISTED or search.sampler == GRID]
        self._listed = self._list()

    def peek(self) -> str:
        """Makes sure that there is something to launch; else says why there is nothing."""
        launch = self.next()
        if isinstance(launch, str):
            return launch
        self._ready.append(launch)
        return ""

    def next(self) -> Launch | str:
        """The next design to run, or why there is none."""
        if self._ready:
            return self._ready.pop()
        self.closed = self.closed or self._enough()
        if not self.closed:
            for proposal in self._proposals():
                if launch := self._considered(proposal):
                    return launch
            looked = f"no new feasible design among {MAX_ASKS} proposals and {MAX_DRAWS} draws"
            self.closed = EXHAUSTED if len(self._small) == len(self.plan.methods) else looked
        return self.closed

    def finish(self, trial: str, record: TrialRecord | None) -> None:
        """Tells the study what came out; an interrupted trial stays open there and is proposed again next time."""
        numbers = [self._numbers.pop(trial), *self._twins.pop(trial, [])]
        if record is None:
            self._tried = {key: name for key, name in self._tried.items() if name != trial}
            return
        self._ended.append(record)
        for number in numbers:
            self.study.tell(number, self._values(record))

    def _enough(self) -> str:
        planned = self.plan.spec.search.trials
        if sum(map(launched, self.ledger.records.values())) + len(self._numbers) >= planned:
            return f"all {planned} trials have been run"
        failed = [record for record in self._ended if record.status == "failed"]
        if len(failed) >= NUM_FAILURES and len(failed) == len(self._ended):
            return f"the first {len(failed)} trials all failed; the last: {failed[-1].reason}"
        return ""

    def _proposals(self) -> Iterator[Proposal]:
        """What to look at for one launch: what was interrupted, the sampler's wishes, then the rest of the space."""
        while self._interrupted:
            yield self._interrupted.pop(0)
        if self.plan.spec.search.sampler == GRID:
            while self.study.has_waiting:
                yield self.study.ask()
        else:
            for _ in range(MAX_ASKS):
                yield self.study.ask()
        num_refused = 0
        for method, sample in itertools.chain(_popped(self._listed), self._drawn()):
            resolved = self.plan.resolve(method, sample)
            if isinstance(resolved, Design) and resolved.key not in self._tried:
                self.study.enqueue(method, sample)
                yield self.study.ask()
            elif isinstance(resolved, Refusal) and num_refused < MAX_ASKS:
                num_refused += 1
                self._record_refusal(resolved)

    def _considered(self, proposal: Proposal) -> Launch | None:
        """Launches a proposal, or answers it at once."""
        resolved = self.plan.resolve(proposal.method, proposal.sample)
        if isinstance(resolved, Refusal):
            self._record_refusal(resolved, proposal.number)
            self.study.refuse(proposal.number, violation(resolved, self.plan))
            return None
        twin = self._tried.get(resolved.key, "")
        if twin in self._numbers:
            self._twins.setdefault(twin, []).append(proposal.number)
            return None
        if twin:
            self.study.tell(proposal.number, self._values(self.ledger.records[twin]))
            return None
        trial = proposal.trial or self._new_name("t")
        self.study.name(proposal.number, trial)
        self._numbers[trial] = proposal.number
        self._tried[resolved.key] = trial
        return Launch(trial, resolved)

    def _record_refusal(self, refusal: Refusal, number: int | None = None) -> None:
        """Writes a record, once for each refused design."""
        key = _sample_key(refusal)
        if key in self._refused:
            return
        self._refused.add(key)
        name = self._new_name("r")
        if number is not None:
            self.study.name(number, name)
        self.ledger.refuse(name, refusal)

    def _new_name(self, letter: str) -> str:
        self._next[letter] += 1
        return f"{letter}{self._next[letter] - 1:04d}"

    def _values(self, record: TrialRecord) -> list[float] | None:
        """The objectives' values; None of a failed trial."""
        values = [value(record, name) for name in self.plan.spec.objectives]
        good = record.status in ("done", "stopped") and all(map(math.isfinite, values))
        return values if good else None

    def _list(self) -> list[tuple[str, Sample]]:
        """The designs of all spaces that are small enough, in the order in which they are looked at, last first."""
        search = self.plan.spec.search
        listed: list[tuple[str, Sample]] = []
        for method in self._small:
            listed += [(method.name, sample) for sample in grid(method.space)]
        if search.sampler != GRID:
            random.Random(search.seed).shuffle(listed)
        return listed[::-1]

    def _drawn(self) -> Iterator[tuple[str, Sample]]:
        """Designs of the spaces that are too large to be listed."""
        for method in self.plan.methods:
            if method not in self._small:
                yield from ((method.name, draw(method.space, self._dice)) for _ in range(MAX_DRAWS))

    def _recover(self) -> None:
        """Brings the study up to the records; trials that a dead driver left open come first."""
        for proposal in self.study.unfinished():
            record = self.ledger.records.get(proposal.trial)
            if record is None:
                self._interrupted.append(proposal)
            else:
                self.study.tell(proposal.number, self._values(record))
        known = self.study.names
        spaces = {method.name: method.space for method in self.plan.methods}
        for record in self.ledger.records.values():
            space = spaces.get(record.method)
            if record.trial in known or record.trial == TEACHER or space is None or not space.contains(record.sample):
                continue
            outcome = violation(record, self.plan) if record.status == "refused" else self._values(record)
            if outcome is not None:
                self.study.add(record.trial, record.method, record.sample, outcome)
        if self.study.is_new:
            for method_name, sample in self.plan.spec.starts():
                self.study.enqueue(method_name, sample)


def launched(record: TrialRecord) -> bool:
    """Whether a record counts against the number of trials."""
    return record.status != "refused" and record.trial != TEACHER


def _popped(samples: list[tuple[str, Sample]]) -> Iterator[tuple[str, Sample]]:
    """Takes a list apart from its end."""
    while samples:
        yield samples.pop()


def _sample_key(item: TrialRecord | Refusal) -> str:
    return json.dumps([item.method, dict(item.sample)], sort_keys=True)


def _numbers(names: Iterable[str], letter: str) -> Iterator[str]:
    """The digits of the names that are a letter and digits."""
    return (name[1:] for name in names if name[0] == letter and name[1:].isdigit())


def violation(refused: Refusal | TrialRecord, plan: Plan) -> float:
    """How far a refused design is over the budget, as a fraction of it; 1 for one that is impossible."""
    over = [refused.costs[name] / limit - 1 for name, limit in plan.spec.budget.items() if name in refused.costs]
    return max((part for part in over if part > 0), default=IMPOSSIBLE)


class FrontSearch(Searcher):  # type: ignore[misc]  # Ray is untyped
    """The explorer as Tune wants to see it: asked when a slot is free, told when a proxy has returned."""

    def __init__(self, explorer: Explorer, num_slots: Callable[[], int]) -> None:
        """Suggests nothing while as many trials are under way as there are slots."""
        super().__init__()
        self._explorer, self._num_slots = explorer, num_slots
        self._trials: dict[str, str] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Empty: Tune stores its parts, and nothing of this one is worth it."""
        return {}

    def set_search_properties(self, metric: str | None, mode: str | None, config: Any) -> bool:  # noqa: ANN401
        """Takes nothing from Tune: space and objectives are the plan's."""
        return True

    def suggest(self, trial_id: str) -> Any:  # noqa: ANN401
        """The configuration of a new proxy; None for "later"."""
        if not self._explorer.closed and len(self._trials) >= self._num_slots():
            return None
        launch = self._explorer.next()
        if isinstance(launch, str):
            return Searcher.FINISHED
        self._trials[trial_id] = launch.trial
        job = self._explorer.ledger.open(launch.trial, launch.design)
        return {"trial": launch.trial, "job": json.dumps(job)}

    def on_trial_result(self, trial_id: str, result: Any) -> None:  # noqa: ANN401
        """Nothing: the stop rule has entered it."""

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:  # noqa: ANN401
        """Writes the record, then tells the study."""
        trial = self._trials.pop(trial_id)
        message = json.loads(result[MESSAGE]) if result and MESSAGE in result else {}
        # Without an ending, and with nothing broken, Tune itself was interrupted: the trial goes on another time.
        broken = {"status": "failed", "error": "the process of its proxy died again and again"}
        end = message.get("end") or (broken if error else {"status": HALTED})
        self._explorer.finish(trial, self._explorer.ledger.close(trial, end))

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing: records and study are all that a resumed sweep needs."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing, as above."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, as above."""
