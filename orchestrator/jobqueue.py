"""The jobs of a sweep on their way through its slots, as proxies and driver see them.

    QUEUED -> RUNNING(attempt, gang) -> ENDED      RUNNING -> QUEUED (front) when its gang is lost

Plain and free of Ray; every time comes from the clock that is passed in. `orchestrator.broker` adds the worker groups.
"""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Position = tuple[int, int]
"""Number of the stage within the trial, and step within the stage: orders the reports of a trial over its attempts."""

START: Position = (0, -1)
QUEUED, RUNNING, ENDED = "queued", "running", "ended"
GO, STOP, HALT, ABORT, LOST, STALE, QUIT, GONE = "go", "stop", "halt", "abort", "lost", "stale", "quit", "gone"
MESSAGE = "message"
"""The one metric a proxy reports to Tune: a report or an ending as JSON text, so that no number is touched."""
STOPPED, HALTED = "stopped", "halted"


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """How long silence is believed, and how often a lost job is tried again."""

    beat_s: float = 10.0
    """A gang is lost when one of its ranks has been silent for this long, s."""
    proxy_s: float = 20.0
    """A job is cancelled when its proxy has been silent for this long, s."""
    gate_s: float = 30.0
    """No job waits longer than this for the other proxies to come up, s."""
    max_attempts: int = 3
    """Gangs a job may lose before it counts as failed."""


@dataclass(slots=True)
class Job:
    """One trial on its way through a slot."""

    trial: str
    payload: Mapping[str, Any]
    at: Position
    seen_s: float
    state: str = QUEUED
    slot: int = -1
    attempt: str = ""
    attempts: int = 0
    started_s: float = 0.0
    messages: list[dict[str, Any]] = field(default_factory=list)
    acked: int = 0
    stop: str = ""
    orphan: bool = False
    endings: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    losses: list[str] = field(default_factory=list)
    building: Mapping[str, Any] | None = None
    """What it builds for all trials at present; shown, never a message."""

    def failure(self) -> Mapping[str, Any] | None:
        """The ending of the rank that failed first: the cause; later ones are its consequences."""
        return next((item for item in self.endings.values() if item["status"] == "failed"), None)


class Gate:
    """Holds all jobs back until the other proxies are up.

    Tune gives the process of a finished trial to a trial whose own process is still starting, and kills the latter;
    without the gate short trials starve all proxies but one.
    """

    def __init__(self, wait_s: float, clock: Callable[[], float]) -> None:
        self._wait_s, self._clock = wait_s, clock
        self._num_proxies, self._until_s = 0, 0.0

    def hold(self, num_proxies: int) -> str:
        """Closes the gate until that many proxies have a job here, or `Limits.gate_s` passed."""
        self._num_proxies, self._until_s = num_proxies, self._clock() + self._wait_s
        return GO

    def lets_through(self, num_jobs: int) -> bool:
        """Whether a job may start now; once open, the gate stays open."""
        if num_jobs < self._num_proxies and self._clock() < self._until_s:
            return False
        self._num_proxies = 0
        return True


class Queue:
    """The jobs, as their proxies and the driver see them."""

    def __init__(self, limits: Limits, clock: Callable[[], float]) -> None:
        self.limits = limits
        self.clock = clock
        self.jobs: dict[str, Job] = {}
        self.waiting: deque[Job] = deque()
        self.changes = 0
        self.halted = False
        self.gate = Gate(limits.gate_s, clock)

    def submit(self, trial: str, payload: Mapping[str, Any], at: Position = START) -> int | None:
        """Hands a job in, or takes over one that runs; answers the number of the next message to read.

        None as long as an earlier run of the same trial is still being stopped.
        """
        job = self.jobs.get(trial)
        if job is not None and job.orphan:
            return None
        if job is None:
            job = self.jobs[trial] = Job(trial, payload, tuple(at), self.clock())  # type: ignore[arg-type]
            self.changes += 1
            if self.halted:
                self.close(job, {"status": HALTED})
            else:
                self.waiting.append(job)
        job.seen_s = self.clock()
        return job.acked

    def recv(self, trial: str, number: int) -> dict[str, Any] | str | None:
        """The message of that number; acknowledges all before it and renews the proxy's lease."""
        job = self.jobs.get(trial)
        if job is None or job.orphan:
            return GONE
        job.seen_s = self.clock()
        if number > job.acked:
            job.acked = number
            self.changes += 1
        return job.messages[number] if number < len(job.messages) else None

    def end(self, trial: str) -> str:
        """The trial is over for the sweep: a waiting job is forgotten, a running one is stopped."""
        job = self.jobs.get(trial)
        if job is not None:
            self.changes += 1
            if job.state == RUNNING:
                job.stop, job.orphan = STOPPED, True
            else:
                self._forget(job)
        return GO

    def halt(self) -> str:
        """Ends everything in good order: waiting jobs at once, running ones at their next step."""
        self.halted = True
        self.changes += 1
        for job in list(self.waiting):
            self.close(job, {"status": HALTED})
        for job in self.jobs.values():
            if job.state == RUNNING and not job.stop:
                job.stop = HALTED
        return GO

    def due(self) -> Job | None:
        """Takes the next job out of the queue, if the gate is open."""
        live = sum(job.state != ENDED and not job.orphan for job in self.jobs.values())
        if not self.gate.lets_through(live):
            return None
        return self.waiting.popleft() if self.waiting else None

    def close(self, job: Job, ending: Mapping[str, Any]) -> None:
        """Ends a job; what its proxy reads last is how."""
        seconds = self.clock() - job.started_s if job.attempts else 0.0
        job.state, job.attempt = ENDED, ""
        told = {name: value for name, value in ending.items() if name != "retire"}
        job.messages.append({"end": {**told, "attempts": job.attempts, "seconds": seconds}})
        self.changes += 1
        if job in self.waiting:
            self.waiting.remove(job)
        if job.orphan:
            self._forget(job)

    def lost(self, job: Job, why: str) -> None:
        """Its gang is gone: the job goes back to the front of the queue, or ends after too many losses.

        What surviving ranks said of failures does not count: a death breaks their collectives.
        """
        job.losses.append(why)
        job.endings.clear()
        job.building = None
        self.changes += 1
        if job.stop:
            self.close(job, {"status": job.stop})
        elif job.attempts >= self.limits.max_attempts:
            told = f"its worker group was lost {job.attempts} times: {'; '.join(job.losses)}"
            self.close(job, {"status": "failed", "error": told})
        else:
            job.state, job.attempt, job.slot = QUEUED, "", -1
            self.waiting.appendleft(job)

    def expire(self) -> None:
        """Cancels the jobs whose proxies have fallen silent."""
        limit_s = self.clock() - self.limits.proxy_s
        for job in [job for job in self.jobs.values() if job.seen_s < limit_s and not job.orphan]:
            self.end(job.trial)

    def _forget(self, job: Job) -> None:
        del self.jobs[job.trial]
        if job in self.waiting:
            self.waiting.remove(job)
