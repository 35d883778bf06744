"""One rank's view of the world in a slot: who it is, its sign of life, and the `Run` that a method sees."""

import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # not in its __all__

from methods.parts.run import LocalRun, Stopped
from methods.parts.selection import Selection
from methods.parts.stages import Cadence, Stage
from orchestrator.broker import Ask, until_answered
from orchestrator.folder import SweepFolder
from orchestrator.jobqueue import ABORT, GO, HALT, LOST, STALE, STOP

log = logging.getLogger(__name__)

EXIT_CODE = 70
"""Of a rank that had to end itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SlotSettings:
    """What every rank of every slot is told."""

    root: str
    """Absolute path of the sweeps' folder, the same on all nodes."""
    name: str
    body: str = "orchestrator.job:run_job"
    """Module and function that run a job."""
    num_threads: int = 1
    """Of torch, per rank."""
    jobs_per_gang: int = 200
    """A gang is replaced after this many; 1 gives every trial fresh processes."""
    rss_growth_bytes: int = 2 * 2**30
    """A gang is replaced when one of its ranks has grown by this much since its first job."""
    patience_s: float = 30.0
    """How long a rank may stay in a job whose peers or broker are gone, before it ends its process."""
    stop_patience_s: float = 300.0
    """The same for a rank that was asked to stop: it may be in a long evaluation."""
    beat_s: float = 1.0
    quota_bytes: int | None = None
    """What the store may hold of teachers' knowledge; None is no limit."""
    wishes: tuple[Selection, ...] = ()
    """What trials may come to ask of their teacher."""

    @property
    def folder(self) -> SweepFolder:
        """The sweep's folder."""
        return SweepFolder(Path(self.root), self.name)


def describe(error: BaseException) -> str:
    """An error in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


class Abandoned(RuntimeError):
    """The broker does not want this attempt any more, or is gone itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Seat:
    """One rank's place in its gang."""

    slot: int
    gang: str
    rank: int
    world: int
    device: torch.device
    store: TCPStore | None


@dataclass(frozen=True, slots=True)
class Post:
    """One rank at work on one attempt of a job."""

    trial: str
    attempt: str
    payload: Mapping[str, Any]
    seat: Seat
    beats: "Beats"
    ask: Ask


class Beats(threading.Thread):
    """Tells the broker once a second that this rank lives, and ends the process when it is stuck in a lost cause."""

    def __init__(self, ask: Ask, seat: Seat, settings: SlotSettings) -> None:
        super().__init__(name=f"beats of slot {seat.slot}", daemon=True)
        self.job = ("", "")
        """Trial and attempt that this rank works on."""
        self.building: Mapping[str, Any] | None = None
        """`name`, `step` and `metrics` of what it builds for all trials; told with the next beat, and only shown."""
        self._ask, self._seat, self._settings = ask, seat, settings
        self._told = ("", GO)
        self._since_s = 0.0
        self._closed = threading.Event()

    def flag(self, attempt: str) -> str:
        """What was last heard about an attempt."""
        told, flag = self._told
        return flag if told == attempt or flag == LOST else GO

    def run(self) -> None:
        """Beats until closed."""
        while not self._closed.wait(self._settings.beat_s):
            trial, attempt = self.job
            told = (attempt, self._beat(attempt))
            if told != self._told:
                self._told, self._since_s = told, time.monotonic()
            elif time.monotonic() - self._since_s > self._patience_s(told[1]):
                self._leave(trial, attempt, told[1])

    def close(self) -> None:
        """The rank leaves its loop."""
        self._closed.set()

    def _leave(self, trial: str, attempt: str, flag: str) -> None:
        """Ends the process; the job is told first, so that it ends with its cause instead of being tried again."""
        log.error("slot %d: rank %d is stuck: leaving", self._seat.slot, self._seat.rank)
        status = "stopped" if flag in (STOP, HALT) else "failed"
        ending = {"status": status, "error": f"rank {self._seat.rank} was stuck", "retire": "it was stuck"}
        try:
            self._ask("finish", trial, attempt, self._seat.rank, ending)
        finally:
            os._exit(EXIT_CODE)

    def _beat(self, attempt: str) -> str:
        try:
            return str(self._ask("beat", self._seat.slot, self._seat.gang, self._seat.rank, attempt, self.building))
        except Exception as error:  # whatever keeps us from the broker, the gang is lost with it
            log.warning("slot %d: no answer from the broker: %s", self._seat.slot, error)
            return LOST

    def _patience_s(self, flag: str) -> float:
        if flag in (STOP, HALT):
            return self._settings.stop_patience_s
        return self._settings.patience_s if flag in (ABORT, LOST) else float("inf")


class RayRun(LocalRun):
    """One rank's `Run`: stages and shared work as in `LocalRun`, reports and stops through the broker."""

    def __init__(self, post: Post, settings: SlotSettings) -> None:
        folder, seat = settings.folder, post.seat
        super().__init__(
            folder.trial(post.trial),
            store=folder.store,
            seed=int(post.payload.get("seed", 0)),
            rank=seat.rank,
            world_size=seat.world,
            device=seat.device,
            quota_bytes=settings.quota_bytes,
            wishes=settings.wishes,
        )
        self._post = post
        self._num_turns = 0
        self._halting = False

    @contextmanager
    def stage(self, name: str, *, final: bool = False) -> Iterator[Stage]:
        """A stage; its reports come after those of everything before it, and before those of everything after it."""
        self._num_turns += 1
        self._post.beats.building = None
        with super().stage(name, final=final) as stage:
            yield stage
        self._num_turns += 1

    def report(self, step: int, metrics: Mapping[str, float]) -> None:
        """Relays rank 0's numbers and returns when the sweep has decided what follows.

        Raises:
            Stopped: it decided to stop the trial.
            Abandoned: the attempt is not wanted any more.
        """
        verdict = GO
        self._post.beats.building = None
        if self.rank == 0:
            numbers = {name: float(value) for name, value in metrics.items()}
            name, final = (self._stage.name, self._stage.final) if self._stage else ("", False)
            body = {"stage": name, "final": final, "step": step, "metrics": numbers}
            post = self._post
            verdict = until_answered(post.ask, "report", post.trial, post.attempt, (self._num_turns, step), body)
        if verdict == STALE:
            raise Abandoned(f"{self._post.trial}: this attempt was given up")
        if self._any(verdict == STOP):
            raise Stopped(f"{self._post.trial}: stopped by the sweep at step {step}")

    def building(self, name: str, step: int, metrics: Mapping[str, float]) -> None:
        """Has the next sign of life tell how far a build is; nobody waits for it, and nothing is decided by it."""
        numbers = {key: float(value) for key, value in metrics.items()}
        self._post.beats.building = {"name": name, "step": step, "metrics": numbers}

    def poll(self) -> None:
        """Leaves when the sweep says so; after a halt one call later, so that the stage can write a checkpoint first.

        Raises:
            Stopped: on all ranks at the same call.
            Abandoned: the gang has fallen apart.
        """
        flag = self._post.beats.flag(self._post.attempt)
        if flag in (ABORT, LOST):
            raise Abandoned(f"{self._post.trial}: {'another rank failed' if flag == ABORT else 'the broker is gone'}")
        wanted = self._any({STOP: 2, HALT: 1}.get(flag, 0))
        if wanted == 2 or (wanted and self._halting):
            raise Stopped(f"{self._post.trial}: the sweep ends")
        if wanted:
            self._halting = True
            self.cadence = Cadence(steps=1)
            if self._stage is not None:
                self._stage.cadence = self.cadence

    def _any(self, level: int) -> int:
        """The highest level over the ranks."""
        if self.world_size == 1:
            return level
        message = torch.tensor([level])
        dist.all_reduce(message, op=dist.ReduceOp.MAX)
        return int(message.item())
