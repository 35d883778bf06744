"""What the driver knows of a sweep, and writes down: every report in a history, every end in one record.

The records are the truth and are written before anybody else hears of an end: a driver that dies later has lost
nothing. Whoever wants to follow a sweep is a `Watcher`; what goes wrong in one is logged and harms nobody else.
"""

import json
import logging
import math
import shutil
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from methods.parts.layout import Layout
from orchestrator import records as trial_records
from orchestrator.designs import KNOWLEDGE, layout_costs
from orchestrator.folder import SweepFolder
from orchestrator.jobqueue import HALTED, START, Position
from orchestrator.jsonl import mend
from orchestrator.lives import Life, Lives
from orchestrator.plan import Design, Plan, Refusal
from orchestrator.records import TEACHER, TrialRecord
from orchestrator.status import last_status

log = logging.getLogger(__name__)


class Watcher(Protocol):
    """Someone who follows a sweep."""

    def on_start(self, plan: Plan) -> None:
        """The sweep begins, or goes on."""

    def on_trial(self, trial: str, design: Design) -> None:
        """A trial begins, or goes on."""

    def on_report(self, trial: str, step: int, metrics: Mapping[str, float]) -> None:
        """Numbers of a running trial; those of stages before the last are named `<stage>/<metric>`."""

    def on_building(self, trial: str, name: str, step: int, metrics: Mapping[str, float]) -> None:
        """A trial builds something for all: numbers to be shown, that belong to no trial."""

    def on_record(self, record: TrialRecord) -> None:
        """A trial has ended, or a design was refused."""

    def on_end(self, result: object) -> None:
        """The sweep has ended; `result` is a `sweep.SweepResult`."""


@dataclass(slots=True)
class Curve:
    """The comparable numbers of a trial: one (score, standard error) for each report of its final stage."""

    costs: Mapping[str, float]
    scores: list[tuple[float, float]] = field(default_factory=list)
    last: Mapping[str, float] = field(default_factory=dict)
    """All numbers of the last such report."""
    finished: bool = False

    def add(self, body: Mapping[str, Any]) -> None:
        """Takes a report in, if it is comparable."""
        metrics = body["metrics"]
        if body["final"] and "score" in metrics:
            self.scores.append((metrics["score"], metrics.get("score_se", 0.0)))
            self.last = metrics


@dataclass(slots=True)
class Live:
    """A trial that is under way."""

    design: Design
    curve: Curve
    at: Position
    started_s: float
    stage: str = ""
    stopped: str = ""
    """Why the stop rule ended it."""
    building: Mapping[str, Any] | None = None
    """`name`, `step` and `metrics` of what it builds for all trials at present."""


class Ledger:
    """The memory of the driver; all of it can be read again from the sweep's folder."""

    def __init__(self, plan: Plan, folder: SweepFolder, watchers: Sequence[Watcher]) -> None:
        self.plan, self.folder = plan, folder
        self.records = {record.trial: record for record in trial_records.read(folder)}
        self.live: dict[str, Live] = {}
        self.curves: dict[str, Curve] = {}
        self.lock = threading.RLock()
        self._watchers = tuple(watchers)
        self._lives = Lives(folder.file("lives.jsonl"))
        self._lives.take_up(last_status(folder), last_reports(folder, self.records))
        for record in self.records.values():
            self._drop_stages(record.trial)  # a driver may have died between the record and this
            if record.status in ("done", "stopped") and record.trial != TEACHER:
                self.curves[record.trial], _ = recall(folder.history(record.trial), self._compared(record.costs))
                self.curves[record.trial].finished = True

    def open(self, trial: str, design: Design) -> dict[str, Any]:
        """A trial begins, or goes on where its history ends; returns what its proxy is given."""
        curve, at = recall(self.folder.history(trial), self._compared(design.costs))
        with self.lock:
            if trial != TEACHER:
                self.curves[trial] = curve
            self.live[trial] = Live(design, curve, at, time.time())
        self.tell("on_trial", trial, design)
        return {"trial": trial, "at": at, "payload": self._payload(trial, design)}

    def report(self, trial: str, body: Mapping[str, Any]) -> None:
        """Writes a report into the trial's history; one that is there already is left out."""
        live = self.live[trial]
        at = (int(body["at"][0]), int(body["at"][1]))
        if at <= live.at:
            return
        numbers = {name: value for name, value in body["metrics"].items() if math.isfinite(value)}
        entry = {**body, "at": at, "metrics": numbers, "time_s": time.time(), "began_s": live.started_s}
        path = self.folder.history(trial)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(entry, sort_keys=True) + "\n")
        with self.lock:
            live.at, live.stage = at, body["stage"]
            live.curve.add(entry)
        prefix = "" if body["final"] else f"{body['stage']}/"
        self.tell("on_report", trial, body["step"], {prefix + name: value for name, value in numbers.items()})

    def building(self, notes: Mapping[str, Mapping[str, Any]]) -> None:
        """Tells the watchers what trials build for all at present; it enters no history, record or decision."""
        with self.lock:
            live = dict(self.live)
        for trial, item in live.items():
            note = notes.get(trial)
            if note is not None and note != item.building:
                self.tell("on_building", trial, note["name"], note["step"], note["metrics"])
            item.building = note

    def close(self, trial: str, end: Mapping[str, Any]) -> TrialRecord | None:
        """A trial has ended: writes its record and drops its checkpoints. None if it is only to go on later.

        Args:
            trial: Its name.
            end: `status`, `attempts`, `seconds`, and `result` or `error`; as the broker tells it.
        """
        live = self.live[trial]
        record = None
        seconds = float(end.get("seconds", time.time() - live.started_s))
        life = Life(began_s=live.started_s, seconds=seconds, attempts=int(end.get("attempts", 1)))
        if live.stopped or end["status"] != HALTED:
            record = self._record(trial, live, end, self._lives.whole(trial, life))
            trial_records.write(self.folder, record)
            self._drop_stages(trial)
        else:
            self._lives.add(trial, life)
        with self.lock:
            del self.live[trial]
            if record is not None:
                self.records[trial] = record
                live.curve.finished = True
                if record.status == "failed":  # what it had reached is no reason to stop another
                    self.curves.pop(trial, None)
        if record is not None:
            self.tell("on_record", record)
        return record

    def refuse(self, trial: str, refusal: Refusal) -> None:
        """Writes the record of a design that will not run."""
        record = TrialRecord(
            trial=trial,
            method=refusal.method,
            sample=dict(refusal.sample),
            config={},
            key="",
            seed=self.plan.spec.search.seed,
            status="refused",
            reason=refusal.reason,
            layout=refusal.layout.to_json() if refusal.layout else None,
            costs=dict(refusal.costs),
            attempts=0,
            started_s=time.time(),
        )
        trial_records.write(self.folder, record)
        with self.lock:
            self.records[trial] = record
        self.tell("on_record", record)

    def tell(self, event: str, *values: object) -> None:
        """Tells every watcher; what one of them raises is logged."""
        for watcher in self._watchers:
            try:
                getattr(watcher, event)(*values)
            except Exception:
                log.exception("%s of %s failed", event, type(watcher).__name__)

    def _payload(self, trial: str, design: Design) -> dict[str, Any]:
        """The job of a trial, as `orchestrator.job.run_job` takes it."""
        spec = self.plan.spec
        return {
            "kind": "teacher" if trial == TEACHER else "trial",
            "task": spec.task_arguments(),
            "teacher": spec.teacher.model_dump(mode="json"),
            "folder": str(self.folder.trial(trial)),
            "method": design.method,
            "config": dict(design.config),
            "seed": spec.search.seed,
        }

    def _drop_stages(self, trial: str) -> None:
        """Removes the checkpoints of a trial that will not go on."""
        shutil.rmtree(self.folder.trial(trial) / "stages", ignore_errors=True)

    def _compared(self, costs: Mapping[str, float]) -> dict[str, float]:
        """The costs in which trials are compared; stored knowledge is none of the model's, so it must be asked for."""
        aims = self.plan.spec.objectives
        return {name: cost for name, cost in costs.items() if name != KNOWLEDGE or name in aims}

    def _record(self, trial: str, live: Live, end: Mapping[str, Any], life: Life) -> TrialRecord:
        result: Mapping[str, Any] = end.get("result") or {}
        metrics = result.get("metrics", {}) if end["status"] == "done" else live.curve.last
        layout = result.get("layout") or live.design.layout.to_json()
        status, reason = self._outcome(live, end, metrics)
        return TrialRecord(
            trial=trial,
            method=live.design.method,
            sample=dict(live.design.sample),
            config=dict(live.design.config),
            key=live.design.key,
            seed=self.plan.spec.search.seed,
            status=status,
            reason=reason,
            layout=layout,
            costs=self._costs(layout, live.design),
            metrics={name: float(value) for name, value in metrics.items() if math.isfinite(value)},
            attempts=life.attempts,
            started_s=life.began_s,
            wall_s=life.seconds,
            model=f"trials/{trial}/{result['model']}" if result.get("model") else None,
            log=f"logs/{trial}.log" if self.folder.log(trial).exists() else None,
            notes=result.get("notes", {}),
        )

    def _outcome(self, live: Live, end: Mapping[str, Any], metrics: Mapping[str, float]) -> tuple[str, str]:
        """Status and reason; a trial without a score is a failed one."""
        if live.stopped:
            return "stopped", live.stopped
        if end["status"] == "stopped":
            return "stopped", "the method ended itself"
        if end["status"] == "failed":
            return "failed", str(end.get("error", ""))
        score = metrics.get("score", math.nan)
        return ("done", "") if math.isfinite(score) else ("failed", f"its score is {score}")

    def _costs(self, layout: Mapping[str, Any], design: Design) -> dict[str, float]:
        """What the model that came out really costs, whatever was planned; stored knowledge stays a prediction."""
        shape, knowledge = Layout.from_json(dict(layout)), design.costs.get(KNOWLEDGE, 0)
        return layout_costs(shape, self.plan.task.max_length, knowledge)


def recall(path: Path, costs: Mapping[str, float]) -> tuple[Curve, Position]:
    """The comparable numbers in a trial's history, and the position of its last report."""
    curve, at = Curve(costs), START
    for body in read_history(path):
        curve.add(body)
        at = (int(body["at"][0]), int(body["at"][1]))
    return curve, at


def last_reports(folder: SweepFolder, records: Mapping[str, TrialRecord]) -> dict[str, dict[str, Any]]:
    """The last report of each trial that has a history and no record."""
    return {
        path.stem: entry
        for path in folder.history("t").parent.glob("*.jsonl")
        if path.stem not in records
        for entry in list(read_history(path))[-1:]
    }


def read_history(path: Path) -> Iterator[dict[str, Any]]:
    """The reports of a trial, but a line that a dying driver tore."""
    yield from map(json.loads, mend(path).splitlines())
