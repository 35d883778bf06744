"""A training set augmented on all processors: Ray actors hold the masked LM, this process hands out chunks of rows.

Rows are cut into chunks of one size whatever the number of workers, and every draw depends on seed and row number
only; so the result depends on neither, and a run that was killed goes on where it was.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from methods.parts.augmenting import Augmentation, Augmenter
from methods.parts.masked_lm import load_masked_lm
from methods.parts.rowfiles import Row
from methods.parts.wordpiece import load_pieces
from methods.parts.wordvectors import open_vectors
from orchestrator.augmentorder import SHARD_ROWS, Job
from orchestrator.chunks import Chunks, Shape
from orchestrator.cluster import Cluster
from orchestrator.figures import duration
from orchestrator.gang import Labour, Say, driver_folder, work_off
from orchestrator.session import locked


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
    folder = driver_folder(job.out)
    with locked(folder):
        chunks = Chunks(job.out, job.num_chunks)
        files = chunks.begin(job.inputs, restart=restart)
        if not files:
            labour = _labour(job, chunks)
            say(f"{len(job.numbers):,} rows")
            work_off(labour, chunks.pending(), cluster, folder, workers=workers, say=say)
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


def _labour(job: Job, chunks: Chunks) -> Labour:
    """The work in chunks; every worker holds the model."""

    def arguments(threads: int) -> tuple[Any, ...]:
        stored: Path | None = None
        if job.vectors is not None:
            stored = chunks.folder / f"vectors-{job.vectors.fingerprint[:16]}"
            job.vectors.save(stored)
        return str(job.model), None if stored is None else str(stored), job.order.settings, threads

    return Labour(
        name="augment",
        worker=Worker,
        arguments=arguments,
        count=job.num_chunks,
        piece=job.chunk,
        keep=chunks.write,
        gpus=True,
    )
