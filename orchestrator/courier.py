"""Tells a tracking server what happens in a sweep, without the sweep ever waiting for it or failing because of it.

`Tracker` appends each event to a spool file and returns; a thread of its own delivers the spool. While the server is
away the spool grows and one warning is logged; delivery goes on when the server is back, when the sweep is continued,
or by `deliver`.
"""

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from methods.parts.layout import Layout
from orchestrator import figures, spool
from orchestrator.folder import SweepFolder
from orchestrator.ledger import read_history
from orchestrator.plan import Design, Plan
from orchestrator.records import TrialRecord, read
from orchestrator.spool import Delivered, Destination, Event, Spool, redacted
from orchestrator.tracking import Runs

log = logging.getLogger(__name__)

EVENTS, NOTED, LOCK = "events.jsonl", "delivered.json", ".delivering"
"""The spool, how much of it has arrived, and who is at it: files of a sweep's folder."""
CHUNK = 2000
"""Events delivered between two notes of how far delivery came."""
PATIENCE_S = 30.0
"""Longest pause between two attempts to reach a server."""


class Delivery:
    """Brings the spool of a sweep to one destination, from where it stopped."""

    def __init__(self, folder: SweepFolder, destination: Destination) -> None:
        """Connects, and learns what has arrived before.

        Raises:
            MlflowException: no answer.
        """
        self._path, self._noted = folder.file(EVENTS), folder.file(NOTED)
        self._digest = destination.digest()
        self._runs = Runs(destination, spool.sweep_id(self._path), folder)
        before = spool.load(self._noted)
        told = before.offset if before.destination == self._digest else 0
        whole = self._runs.recall(spool.read(self._path, 0, end=told)[0])
        self._offset = told if whole else 0  # runs that someone deleted are told again
        self._certain_from = self._path.stat().st_size

    def step(self) -> int:
        """Delivers the next events; returns how many there were.

        Raises:
            MlflowException: no answer; make a new Delivery, which finds out what arrived.
        """
        events, end = spool.read(self._path, self._offset, CHUNK)
        if events:
            self._runs.deliver(events, uncertain=self._offset < self._certain_from)
            self._offset = end
            spool.save(self._noted, Delivered(destination=self._digest, offset=end))
        return len(events)


def deliver(folder: SweepFolder, destination: Destination) -> int:
    """Delivers all that is left in a sweep's spool now; returns how many events that were.

    Raises:
        BlockingIOError: another process is delivering.
        MlflowException: no answer.
    """
    if not folder.file(EVENTS).exists():
        return 0
    with spool.alone(folder.file(LOCK), wait=False):
        delivery, total = Delivery(folder, destination), 0
        while number := delivery.step():
            total += number
        return total


class Courier:
    """The thread that delivers while a sweep runs."""

    def __init__(self, folder: SweepFolder, destination: Destination, interval_s: float) -> None:
        """Prepares; `start` starts."""
        self._folder = folder
        self._destination = destination
        self._interval_s = interval_s
        self._stopping = threading.Event()
        self._deadline_s = 0.0
        self._thread = threading.Thread(target=self._run, name="tracking", daemon=True)
        self.arrived = False
        """Whether everything had arrived when the thread ended."""

    def start(self) -> None:
        """Begins to deliver."""
        self._thread.start()

    def stop(self, grace_s: float) -> bool:
        """Delivers what is left, for about `grace_s` at most; says whether all of it has arrived."""
        self._deadline_s = time.monotonic() + grace_s
        self._stopping.set()
        self._thread.join(grace_s + 1.0)
        return self.arrived

    def _run(self) -> None:
        with spool.alone(self._folder.file(LOCK), wait=True):
            self._deliver()

    def _deliver(self) -> None:
        delivery: Delivery | None = None
        failures = 0
        while not self.arrived:
            stopping = self._stopping.is_set()  # asked first: what was spooled before the stop is then delivered below
            try:
                delivery = delivery or Delivery(self._folder, self._destination)
                while delivery.step():
                    failures = 0
                self.arrived = stopping
            except Exception as error:  # whatever a client or a server does, the sweep goes on
                delivery, failures = None, failures + 1
                if failures == 1:
                    log.warning(
                        "MLflow at %s does not answer, runs are written later: %s", self._destination, redacted(error)
                    )
            if stopping and time.monotonic() > self._deadline_s:
                return
            pause_s = min(self._interval_s * 2 ** min(failures, 10), PATIENCE_S)
            if stopping and failures:
                time.sleep(min(pause_s, 1.0))
            else:
                self._stopping.wait(pause_s)


class Tracker:
    """Watches a sweep and keeps its runs in MLflow."""

    def __init__(
        self, folder: SweepFolder, destination: Destination, *, interval_s: float = 2.0, grace_s: float = 20.0
    ) -> None:
        """Prepares; nothing is written before the sweep starts.

        Args:
            folder: The sweep's folder, which keeps the spool.
            destination: Where the runs go.
            interval_s: Pause between deliveries; longer makes larger batches.
            grace_s: How long the end of a sweep may wait for the last delivery.
        """
        self._folder = folder
        self._grace_s = grace_s
        self._destination = destination
        self._courier = Courier(folder, destination, interval_s)
        self._spool: Spool | None = None
        self._opened: set[str] = set()
        self._hidden = 0

    def on_start(self, plan: Plan) -> None:
        """Opens the sweep's run, or takes it up again."""
        try:
            self._spool = Spool(self._folder.file(EVENTS))
        except (OSError, ValueError) as error:
            log.warning("tracking is off: %s: %s", self._folder.file(EVENTS), error)
            return
        self._hidden = plan.teacher_layout.hidden
        self._append(_started(plan.to_json()))
        self._courier.start()
        for record in read(self._folder):
            if record.trial not in self._spool.recorded:  # the driver died between writing it and telling it
                self.on_record(record)

    def on_trial(self, trial: str, design: Design) -> None:
        """Opens a trial's run, with what was chosen and what follows from it."""
        self._open(trial, design.method, design.sample, design.layout)

    def on_report(self, trial: str, step: int, metrics: Mapping[str, float]) -> None:
        """Keeps a report, once for each step."""
        # MLflow's comparison opens with the metric a run logged first, and that should say how good it is.
        ordered = dict(sorted(metrics.items(), key=lambda item: item[0] != "score"))
        if self._spool and (fresh := self._spool.unlogged(trial, step, ordered)):
            self._append({"kind": "metrics", "trial": trial, "step": step, "metrics": fresh})

    def on_building(self, trial: str, name: str, step: int, metrics: Mapping[str, float]) -> None:
        """Nothing: these numbers belong to no trial."""

    def on_record(self, record: TrialRecord) -> None:
        """Ends a trial's run with its final numbers."""
        if record.status != "refused":
            if record.trial not in self._opened:
                layout = Layout.from_json(record.layout) if record.layout else None
                self._open(record.trial, record.method, record.sample, layout)
            best = {f"best/{name}": number for name, number in record.metrics.items()}
            self.on_report(record.trial, 0, {**best, "wall_s": record.wall_s, **record.costs})
        self._append({"kind": "record", "record": asdict(record)})

    def on_end(self, result: object) -> None:
        """Ends the sweep's run as `result.status` says, and waits a little for the last delivery."""
        self._append({"kind": "end", "status": getattr(result, "status", "stopped")})
        if self._spool is None:
            return
        self._spool.close()
        if not self._courier.stop(self._grace_s):
            log.warning(
                "MLflow at %s has not taken everything; the rest is in %s and follows when the sweep is continued",
                self._destination,
                self._folder.path,
            )

    def _open(self, trial: str, method: str, sample: Mapping[str, Any], layout: Layout | None) -> None:
        """Opens a run, with those reports of its history that an earlier driver had no time to tell."""
        self._opened.add(trial)
        self._append(_opened(trial, method, sample, layout, self._hidden))
        for entry in read_history(self._folder.history(trial)):
            prefix = "" if entry["final"] else f"{entry['stage']}/"
            self.on_report(trial, entry["step"], {prefix + name: number for name, number in entry["metrics"].items()})

    def _append(self, event: Event) -> None:
        if self._spool is None:
            return
        try:
            self._spool.append({"at": int(time.time() * 1000), **event})
        except (OSError, ValueError, TypeError) as error:
            log.warning("tracking: an event is missing: %s", error)


def _started(plan: Mapping[str, Any]) -> Event:
    """The parent run: what the whole sweep was asked for."""
    spec = plan["spec"]
    teacher = Layout.from_json(plan["teacher_layout"])
    params = {"objectives": ", ".join(f"{name} {way}" for name, way in plan["objectives"].items())}
    params |= {f"budget/{name}": limit for name, limit in plan["budget"].items()}
    params |= {"trials": plan["trials"], "seed": plan["seed"], "teacher": teacher.describe()}
    return {
        "kind": "start",
        "name": spec["name"],
        "tags": {"sweep": spec["name"], "task": spec["task"]["name"], "methods": ", ".join(plan["methods"])},
        "params": params,
        "objectives": plan["objectives"],
        "budget": plan["budget"],
    }


def _opened(trial: str, method: str, sample: Mapping[str, Any], layout: Layout | None, hidden: int) -> Event:
    """A child run: what varies and what follows from it, so that a comparison shows no constant columns.

    The hidden width counts only where it is not the teacher's.
    """
    params, name = dict(sample), f"{trial} {method}"
    if layout:
        shape: dict[str, object] = {"layers": len(layout.layers), "rank": layout.embedding_rank or "full"}
        shape |= {"hidden": layout.hidden} if layout.hidden != hidden else {}
        shape |= {"heads": _span([layer.heads for layer in layout.layers])}
        shape |= {"ffn": _span([layer.ffn for layer in layout.layers])}
        params |= {f"layout/{part}": size for part, size in shape.items() if not _says(sample, part, size)}
        name += f" {figures.count(layout.params())}"
    return {"kind": "trial", "trial": trial, "name": name, "tags": {"method": method}, "params": params}


def _says(sample: Mapping[str, Any], part: str, size: object) -> bool:
    """Whether the sample has this size already, under a name such as `ffn_dim` or `embedding_rank`."""
    return any(part in name and str(choice) == str(size) for name, choice in sample.items())


def _span(sizes: list[int]) -> str:
    low, high = min(sizes), max(sizes)
    return str(low) if low == high else f"{low}-{high}"
