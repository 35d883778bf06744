"""A user's own labelled files: CSV, TSV, JSON lines or Parquet with named columns.

CSV is read with the usual quoting (`"` around a cell); TSV without any, as GLUE's files are: there `"` is an ordinary
character. Classes are those of the training file, in alphabetical order, or in numerical order if all are integers.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import pyarrow.parquet as parquet

from methods.parts.examples import (
    CHUNK,
    Examples,
    LabelReader,
    as_number,
    bad_row,
    contents,
    digest,
    stream_lines,
    stream_text,
    unknown,
)

VERSION = 1
"""Raised whenever the same files are read in another way."""

ENDINGS = (".csv", ".tsv", ".jsonl", ".parquet")
"""The kinds of file, by ending."""

_STEMS = {"train": ("train",), "dev": ("dev", "validation", "valid", "val"), "test": ("test",)}
_KEYS = ("text", "text_pair", "label")


@dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """Which columns hold what."""

    text: str = "text"
    text_pair: str | None = None
    label: str = "label"

    @property
    def texts(self) -> tuple[str, ...]:
        """The text columns, one or two."""
        return (self.text,) if self.text_pair is None else (self.text, self.text_pair)


def columns_of(mapping: Mapping[str, str] | None) -> Columns:
    """Read the `columns` of a task: keys `text`, `text_pair`, `label`.

    Raises:
        ValueError: another key.
    """
    for key in mapping or {}:
        if key not in _KEYS:
            raise unknown("columns", key, _KEYS)
    found = dict(mapping or {})
    return Columns(text=found.get("text", "text"), text_pair=found.get("text_pair"), label=found.get("label", "label"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Tables:
    """One's own files."""

    files: Mapping[str, Path]
    columns: Columns
    labels: tuple[str, ...]
    fingerprint: str

    @property
    def metric(self) -> str:
        """Accuracy, or for regression the mean of both correlations."""
        return "accuracy" if self.labels else "pearson_spearman"

    @property
    def max_length(self) -> int:
        """A cautious length; say `max_length` to choose."""
        return 128

    @property
    def pair(self) -> bool:
        """Whether a row has two texts."""
        return self.columns.text_pair is not None

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits there are files for."""
        return tuple(self.files)

    def read(self, split: str) -> Examples:
        """Read one file; a test file needs no label column."""
        path = self.files[split]
        rows = list(_rows(path, self.columns, labelled=split != "test"))
        texts = [texts for _, texts, _ in rows]
        spelling = LabelReader(self.labels)
        return Examples(
            texts=[row[0] for row in texts],
            pairs=[row[1] for row in texts] if self.pair else None,
            labels=spelling.array([spelling.read(path, line, label) for line, _, label in rows]),
        )


def find_files(data: Path) -> dict[str, Path]:
    """Find train, dev and perhaps test files in a folder by name; dev may also be called validation, valid or val.

    Raises:
        ValueError: train or dev is missing or there twice.
    """
    files: dict[str, Path] = {}
    for split, stems in _STEMS.items():
        found = [path for stem in stems for ending in ENDINGS if (path := data / (stem + ending)).is_file()]
        if len(found) > 1:
            raise ValueError(
                f"{data}: found {', '.join(path.name for path in found)} for {split}, expected one of them"
            )
        if found:
            files[split] = found[0]
        elif split != "test":
            wanted = " or ".join(f"{stem}.*" for stem in stems)
            raise ValueError(f"{data}: looked for {wanted} ({', '.join(ENDINGS)}); {contents(data)}")
    return files


def open_tables(
    files: Mapping[str, Path], columns: Mapping[str, str] | None = None, *, regression: bool = False
) -> Tables:
    """Check one's own files, and find the classes in the training file.

    Args:
        files: path of `train`, `dev` and perhaps `test`.
        columns: see `columns_of`.
        regression: labels are numbers even if all are integers; labels that are not all integers but numbers say so
            themselves.

    Raises:
        ValueError: a missing file or column, or a bad row.
    """
    for split in files:
        if split not in _STEMS:
            raise unknown("data", split, _STEMS)
    for split in ("train", "dev"):
        if split not in files:
            raise ValueError(
                f"data: found no file for {split}, expected one; files are given for {', '.join(files) or 'nothing'}"
            )
    for path in files.values():
        if path.suffix not in ENDINGS or not path.is_file():
            raise ValueError(
                f"data: found {path}, expected a file ending in {', '.join(ENDINGS)}; {contents(path.parent)}"
            )
    named = columns_of(columns)
    labels = () if regression else _classes(files["train"], named)
    options = [str(VERSION), repr(named), repr(labels)]
    content = (part for split, path in files.items() for part in (split, path.suffix, path))
    return Tables(files=dict(files), columns=named, labels=labels, fingerprint=digest([*options, *content]))


def _classes(path: Path, columns: Columns) -> tuple[str, ...]:
    """The classes of a training file in order, or none if the labels are numbers of which some are not integers."""
    found = sorted({str(label) for _, _, label in _rows(path, columns, labelled=True)})
    if len(found) == 1:
        raise ValueError(f"{path}: column {columns.label}: found the one class {found[0]!r}, expected at least 2")
    numbers = [as_number(label) for label in found]
    if not all(math.isfinite(number) for number in numbers):
        return tuple(found)
    return tuple(sorted(found, key=float)) if all(number.is_integer() for number in numbers) else ()


_Row = tuple[int, tuple[str, ...], str | None]
_Cells = Iterator[tuple[int, list[str]]]
_Named = Iterator[tuple[int, dict[str, object]]]


def stream_rows(columns: Columns, files: Sequence[Path]) -> Iterator[tuple[Path, int, tuple[str, ...], str | None]]:
    """Yield file, line, texts and label of training files that continue one another.

    A CSV or TSV file that was cut into pieces has its header in the first piece alone: a later piece without one has
    the first one's.

    Raises:
        ValueError: `FILE:LINE:` and what is wrong with the row, or a file without rows.
    """
    header: list[str] = []
    for path in files:
        yield from ((path, *row) for row in _rows(path, columns, labelled=True, header=header))
        if path.suffix in _CELLS and not header:
            header = next(_CELLS[path.suffix](path), (1, []))[1]


def _rows(path: Path, columns: Columns, *, labelled: bool, header: Sequence[str] = ()) -> Iterator[_Row]:
    """Yield line number (row number in Parquet), texts, and the label's spelling (None without labels)."""
    wanted = [*columns.texts, columns.label] if labelled else list(columns.texts)
    empty = True
    for line, row in _named(path, wanted, header):
        empty = False
        if any(row.get(name) is None for name in wanted):
            found = sorted(str(name) for name, cell in row.items() if cell is not None)
            raise bad_row(path, line, "columns", found, ", ".join(wanted))
        if labelled and row[columns.label] == "":
            raise bad_row(path, line, f"column {columns.label}", "", "a label")
        yield line, tuple(str(row[name]) for name in columns.texts), _spelled(row[columns.label]) if labelled else None
    if empty:
        raise ValueError(f"{path}: found no rows, expected at least 1")


def _named(path: Path, wanted: Sequence[str], header: Sequence[str]) -> _Named:
    """The rows of a file as mappings from column to cell; `header` names the cells of a file without one."""
    if path.suffix not in _CELLS:
        yield from _jsonl(path) if path.suffix == ".jsonl" else _parquet(path)
        return
    cells = _CELLS[path.suffix](path)
    first = next(cells, (1, list(header)))
    names: Sequence[str] = first[1]
    if header and not set(wanted) <= set(names):
        names, cells = header, chain([first], cells)
    for line, row in cells:
        if len(row) != len(names):
            raise bad_row(path, line, "cells", len(row), f"{len(names)}: {', '.join(names)}")
        yield line, dict(zip(names, row, strict=True))


def _csv(path: Path) -> _Cells:
    """Cells of a CSV file; a quoted cell may hold line breaks, so the row's last line is named."""
    reader = csv.reader(stream_text(path), strict=True)
    try:
        yield from ((reader.line_num, cells) for cells in reader if cells)
    except csv.Error as error:
        raise bad_row(path, reader.line_num, "CSV", str(error), "quotes that close") from None


def _tsv(path: Path) -> _Cells:
    """Cells of a TSV file, which has no quoting."""
    yield from ((number, line.split("\t")) for number, line in enumerate(stream_lines(path), start=1))


_CELLS = {".csv": _csv, ".tsv": _tsv}


def _jsonl(path: Path) -> _Named:
    """One JSON object a line."""
    for number, line in enumerate(stream_lines(path), start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise bad_row(path, number, "JSON", line[:60], f"one object a line ({error})") from None
        if not isinstance(row, dict):
            raise bad_row(path, number, "JSON", row, "one object a line")
        yield number, row


def _parquet(path: Path) -> _Named:
    """Rows of a Parquet file, counted from 1."""
    number = 0
    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(CHUNK):
            for row in batch.to_pylist():
                number += 1
                yield number, row


def _spelled(label: object) -> str:
    """A label as text: 1 and 1.0 are one class."""
    return str(int(label)) if isinstance(label, float) and label.is_integer() else str(label)
