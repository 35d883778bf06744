"""A training set augmented on all processors: Ray actors hold the masked LM, this process hands out chunks of rows.

Rows are cut into chunks of one size whatever the number of workers, and every draw depends on seed and row number
only; so the result depends on neither, and a run that was killed goes on where it was.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray
import torch
from ray.exceptions import RayActorError, RayTaskError

from methods.parts.augmenting import Augmentation, Augmenter
from methods.parts.masked_lm import load_masked_lm
from methods.parts.rowfiles import Row
from methods.parts.wordpiece import load_pieces
from methods.parts.wordvectors import open_vectors
from orchestrator.augmentorder import SHARD_ROWS, Job
from orchestrator.chunks import PARTS, Chunks, Shape
from orchestrator.cluster import Cluster
from orchestrator.errors import SweepError
from orchestrator.figures import duration
from orchestrator.folder import SweepFolder
from orchestrator.session import interrupted, live_cluster, locked, ray_up

RESTARTS = 3
"""Deaths of a worker, by lack of memory for instance, that Ray repairs."""
TELL_EVERY_S = 10.0

Say = Callable[[str], None]


class Interrupted(SweepError):
    """The command was asked to end before it was done."""

    exit_code = 130


@dataclass(frozen=True, kw_only=True, slots=True)
class Augmented:
    """What was written."""

    out: Path
    rows: int
    """Rows that were read."""
    files: Mapping[str, int]
    """Rows of each file that was written."""
    skipped: int
    """Rows of the training file that its reader leaves out."""
    wall_s: float

    def to_json(self) -> dict[str, Any]:
        """The same for machines."""
        return {**asdict(self), "out": str(self.out), "files": dict(self.files)}

    def lines(self) -> list[str]:
        """The same for people."""
        total, left_out = sum(self.files.values()), f", {self.skipped} left out" if self.skipped else ""
        share = f"{total / max(1, self.rows):.1f} for each"
        return [
            f"augmented: {total:,} rows from {self.rows:,} ({share}{left_out}) in {duration(self.wall_s)}",
            *(f"  {self.out / name}  {rows:,} rows" for name, rows in self.files.items()),
        ]


def augment(job: Job, cluster: Cluster, *, workers: int | None, restart: bool, say: Say) -> Augmented:
    """Augments a training set, or goes on with it; a finished one is not touched.

    Args:
        job: what to do.
        cluster: what to start, where no Ray is running.
        workers: processes that hold the model; None is one for each GPU, else for each CPU.
        restart: whether earlier work and its result are thrown away.
        say: takes lines about the progress.

    Raises:
        SweepError: another process is at work in the folder, it holds other work, or a worker failed.
        Interrupted: it was asked to end; finished chunks are kept.
    """
    began_s = time.monotonic()
    folder = SweepFolder(job.out / PARTS, "driver")
    with locked(folder):
        chunks = Chunks(job.out, job.num_chunks)
        files = chunks.begin(job.inputs, restart=restart)
        if not files:
            stop = threading.Event()
            if pending := chunks.pending():
                with interrupted(lambda _: stop.set()), ray_up(cluster, folder.log("ray")):
                    _make(job, chunks, pending, _Gang(job, chunks.folder, workers), stop, say)
            if stop.is_set():
                raise Interrupted("interrupted; run the same command again to continue")
            shard_rows = None if job.order.one_file else SHARD_ROWS
            shape = Shape(ending=job.source.ending, header=job.source.header, shard_rows=shard_rows)
            files = chunks.assemble(shape)
    return Augmented(
        out=job.out,
        rows=len(job.numbers),
        files=files,
        skipped=job.source.skipped,
        wall_s=time.monotonic() - began_s,
    )


class Worker:
    """A process that holds the masked LM and makes chunks."""

    def __init__(self, model: str, vectors: str | None, settings: Augmentation, num_threads: int) -> None:
        torch.set_num_threads(num_threads)
        loaded = load_masked_lm(Path(model)).to("cuda" if torch.cuda.is_available() else "cpu")
        opened = None if vectors is None else open_vectors(Path(vectors))
        self._augmenter = Augmenter(loaded, load_pieces(Path(model)), settings, opened)

    def make(self, number: int, chunk: Sequence[tuple[int, Row]]) -> tuple[int, list[str]]:
        """The lines of a chunk, with its number."""
        made = self._augmenter.rows([row.texts for _, row in chunk], [place for place, _ in chunk])
        return number, [row.line(texts) for (_, row), new in zip(chunk, made, strict=True) for texts in new]


class _Gang:
    """The workers, as many as the cluster has room for, each with one chunk at work and one waiting."""

    def __init__(self, job: Job, folder: Path, workers: int | None) -> None:
        here = live_cluster()
        count = workers or int(here.gpus) or max(1, int(here.cpus))
        stored: Path | None = None
        if job.vectors is not None:
            stored = folder / f"vectors-{job.vectors.fingerprint[:16]}"
            job.vectors.save(stored)
        share = {"num_cpus": min(1.0, here.cpus / count), "num_gpus": min(1.0, here.gpus / count)}
        actor = ray.remote(Worker).options(**share, max_restarts=RESTARTS, max_task_retries=RESTARTS)
        threads = max(1, int(here.cpus / count))
        arguments = (str(job.model), None if stored is None else str(stored), job.order.settings, threads)
        self._actors = [actor.remote(*arguments) for _ in range(min(count, job.num_chunks))]
        self._at_work: dict[Any, int] = {}

    @property
    def idle(self) -> bool:
        """Whether nothing is under way."""
        return not self._at_work

    def hand_out(self, job: Job, pending: deque[int]) -> None:
        """Gives chunks to workers that have fewer than two."""
        loads = [list(self._at_work.values()).count(number) for number in range(len(self._actors))]
        for load in (0, 1):
            for number, actor in enumerate(self._actors):
                if loads[number] == load and pending:
                    chunk = pending.popleft()
                    self._at_work[actor.make.remote(chunk, job.chunk(chunk))] = number
                    loads[number] += 1

    def finished(self) -> list[tuple[int, list[str]]]:
        """Waits a moment for chunks.

        Raises:
            SweepError: a worker failed, or died too often.
        """
        ready, _ = ray.wait(list(self._at_work), timeout=0.5)
        for each in ready:
            del self._at_work[each]
        try:
            return [ray.get(each) for each in ready]
        except RayTaskError as error:
            cause = " ".join(str(error.cause).split())
            raise SweepError(f"augment: a worker failed: {type(error.cause).__name__}: {cause}") from None
        except RayActorError as error:
            reason = " ".join(str(error).split())
            raise SweepError(
                f"augment: a worker died {RESTARTS + 1} times, perhaps for lack of memory: {reason}"
            ) from None

    def close(self) -> None:
        """Ends the workers."""
        for actor in self._actors:
            ray.kill(actor)


def _make(job: Job, chunks: Chunks, pending: Sequence[int], gang: _Gang, stop: threading.Event, say: Say) -> None:
    """Has the pending chunks made and stores each as it comes; ends early when told to stop."""
    left, made, told_s = deque(pending), 0, time.monotonic()
    since_s, before = 0.0, 0  # the pace is counted from the first chunk, for which the model had to be loaded
    there = job.num_chunks - len(pending)
    say(f"{len(job.numbers):,} rows in {job.num_chunks:,} chunks, {there:,} of them there already")
    try:
        while (left or not gang.idle) and not stop.is_set():
            gang.hand_out(job, left)
            for number, lines in gang.finished():
                chunks.write(number, lines)
                made += 1
            now_s = time.monotonic()
            if made and not before:
                since_s, before = now_s, made
            if made > before > 0 and now_s - told_s > TELL_EVERY_S:
                told_s = now_s
                left_s = (now_s - since_s) / (made - before) * (len(pending) - made)
                say(f"{made:,} of {len(pending):,} chunks, about {duration(left_s)} left")
    finally:
        gang.close()
