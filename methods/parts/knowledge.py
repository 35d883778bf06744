"""A teacher's knowledge of a batch, computed live or read from a store: one interface for both.

The store is an artifact like any other: one per teacher, data and selection, built by all ranks of whichever trial
asks first, and read by every other. A larger store serves a smaller selection bit for bit (see `Selection.covers`). On
the batches of the build, a live teacher in fp32 gives the very same numbers; on others they agree to rounding.

Shape legend: `B` batch, `L` length, `K` kept positions, `D` the teacher's hidden width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from methods.parts.batches import Batch
from methods.parts.bert import Bert, Output
from methods.parts.checkpoint import load
from methods.parts.choosing import keep, positions
from methods.parts.examples import digest
from methods.parts.files import JsonValue
from methods.parts.layout import Layout
from methods.parts.lesson import Knowledge, Lesson, State
from methods.parts.packing import Format
from methods.parts.reduce import agree
from methods.parts.run import Run
from methods.parts.selection import Selection
from methods.parts.shards import BATCH, build_shards
from methods.parts.shelf import FULL, Shelf, local_copy, verify
from methods.parts.teacher import Teacher
from methods.parts.tokens import Encoded

__all__ = ["KNOWLEDGE_VERSION", "Knowledge", "Lesson", "State", "knowledge_bytes", "live", "open_knowledge"]

KNOWLEDGE_VERSION = 1
"""Raised whenever the meaning of the stored arrays changes."""

MODES = ("auto", "stored", "live")

_INDEX_BYTES = 8
"""Of `ids.npy` and `places.npy` for each example."""


def knowledge_bytes(selection: Selection, layout: Layout, lengths: Sequence[int] | NDArray[np.int64]) -> int:
    """Size on disk of the stored selection, in bytes, without the heads of files and the index.

    Args:
        selection: what is stored; one that cannot be stored takes nothing.
        layout: the teacher's.
        lengths: tokens of each example, special tokens counted.

    Raises:
        ValueError: the teacher lacks what is selected.
    """
    if not selection.storable:
        return 0
    return Format.of(selection, layout).bytes(lengths) + _INDEX_BYTES * len(lengths)


def live(teacher: Bert, selection: Selection, *, dropout: bool = False) -> Knowledge:
    """A teacher that is asked anew for every batch; it runs no deeper than the selection needs.

    It runs in the caller's precision: under autocast its states carry that rounding, whereas a store is always made in
    fp32.

    Args:
        teacher: put into evaluation mode, or into training mode.
        selection: what to take.
        dropout: keep dropout active (the published code's defect), so that no two passes agree.

    Raises:
        ValueError: the teacher lacks what is selected.
    """
    depth = selection.depth(len(teacher.layout.layers))
    teacher.train(dropout)

    @torch.no_grad()
    def teach(batch: Batch) -> Lesson:
        output = teacher(
            batch,
            hidden=bool(selection.states),
            scores=bool(selection.scores),
            cls_scores=selection.ranked,
            depth=None if selection.logits else depth,
        )
        return Lesson(
            output.logits.float() if selection.logits else None,
            tuple(_state(output, batch, selection, number) for number in range(len(selection.states))),
            tuple(output.scores[layer - 1] for layer in selection.scores),
        )

    return teach


def _state(output: Output, batch: Batch, selection: Selection, number: int) -> State:
    """Cut one state down to what is selected: first positions, then coordinates."""
    values, places, real = output.hidden[selection.states[number]].float(), None, batch.attention_mask.bool()
    if selection.tokens is not None:
        places, real = positions(
            selection.token_scheme,
            selection.tokens,
            mask=batch.attention_mask,
            cls_scores=output.cls_scores[selection.attention[number] - 1] if selection.ranked else None,
            types=batch.token_type_ids,
        )
        values = values.gather(1, places[..., None].expand(-1, -1, values.shape[-1]))
        values = values.masked_fill(~real[..., None], 0.0)
    if not selection.whole:
        values = torch.where(keep(values, real, selection), values, 0.0)
    return State(_rounded(values, selection), places, real)


def _rounded(values: Tensor, selection: Selection) -> Tensor:
    """The values as a store gives them back."""
    return values.half().float() if selection.dtype == "float16" else values


def open_knowledge(  # noqa: PLR0913  what is asked, of whom, about what, and how
    teacher: Teacher,
    data: Sequence[Encoded],
    selection: Selection,
    run: Run,
    *,
    mode: Literal["auto", "stored", "live"] = "auto",
    head: str | None = None,
    dropout: bool = False,
) -> Knowledge:
    """The knowledge of the fine-tuned teacher on a data set, from a store where that is possible; collective.

    A store gives 0 at padding where all positions are kept; whoever wants the padding's states asks for "live".

    Args:
        teacher: whose knowledge.
        data: the rows that batches will be made of; shards of one set number their rows on (`Encoded.start`).
        selection: what to take.
        run: the world.
        mode: "auto" stores what can be stored as long as all stores stay within `run.quota_bytes` and the disk has
            room, and runs the teacher live otherwise; "stored" insists; "live" never stores. Where one of `run.wishes`
            holds the selection and fits too, that is stored, for the other trials' sake.
        head: kind of the teacher's classifier head; None is the checkpoint's own.
        dropout: keep the teacher's dropout active, which cannot be stored.

    Raises:
        ValueError: `mode` is unknown, the teacher lacks what is selected, or "stored" is not possible.
        OSError: with "stored", the disk is full.
    """
    if mode not in MODES:
        raise ValueError(f"knowledge mode: found {mode!r}, allowed are {', '.join(MODES)}")
    selection.depth(len(teacher.layout.layers))
    if mode == "stored" and (dropout or not selection.storable):
        what = "a teacher with dropout" if dropout else f"{selection}"
        raise ValueError(f"knowledge mode 'stored': found {what}, which differs from batch to batch; allowed is 'live'")
    if mode == "live" or dropout or not selection.storable:
        return _live(teacher, selection, run, head=head, dropout=dropout)
    own = _Stock(teacher, data, selection, run, head)
    folder = own.covering()
    stocks = (_Stock(teacher, data, wish, run, head) for wish in run.wishes if _widens(wish, selection, teacher))
    stock = next((stock for stock in (*stocks, own) if stock.fits()), None) if folder is None else own
    if stock is None:
        if mode == "stored":
            raise ValueError(
                f"knowledge mode 'stored': found {own.bytes} bytes to store, allowed are {run.quota_bytes} for all "
                "stores together; select less, or raise the quota"
            )
        return _live(teacher, selection, run, head=head)
    try:
        folder = folder or stock.built()
    except OSError as error:
        if mode == "stored" or error.errno not in FULL:
            raise
        return _live(teacher, selection, run, head=head)
    return Shelf(local_copy(folder), selection)


def _live(teacher: Teacher, selection: Selection, run: Run, *, head: str | None, dropout: bool = False) -> Knowledge:
    """The checkpoint, loaded."""
    return live(load(teacher.tuned, head=head).to(run.device), selection, dropout=dropout)


def _widens(wish: Selection, selection: Selection, teacher: Teacher) -> bool:
    """Whether to store more than is selected; outputs alone are cheap, and often those of another teacher."""
    depth = len(teacher.layout.layers)
    return bool(selection.states) and max(wish.states, default=0) <= depth and wish.covers(selection)


def _size(inputs: Mapping[str, JsonValue]) -> int:
    """Bytes of a store, by its inputs."""
    return int(str(inputs.get("bytes", 0)))


class _Stock:
    """The stores of one teacher on one data set, as far as one selection needs them."""

    def __init__(
        self, teacher: Teacher, data: Sequence[Encoded], selection: Selection, run: Run, head: str | None
    ) -> None:
        self._teacher, self._data, self._run, self._head = teacher, data, run, head
        self._selection = selection.canonical()
        self.bytes = sum(knowledge_bytes(selection, teacher.layout, part.lengths) for part in data)
        self._inputs: dict[str, JsonValue] = {
            "format": KNOWLEDGE_VERSION,
            "teacher": teacher.fingerprint,
            "head": (head or teacher.head) if selection.logits else "",
            "data": digest(f"{part.start} {part.fingerprint}" for part in data),
            "selection": self._selection.to_json(),
            "batch": BATCH,
            "bytes": self.bytes,
        }

    def covering(self) -> Path | None:
        """The smallest published store that holds the selection, if it is sound."""
        sizes: list[int] = []

        def look(inputs: Mapping[str, JsonValue]) -> bool:
            if self._accepts(inputs):
                sizes.append(_size(inputs))
            return False

        self._run.find("knowledge", look)
        folder = self._run.find(
            "knowledge", lambda inputs: self._accepts(inputs) and _size(inputs) == min(sizes, default=0)
        )
        if folder is None:
            return None
        sound = True
        if self._run.rank == 0:
            try:
                verify(folder)
            except ValueError:
                sound = False
        return folder if agree([sound], self._run)[0] else None

    def _accepts(self, inputs: Mapping[str, JsonValue]) -> bool:
        """Whether a store was made of the same things and holds the selection."""
        alike = ["format", "teacher", "data", "batch", *(["head"] if self._selection.logits else [])]
        if any(inputs.get(name) != self._inputs[name] for name in alike):
            return False
        found = inputs["selection"]
        return isinstance(found, Mapping) and Selection.from_json(found).covers(self._selection)

    def fits(self) -> bool:
        """Whether the store and the published ones stay within the quota; rank 0 decides."""
        quota, sizes = self._run.quota_bytes, [self.bytes]
        if quota is None:
            return True

        def add(inputs: Mapping[str, JsonValue]) -> bool:
            if inputs != self._inputs:
                sizes.append(_size(inputs))
            return False

        self._run.find("knowledge", add)
        return bool(agree([sum(sizes) <= quota], self._run)[0])

    def built(self) -> Path:
        """This very store, built if need be."""
        form = Format.of(self._selection, self._teacher.layout)

        def build(folder: Path, inner: Run) -> None:
            teach = _live(self._teacher, self._selection, inner, head=self._head)
            build_shards(teach, form, self._data, folder, inner)

        return self._run.once("knowledge", self._inputs, build, check=verify)
