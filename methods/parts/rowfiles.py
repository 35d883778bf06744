"""A training file as rows whose texts can be replaced: everything else of a row is written back as it was read.

GLUE's tables stay tab-separated, without quotes, each file with the header of the original (CoLA has none); BoolQ and
one's own tables, whatever their form, become JSON lines with the same columns, which hold any text.
"""

from __future__ import annotations

import csv
import json
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pyarrow.parquet as parquet

from methods.parts import glue, tables
from methods.parts.examples import contents, digest, stream_lines, stream_text
from methods.parts.glue import Entry

_BREAKS = str.maketrans("\t\n\r", "   ")


class Row(Protocol):
    """One row of a training file."""

    @property
    def texts(self) -> tuple[str, ...]:
        """Its one or two texts."""

    def line(self, texts: Sequence[str]) -> str:
        """The row with other texts, as a line of an output file without its end."""


@dataclass(frozen=True, slots=True)
class CellRow:
    """A row of tab-separated cells; a tab or line break in a text is written as a space, since nothing can quote it."""

    cells: tuple[str, ...]
    columns: tuple[int, ...]

    @property
    def texts(self) -> tuple[str, ...]:
        """Its one or two texts."""
        return tuple(self.cells[column] for column in self.columns)

    def line(self, texts: Sequence[str]) -> str:
        """The row with other texts."""
        cells = list(self.cells)
        for column, text in zip(self.columns, texts, strict=True):
            cells[column] = text.translate(_BREAKS)
        return "\t".join(cells)


@dataclass(frozen=True, slots=True)
class NamedRow:
    """A row of named values."""

    values: Mapping[str, object]
    columns: tuple[str, ...]

    @property
    def texts(self) -> tuple[str, ...]:
        """Its one or two texts."""
        return tuple(str(self.values[column]) for column in self.columns)

    def line(self, texts: Sequence[str]) -> str:
        """The row with other texts, as JSON."""
        new = {**self.values, **dict(zip(self.columns, texts, strict=True))}
        return json.dumps(new, ensure_ascii=False, default=str)


@dataclass(frozen=True, kw_only=True, slots=True)
class RowFile:
    """A training file, read."""

    path: Path
    rows: Sequence[Row]
    header: str | None
    """First line of every output file."""
    ending: str
    """Of output files: `.tsv` or `.jsonl`."""
    skipped: int
    """Rows left out as the reader leaves them out: short ones of QQP, those without a gold label."""
    fingerprint: str
    """Hash of the file's bytes and of what is read as text."""


def open_rows(task: str, data: Path, columns: Mapping[str, str] | None = None) -> RowFile:
    """Read the training file of a task, with every check that training on it would make.

    Args:
        task: a GLUE task or `boolq`; any other name means a table of one's own.
        data: the training file, or its folder (of a GLUE task, or the folder above).
        columns: of one's own table, see `methods.parts.tables.columns_of`.

    Raises:
        ValueError: no such file, or a bad row (with file and line).
    """
    entry = glue.find(task)
    if entry is None:
        return _open_table(tables.find_files(data)["train"] if data.is_dir() else data, columns)
    if columns:
        raise ValueError(
            f"columns: found {dict(columns)!r} for the task {entry.name}, allowed are none: they are known"
        )
    places = [data] if data.is_file() else [data / entry.files["train"], data / entry.folder / entry.files["train"]]
    found = next((path for path in places if path.is_file()), None)
    if found is None:
        raise ValueError(f"task {entry.name}: looked for {' and '.join(map(str, places))}; {contents(data)}")
    if entry.files["train"].endswith(".jsonl"):
        return _open_named(found, entry.hub, len(glue.read_file(entry, found, test=False)))
    return _open_cells(entry, found)


def _open_cells(entry: Entry, path: Path) -> RowFile:
    """Read one of GLUE's tables."""
    examples = glue.read_file(entry, path, test=False)
    lines = stream_lines(path)
    header = next(lines, "") if entry.header else None
    width = max(max(entry.text) + 1, entry.label + 1 if entry.label >= 0 else max(entry.text) + 2)
    cells = (tuple(line.split("\t")) for line in lines)
    kept = [row for row in cells if len(row) >= width and row[entry.label] != entry.no_gold]
    assert len(kept) == len(examples), "both ways to read a file keep the same rows"
    return RowFile(
        path=path,
        rows=[CellRow(row, entry.text) for row in kept],
        header=header,
        ending=".tsv",
        skipped=examples.skipped,
        fingerprint=digest([entry.name, path]),
    )


def _open_table(path: Path, columns: Mapping[str, str] | None) -> RowFile:
    """Read one's own table."""
    if path.suffix not in tables.ENDINGS or not path.is_file():
        wanted = f"expected a training file ending in {', '.join(tables.ENDINGS)}, or its folder"
        raise ValueError(f"data: found {path}, {wanted}; {contents(path.parent)}")
    named = tables.columns_of(columns)
    deque(tables.stream_rows(named, [path]), maxlen=0)  # complains about a bad row
    return _open_named(path, named.texts)


def _open_named(path: Path, columns: tuple[str, ...], count: int | None = None) -> RowFile:
    """Take the rows of a file that was checked."""
    rows = [NamedRow(values, columns) for values in _values(path)]
    assert count is None or count == len(rows), "both ways to read a file keep the same rows"
    name = digest([*columns, path])
    return RowFile(path=path, rows=rows, header=None, ending=".jsonl", skipped=0, fingerprint=name)


def _values(path: Path) -> Iterator[dict[str, object]]:
    """The rows of a table that was checked."""
    if path.suffix == ".parquet":
        yield from parquet.read_table(path).to_pylist()
    elif path.suffix == ".jsonl":
        yield from map(json.loads, stream_lines(path))
    else:
        tabs = path.suffix == ".tsv"
        cells = (line.split("\t") for line in stream_lines(path)) if tabs else csv.reader(stream_text(path))
        header = next(cells)
        for row in cells:
            if row:
                yield dict(zip(header, row, strict=True))
