"""A split is tokenised once and then read from memory-mapped arrays by every trial.

Rows lie back to back in one flat array, so padding is decided per batch and costs neither disk nor time here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from methods.parts.encoding import EncodedFiles
from methods.parts.examples import Labels, digest
from methods.parts.files import read_json
from methods.parts.run import Run
from methods.parts.tasks import Task
from methods.parts.wordpiece import fingerprint_of_tokenizer, load_pieces

ENCODE_VERSION = 1
"""Raised whenever the meaning of the stored arrays changes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoded:
    """A tokenised split, or some rows of one; the arrays stay on disk until they are touched.

    `rows` are row numbers in the whole split. They stay with an example through every subset, so stored teacher outputs
    and the halves of a development set mean the same rows everywhere. A large set comes in shards, each with arrays of
    its own: `rows` then count within the shard, and `start` more is the number in the whole set.
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
    start: int = 0
    """Row number, in the whole set, of the first row of this shard; 0 for a set in one piece."""

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
            start=int(about.get("start", 0)),
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
    inputs = {"task": task.labelled, "split": split, "tokenizer": fingerprint_of_tokenizer(tokenizer)}

    def build(folder: Path, run: Run) -> None:
        examples, pieces = task.read(split), load_pieces(tokenizer)  # on every rank, so that a bad row fails on all
        if not len(examples):
            raise ValueError(f"task {task.name}: {split}: found no rows to tokenise, expected at least 1")
        if run.rank == 0:
            files = EncodedFiles(folder, pieces, task.max_length)
            files.add(examples)
            files.close()

    return Encoded.open(run.once("tokens", inputs, build, version=ENCODE_VERSION))


def dev_halves(dev: Encoded) -> tuple[Encoded, Encoded]:
    """Split a development set into a half to search on and a half held back, by a hash of the row number.

    The halves differ by at most one row, do not depend on the order of the rows, and are the same in every sweep.
    """
    if len(dev) < 2:
        raise ValueError(f"found a development set of {len(dev)} rows, expected at least 2 to halve it")
    order = np.argsort(mixed(dev.rows), kind="stable")
    middle = (len(dev) + 1) // 2
    return dev.subset(np.sort(order[:middle])), dev.subset(np.sort(order[middle:]))


def mixed(rows: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Hash row numbers (the finaliser of SplitMix64), so that neighbours in the file part ways."""
    state = rows.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return cast(NDArray[np.uint64], state ^ (state >> np.uint64(31)))
