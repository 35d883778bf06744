"""Data sets of the Hugging Face hub, or a local copy in the hub's layout, through `datasets`.

Nothing of a data set's own code is run. Class names and their order are the hub's, which is the order this package uses
everywhere.

References:
    Lhoest et al., Datasets: A Community Library for Natural Language Processing, 2021, https://arxiv.org/abs/2109.02846
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, cast

import numpy as np

from methods.parts import glue
from methods.parts.examples import NO_LABEL, Examples, LabelReader, contents, digest
from methods.parts.tables import Columns, columns_of

VERSION = 1
"""Raised whenever the same data set is read in another way."""

_SPLITS = {
    "train": ("train",),
    "dev": ("validation", "validation_matched", "dev", "valid"),
    "dev_mismatched": ("validation_mismatched",),
    "test": ("test", "test_matched"),
    "test_mismatched": ("test_mismatched",),
}


class Rows(Protocol):
    """What is used of a `datasets.Dataset`."""

    column_names: Sequence[str]
    features: Mapping[str, object]

    def __getitem__(self, column: str) -> Sequence[object]:
        """A whole column."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class HubData:
    """One loaded data set."""

    name: str
    """As the user wrote it."""
    tables: Mapping[str, Rows]
    """Our name of a split to its rows."""
    columns: Columns
    labels: tuple[str, ...]
    metric: str
    max_length: int
    fingerprint: str

    @property
    def pair(self) -> bool:
        """Whether a row has two texts."""
        return self.columns.text_pair is not None

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that are there."""
        return tuple(self.tables)

    def read(self, split: str) -> Examples:
        """Copy a split to memory; rows of train and dev without a gold label are skipped and counted."""
        rows, spelling = self.tables[split], LabelReader(self.labels)
        texts = [list(map(str, rows[name])) for name in self.columns.texts]
        found = rows[self.columns.label] if self.columns.label in rows.column_names else [None] * len(texts[0])
        where = f"{self.name}: {split}"
        numbers = np.array([_number(spelling, where, row, label) for row, label in enumerate(found, start=1)])
        pairs = texts[1] if self.pair else None
        everything = Examples(texts=texts[0], pairs=pairs, labels=spelling.array(numbers.tolist()))
        if split.startswith("test") or not self.labels:
            return everything
        gold = np.flatnonzero(numbers != NO_LABEL)
        return replace(everything.take(gold), skipped=len(numbers) - len(gold))


def open_hub(name: str, local: Path | None = None, columns: Mapping[str, str] | None = None) -> HubData:
    """Load a data set by its hub name, or from a local copy of it.

    Args:
        name: `glue/<task>`, a task of the catalogue, `owner/data` or `owner/data/config`.
        local: the folder of a local copy in the hub's layout; nothing is then fetched.
        columns: see `tables.columns_of`; a task of the catalogue knows its own.

    Raises:
        ValueError: it cannot be loaded, or a split or column is missing; the message names what is there.
    """
    entry = glue.find(name)
    config: str | None
    if entry is not None:
        path, config = entry.hub_path, entry.name
        named = Columns(text=entry.hub[0], text_pair=entry.hub[1] if len(entry.hub) == 2 else None)
    else:
        owner, *rest = name.split("/")
        path, config = "/".join([owner, *rest[:1]]), "/".join(rest[1:]) or None
        named = columns_of(columns)
    where = path if local is None else str(local)
    tables = _splits(name, _load(name, where, config, local))
    for split, rows in tables.items():
        _check_columns(f"{name}: {split}", rows, named, labelled=not split.startswith("test"))
    labels = _classes(name, tables["train"], named.label)
    options = [str(VERSION), repr(named), repr(labels)]
    content = [part for split, rows in tables.items() for part in (split, *_content(rows, named))]
    return HubData(
        name=name,
        tables=tables,
        columns=named,
        labels=labels,
        metric=entry.metric if entry else "accuracy" if labels else "pearson_spearman",
        max_length=entry.max_length if entry else 128,
        fingerprint=digest([*options, *content]),
    )


def _load(name: str, where: str, config: str | None, local: Path | None) -> Mapping[str, Rows]:
    """Call `datasets` and turn its many errors into one."""
    if local is not None and not local.is_dir():
        raise ValueError(f"{name}: looked for a local copy of the data set; {contents(local)}")
    import datasets  # here, because it costs every process a second and few read from a hub

    try:
        return cast(Mapping[str, Rows], datasets.load_dataset(where, config))
    except (OSError, ValueError, RuntimeError) as error:
        source = "the hub" if local is None else f"the local copy; {contents(local)}"
        raise ValueError(f"{name}: {where} (config {config}) cannot be loaded from {source}: {error}") from error


def _splits(name: str, found: Mapping[str, Rows]) -> dict[str, Rows]:
    """Give the hub's splits our names."""
    tables = {ours: found[theirs] for ours, names in _SPLITS.items() for theirs in names if theirs in found}
    for split in ("train", "dev"):
        if split not in tables:
            raise ValueError(
                f"{name}: looked for the split {' or '.join(_SPLITS[split])}, the data set has {', '.join(found)}"
            )
    return tables


def _check_columns(where: str, rows: Rows, columns: Columns, *, labelled: bool) -> None:
    """Refuse a split without the columns that are needed."""
    wanted = [*columns.texts, *([columns.label] if labelled else [])]
    if any(name not in rows.column_names for name in wanted):
        raise ValueError(f"{where}: columns: found {', '.join(rows.column_names)}, expected {', '.join(wanted)}")


def _classes(name: str, rows: Rows, column: str) -> tuple[str, ...]:
    """The class names in the hub's order, or sorted where the hub has no order; none for numbers."""
    feature = rows.features[column]
    names = getattr(feature, "names", None)  # of a `datasets.ClassLabel`
    if names is not None:
        return tuple(names)
    kind = str(getattr(feature, "dtype", feature))
    if kind.startswith("float"):
        return ()
    found = set(rows[column])
    if kind in ("string", "large_string"):
        return tuple(sorted(map(str, found)))
    count = len(found - {NO_LABEL})
    if kind.startswith("int") and found - {NO_LABEL} == set(range(count)):
        return tuple(map(str, range(count)))
    raise ValueError(
        f"{name}: column {column}: found values of kind {kind}, expected class names, integers from 0 on, or floats"
    )


def _content(rows: Rows, columns: Columns) -> list[str]:
    """Everything that is read of a split, for its hash."""
    names = [*columns.texts, *(name for name in [columns.label] if name in rows.column_names)]
    return [digest(str(value) for value in rows[name]) for name in names]


def _number(spelling: LabelReader, where: str, row: int, label: object) -> float:
    """A label as class id or number; the hub stores ids, or the names themselves."""
    if label is None or isinstance(label, str):
        return spelling.read(where, row, label)
    return float(cast(float, label))
