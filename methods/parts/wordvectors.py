"""Word vectors from any text file in GloVe's format, `word v1 ... vd` a line, and the nearest words by cosine.

References:
    Pennington, Socher, Manning: GloVe: Global Vectors for Word Representation, 2014,
    https://nlp.stanford.edu/projects/glove/
"""

from __future__ import annotations

import math
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from methods.parts.examples import as_number, bad_row, digest
from methods.parts.files import publish, read_json, remove, write_json

LIMIT = 100_000
"""Words kept, the first of the file, which are the most frequent; published for TinyBERT and ROSITA."""

_BLOCK = 64
"""Words looked up together: bounds the similarities in memory to `_BLOCK` times the vocabulary."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WordVectors:
    """Words and their directions."""

    words: tuple[str, ...]
    vectors: NDArray[np.float32]
    """(N, d), each of length 1; may be mapped from disk."""
    skipped: int = 0
    """Lines left out: words that came before, words with spaces, vectors of length 0."""
    index: Mapping[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Number the words."""
        object.__setattr__(self, "index", {word: number for number, word in enumerate(self.words)})

    @property
    def fingerprint(self) -> str:
        """Hash of words and vectors."""
        return digest(["\n".join(self.words), str(self.vectors.shape), np.ascontiguousarray(self.vectors).tobytes()])

    def nearest(self, word: str, k: int) -> tuple[str, ...]:
        """The k words nearest to `word`, itself left out, nearest first; none for an unknown word."""
        return self.nearest_to([word], k).get(word, ())

    def nearest_to(self, words: Iterable[str], k: int) -> dict[str, tuple[str, ...]]:
        """`nearest` for many words at once; unknown ones are left out."""
        known = [word for word in dict.fromkeys(words) if word in self.index]
        k = max(0, min(k, len(self.words) - 1))
        found: dict[str, tuple[str, ...]] = {}
        for start in range(0, len(known), _BLOCK):
            block = known[start : start + _BLOCK]
            rows = np.array([self.index[word] for word in block], dtype=np.int64)
            cosines = self.vectors[rows] @ self.vectors.T
            cosines[np.arange(len(rows)), rows] = -np.inf
            top = np.argpartition(-cosines, max(k - 1, 0), axis=1)[:, :k]
            for word, row, mine in zip(block, cosines, top, strict=True):
                order = sorted(mine.tolist(), key=lambda number: (-float(row[number]), number))
                found[word] = tuple(self.words[number] for number in order)
        return found

    def save(self, folder: Path) -> None:
        """Store the vectors so that `open_vectors` maps them; a folder that is there already stays."""
        aside = folder.with_name(f"{folder.name}.{os.getpid()}.{uuid.uuid4().hex}.aside")
        aside.mkdir(parents=True)
        np.save(aside / "vectors.npy", self.vectors, allow_pickle=False)
        write_json(aside / "words.json", {"words": self.words, "skipped": self.skipped})
        if not publish(aside, folder):
            remove(aside)


def open_vectors(folder: Path) -> WordVectors:
    """Map the vectors that `WordVectors.save` stored.

    Raises:
        ValueError: the folder holds none.
    """
    if not (folder / "words.json").is_file():
        raise ValueError(f"{folder}: found no words.json, expected the folder of stored word vectors")
    about = read_json(folder / "words.json")
    vectors = np.load(folder / "vectors.npy", mmap_mode="r", allow_pickle=False)
    return WordVectors(words=tuple(about["words"]), vectors=vectors, skipped=int(about["skipped"]))


def read_vectors(path: Path, limit: int = LIMIT) -> WordVectors:
    """Read the first `limit` words of a file; a shorter file gives fewer.

    A first line of two whole numbers, word2vec's header, is passed over. Of a word that comes twice the first vector
    counts. Words with spaces in them (the largest GloVe file has some) and vectors of length 0 are left out.

    Raises:
        ValueError: the file is missing or holds no vectors; `FILE:LINE:` of a line with too few or too many numbers,
            with one that is no finite number, or that is not UTF-8.
    """
    if limit < 1:
        raise ValueError(f"word vectors: limit: found {limit}, allowed is at least 1")
    if not path.is_file():
        raise ValueError(f"word vectors: {path}: no such file")
    rows: dict[str, NDArray[np.float32]] = {}
    skipped = 0
    for word, vector in _lines(path):
        length = float(np.linalg.norm(vector.astype(np.float64)))
        if " " in word or word in rows or length == 0.0:
            skipped += 1
            continue
        rows[word] = (vector / length).astype(np.float32)
        if len(rows) == limit:
            break
    if not rows:
        raise ValueError(f"{path}: found no word vectors, expected lines `word v1 ... vd`")
    return WordVectors(words=tuple(rows), vectors=np.stack(list(rows.values())), skipped=skipped)


def _lines(path: Path) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """Yield each line's word and numbers; the first line says how many numbers there are."""
    width = 0
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            try:
                fields = raw.decode("utf-8").strip("\r\n ").split(" ")
            except UnicodeDecodeError as error:
                raise bad_row(path, number, "bytes", raw[error.start : error.start + 4], "UTF-8") from None
            header = number == 1 and len(fields) == 2 and all(part.isascii() and part.isdigit() for part in fields)
            if header or fields == [""]:
                continue
            width = width or len(fields) - 1
            yield _vector(path, number, fields, width)


def _vector(path: Path, line: int, fields: list[str], width: int) -> tuple[str, NDArray[np.float64]]:
    """Split a line into word and numbers."""
    surplus = len(fields) - 1 - width
    if width < 1 or surplus < 0 or (surplus > 0 and not math.isnan(as_number(fields[1]))):
        raise bad_row(path, line, "numbers", len(fields) - 1, f"{max(width, 1)}, as in the first line")
    try:
        vector = np.array(fields[-width:], dtype=np.float64)
    except ValueError:
        wrong = next(part for part in fields[-width:] if math.isnan(as_number(part)))
        raise bad_row(path, line, "vector", wrong, "finite numbers") from None
    if not np.isfinite(vector).all():
        raise bad_row(
            path, line, "vector", fields[1 + surplus :][int(np.argmin(np.isfinite(vector)))], "finite numbers"
        )
    return " ".join(fields[: surplus + 1]), vector
