"""Numbered pieces of work on all processors: Ray actors do them, this process hands them out and keeps what comes.

Whoever is killed loses the pieces under way; a later run makes only those that are missing.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from orchestrator.chunks import PARTS
from orchestrator.cluster import Cluster
from orchestrator.errors import SweepError
from orchestrator.figures import duration
from orchestrator.folder import SweepFolder
from orchestrator.session import interrupted, live_cluster, ray_up

RESTARTS = 3
"""Deaths of a worker, by lack of memory for instance, that Ray repairs."""
TELL_EVERY_S = 10.0

Say = Callable[[str], None]


class Interrupted(SweepError):
    """The command was asked to end before it was done."""

    exit_code = 130


@dataclass(frozen=True, kw_only=True, slots=True)
class Labour:
    """Work in pieces."""

    name: str
    """The command's."""
    worker: type
    """What works: an object with `make(number, piece)`, which returns the number and what was made."""
    arguments: Callable[[int], tuple[Any, ...]]
    """What a worker is made of, given its processor threads."""
    count: int
    """Pieces in all."""
    piece: Callable[[int], object]
    """What a worker is handed."""
    keep: Callable[[int, Any], None]
    """Takes what was made."""
    gpus: bool = False
    """Whether workers use graphics processors where there are some."""


def driver_folder(out: Path) -> SweepFolder:
    """Where the lock and the log of whoever works in `out` lie."""
    return SweepFolder(out / PARTS, "driver")


def work_off(
    labour: Labour, pending: Sequence[int], cluster: Cluster, folder: SweepFolder, *, workers: int | None, say: Say
) -> None:
    """Has the pending pieces made, on the Ray that is there or one that is started.

    Args:
        labour: what to do.
        pending: numbers of the pieces.
        cluster: what to start, where no Ray is running.
        folder: whose log takes what Ray says.
        workers: processes; None is one for each GPU if it uses them, else for each CPU.
        say: takes lines about the progress.

    Raises:
        SweepError: a worker failed.
        Interrupted: it was asked to end; finished pieces are kept.
    """
    if not pending:
        return
    stop = threading.Event()
    with interrupted(lambda _: stop.set()), ray_up(cluster, folder.log("ray")):
        gang = _Gang(labour, len(pending), workers)
        try:
            _make(labour, pending, gang, stop, say)
        finally:
            gang.close()
    if stop.is_set():
        raise Interrupted("interrupted; run the same command again to continue")


class _Gang:
    """The workers, as many as the cluster has room for, each with one piece at work and one waiting."""

    def __init__(self, labour: Labour, pending: int, workers: int | None) -> None:
        self._labour, here = labour, live_cluster()
        gpus = here.gpus if labour.gpus else 0.0
        count = workers or int(gpus) or max(1, int(here.cpus))
        share = {"num_cpus": min(1.0, here.cpus / count), "num_gpus": min(1.0, gpus / count)}
        actor = ray.remote(labour.worker).options(**share, max_restarts=RESTARTS, max_task_retries=RESTARTS)
        arguments = labour.arguments(max(1, int(here.cpus / count)))
        self._actors = [actor.remote(*arguments) for _ in range(min(count, pending))]
        self._at_work: dict[Any, int] = {}

    @property
    def idle(self) -> bool:
        """Whether nothing is under way."""
        return not self._at_work

    def hand_out(self, pending: deque[int]) -> None:
        """Gives pieces to workers that have fewer than two."""
        loads = [list(self._at_work.values()).count(number) for number in range(len(self._actors))]
        for load in (0, 1):
            for number, actor in enumerate(self._actors):
                if loads[number] == load and pending:
                    piece = pending.popleft()
                    self._at_work[actor.make.remote(piece, self._labour.piece(piece))] = number
                    loads[number] += 1

    def finished(self) -> list[tuple[int, Any]]:
        """Waits a moment for pieces.

        Raises:
            SweepError: a worker failed, or died too often.
        """
        ready, _ = ray.wait(list(self._at_work), timeout=0.5)
        for each in ready:
            del self._at_work[each]
        name = self._labour.name
        try:
            return [ray.get(each) for each in ready]
        except RayTaskError as error:
            cause = " ".join(str(error.cause).split())
            raise SweepError(f"{name}: a worker failed: {type(error.cause).__name__}: {cause}") from None
        except RayActorError as error:
            reason = " ".join(str(error).split())
            raise SweepError(
                f"{name}: a worker died {RESTARTS + 1} times, perhaps for lack of memory: {reason}"
            ) from None

    def close(self) -> None:
        """Ends the workers."""
        for actor in self._actors:
            ray.kill(actor)


def _make(labour: Labour, pending: Sequence[int], gang: _Gang, stop: threading.Event, say: Say) -> None:
    """Has the pending pieces made and keeps each as it comes; ends early when told to stop."""
    left, made, told_s = deque(pending), 0, time.monotonic()
    since_s, before = 0.0, 0  # the pace is counted from the first piece, for which the workers had to start
    say(f"{labour.count:,} pieces of work, {labour.count - len(pending):,} of them done already")
    while (left or not gang.idle) and not stop.is_set():
        gang.hand_out(left)
        for number, found in gang.finished():
            labour.keep(number, found)
            made += 1
        now_s = time.monotonic()
        if made and not before:
            since_s, before = now_s, made
        if made > before > 0 and now_s - told_s > TELL_EVERY_S:
            told_s = now_s
            left_s = (now_s - since_s) / (made - before) * (len(pending) - made)
            say(f"{made:,} of {len(pending):,} pieces, about {duration(left_s)} left")
