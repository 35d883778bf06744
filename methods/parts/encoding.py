"""Texts become token ids, chunk by chunk, in memory-mappable files.

A row becomes `[CLS] a [SEP]` or `[CLS] a [SEP] b [SEP]`, cut to the task's length one token at a time from the longer
text (from the second on a tie, as the published code does). What is held in memory is a chunk of rows, however many
there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray
from tokenizers import Encoding

from methods.parts.examples import CHUNK, Examples, Labels
from methods.parts.files import JsonValue, write_json
from methods.parts.npyfile import GrowingArray, digest_arrays
from methods.parts.wordpiece import Pieces


class RowArrays:
    """The arrays of rows of tokens while they are written; `tokens.Encoded` opens them."""

    def __init__(self, folder: Path, pieces: Pieces, *, start: int = 0) -> None:
        """Begin in an existing folder.

        Args:
            folder: where the arrays go.
            pieces: the tokenizer.
            start: row number of the first row in the whole set.
        """
        self.num_rows, self.num_tokens = 0, 0
        self._folder, self._pad, self._start = folder, pieces.pad, start
        self._ids_type = np.uint16 if pieces.size <= 2**16 else np.uint32
        self._arrays: dict[str, GrowingArray] = {}

    def add(
        self,
        rows: Sequence[Sequence[int]],
        seconds: ArrayLike,
        labels: Labels,
        flags: Sequence[NDArray[np.uint8]] | None = None,
    ) -> None:
        """Write at least one row.

        Args:
            rows: token ids.
            seconds: for each row at which token its second text begins, or its length.
            labels: of one kind in all calls.
            flags: for each row one number a token.
        """
        ends = self.num_tokens + np.cumsum([len(row) for row in rows])
        self._append("tokens", self._ids_type, np.concatenate([np.asarray(row, dtype=self._ids_type) for row in rows]))
        self._append("offsets", np.int64, ends if self.num_rows else np.concatenate([[0], ends]))
        self._append("seconds", np.int32, seconds)
        self._append("labels", labels.dtype, labels)
        if flags is not None:
            self._append("sites", np.uint8, np.concatenate(flags))
        self.num_tokens = int(ends[-1])
        self.num_rows += len(rows)

    def close(self, about: Mapping[str, JsonValue] | None = None) -> str:
        """Finish the files, describe them, and hash their content; `about` says more of them."""
        for array in self._arrays.values():
            array.close()
        content = digest_arrays(array.path for array in self._arrays.values())
        facts: dict[str, JsonValue] = {"pad_id": self._pad, "fingerprint": content, "rows": self.num_rows}
        write_json(self._folder / "about.json", {**facts, "start": self._start, **(about or {})})
        return content

    def _append(self, name: str, dtype: DTypeLike, values: ArrayLike) -> None:
        """Write to an array, which the first values begin."""
        if name not in self._arrays:
            self._arrays[name] = GrowingArray(self._folder / f"{name}.npy", dtype)
        self._arrays[name].append(values)


class EncodedFiles:
    """The files of one encoded set, or of one shard of it, while they are written; `tokens.Encoded` opens them."""

    def __init__(self, folder: Path, pieces: Pieces, max_length: int, *, start: int = 0) -> None:
        """Begin in an existing folder.

        Args:
            folder: where the arrays go.
            pieces: the tokenizer.
            max_length: tokens a row is cut to, special tokens included.
            start: row number of the first row in the whole set.
        """
        self._arrays = RowArrays(folder, pieces, start=start)
        self._pieces, self._max_length = pieces, max_length
        self._skipped = 0

    @property
    def num_rows(self) -> int:
        """Rows so far."""
        return self._arrays.num_rows

    def add(self, examples: Examples) -> None:
        """Tokenise rows and write them; all that are added have labels of one kind, and sites or none."""
        self._skipped += examples.skipped
        for first in range(0, len(examples), CHUNK):
            chunk = slice(first, first + CHUNK)
            rows = _rows(examples, chunk, self._pieces, self._max_length)
            flags = None
            if examples.sites is not None:
                flags = [_site_flags(row, sites) for row, sites in zip(rows, examples.sites[chunk], strict=True)]
            self._arrays.add([row.ids for row in rows], [row.second for row in rows], examples.labels[chunk], flags)

    def close(self) -> None:
        """Finish the files and describe them."""
        self._arrays.close({"skipped": self._skipped})


def kept(first: int, second: int, room: int) -> tuple[int, int]:
    """How many tokens of each text stay when the longer one loses a token at a time, the second on a tie.

    Args:
        first: tokens of the first text.
        second: tokens of the second text.
        room: tokens that fit.
    """
    if first + second <= room:
        return first, second
    half = room // 2
    if second <= half:
        return room - second, second
    if first <= room - half:
        return first, room - first
    return room - half, half


@dataclass(frozen=True, slots=True)
class _Row:
    """One encoded row, and where the pieces of its texts went."""

    ids: list[int]
    second: int
    texts: tuple[tuple[int, Encoding, int], ...]
    """For each text the position of its first token, its pieces, and how many of them are kept."""


def _rows(examples: Examples, chunk: slice, pieces: Pieces, max_length: int) -> list[_Row]:
    """Encode some rows, on which the tokenizer works in parallel."""
    firsts = pieces.split(examples.texts[chunk])
    if examples.pairs is None:
        return [_single(first, pieces, max_length - 2) for first in firsts]
    both = zip(firsts, pieces.split(examples.pairs[chunk]), strict=True)
    return [_pair(first, second, pieces, max_length - 3) for first, second in both]


def _single(first: Encoding, pieces: Pieces, room: int) -> _Row:
    """Put the special tokens around one text."""
    ids = [pieces.cls, *first.ids[:room], pieces.sep]
    return _Row(ids, len(ids), ((1, first, room),))


def _pair(first: Encoding, second: Encoding, pieces: Pieces, room: int) -> _Row:
    """Cut two texts to what fits and put the special tokens around them."""
    keep, rest = kept(len(first), len(second), room)
    ids = [pieces.cls, *first.ids[:keep], pieces.sep, *second.ids[:rest], pieces.sep]
    return _Row(ids, keep + 2, ((1, first, keep), (keep + 2, second, rest)))


def _site_flags(row: _Row, sites: Sequence[tuple[int, int]]) -> NDArray[np.uint8]:
    """Mark the tokens of the words named by `sites`."""
    flags = np.zeros(len(row.ids), dtype=np.uint8)
    for text, site in sites:
        start, pieces, keep = row.texts[text]
        for position, word in enumerate(pieces.word_ids[:keep]):
            if word == site:
                flags[start + position] = 1
    return flags
