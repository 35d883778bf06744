"""A store of a teacher's knowledge as its readers see it: mapped arrays, checked, and looked up by example.

    index.json            selection, shards, and for each file its size and checksum
    ids.npy, places.npy   row numbers, ascending, and where each example lies
    00012.rows.npy, ...   the shards; methods.parts.packing says what is in them

Nothing but the touched pages of mapped files is ever in memory, whatever the store's size.
"""

from __future__ import annotations

import errno
import os
import shutil
import zlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from methods.parts.batches import Batch
from methods.parts.files import JsonValue, canonical, read_json
from methods.parts.lesson import Lesson, State
from methods.parts.packing import ROWS, SLOTS, VALUES, Floats, Format, Records, dense_values, ranges, unpacked
from methods.parts.selection import Selection
from methods.parts.store import Request, Site, once

INDEX, IDS, PLACES = "index.json", "ids.npy", "places.npy"
FULL = (errno.ENOSPC, errno.EDQUOT)
"""Errors that say a disk is full."""

SCRATCH = "DISTILSWEEP_SCRATCH"
"""Environment variable that names a folder on a node's own disk, to which stores are copied once."""

_OPEN_SHARDS = 256
_BLOCK = 2**20
_verified: set[tuple[int, int, int]] = set()


def checksum(path: Path) -> int:
    """CRC-32 of a file."""
    found = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            found = zlib.crc32(block, found)
    return found


def seal(index: Mapping[str, JsonValue]) -> int:
    """CRC-32 of the index's own content."""
    return zlib.crc32(canonical(index).encode())


def verify(folder: Path) -> None:
    """Compare every file of a store with the index: sizes always, checksums once in each process.

    Raises:
        ValueError: a file is missing, cut short or changed; the message names it.
    """
    index = _read_index(folder)
    status = (folder / INDEX).stat()
    stamp = (status.st_dev, status.st_ino, status.st_mtime_ns)
    if stamp in _verified:
        return
    for name, about in index["files"].items():
        if (found := checksum(folder / name)) != about["crc32"]:
            raise ValueError(f"{folder / name}: found checksum {found}, expected {about['crc32']}")
    _verified.add(stamp)


def local_copy(folder: Path) -> Path:
    """A store's copy on this node's own disk, made once per node if `DISTILSWEEP_SCRATCH` names one; else the store.

    Copies are shared by all sweeps and never removed here. A full disk leaves the store where it is.
    """
    place = os.environ.get(SCRATCH)
    if not place:
        return folder
    manifest = read_json(folder / "manifest.json")
    request = Request(name=manifest["name"], inputs=manifest["inputs"], version=manifest["version"])

    def copy(site: Site) -> None:
        for path in folder.iterdir():
            shutil.copyfile(path, site.folder / path.name)
        verify(site.folder)

    try:
        return once(Path(place), request, copy, check=verify)
    except OSError as error:
        if error.errno not in FULL:
            raise
        return folder


class Shelf:
    """Some or all of a stored selection; called with a batch, it gives the lesson."""

    def __init__(self, folder: Path, selection: Selection) -> None:
        """Map the store.

        Args:
            folder: a published artifact.
            selection: what to take, the stored selection or one that it covers.

        Raises:
            ValueError: a file is missing or cut short, or the store does not hold the selection.
        """
        index = _read_index(folder)
        coordinates = index["coordinates"]
        self.form = Format(
            Selection.from_json(index["selection"]),
            index["hidden"],
            index["labels"],
            None if coordinates is None else tuple(coordinates),
        )
        if not self.form.selection.covers(selection):
            raise ValueError(f"{folder}: holds {self.form.selection}, which does not cover {selection}")
        self.folder, self.selection = folder, selection
        self.ids: NDArray[np.uint32] = _mapped(folder / IDS)
        self.places: NDArray[np.uint32] = _mapped(folder / PLACES)
        self._starts = np.array(index["starts"], dtype=np.int64)
        self.record = self.form.dtype(ROWS)
        self.shard = lru_cache(_OPEN_SHARDS)(self._shard)

    def _shard(self, number: int, file: str) -> Records:
        """One file of a shard; the last few stay mapped, since every mapping holds a file open."""
        return _mapped(self.folder / f"{number:05d}.{file}.npy")

    def __call__(self, batch: Batch) -> Lesson:
        """The lesson of a batch; each row may be padded to any length.

        Raises:
            ValueError: a row is not stored, or where all tokens are kept has another length than the stored one.
        """
        device, mask = batch.ids.device, batch.attention_mask.bool()
        places = self._find(batch.ids.cpu().numpy())
        real = mask.cpu().numpy()
        taken = _Taken(self, places, np.searchsorted(self._starts, places, side="right") - 1, self._starts)
        logits = torch.from_numpy(taken.rows("logits")).to(device) if self.selection.logits else None
        if self.form.ragged:
            states = (State(torch.from_numpy(dense).to(device), None, mask) for dense in taken.ragged(real))
        else:
            states = (self._state(taken, number, real.sum(1), device) for number in self.selection.states)
        return Lesson(logits, tuple(states), ())

    def _find(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where the examples lie."""
        found = np.minimum(np.searchsorted(self.ids, ids.astype(np.uint32)), len(self.ids) - 1)
        if (missing := ids[self.ids[found] != ids]).size:
            raise ValueError(f"{self.folder}: row {missing[0]} is not stored, allowed are the {len(self.ids)} rows")
        return self.places[found].astype(np.int64)

    def _state(self, taken: _Taken, number: int, lengths: NDArray[np.int64], device: torch.device) -> State:
        """One state at a fixed number of positions."""
        slots = self.selection.tokens or 1
        cut = None if self.form.together else slots
        marks = taken.rows(f"coordinates{number}", cut) if self.form.sparse else None
        dense = dense_values(self.form, taken.rows(f"values{number}", cut), marks)
        positions = torch.from_numpy(taken.rows(f"positions{number}", slots).astype(np.int64))
        real = torch.from_numpy(np.arange(slots) < lengths[:, None])
        values = torch.from_numpy(dense).view(len(lengths), slots, self.form.hidden)
        return State(values.to(device), positions.to(device), real.to(device))


class _Taken:
    """The records of one batch, shard by shard."""

    def __init__(
        self, shelf: Shelf, places: NDArray[np.int64], shards: NDArray[np.int64], starts: NDArray[np.int64]
    ) -> None:
        self._shelf, self._size = shelf, len(places)
        self._parts = [(int(shard), np.flatnonzero(shards == shard)) for shard in np.unique(shards)]
        self._local = places - starts[shards]

    def rows(self, name: str, slots: int | None = None) -> NDArray[Any]:
        """A field of the examples' records, (B, ...), of its first `slots` positions if given."""
        dtype = self._shelf.record[name]
        shape = dtype.shape if slots is None else (slots, *dtype.shape[1:])
        out = np.empty((self._size, *shape), dtype=dtype.base)
        for shard, mine in self._parts:
            field = self._shelf.shard(shard, ROWS)[name]
            out[mine] = field[self._local[mine]] if slots is None else field[self._local[mine], :slots]
        return out

    def ragged(self, real: NDArray[np.bool_]) -> Sequence[Floats]:
        """All tokens' states, (B, L, D) each, 0 at padding.

        Raises:
            ValueError: a row has not the stored length.
        """
        form, lengths = self._shelf.form, self.rows("length").astype(np.int64)
        if (lengths != real.sum(1)).any():
            raise ValueError(f"{self._shelf.folder}: a row's length is not the stored one; found other tokens")
        states = [np.zeros((*real.shape, form.hidden), dtype=np.float32) for _ in self._shelf.selection.states]
        slots, values = self.rows("slot"), self.rows("value")
        for shard, mine in self._parts:
            places = ranges(slots[mine], lengths[mine])
            at = np.repeat(mine, lengths[mine]), ranges(np.zeros(len(mine), dtype=np.int64), lengths[mine])
            for number, state in zip(self._shelf.selection.states, states, strict=True):
                state[at] = self._tokens(shard, number, places, values[mine], lengths[mine])
        return states

    def _tokens(
        self,
        shard: int,
        number: int,
        places: NDArray[np.int64],
        values: NDArray[np.int64],
        lengths: NDArray[np.int64],
    ) -> Floats:
        """One state of the tokens at `places` in a shard, (T, D)."""
        form, slots = self._shelf.form, self._shelf.shard(shard, SLOTS)
        marks = slots[f"coordinates{number}"][places] if form.sparse else None
        if not form.sparse and form.coordinates is None:
            found: Floats = slots[f"values{number}"][places]
            return found
        if marks is None or not form.together:
            return dense_values(form, slots[f"values{number}"][places], marks)
        kept = unpacked(marks, form.hidden)
        counts = np.add.reduceat(kept.sum(1), np.cumsum(lengths) - lengths)
        dense = np.zeros(kept.shape, dtype=np.float32)
        dense[kept] = self._shelf.shard(shard, VALUES)[f"values{number}"][ranges(values, counts)]
        return dense


def _mapped(path: Path) -> NDArray[Any]:
    """Map an array for reading."""
    found: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return found


def _read_index(folder: Path) -> dict[str, Any]:
    """The index, once all files are there in their sizes."""
    if not (folder / INDEX).is_file():
        raise ValueError(f"{folder}: found no {INDEX}, expected a store of knowledge")
    index: dict[str, Any] = read_json(folder / INDEX)
    if index.pop("crc32", None) != seal(index):
        raise ValueError(f"{folder / INDEX}: found another checksum than its own")
    for name, about in index["files"].items():
        found = (folder / name).stat().st_size if (folder / name).is_file() else -1
        if found != about["bytes"]:
            raise ValueError(f"{folder / name}: found {found} bytes, expected {about['bytes']}")
    return index
