"""Where jobs wait for slots: the one place where trials and warm worker groups meet.

    job:   QUEUED -> RUNNING(attempt, gang) -> ENDED      RUNNING -> QUEUED (front) when its gang is lost
    gang:  hello ... beat ... take, report, finish ... lost, or drained

Three parties talk to it, each by short calls: the proxy of a trial (`submit`, `recv`, `end`), every rank of a gang
(`hello`, `beat`, `take`, `report`, `finish`) and the driver (`hold`, `drain`, `halt`, `status`). An answer of None
means "nothing yet, ask again"; the actor around the broker turns it into a long poll.

Nothing is stored: a broker that was restarted is empty, gangs that it does not know are told "lost" and come back
with a hello, and proxies are told "gone" and hand their job in again. One rule, no recovery code.
"""

import asyncio
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from orchestrator.jobqueue import (
    ABORT,
    GO,
    HALT,
    HALTED,
    LOST,
    QUIT,
    RUNNING,
    STALE,
    STOP,
    STOPPED,
    Job,
    Limits,
    Position,
    Queue,
)

POLL_S = 5.0
"""The longest time an unanswered question is held, s."""


@dataclass(slots=True)
class Gang:
    """One worker group that serves a slot."""

    name: str
    slot: int
    world: int
    beats: dict[int, float]
    job: Job | None = None
    order: dict[str, Any] | None = None
    num_taken: int = 0
    retiring: bool = False


class Gangs:
    """The worker groups, as their ranks see the broker."""

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self.gangs: dict[int, Gang] = {}
        self.hellos: dict[int, int] = {}
        self._drained: set[int] = set()

    def hello(self, slot: int, name: str, world: int) -> str:
        """A new gang serves this slot; the one before it is lost."""
        if slot in self.gangs:
            self._lose(self.gangs[slot], f"a new group took over slot {slot}")
        now = self.queue.clock()
        self.gangs[slot] = Gang(name, slot, world, dict.fromkeys(range(world), now), retiring=slot in self._drained)
        self.hellos[slot] = self.hellos.get(slot, 0) + 1
        self.queue.changes += 1
        return GO

    def beat(self, slot: int, name: str, rank: int, attempt: str, building: Mapping[str, Any] | None = None) -> str:
        """A rank lives; the answer says what has become of its attempt: go, stop, halt, abort, or lost.

        Rank 0 says beside it what the job builds for all trials at present.
        """
        gang = self.gangs.get(slot)
        if gang is None or gang.name != name:
            return LOST
        gang.beats[rank] = self.queue.clock()
        job = gang.job
        if job is None or job.attempt != attempt:
            return GO
        if rank == 0:
            job.building = building
        if job.failure():
            return ABORT
        return {"": GO, STOPPED: STOP, HALTED: HALT}[job.stop]

    def take(self, slot: int, name: str, number: int) -> dict[str, Any] | str | None:
        """Job `number` of this gang: the same answer to each of its ranks, whenever they ask."""
        gang = self.gangs.get(slot)
        if gang is None or gang.name != name:
            return LOST
        if number < gang.num_taken:
            return gang.order
        if gang.job is not None:
            return None
        if gang.retiring:
            return QUIT
        job = self.queue.due()
        if job is None:
            return None
        now = self.queue.clock()
        job.state, job.slot, job.attempt = RUNNING, slot, uuid.uuid4().hex
        job.started_s = job.started_s if job.attempts else now
        job.attempts += 1
        gang.job, gang.num_taken = job, gang.num_taken + 1
        gang.order = {"trial": job.trial, "attempt": job.attempt, "payload": job.payload}
        self.queue.changes += 1
        return gang.order

    def report(self, trial: str, attempt: str, at: Position, body: Mapping[str, Any]) -> str | None:
        """Relays numbers once and answers only when the sweep has decided what follows from them.

        A position that was relayed before (by a lost attempt) is answered "go" and dropped. A halt is not told here but
        by the beat, so that the trial can write a checkpoint before it leaves.
        """
        job = self.queue.jobs.get(trial)
        if job is None or job.attempt != attempt:
            return STALE
        if job.stop == STOPPED:
            return STOP
        if tuple(at) > job.at:
            job.at = tuple(at)  # type: ignore[assignment]
            job.messages.append({**body, "at": job.at, "attempts": job.attempts})
            self.queue.changes += 1
        return GO if tuple(at) < job.at or job.acked >= len(job.messages) else None

    def finish(self, trial: str, attempt: str, rank: int, ending: Mapping[str, Any]) -> str:
        """A rank has left the job; the job ends with the last one, so that a death is never taken for an end."""
        job = self.queue.jobs.get(trial)
        if job is None or job.attempt != attempt:
            return STALE
        gang = self.gangs[job.slot]
        gang.retiring = gang.retiring or bool(ending.get("retire"))
        job.endings[rank] = ending
        self.queue.changes += 1
        if len(job.endings) == gang.world:
            gang.job = None
            cause = job.failure() or job.endings[0]
            told = {"status": job.stop or STOPPED} if cause["status"] == "stopped" else cause
            self.queue.close(job, told)
        return GO

    def drain(self, slot: int) -> str:
        """The slot is to close: its gang leaves when its job is done, and no later one is given work."""
        self._drained.add(slot)
        if slot in self.gangs:
            self.gangs[slot].retiring = True
        self.queue.changes += 1
        return GO

    def expire(self) -> None:
        """Gives up the gangs of which a rank has been silent for too long."""
        now, limit_s = self.queue.clock(), self.queue.limits.beat_s
        for gang in list(self.gangs.values()):
            rank, last_s = min(gang.beats.items(), key=lambda item: item[1])
            if now - last_s > limit_s:
                self._lose(gang, f"rank {rank} of slot {gang.slot} was silent for {now - last_s:.1f} s")

    def _lose(self, gang: Gang, why: str) -> None:
        del self.gangs[gang.slot]
        if gang.job is not None:
            self.queue.lost(gang.job, why)


class Broker:
    """The state machine behind one door: verbs in, answers out. Knows no Ray and reads no clock but the one given."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self.queue = Queue(limits, clock)
        self.gangs = Gangs(self.queue)
        queue, gangs = self.queue, self.gangs
        self._verbs: dict[str, Callable[..., Any]] = {
            verb.__name__: verb
            for verb in (
                *(queue.submit, queue.recv, queue.end, queue.gate.hold, queue.halt),
                *(gangs.hello, gangs.beat, gangs.take, gangs.report, gangs.finish, gangs.drain),
                self.status,
            )
        }

    @property
    def changes(self) -> int:
        """Grows whenever somebody who waits may get another answer."""
        return self.queue.changes

    def ask(self, verb: str, *arguments: Any) -> Any:  # noqa: ANN401
        """Answers one question, after giving up whoever has fallen silent.

        Raises:
            KeyError: there is no such verb.
        """
        self.gangs.expire()
        self.queue.expire()
        return self._verbs[verb](*arguments)

    def status(self) -> dict[str, Any]:
        """Who serves what, who waits, how often each slot's gang has started, what is built for all."""
        gangs = self.gangs.gangs.values()
        return {
            "slots": {gang.slot: gang.job.trial if gang.job else "" for gang in gangs},
            "hellos": dict(self.gangs.hellos),
            "waiting": [job.trial for job in self.queue.waiting],
            "attempts": {job.trial: job.attempts for job in self.queue.jobs.values()},
            "building": {job.trial: job.building for job in self.queue.jobs.values() if job.building},
        }


class Ask(Protocol):
    """A line to the broker: a verb and its arguments in, the answer out."""

    def __call__(self, verb: str, *arguments: Any) -> Any:  # noqa: ANN401
        """Asks once; None means "nothing yet"."""


def until_answered(ask: Ask, verb: str, *arguments: Any) -> Any:  # noqa: ANN401
    """Asks until there is an answer."""
    while (answer := ask(verb, *arguments)) is None:
        pass
    return answer


class BrokerActor:
    """The broker as an asynchronous Ray actor: holds an unanswered question for up to `POLL_S`."""

    def __init__(self, limits: Limits) -> None:
        self._broker = Broker(limits)
        self._changed = asyncio.Event()

    async def ask(self, verb: str, *arguments: Any) -> Any:  # noqa: ANN401
        """Answers as soon as there is something to say, else None after `POLL_S`."""
        until_s = time.monotonic() + POLL_S
        while True:
            before, changed = self._broker.changes, self._changed
            answer = self._broker.ask(verb, *arguments)
            if self._broker.changes != before:
                self._changed = asyncio.Event()
                changed.set()
            left_s = until_s - time.monotonic()
            if answer is not None or left_s <= 0:
                return answer
            await self._wait(self._changed, min(left_s, 1.0))

    async def _wait(self, changed: asyncio.Event, seconds: float) -> None:
        """Waits for a change; wakes anyway, because leases also run out where nobody speaks."""
        try:
            await asyncio.wait_for(changed.wait(), seconds)
        except TimeoutError:
            return
