"""A set too large for memory, in shards: tokenised as a stream, and walked shard by shard.

Each epoch walks the shards in order and shuffles within each, as the published trainers walk the pieces of
`train_aug.tsv`; but every row is used once an epoch, and what is in memory is the order of a single shard.

References:
    Liu et al., ROSITA: Refined BERT cOmpreSsion with InTegrAted techniques, 2021, https://arxiv.org/abs/2103.11367
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from methods.parts.augmented import Augmented
from methods.parts.batches import Batch, Batches, Rows
from methods.parts.encoding import EncodedFiles
from methods.parts.examples import CHUNK, Examples
from methods.parts.files import JsonValue
from methods.parts.led import led
from methods.parts.run import Run
from methods.parts.tasks import Task
from methods.parts.tokens import ENCODE_VERSION, Encoded
from methods.parts.wordpiece import Pieces, fingerprint_of_tokenizer, load_pieces

SHARD_ROWS = 500_000
"""Most rows of a shard, as in the published trainers: its order and lengths take 16 MB."""

_CHUNKS_A_POLL = 16


def encode_shards(task: Task, tokenizer: Path, run: Run, *, shard_rows: int = SHARD_ROWS) -> tuple[Encoded, ...]:
    """Tokenise the augmented set of a task once for all trials, and open its shards; none if the task has none.

    Rank 0 reads and writes chunk by chunk; the others keep step with it, so a stop or a bad row ends all of them. An
    interrupted pass begins again.

    Args:
        task: its `augmented` is read, all rows whatever `limit` says.
        tokenizer: the folder of a BERT tokenizer.
        run: the world.
        shard_rows: most rows of a shard.

    Raises:
        ValueError: a bad row (with file and line), or the folder holds no BERT tokenizer.
    """
    augmented = task.augmented
    if augmented is None:
        return ()
    inputs: dict[str, JsonValue] = {
        "augmented": augmented.fingerprint,
        "tokenizer": fingerprint_of_tokenizer(tokenizer),
        "max_length": task.max_length,
        "shard_rows": shard_rows,
    }

    def build(folder: Path, run: Run) -> None:
        pieces = load_pieces(tokenizer)
        led(_write(augmented, pieces, task.max_length, folder, shard_rows), run, pieces=_CHUNKS_A_POLL)

    folder = run.once("tokens", inputs, build, version=ENCODE_VERSION)
    return tuple(Encoded.open(path) for path in sorted(folder.iterdir()) if path.is_dir())


def _write(augmented: Augmented, pieces: Pieces, max_length: int, folder: Path, shard_rows: int) -> Iterator[None]:
    """Write shard after shard, pausing after each chunk."""
    files: EncodedFiles | None = None
    start = 0
    for examples in _cut(augmented.chunks(CHUNK), shard_rows):
        if files is None:
            below = folder / f"{start // shard_rows:05d}"
            below.mkdir()
            files = EncodedFiles(below, pieces, max_length, start=start)
        files.add(examples)
        if files.num_rows == shard_rows:
            files.close()
            files, start = None, start + shard_rows
        yield
    if files is not None:
        files.close()
    elif not start:
        raise ValueError(f"augmented: {augmented.files[0]}: found no rows to tokenise, expected at least 1")


def _cut(chunks: Iterator[Examples], shard_rows: int) -> Iterator[Examples]:
    """Cut chunks where a shard ends; what was skipped before the first row of a shard counts for it."""
    room, skipped = shard_rows, 0
    for chunk in chunks:
        skipped, first = skipped + chunk.skipped, 0
        while first < len(chunk):
            rows = range(first, min(first + room, len(chunk)))
            yield replace(chunk.take(rows), skipped=skipped)
            first, skipped = rows.stop, 0
            room = room - len(rows) or shard_rows


class Sharded:
    """The batches of a set in shards by step number; satisfies `training.Steps`.

    A global batch never mixes shards, so the last of each shard may be short. What it is depends on the seed, epoch and
    shard alone: it is the same on any number of ranks, and a resumed run needs nothing but its step number.
    """

    def __init__(self, shards: Sequence[Encoded], batches: Callable[[Encoded, int], Batches]) -> None:
        """Count the steps; nothing but the rows' lengths is read.

        Args:
            shards: in order; at least one.
            batches: makes the batches of one shard, given its number, from which it should derive its seed.

        Raises:
            ValueError: `batches` raises it: a number is out of range.
        """
        self._shards, self._batches = shards, batches
        self._ends = np.cumsum([batches(shard, number).num_steps for number, shard in enumerate(shards)])
        self.num_steps = int(self._ends[-1])
        self._open: tuple[int, Batches] | None = None

    def step(self, step: int, /) -> list[Batch]:
        """This rank's micro-batches of update `step`, counted over all epochs; may be empty on some ranks."""
        batches, within, _ = self._find(step)
        return batches.step(within)

    def rows(self, step: int) -> Rows:
        """Row numbers in the whole set of the global batch of `step`, the same on every rank."""
        batches, within, shard = self._find(step)
        return shard.rows[batches.rows(within)] + shard.start

    def _find(self, step: int) -> tuple[Batches, int, Encoded]:
        """The batches of the shard that `step` falls in, and its number among all steps of this shard."""
        epoch, within = divmod(step, self.num_steps)
        number = int(np.searchsorted(self._ends, within, side="right"))
        if self._open is None or self._open[0] != number:
            self._open = (number, self._batches(self._shards[number], number))
        batches = self._open[1]
        first = int(self._ends[number]) - batches.num_steps
        return batches, epoch * batches.num_steps + within - first, self._shards[number]
