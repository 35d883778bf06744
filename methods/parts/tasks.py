"""A task is labelled data under one name, however it is stored.

GLUE's files, a user's tables, a hub data set, or built in: everything that differs between them (headers, columns,
label spellings) ends here, and methods see class ids and encoded rows only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from methods.parts import agreement, glue, hub, tables
from methods.parts.augmented import Augmented, open_augmented
from methods.parts.corpus import open_corpus
from methods.parts.examples import Examples, Source, digest, unknown
from methods.parts.metrics import METRICS, check_metric
from methods.parts.rng import derive

MIN_LENGTH = 8
"""Fewest tokens a row may be cut to: a pair and its special tokens need some room."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """Labelled data, its label order, its score and its length."""

    name: str
    """As the user wrote it."""
    labels: tuple[str, ...]
    """Class names in order of their ids (Hugging Face GLUE's order); empty for regression."""
    metric: str
    """The score, a key of `metrics.METRICS`; higher is better."""
    max_length: int
    """Tokens a row is cut to, special tokens included."""
    pair: bool
    """Whether a row has two texts."""
    fingerprint: str
    """Hash of all the data's content and of everything that decides how it is read and cut."""
    splits: tuple[str, ...]
    """`train`, `dev`, and where they exist `dev_mismatched`, `test`, `test_mismatched`."""
    limit: int | None = None
    """Training rows kept, a sample by seed; None keeps all."""
    seed: int = 0
    """Seed of that sample, and of built-in data."""
    source: Source = field(repr=False, compare=False)
    """Where the rows come from."""
    augmented: Augmented | None = field(default=None, repr=False, compare=False)
    """Further training rows, read as a stream; `limit` leaves them alone."""
    corpus: Path | None = field(default=None, compare=False)
    """Text without labels, a file or a folder of blocks; see `methods.parts.corpus`."""

    @property
    def labelled(self) -> str:
        """Hash of the labelled splits alone: what is made of them does not change with augmented set or corpus."""
        return digest([self.source.fingerprint, str(self.max_length), str(self.limit), str(self.seed)])

    @property
    def num_outputs(self) -> int:
        """Outputs a classifier for this task needs: the classes, or 1 for regression."""
        return len(self.labels) or 1

    def read(self, split: str) -> Examples:
        """Read one split; of `train` the rows that `limit` keeps, in the order of the data.

        Raises:
            ValueError: no such split, or a bad row (with file and line).
        """
        if split not in self.splits:
            raise unknown(f"task {self.name}: split", split, self.splits)
        examples = self.source.read(split)
        if split != "train" or self.limit is None or self.limit >= len(examples):
            return examples
        chosen = np.random.default_rng(derive(self.seed, "limit")).permutation(len(examples))[: self.limit]
        return examples.take(np.sort(chosen))


def open_task(  # noqa: PLR0913  the keys of a sweep file's `task`, and its data sections
    name: str,
    data: str | Path | Mapping[str, str] | None = None,
    *,
    max_length: int | None = None,
    limit: int | None = None,
    columns: Mapping[str, str] | None = None,
    metric: str | None = None,
    seed: int = 0,
    augmented: str | Path | None = None,
    corpus: str | Path | None = None,
) -> Task:
    """Find the data behind a name and check it, reading no more than that needs.

    Args:
        name: `agreement` or `agreement-pair` (built in); a GLUE task or `boolq`; a hub name with a slash (`glue/sst2`,
            `owner/data`, `owner/data/config`); or, with `data`, any name for one's own tables.
        data: a GLUE task's folder in the official layout (or the folder above it); the folder of one's tables, or a
            mapping from split to file; the folder of a local copy of a hub data set. A GLUE task without data comes
            from the hub.
        max_length: tokens a row is cut to; None takes the task's usual length.
        limit: training rows kept.
        columns: the names of the columns `text`, `text_pair` and `label` in one's own tables or hub data.
        metric: the score; None takes the task's usual one.
        seed: of the sample that `limit` keeps, and of built-in data.
        augmented: a file or a folder of further training rows in the form of the training file; see
            `augmented.find_shards`.
        corpus: a text file or a folder of blocks; see `methods.parts.corpus`.

    Raises:
        ValueError: nothing of that name, a file that is not there, a bad value; the message says what was found and
            what is allowed.
    """
    _check_numbers(max_length, limit)
    source = _source(name, data, columns, metric, seed)
    length = max_length or source.max_length
    score = metric or source.metric
    check_metric(score, source.labels)
    options = [source.fingerprint, str(length), str(limit), str(seed)]
    more = None if augmented is None else _augmented(name, Path(augmented), source)
    text = None if corpus is None else Path(corpus)
    options += [] if more is None else ["augmented", more.fingerprint]
    options += [] if text is None else ["corpus", open_corpus(text)]
    return Task(
        name=name,
        labels=source.labels,
        metric=score,
        max_length=length,
        pair=source.pair,
        fingerprint=digest(options),
        splits=source.splits,
        limit=limit,
        seed=seed,
        source=source,
        augmented=more,
        corpus=text,
    )


def _augmented(name: str, data: Path, source: Source) -> Augmented:
    """Open an augmented set in the form of the task's own files; a built-in task's has the columns of tables."""
    form: glue.Entry | tables.Columns = tables.Columns(text_pair="text_pair" if source.pair else None)
    if isinstance(source, glue.GlueFiles):
        form = source.entry
    elif isinstance(source, tables.Tables):
        form = source.columns
    elif isinstance(source, hub.HubData):
        form = glue.find(name) or source.columns
    spelled = form.spelled if isinstance(form, glue.Entry) else source.labels
    return open_augmented(data, form, spelled, pair=source.pair)


def _source(
    name: str,
    data: str | Path | Mapping[str, str] | None,
    columns: Mapping[str, str] | None,
    metric: str | None,
    seed: int,
) -> Source:
    """Choose the reader that a name and its data mean."""
    if name in agreement.NAMES:
        if data is not None:
            raise ValueError(f"data: found {data!r} for the built-in task {name}, allowed is none")
        return agreement.Agreement(seed=seed, pairs=name == agreement.PAIR)
    entry = glue.find(name)
    if "/" in name or (entry is not None and data is None):
        if isinstance(data, Mapping):
            raise ValueError(
                f"data: found {dict(data)!r} for the hub data set {name}, allowed is the folder of a local copy"
            )
        return hub.open_hub(name, None if data is None else Path(data), columns)
    if entry is not None and not isinstance(data, Mapping):
        return glue.open_glue(entry, Path(str(data)))
    if data is None:
        raise unknown("task", name, [*agreement.NAMES, *glue.CATALOGUE, "owner/data of a hub", "any name with `data`"])
    files = (
        {split: Path(file) for split, file in data.items()}
        if isinstance(data, Mapping)
        else tables.find_files(Path(data))
    )
    return tables.open_tables(files, columns, regression=metric is not None and METRICS.get(metric) == "regression")


def _check_numbers(max_length: int | None, limit: int | None) -> None:
    """Refuse lengths and limits that leave nothing to read."""
    if max_length is not None and max_length < MIN_LENGTH:
        raise ValueError(f"max_length: found {max_length}, allowed is at least {MIN_LENGTH}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit: found {limit}, allowed is at least 1")
