"""Write a store of a teacher's knowledge: all ranks together, shard by shard, so that a killed build goes on.

Which rows a shard holds and in which batches the teacher sees them depends on the data and the selection alone, so any
number of ranks writes the same bytes. A finished shard stays in the build's stage folder, marked by a small file, and
is taken over by whoever builds next; at the end all of them are linked into the artifact.
"""

from __future__ import annotations

import os
import shutil
import uuid
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray

from methods.parts.batches import Rows, collate, evaluation_rows
from methods.parts.files import JsonValue, read_json, remove, wait_for, write_json
from methods.parts.lesson import Knowledge
from methods.parts.packing import Format, Packer
from methods.parts.reduce import agree, total
from methods.parts.run import Run
from methods.parts.shelf import FULL, IDS, INDEX, PLACES, seal
from methods.parts.tokens import Encoded

_Item = TypeVar("_Item")

BATCH = 32
"""Rows the teacher sees at a time; the last bits of its outputs depend on it."""

SHARD_BYTES = 2**28
"""About the most that a shard holds."""

SHARDS = 64
"""Shards of a store whose size does not ask for more: enough to share out, few enough to be found fast."""


@dataclass(frozen=True, slots=True)
class Shard:
    """Consecutive evaluation batches of one data set."""

    number: int
    data: Encoded
    batches: tuple[Rows, ...]
    """Positions in `data`."""

    @property
    def picks(self) -> Rows:
        """Positions in `data`, in the order in which they are stored."""
        return np.concatenate(self.batches)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row, in the order in which they are stored."""
        rows = self.data.rows[self.picks]
        return np.asarray(self.data.offsets[rows + 1] - self.data.offsets[rows], dtype=np.int64)

    @property
    def ids(self) -> NDArray[np.int64]:
        """Row numbers, in the order in which they are stored."""
        return self.data.rows[self.picks] + self.data.start


def plan_shards(form: Format, data: Sequence[Encoded]) -> list[Shard]:
    """Cut data into shards; rows of similar length lie together.

    Raises:
        ValueError: a row appears twice, or has no 32-bit number.
    """
    ids = np.concatenate([part.rows + part.start for part in data])
    if len(np.unique(ids)) < len(ids) or ids.max() >= 2**32:
        raise ValueError("knowledge: found a row twice or a row number of 2**32 or more, allowed are distinct rows")
    largest = max(form.bytes([int(part.lengths.max())]) for part in data)
    rows = min(SHARD_BYTES // max(largest, 1), -(-len(ids) // SHARDS))
    size = max(1, rows // BATCH)
    cut = [(part, batches) for part in data for batches in _runs(evaluation_rows(part, BATCH), size)]
    return [Shard(number, part, tuple(batches)) for number, (part, batches) in enumerate(cut)]


def build_shards(teach: Knowledge, form: Format, data: Sequence[Encoded], folder: Path, run: Run) -> None:
    """Write the store into `folder`; collective.

    Args:
        teach: the live teacher with the stored selection.
        form: how its lessons are laid out.
        data: what it is asked about.
        folder: becomes the artifact.
        run: the build's.

    Raises:
        OSError: the disk is full, on any rank, or has not enough room left to begin with; raised on all of them, after
            what was written has been removed.
        ValueError: the teacher gives NaN or infinity.
    """
    shards = plan_shards(form, data)
    with run.stage("shards") as stage:
        bench = _Bench(teach, form, stage.folder, run)
        try:
            pending = bench.pending(shards)
            for round_ in _runs(pending, run.world_size):
                bench.fill(round_)
                run.report(round_[-1].number + 1, {"progress": (round_[-1].number + 1) / len(shards)})
            bench.together(lambda: _collect(shards, form, stage.folder, folder) if run.rank == 0 else None)
        except OSError as error:
            if error.errno in FULL and run.rank == 0:
                remove(stage.folder)
            raise


class _Bench:
    """Where one rank fills its shards, in step with the others."""

    def __init__(self, teach: Knowledge, form: Format, work: Path, run: Run) -> None:
        self._teach, self._form, self._work, self._run = teach, form, work, run

    def pending(self, shards: Sequence[Shard]) -> list[Shard]:
        """The shards that are still to be written, the same on every rank."""
        done = [0.0] * len(shards)

        def look() -> None:
            if self._run.rank == 0:
                self._work.mkdir(parents=True, exist_ok=True)
                done[:] = [float(_finished(self._work, shard.number)) for shard in shards]
                needed = sum(
                    self._form.bytes(shard.lengths)
                    for shard, finished in zip(shards, done, strict=True)
                    if not finished
                )
                if needed > (free := shutil.disk_usage(self._work).free):
                    raise OSError(FULL[0], f"knowledge needs {needed} bytes more, and {free} are free")

        self.together(look)
        flags = agree(done, self._run)
        return [shard for shard, finished in zip(shards, flags, strict=True) if not finished]

    def fill(self, shards: Sequence[Shard]) -> None:
        """Write one shard on each rank that has one; all ranks poll alike."""
        mine = shards[self._run.rank] if self._run.rank < len(shards) else None
        packer = None if mine is None else Packer(self._form, mine.lengths)
        for number in range(max(len(shard.batches) for shard in shards)):
            if mine is not None and packer is not None and number < len(mine.batches):
                packer.add(self._teach(collate(mine.data, mine.batches[number]).to(self._run.device)))
            self._run.poll()

        def write() -> None:
            if mine is not None and packer is not None:
                _write_shard(wait_for(self._work), mine.number, packer.records)

        self.together(write)

    def together(self, work: Callable[[], None]) -> None:
        """Do some writing on every rank; a full disk on one of them is raised on all."""
        full: OSError | None = None
        try:
            work()
        except OSError as error:
            if error.errno not in FULL:
                raise
            full = error
        (count,) = total([float(full is not None)], self._run)
        if count:
            raise full or OSError(FULL[0], "another rank found the disk full")


def write_array(path: Path, array: NDArray[Any]) -> dict[str, JsonValue]:
    """Write a .npy file under its final name, whole and flushed; returns its size and checksum."""
    aside = path.with_name(f"{path.name}.{uuid.uuid4().hex}.aside")
    with aside.open("wb") as file:
        sums = _Summing(file)
        np.save(sums, array, allow_pickle=False)  # not by array.tofile, whose errors do not say that a disk is full
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    return {"bytes": sums.bytes, "crc32": sums.crc32}


class _Summing:
    """A file that adds up what is written to it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.bytes, self.crc32 = file, 0, 0

    def write(self, data: bytes) -> int:
        """Pass on."""
        self.bytes += len(data)
        self.crc32 = zlib.crc32(data, self.crc32)
        return self._file.write(data)


def _runs(items: Sequence[_Item], size: int) -> list[Sequence[_Item]]:
    """Cut a sequence into runs of `size`, the last possibly shorter."""
    return [items[start : start + size] for start in range(0, len(items), size)]


def _write_shard(work: Path, number: int, records: Mapping[str, NDArray[Any]]) -> None:
    """Write the files of a shard, and then the mark that they are there."""
    names = {file: f"{number:05d}.{file}.npy" for file in records}
    files = {name: write_array(work / name, records[file]) for file, name in names.items()}
    write_json(_mark(work, number), files)


def _mark(work: Path, number: int) -> Path:
    return work / f"{number:05d}.json"


def _finished(work: Path, number: int) -> bool:
    """Whether a shard is there, whole."""
    with suppress(OSError, ValueError):
        files = read_json(_mark(work, number))
        return all((work / name).stat().st_size == about["bytes"] for name, about in files.items())
    return False


def _collect(shards: Sequence[Shard], form: Format, work: Path, folder: Path) -> None:
    """Link the shards into the artifact and write its index."""
    files: dict[str, Any] = {}
    for shard in shards:
        files |= read_json(wait_for(_mark(work, shard.number)))
    for name in files:
        _link(wait_for(work / name), folder / name)
    ids = np.concatenate([shard.ids for shard in shards])
    order = np.argsort(ids, kind="stable")
    files[IDS] = write_array(folder / IDS, ids[order].astype(np.uint32))
    files[PLACES] = write_array(folder / PLACES, order.astype(np.uint32))
    sizes = [len(shard.picks) for shard in shards]
    index: dict[str, JsonValue] = {
        "selection": form.selection.to_json(),
        "hidden": form.hidden,
        "labels": form.labels,
        "coordinates": form.coordinates,
        "starts": [sum(sizes[:number]) for number in range(len(sizes))],
        "files": files,
    }
    write_json(folder / INDEX, {**index, "crc32": seal(index)})


def _link(source: Path, target: Path) -> None:
    """Give a file a second name; where the disk knows no links, another one."""
    try:
        os.link(source, target)
    except OSError:
        source.replace(target)
