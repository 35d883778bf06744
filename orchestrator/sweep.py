"""The driver of a sweep: Tune asks for designs, slots run them, records are kept; run again, it goes on.

Nothing is resumed from Ray's state. Records, study and checkpoints in the sweep's folder are enough to continue after
anything, including a power cut of every machine at once.
"""

import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ray
from ray import tune

from methods.parts import store
from orchestrator.designs import Design, layout_costs
from orchestrator.errors import PlanError, SweepError, TrialError
from orchestrator.folder import SweepFolder
from orchestrator.jobqueue import Limits
from orchestrator.ledger import Ledger, Watcher
from orchestrator.logfile import logged
from orchestrator.plan import Plan
from orchestrator.pulse import Pulse, write_status
from orchestrator.rayrun import SlotSettings, describe
from orchestrator.records import TEACHER, TrialRecord
from orchestrator.search import Explorer, FrontSearch, launched
from orchestrator.session import interrupted, live_cluster, locked, ray_up
from orchestrator.slots import HEAD, Slots, start_broker
from orchestrator.stop import FrontStop, Rule
from orchestrator.study import Study
from orchestrator.trial import patient, proxy, relay

log = logging.getLogger(__name__)

STOP_REQUEST = "stop"
"""File in the sweep's folder whose presence asks the driver to end in good order."""
SCRATCH = ".ray"
"""Folder in the sweep's folder for what Ray writes; of no use after the sweep."""
CLOSE_S = 30.0
"""How long gangs are waited for at the end, s."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepResult:
    """How a sweep ended."""

    status: str
    """`complete`: nothing is left to do. `stopped`: it was asked to end; run again, it goes on. `failed`: an error."""
    reason: str
    records: tuple[TrialRecord, ...]
    wall_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What no sweep file says: for tests and benchmarks."""

    body: str = "orchestrator.job:run_job"
    """Module and function that run a job in a slot."""
    limits: Limits = field(default_factory=Limits)
    patience_s: float = 30.0
    """See `rayrun.SlotSettings`."""
    with_teacher: bool = True
    """Whether what all trials share is prepared first."""


def run_sweep(
    plan: Plan, folder: SweepFolder, watchers: Sequence[Watcher] = (), *, settings: Settings | None = None
) -> SweepResult:
    """Runs a sweep to its end, or as far as it gets; run again, it goes on, and a complete one trains nothing.

    Args:
        plan: What to do.
        folder: Where everything is kept.
        watchers: Who is told what happens.
        settings: For tests.

    Raises:
        SweepError: another driver is at work, the slots' workers cannot start, or the teacher failed.
    """
    folder = replace(folder, root=folder.root.resolve())
    settings = settings or Settings()
    began_s = time.monotonic()
    with locked(folder), logged(folder.log("driver"), "driver"):
        folder.file(STOP_REQUEST).unlink(missing_ok=True)
        ledger = Ledger(plan, folder, watchers)
        search = plan.spec.search
        spaces = {method.name: method.space for method in plan.methods}
        study = Study(folder.file("study.db"), spaces, plan.spec.objectives, sampler=search.sampler, seed=search.seed)
        explorer = Explorer(plan, study, ledger)
        ledger.tell("on_start", plan)
        driver = Driver(explorer, settings)
        try:
            status, reason = "complete", explorer.peek()
            if not reason:
                write_status(ledger, "starting", "", {}, 0)
                driver.run()
                status, reason = ("stopped", driver.halted) if driver.halted else ("complete", explorer.closed)
        except BaseException as error:
            stopped = isinstance(error, KeyboardInterrupt)
            _end(ledger, "stopped" if stopped else "failed", "interrupted" if stopped else describe(error), began_s)
            raise
        return _end(ledger, status, reason, began_s)


def _end(ledger: Ledger, status: str, reason: str, began_s: float) -> SweepResult:
    """Says how it ended, to the status file and to all who follow."""
    write_status(ledger, status, reason, {}, 0)
    records = tuple(sorted(ledger.records.values(), key=lambda record: record.trial))
    result = SweepResult(status=status, reason=reason, records=records, wall_s=time.monotonic() - began_s)
    ledger.tell("on_end", result)
    return result


class Driver:
    """One run of a sweep: Ray up, slots up, the teacher, the trials, everything down again."""

    def __init__(self, explorer: Explorer, settings: Settings) -> None:
        self.halted = ""
        """Why the sweep was ended before its time."""
        self._explorer, self._ledger, self._settings = explorer, explorer.ledger, settings
        self._plan, self._folder = explorer.plan, explorer.ledger.folder
        self._state = "starting"
        self._broker: Any = None
        self._slots: Slots | None = None

    def run(self) -> None:
        """Runs until nothing is left to do or somebody asks for the end.

        Raises:
            SweepError: the workers cannot start, or the teacher failed.
        """
        scratch = self._folder.file(SCRATCH)
        shutil.rmtree(scratch, ignore_errors=True)
        store.sweep(self._folder.store)
        try:
            with interrupted(self.halt), ray_up(self._plan.cluster, self._folder.log("ray"), self._in_use):
                num_slots = self._room()
                self._broker = start_broker(self._settings.limits)
                self._slots = Slots(self._broker, self._plan.spec.resources, self._slot_settings(), scratch)
                pulse = Pulse(self.beat)
                wait_s = CLOSE_S
                try:
                    self._slots.resize(num_slots)
                    pulse.start()
                    self._work(scratch)
                except KeyboardInterrupt:  # the second one: somebody is in a hurry
                    wait_s = 0.0
                    raise
                finally:
                    self._state = "stopping"
                    pulse.close()
                    self._slots.close(wait_s)
                    ray.kill(self._broker)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _in_use(self) -> bool:
        return self._slots is not None and self._slots.busy

    def halt(self, reason: str) -> None:
        """Ends the sweep in good order: nothing new, and running trials leave with a checkpoint.

        May be called from anywhere; the next beat tells the broker.
        """
        if self.halted:
            return
        self.halted = self._explorer.closed = reason
        self._state = "stopping"
        log.info("ending: %s", reason)

    def beat(self) -> None:
        """What the driver looks after while Tune is at work."""
        assert self._slots is not None, "the pulse starts after the slots"
        if self._folder.file(STOP_REQUEST).exists():
            self.halt("asked to stop")
        if error := self._slots.error():
            self.halt(f"no worker could start: {error}")
        if self.halted:
            self._ask("halt")
        elif self._slots.resize(min(self._plan.slots, max(1, self._capacity()))):
            self._hold()
        if self._explorer.closed:
            self._ask("hold", 0)
        told = self._ask("status")
        self._ledger.building(told["building"])
        write_status(self._ledger, self._state, self.halted, told, len(self._slots))

    def _ask(self, verb: str, *arguments: Any) -> Any:  # noqa: ANN401
        return patient(self._broker)(verb, *arguments)

    def _work(self, scratch: Path) -> None:
        """The teacher, then the trials."""
        assert self._slots is not None, "the slots start before the work"
        self._state = "running"
        if self._settings.with_teacher and not self.halted:
            self._prepare()
        if not self.halted:
            self._hold()
            self._tune(scratch)
        if error := self._slots.error():
            raise SweepError(f"no worker could start: {error} (log: {self._folder.log('driver')})")

    def _prepare(self) -> None:
        """Has what all trials share made once, on one slot; a sweep that goes on has it already.

        Raises:
            TrialError: it failed, and every trial would.
        """
        known = self._ledger.records.get(TEACHER)
        if known is not None and known.status == "done":
            return
        job = self._ledger.open(TEACHER, teacher_design(self._plan))

        def deliver(message: Mapping[str, Any]) -> None:
            if "end" in message:
                self._ledger.close(TEACHER, message["end"])
            else:
                self._ledger.report(TEACHER, message)

        relay(patient(self._broker), TEACHER, job["payload"], job["at"], deliver)
        record = self._ledger.records.get(TEACHER)
        if record is not None and record.status != "done":
            raise TrialError(TEACHER, record.reason, self._folder.log(TEACHER))

    def _tune(self, scratch: Path) -> None:
        """Runs the trials, each a proxy of a slot."""
        assert self._slots is not None, "the slots start before the work"
        stop, slots = self._plan.spec.stop, self._slots
        rule = Rule(rungs=tuple(stop.rungs), grace=stop.grace) if stop.rule == "pareto" else None
        share = {"CPU": 0, HEAD: round(0.5 / self._plan.slots, 4)}
        trainable = tune.with_resources(tune.with_parameters(proxy, broker=self._broker), share)
        tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=FrontSearch(self._explorer, lambda: len(slots)),
                scheduler=FrontStop(self._ledger, rule),
                num_samples=-1,
                reuse_actors=True,
                trial_dirname_creator=_trial_name,
                trial_name_creator=_trial_name,
            ),
            run_config=tune.RunConfig(
                name="tune", storage_path=str(scratch), verbose=0, failure_config=tune.FailureConfig(max_failures=3)
            ),
        ).fit()

    def _room(self) -> int:
        """How many slots to start with.

        Raises:
            PlanError: not one trial fits; says what is asked for and what there is.
        """
        if problem := live_cluster().misfit(self._plan.spec.resources):
            raise PlanError(f"resources: {problem}")
        return min(self._plan.slots, self._capacity())

    def _capacity(self) -> int:
        return live_cluster().num_trials(self._plan.spec.resources)

    def _hold(self) -> None:
        """Lets no trial start before its neighbours' proxies are up."""
        assert self._slots is not None, "the slots start before the work"
        left = self._plan.spec.search.trials - sum(map(launched, self._ledger.records.values()))
        self._ask("hold", max(0, min(len(self._slots), left)))

    def _slot_settings(self) -> SlotSettings:
        resources, settings = self._plan.spec.resources, self._settings
        warm = SlotSettings(
            root=str(self._folder.root),
            name=self._folder.name,
            body=settings.body,
            num_threads=max(1, int(resources.cpus)),
            patience_s=settings.patience_s,
            quota_bytes=self._plan.quota_bytes,
            wishes=self._plan.wishes,
        )
        return replace(warm, jobs_per_gang=1) if resources.gang == "fresh" else warm


def _trial_name(trial: Any) -> str:  # noqa: ANN401  Tune's Trial
    return str(trial.config["trial"])


def teacher_design(plan: Plan) -> Design:
    """The teacher as a design, so that it is shown and recorded like a trial."""
    layout = plan.teacher_layout
    section = plan.spec.teacher
    return Design(
        method="finetune",
        sample={},
        config=dict(section.finetune or {}),
        layout=layout,
        costs=layout_costs(layout, plan.task.max_length),
        key=plan.hash(),
    )
