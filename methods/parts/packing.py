"""How a teacher's knowledge lies on disk: fixed records per example, records per token, and back to dense tensors.

    rows     one record per example: logits; without `all` tokens also positions and kept coordinates of each state
    slots    one record per real token, where all tokens are kept: the kept coordinates of each state
    values   one record per kept coordinate, where all tokens are kept and an example ranks its coordinates as a whole

Coordinates that are the same everywhere are named once, in the store's index. Where they differ, the kept values lie
side by side and packed bits (or 16-bit numbers, if these are smaller) say where they belong.

Shape legend: `N` examples, `K` kept positions, `T` real tokens of N examples, `D` the teacher's hidden width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from methods.parts.choosing import keep
from methods.parts.layout import Layout
from methods.parts.lesson import Lesson
from methods.parts.selection import Selection

ROWS, SLOTS, VALUES = "rows", "slots", "values"

Records: TypeAlias = NDArray[np.void]
Floats: TypeAlias = NDArray[np.float32]

_FLOATS = {"float32": "<f4", "float16": "<f2"}


@dataclass(frozen=True, slots=True)
class Format:
    """The records of a selection."""

    selection: Selection
    hidden: int
    """D."""
    labels: int
    """Outputs of the classifier."""
    coordinates: tuple[int, ...] | None
    """Those kept everywhere, ascending; None where all are, or where they differ."""

    @classmethod
    def of(cls, selection: Selection, layout: Layout) -> Format:
        """The records for a teacher's layout.

        Raises:
            ValueError: the teacher lacks what is selected, or the selection cannot be stored.
        """
        selection.depth(len(layout.layers))
        if not selection.storable:
            raise ValueError(f"Selection: found {selection}, which differs from batch to batch and cannot be stored")
        if selection.logits and not layout.labels:
            raise ValueError("Selection.logits: found True, but the teacher has no classifier")
        coordinates = None
        if selection.states and not selection.whole and selection.width_scheme != "importance":
            mask = keep(torch.zeros(1, 1, layout.hidden), torch.ones(1, 1, dtype=torch.bool), selection)
            coordinates = tuple(mask[0, 0].nonzero()[:, 0].tolist())
        return cls(selection, layout.hidden, layout.labels, coordinates)

    @property
    def ragged(self) -> bool:
        """Whether all tokens are kept, so that examples take as many slots as they have tokens."""
        return bool(self.selection.states) and self.selection.tokens is None

    @property
    def sparse(self) -> bool:
        """Whether coordinates differ from place to place."""
        return bool(self.selection.states) and not self.selection.whole and self.coordinates is None

    @property
    def together(self) -> bool:
        """Whether the coordinates of all slots of an example are ranked together."""
        return self.sparse and self.selection.threshold == "example"

    def dtype(self, file: str) -> np.dtype[np.void]:
        """The record of one of the files; without fields where the selection does not need it."""
        fields: list[tuple[Any, ...]] = []
        if file == ROWS:
            fields += [("logits", "<f4", (self.labels,))] if self.selection.logits else []
            fields += [("slot", "<i8"), ("value", "<i8"), ("length", "<u2")] if self.ragged else []
        for state in self.selection.states:
            fields += self._of_state(file, state)
        return np.dtype(fields)

    def _of_state(self, file: str, state: int) -> list[tuple[Any, ...]]:
        """What a record holds of one state."""
        slots, kind = self.selection.tokens, _FLOATS[self.selection.dtype]
        if file == VALUES:
            return [(f"values{state}", kind)] if self.ragged and self.together else []
        if (file == SLOTS) != self.ragged:
            return []
        places = [] if slots is None else [(f"positions{state}", "<u2", (slots,))]
        if self.together:
            marks = (f"coordinates{state}", *self.marks)
            return [marks] if slots is None else [*places, (f"values{state}", kind, (self.room,)), marks]
        shape = () if slots is None else (slots,)
        found = [*places, (f"values{state}", kind, (*shape, self.room))]
        return [*found, (f"coordinates{state}", self.marks[0], (*shape, *self.marks[1]))] if self.sparse else found

    @property
    def span(self) -> int:
        """Coordinates that are described at once: those of a slot, or those of all slots of an example."""
        together = self.together and self.selection.tokens is not None
        return self.hidden * (self.selection.tokens or 1) if together else self.hidden

    @property
    def room(self) -> int:
        """Values kept of a span, at most."""
        if self.coordinates is not None:
            return len(self.coordinates)
        return self.selection.kept(self.span) if self.sparse else self.span

    @property
    def marks(self) -> tuple[str, tuple[int]]:
        """Type and number of what says which coordinates of a span are kept."""
        bits = -(-self.span // 8)
        numbers = self.span <= 2**16 and 2 * self.room < bits and not (self.ragged and self.together)
        return ("<u2", (self.room,)) if numbers else ("u1", (bits,))

    def counts(self, lengths: Sequence[int] | NDArray[np.int64]) -> dict[str, int]:
        """Records in each file for examples of so many tokens."""
        found = np.asarray(lengths, dtype=np.int64)
        values = 0
        if self.ragged and self.together:
            sizes, times = np.unique(found, return_counts=True)
            values = sum(self.values_of(int(size)) * int(many) for size, many in zip(sizes, times, strict=True))
        return {ROWS: len(found), SLOTS: int(found.sum()) if self.ragged else 0, VALUES: values}

    def values_of(self, length: int) -> int:
        """Records in `values` of an example of so many tokens."""
        return self.selection.kept(length * self.hidden)

    def bytes(self, lengths: Sequence[int] | NDArray[np.int64]) -> int:
        """Size of all records in bytes, the heads of the files left out."""
        return sum(count * self.dtype(file).itemsize for file, count in self.counts(lengths).items())


class Packer:
    """Fills the records of a run of examples, lesson by lesson."""

    def __init__(self, form: Format, lengths: NDArray[np.int64]) -> None:
        """Make room for examples of these lengths."""
        self.form, self._lengths = form, lengths
        found = {file: np.zeros(count, dtype=form.dtype(file)) for file, count in form.counts(lengths).items()}
        self.records = {file: array for file, array in found.items() if array.dtype.names}
        self._next = dict.fromkeys((ROWS, SLOTS, VALUES), 0)

    def add(self, lesson: Lesson) -> None:
        """Append the examples of one batch; their padding is dropped."""
        form, first = self.form, self._next[ROWS]
        size = len(lesson.logits) if lesson.logits is not None else len(lesson.states[0].values)
        rows = self.records[ROWS][first : first + size]
        lengths = self._lengths[first : first + size]
        if lesson.logits is not None:
            rows["logits"] = _finite(lesson.logits)
        if form.ragged:
            self._add_ragged(rows, lesson, lengths)
        else:
            for number, state in zip(form.selection.states, lesson.states, strict=True):
                rows[f"positions{number}"] = 0 if state.positions is None else state.positions.cpu().numpy()
                _put(rows, number, _finite(state.values), form)
        self._next[ROWS] += size

    def _add_ragged(self, rows: Records, lesson: Lesson, lengths: NDArray[np.int64]) -> None:
        """Append all real tokens of the examples."""
        form, first, start = self.form, self._next[SLOTS], self._next[VALUES]
        slots = self.records[SLOTS][first : first + int(lengths.sum())]
        room = np.array([form.values_of(int(length)) if form.together else 0 for length in lengths])
        rows["length"], rows["slot"] = lengths, first + np.cumsum(lengths) - lengths
        rows["value"] = start + np.cumsum(room) - room
        for number, state in zip(form.selection.states, lesson.states, strict=True):
            real = state.real.cpu().numpy()
            dense = _finite(state.values)[real]
            if not form.together:
                _put(slots, number, dense, form)
                continue
            kept = dense != 0
            slots[f"coordinates{number}"] = np.packbits(kept, axis=1, bitorder="little")
            counts = np.add.reduceat(kept.sum(1), np.cumsum(lengths) - lengths)
            self.records[VALUES][f"values{number}"][ranges(rows["value"], counts)] = dense[kept]
        self._next[SLOTS] += len(slots)
        self._next[VALUES] += int(room.sum())


def _finite(found: Tensor) -> Floats:
    """The teacher's output as an array.

    Raises:
        ValueError: it holds NaN or infinity, which a state too large for float16 becomes.
    """
    array: Floats = found.cpu().numpy()
    if not np.isfinite(array).all():
        raise ValueError("knowledge: found NaN or infinity in the teacher's outputs, allowed are finite numbers")
    return array


def _put(records: Records, number: int, dense: Floats, form: Format) -> None:
    """Write dense values (..., K or nothing, D) of one state into records."""
    if form.coordinates is not None:
        dense = dense[..., list(form.coordinates)]
    if not form.sparse:
        records[f"values{number}"] = dense
        return
    flat = dense.reshape(-1, form.span)
    kept = flat != 0
    filled = np.arange(form.room) < kept.sum(1)[:, None]
    values = np.zeros(filled.shape, dtype=np.float32)
    values[filled] = flat[kept]
    if form.marks[0] == "u1":
        marks = np.packbits(kept, axis=1, bitorder="little")
    else:  # what is left of the room repeats the last number and its value
        marks = np.zeros(filled.shape, dtype=np.uint16)
        marks[filled] = np.nonzero(kept)[1]
        last = np.minimum(np.arange(form.room), np.maximum(kept.sum(1) - 1, 0)[:, None])
        marks, values = np.take_along_axis(marks, last, 1), np.take_along_axis(values, last, 1)
    for name, found in ((f"values{number}", values), (f"coordinates{number}", marks)):
        records[name] = found.reshape(records[name].shape)


def dense_values(form: Format, values: NDArray[Any], marks: NDArray[Any] | None) -> Floats:
    """Spread stored values over all coordinates, 0 elsewhere.

    Args:
        form: the records they come from.
        values: (..., kept), of slots or, where coordinates are ranked together, of examples.
        marks: (..., n) from the field `coordinates`; None where there is none.

    Returns:
        (..., D or K*D) float32.
    """
    flat = np.zeros((math.prod(values.shape[:-1]), form.span), dtype=np.float32)
    values = values.reshape(len(flat), values.shape[-1])
    if marks is None:
        flat[:, slice(None) if form.coordinates is None else list(form.coordinates)] = values
    elif form.marks[0] == "u1":
        kept = unpacked(marks.reshape(len(flat), -1), form.span)
        flat[kept] = values[np.arange(form.room) < kept.sum(1)[:, None]]
    else:
        np.put_along_axis(flat, marks.reshape(len(flat), -1).astype(np.int64), values.astype(np.float32), 1)
    return flat


def unpacked(marks: NDArray[np.uint8], span: int) -> NDArray[np.bool_]:
    """Packed bits (N, n) as a mask (N, span)."""
    return np.unpackbits(marks, axis=1, count=span, bitorder="little").astype(bool)


def ranges(starts: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count up from each start, one run after the other: ([5, 0], [2, 3]) gives 5 6 0 1 2."""
    return np.repeat(starts - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())
