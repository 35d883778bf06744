"""What a data reader hands over: texts and labels in memory, and the one form of a complaint about a row.

The readers (`glue`, `tables`, `hub`, `agreement`) are small frozen values that satisfy `Source`; `tasks` turns one of
them into a `Task`. They meet here so that none of them knows another.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64] | NDArray[np.float32]
"""Class ids, or the scores of a regression task."""

CHUNK = 4096
"""Rows that are held as texts at a time where a file is read as a stream."""

_PIECE = 2**20

NO_LABEL = -1
"""The class id of a row without a label (test sets); a regression row without one holds NaN."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Examples:
    """The rows of one split."""

    texts: Sequence[str]
    """First texts, N of them."""
    pairs: Sequence[str] | None
    """Second texts of a pair task."""
    labels: Labels
    """(N,) int64 class ids, or (N,) float32 scores."""
    sites: Sequence[Sequence[tuple[int, int]]] | None = None
    """For each row the words that break it, as (text 0 or 1, word number); only the built-in task knows them."""
    skipped: int = 0
    """Rows of the file left out because the format says so (short QQP rows, rows without a gold label)."""

    def __post_init__(self) -> None:
        """Refuse columns of unequal length."""
        sizes = {len(column) for column in (self.texts, self.pairs, self.labels, self.sites) if column is not None}
        if len(sizes) != 1:
            raise ValueError(f"Examples: found columns of {sorted(sizes)} rows, allowed is one length")

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.texts)

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> Examples:
        """Keep the given rows, in the given order."""
        return Examples(
            texts=[self.texts[row] for row in rows],
            pairs=None if self.pairs is None else [self.pairs[row] for row in rows],
            labels=self.labels[np.asarray(rows, dtype=np.int64)],
            sites=None if self.sites is None else [self.sites[row] for row in rows],
            skipped=self.skipped,
        )


class Source(Protocol):
    """Labelled data that can be read split by split."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in order of their ids; empty for regression."""
        ...

    @property
    def metric(self) -> str:
        """The usual score of this data, a key of `metrics.METRICS`."""
        ...

    @property
    def max_length(self) -> int:
        """The usual number of tokens a row is cut to."""
        ...

    @property
    def pair(self) -> bool:
        """Whether a row has two texts."""
        ...

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that are there."""
        ...

    @property
    def fingerprint(self) -> str:
        """Hash of the content and of how it is read."""
        ...

    def read(self, split: str) -> Examples:
        """Read one split; ValueError with file and line on a bad row."""
        ...


def bad_row(path: Path | str, line: int | str, what: str, found: object, expected: str) -> ValueError:
    """Spell a complaint about one row: `FILE:LINE: <what>: found ..., expected ...`."""
    return ValueError(f"{path}:{line}: {what}: found {found!r}, expected {expected}")


def unknown(what: str, found: str, allowed: Iterable[str]) -> ValueError:
    """Spell a complaint about a name: what was found, the nearest allowed name, and all of them."""
    names = list(allowed)
    folded = {name.lower(): name for name in names}
    near = get_close_matches(found.lower(), list(folded), n=1)
    hint = f" (did you mean {folded[near[0]]!r}?)" if near else ""
    return ValueError(f"{what}: found {found!r}, allowed are {', '.join(names)}{hint}")


def contents(folder: Path) -> str:
    """Say what a folder holds, for a message about what it does not."""
    if not folder.is_dir():
        return f"{folder} is {'a file' if folder.exists() else 'not there'}"
    names = sorted(path.name + ("/" if path.is_dir() else "") for path in folder.iterdir())
    shown = ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
    return f"{folder} holds {shown or 'nothing'}"


def stream_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a UTF-8 file without their ends and without a byte order mark.

    They are split at line feeds only: texts may hold other characters that Python splits lines at. No more than a line
    is held in memory.

    Raises:
        ValueError: `FILE:LINE:` of bytes that are not UTF-8.
    """
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            yield decoded(path, number, raw)


def decoded(path: Path, number: int, raw: bytes) -> str:
    """Decode line `number` of a UTF-8 file, without its end and, if it is line 1, a byte order mark.

    Raises:
        ValueError: `FILE:LINE:` of bytes that are not UTF-8.
    """
    try:
        line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise bad_row(path, number, "bytes", raw[error.start : error.start + 4], "UTF-8") from None
    return line.removesuffix("\n").removesuffix("\r")


def stream_text(path: Path) -> Iterator[str]:
    """Yield the lines of a UTF-8 file with their ends as they are, for a reader of quoted cells.

    Raises:
        ValueError: `FILE:LINE:` of bytes that are not UTF-8.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from file
    except UnicodeDecodeError:
        for _ in stream_lines(path):
            pass  # it finds the line, which the decoder of a whole file does not know
        raise


@dataclass(frozen=True, slots=True)
class LabelReader:
    """Turns spelled labels into class ids, or numbers where there are no classes."""

    spelled: tuple[str, ...]
    """How the data spells its classes, in order of their ids; empty for regression."""

    def read(self, path: Path | str, line: int, label: str | None) -> float:
        """The class id or number of a row; None is a row without a label.

        Raises:
            ValueError: an unknown class, or no finite number.
        """
        if label is None:
            return NO_LABEL if self.spelled else math.nan
        if self.spelled:
            if label not in self.spelled:
                raise bad_row(path, line, "label", label, "one of " + ", ".join(map(repr, self.spelled)))
            return self.spelled.index(label)
        number = as_number(label)
        if not math.isfinite(number):
            raise bad_row(path, line, "label", label, "a finite number")
        return number

    def array(self, labels: Sequence[float]) -> Labels:
        """Class ids as int64, numbers as float32."""
        return np.array(labels, dtype=np.int64) if self.spelled else np.array(labels, dtype=np.float32)


def as_number(text: str) -> float:
    """The number that a text spells, or NaN."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def digest(parts: Iterable[str | bytes | Path]) -> str:
    """Hash strings and bytes so that no two different sequences collide by concatenation; 32 hexadecimal digits.

    A path stands for the bytes of its file, which is read piece by piece.
    """
    hasher = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            hasher.update(part.stat().st_size.to_bytes(8, "little"))
            with part.open("rb") as file:
                while piece := file.read(_PIECE):
                    hasher.update(piece)
            continue
        raw = part.encode() if isinstance(part, str) else part
        hasher.update(len(raw).to_bytes(8, "little"))
        hasher.update(raw)
    return hasher.hexdigest()[:32]
