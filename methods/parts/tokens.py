"""A split is tokenised once and then read from memory-mapped arrays by every trial.

A row becomes `[CLS] a [SEP]` or `[CLS] a [SEP] b [SEP]`, cut to the task's length one token at a time from the longer
text (from the second on a tie, as the published code does). Rows lie back to back in one flat array, so padding is
decided per batch and costs neither disk nor time here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding

from methods.parts.examples import Examples, Labels, digest
from methods.parts.files import read_json, write_json
from methods.parts.run import Run
from methods.parts.tasks import Task
from methods.parts.wordpiece import Pieces, fingerprint_of_tokenizer, load_pieces

ENCODE_VERSION = 1
"""Raised whenever the meaning of the stored arrays changes."""

_CHUNK = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoded:
    """A tokenised split, or some rows of one; the arrays stay on disk until they are touched.

    `rows` are row numbers in the whole split. They stay with an example through every subset, so stored teacher outputs
    and the halves of a development set mean the same rows everywhere.
    """

    rows: NDArray[np.int64]
    """(N,) row numbers in the whole split."""
    flat: NDArray[np.unsignedinteger]
    """Token ids of all rows of the whole split, back to back."""
    offsets: NDArray[np.int64]
    """Where each row of the whole split begins in `flat`, and the end of the last."""
    seconds: NDArray[np.int32]
    """At which token of a row its second text begins; the row's length if there is none."""
    all_labels: Labels
    """Labels of the whole split."""
    flat_sites: NDArray[np.uint8] | None
    """1 at the tokens of words that break a sentence, as `flat` is laid out."""
    pad_id: int
    """Token id of the padding."""
    fingerprint: str
    """Hash of the rows' content."""

    @classmethod
    def open(cls, folder: Path) -> Encoded:
        """Map the arrays that `encode` stored in `folder`.

        Raises:
            ValueError: the folder holds no encoded split.
        """
        if not (folder / "about.json").is_file():
            raise ValueError(f"{folder}: found no about.json, expected the folder of an encoded split")
        about = read_json(folder / "about.json")
        arrays = {path.stem: np.load(path, mmap_mode="r", allow_pickle=False) for path in folder.glob("*.npy")}
        return cls(
            rows=np.arange(len(arrays["labels"]), dtype=np.int64),
            flat=arrays["tokens"],
            offsets=arrays["offsets"],
            seconds=arrays["seconds"],
            all_labels=arrays["labels"],
            flat_sites=arrays.get("sites"),
            pad_id=int(about["pad_id"]),
            fingerprint=str(about["fingerprint"]),
        )

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.rows)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row, (N,)."""
        return np.asarray(self.offsets[self.rows + 1] - self.offsets[self.rows], dtype=np.int64)

    @property
    def labels(self) -> Labels:
        """Labels of the rows, (N,) int64 or float32."""
        return self.all_labels[self.rows]

    def subset(self, indices: Sequence[int] | NDArray[np.int64]) -> Encoded:
        """Keep the rows at these positions, in this order; their row numbers stay what they are."""
        rows = self.rows[np.asarray(indices, dtype=np.int64)]
        return replace(self, rows=rows, fingerprint=digest([self.fingerprint, rows.tobytes()]))


def encode(task: Task, split: str, tokenizer: Path, run: Run) -> Encoded:
    """Tokenise a split once for all trials that share data, tokenizer and length, and open the result.

    Raises:
        ValueError: the split is not there, a row is bad, or the folder holds no BERT tokenizer.
    """
    inputs = {"task": task.fingerprint, "split": split, "tokenizer": fingerprint_of_tokenizer(tokenizer)}

    def build(folder: Path, run: Run) -> None:
        examples, pieces = task.read(split), load_pieces(tokenizer)  # on every rank, so that a bad row fails on all
        if not len(examples):
            raise ValueError(f"task {task.name}: {split}: found no rows to tokenise, expected at least 1")
        if run.rank == 0:
            write_encoded(examples, pieces, task.max_length, folder)

    return Encoded.open(run.once("tokens", inputs, build, version=ENCODE_VERSION))


def write_encoded(examples: Examples, pieces: Pieces, max_length: int, folder: Path) -> None:
    """Tokenise `examples` and store the arrays in `folder`."""
    rows = list(_rows(examples, pieces, max_length))
    dtype = np.uint16 if pieces.size <= 2**16 else np.uint32
    arrays: dict[str, NDArray[np.generic]] = {
        "tokens": np.concatenate([np.asarray(row.ids, dtype=dtype) for row in rows]),
        "offsets": np.concatenate([[0], np.cumsum([len(row.ids) for row in rows])]).astype(np.int64),
        "seconds": np.array([row.second for row in rows], dtype=np.int32),
        "labels": examples.labels,
    }
    if examples.sites is not None:
        arrays["sites"] = np.concatenate(
            [_site_flags(row, sites) for row, sites in zip(rows, examples.sites, strict=True)]
        )
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)
    content = digest(
        part for name in sorted(arrays) for part in (name, str(arrays[name].dtype), arrays[name].tobytes())
    )
    write_json(
        folder / "about.json",
        {"pad_id": pieces.pad, "fingerprint": content, "rows": len(rows), "skipped": examples.skipped},
    )


def dev_halves(dev: Encoded) -> tuple[Encoded, Encoded]:
    """Split a development set into a half to search on and a half held back, by a hash of the row number.

    The halves differ by at most one row, do not depend on the order of the rows, and are the same in every sweep.
    """
    if len(dev) < 2:
        raise ValueError(f"found a development set of {len(dev)} rows, expected at least 2 to halve it")
    order = np.argsort(_mix(dev.rows), kind="stable")
    middle = (len(dev) + 1) // 2
    return dev.subset(np.sort(order[:middle])), dev.subset(np.sort(order[middle:]))


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
    words: tuple[tuple[int, list[int | None]], ...]
    """For each text the position of its first token, and the word number of each token kept."""


def _rows(examples: Examples, pieces: Pieces, max_length: int) -> Iterator[_Row]:
    """Encode row by row, in chunks that the tokenizer works on in parallel."""
    for start in range(0, len(examples), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        firsts = pieces.split(examples.texts[chunk])
        if examples.pairs is None:
            yield from (_single(first, pieces, max_length - 2) for first in firsts)
        else:
            both = zip(firsts, pieces.split(examples.pairs[chunk]), strict=True)
            yield from (_pair(first, second, pieces, max_length - 3) for first, second in both)


def _single(first: Encoding, pieces: Pieces, room: int) -> _Row:
    """Put the special tokens around one text."""
    ids = [pieces.cls, *first.ids[:room], pieces.sep]
    return _Row(ids, len(ids), ((1, first.word_ids[:room]),))


def _pair(first: Encoding, second: Encoding, pieces: Pieces, room: int) -> _Row:
    """Cut two texts to what fits and put the special tokens around them."""
    keep, rest = kept(len(first.ids), len(second.ids), room)
    ids = [pieces.cls, *first.ids[:keep], pieces.sep, *second.ids[:rest], pieces.sep]
    return _Row(ids, keep + 2, ((1, first.word_ids[:keep]), (keep + 2, second.word_ids[:rest])))


def _site_flags(row: _Row, sites: Sequence[tuple[int, int]]) -> NDArray[np.uint8]:
    """Mark the tokens of the words named by `sites`."""
    flags = np.zeros(len(row.ids), dtype=np.uint8)
    for text, site in sites:
        start, words = row.words[text]
        for position, word in enumerate(words):
            if word == site:
                flags[start + position] = 1
    return flags


def _mix(rows: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Hash row numbers (the finaliser of SplitMix64), so that neighbours in the file part ways."""
    state = rows.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return cast(NDArray[np.uint64], state ^ (state >> np.uint64(31)))
