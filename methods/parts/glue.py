"""The nine GLUE tasks and BoolQ in their official files, as data.

Files are tab-separated UTF-8 without a quote character: `"` is an ordinary character. CoLA's train and dev files have
no header, its test file has one. Class ids follow Hugging Face's GLUE everywhere, which differs from several published
code bases (they put `not_entailment` or `contradiction` first); checkpoints of theirs are permuted when imported.

References:
    Wang et al., GLUE: A Multi-Task Benchmark and Analysis Platform for Natural Language Understanding, 2019,
    https://arxiv.org/abs/1804.07461 Clark et al., BoolQ: Exploring the Surprising Difficulty of Natural Yes/No
    Questions, 2019, https://arxiv.org/abs/1905.10044
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from types import MappingProxyType

from methods.parts.examples import Examples, LabelReader, as_number, bad_row, contents, digest, stream_lines

VERSION = 1
"""Raised whenever the same files are read in another way."""

_PLAIN = MappingProxyType({"train": "train.tsv", "dev": "dev.tsv", "test": "test.tsv"})
_MNLI = MappingProxyType(
    {
        "train": "train.tsv",
        "dev": "dev_matched.tsv",
        "dev_mismatched": "dev_mismatched.tsv",
        "test": "test_matched.tsv",
        "test_mismatched": "test_mismatched.tsv",
    }
)
_JSONL = MappingProxyType({"train": "train.jsonl", "dev": "val.jsonl", "test": "test.jsonl"})
_ENTAILMENT = ("entailment", "not_entailment")
_THREE = ("entailment", "neutral", "contradiction")


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """How one task is stored; columns are counted from 0, -1 is the last."""

    name: str
    """As in a sweep file."""
    folder: str
    """Its folder in the official layout."""
    labels: tuple[str, ...]
    """Class names in Hugging Face's order; empty for regression."""
    spelled: tuple[str, ...]
    """How the files spell these classes."""
    text: tuple[int, ...]
    """Columns of the texts in train and dev."""
    label: int
    """Column of the label in train and dev."""
    test_text: tuple[int, ...]
    """Columns of the texts in test."""
    hub: tuple[str, ...]
    """Names of the text columns on the hub."""
    metric: str = "accuracy"
    max_length: int = 128
    files: Mapping[str, str] = field(default_factory=lambda: _PLAIN)
    """File of each split."""
    header: bool = True
    """Whether train and dev begin with a header line; test always does."""
    short_rows: bool = False
    """Whether rows with too few columns are skipped and counted instead of refused."""
    no_gold: str | None = None
    """How the files spell that annotators did not agree; such rows are skipped and counted."""
    hub_path: str = "nyu-mll/glue"
    """Its place on the hub; the configuration there is `name`."""


_ENTRIES = (
    Entry(
        name="cola", folder="CoLA", labels=("unacceptable", "acceptable"), spelled=("0", "1"),
        text=(3,), label=1, test_text=(1,), header=False, hub=("sentence",), metric="matthews", max_length=64,
    ),
    Entry(
        name="sst2", folder="SST-2", labels=("negative", "positive"), spelled=("0", "1"),
        text=(0,), label=1, test_text=(1,), hub=("sentence",), max_length=64,
    ),
    Entry(
        name="mrpc", folder="MRPC", labels=("not_equivalent", "equivalent"), spelled=("0", "1"),
        text=(3, 4), label=0, test_text=(3, 4), hub=("sentence1", "sentence2"), metric="accuracy_f1",
    ),
    Entry(
        name="qqp", folder="QQP", labels=("not_duplicate", "duplicate"), spelled=("0", "1"),
        text=(3, 4), label=5, test_text=(1, 2), short_rows=True, hub=("question1", "question2"), metric="accuracy_f1",
    ),
    Entry(
        name="stsb", folder="STS-B", labels=(), spelled=(),
        text=(7, 8), label=-1, test_text=(7, 8), hub=("sentence1", "sentence2"), metric="pearson_spearman",
    ),
    Entry(
        name="mnli", folder="MNLI", labels=_THREE, spelled=_THREE, files=_MNLI, no_gold="-",
        text=(8, 9), label=-1, test_text=(8, 9), hub=("premise", "hypothesis"),
    ),
    Entry(
        name="qnli", folder="QNLI", labels=_ENTAILMENT, spelled=_ENTAILMENT,
        text=(1, 2), label=-1, test_text=(1, 2), hub=("question", "sentence"),
    ),
    Entry(
        name="rte", folder="RTE", labels=_ENTAILMENT, spelled=_ENTAILMENT,
        text=(1, 2), label=-1, test_text=(1, 2), hub=("sentence1", "sentence2"),
    ),
    Entry(
        name="wnli", folder="WNLI", labels=("not_entailment", "entailment"), spelled=("0", "1"),
        text=(1, 2), label=-1, test_text=(1, 2), hub=("sentence1", "sentence2"),
    ),
    Entry(
        name="boolq", folder="BoolQ", labels=("False", "True"), spelled=("false", "true"), files=_JSONL,
        text=(), label=0, test_text=(), hub=("passage", "question"), hub_path="aps/super_glue", max_length=256,
    ),
)  # fmt: skip

CATALOGUE: Mapping[str, Entry] = MappingProxyType({entry.name: entry for entry in _ENTRIES})
"""The tasks by name."""


def find(name: str) -> Entry | None:
    """The task of that name, however it is spelled (`SST-2`, `sst2`, `glue/sst2`), or None."""
    short = name.lower().removeprefix("nyu-mll/").removeprefix("aps/").removeprefix("glue/").removeprefix("super_glue/")
    return CATALOGUE.get(short.replace("-", "").replace("_", ""))


@dataclass(frozen=True, kw_only=True, slots=True)
class GlueFiles:
    """One task's official files."""

    entry: Entry
    folder: Path
    splits: tuple[str, ...]
    fingerprint: str

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in Hugging Face's order."""
        return self.entry.labels

    @property
    def metric(self) -> str:
        """The published score."""
        return self.entry.metric

    @property
    def max_length(self) -> int:
        """The usual length."""
        return self.entry.max_length

    @property
    def pair(self) -> bool:
        """Whether a row has two texts."""
        return len(self.entry.hub) == 2

    def read(self, split: str) -> Examples:
        """Read one file."""
        return read_file(self.entry, self.folder / self.entry.files[split], test=split.startswith("test"))


def open_glue(entry: Entry, data: Path) -> GlueFiles:
    """Find a task's files in `data` or in its folder below, and hash them.

    Raises:
        ValueError: a train or dev file is missing; the message names what was looked for and what is there.
    """
    needed = [file for split, file in entry.files.items() if not split.startswith("test")]
    for folder in (data, data / entry.folder):
        if all((folder / file).is_file() for file in needed):
            splits = tuple(split for split, file in entry.files.items() if (folder / file).is_file())
            content = (part for split in splits for part in (split, folder / entry.files[split]))
            return GlueFiles(
                entry=entry, folder=folder, splits=splits, fingerprint=digest([entry.name, str(VERSION), *content])
            )
    raise ValueError(
        f"task {entry.name}: looked for {', '.join(needed)} in {data} and in {data / entry.folder}; {contents(data)}"
        + (f"; {contents(data / entry.folder)}" if (data / entry.folder).is_dir() else "")
    )


def read_file(entry: Entry, path: Path, *, test: bool) -> Examples:
    """Read one file of a task.

    Raises:
        ValueError: `FILE:LINE:` and what is wrong with the row.
    """
    rows = _json_rows(path, test=test) if path.suffix == ".jsonl" else _tsv_rows(entry, path, test=test)
    spelling = LabelReader(entry.spelled)
    texts: list[tuple[str, ...]] = []
    labels: list[float] = []
    skipped = 0
    for line, row, label in rows:
        if not row or (label is not None and label == entry.no_gold):
            skipped += 1
            continue
        texts.append(row)
        labels.append(spelling.read(path, line, label))
    if not texts:
        raise ValueError(f"{path}: found no rows, expected at least 1")
    pairs = [row[1] for row in texts] if len(texts[0]) == 2 else None
    return Examples(texts=[row[0] for row in texts], pairs=pairs, labels=spelling.array(labels), skipped=skipped)


_Row = tuple[int, tuple[str, ...], str | None]


def stream_rows(entry: Entry, files: Sequence[Path]) -> Iterator[tuple[Path, int, tuple[str, ...], str | None]]:
    """Yield file, line, texts and label of training files that continue one another; no texts for a skipped row.

    A file that was cut into pieces has its header in the first piece alone, files that were written one by one have it
    each, and some have none; so a first line is a header where its label is none, or repeats the first file's.

    Raises:
        ValueError: `FILE:LINE:` and what is wrong with the row, or a file without rows.
    """
    header = ""
    for path in files:
        line = 0
        if path.suffix == ".jsonl":
            rows = _json_rows(path, test=False)
        else:
            lines = enumerate(stream_lines(path), start=1)
            first = next(lines, (1, ""))[1]
            header = header or (first if _is_header(entry, first) else "")
            kept = [] if first == header else [(1, first)]
            rows = (_tsv_row(entry, path, number, text, test=False) for number, text in chain(kept, lines))
        for line, texts, label in rows:
            skip = label is not None and label == entry.no_gold
            yield path, line, () if skip else texts, label
        if not line:
            raise ValueError(f"{path}: found no rows, expected at least 1")


def _is_header(entry: Entry, text: str) -> bool:
    """Whether a first line of a training file holds names: it has enough columns, and its label is none."""
    cells = text.split("\t")
    if not entry.header or len(cells) < _width(entry, test=False):
        return False
    label = cells[entry.label]
    return label not in (*entry.spelled, entry.no_gold) if entry.spelled else not math.isfinite(as_number(label))


def _tsv_rows(entry: Entry, path: Path, *, test: bool) -> Iterator[_Row]:
    """Yield the rows of a file below its header."""
    header = 1 if test or entry.header else 0
    for line, text in enumerate(stream_lines(path), start=1):
        if line > header:
            yield _tsv_row(entry, path, line, text, test=test)


def _tsv_row(entry: Entry, path: Path, line: int, text: str, *, test: bool) -> _Row:
    """Line number, texts and label of a row; no texts if it is too short where the task allows that."""
    cells, width = text.split("\t"), _width(entry, test=test)
    if len(cells) >= width:
        columns = entry.test_text if test else entry.text
        return line, tuple(cells[column] for column in columns), None if test else cells[entry.label]
    if entry.short_rows and not test:
        return line, (), None
    raise bad_row(path, line, "columns", len(cells), f"at least {width}, split at tabs")


def _width(entry: Entry, *, test: bool) -> int:
    """How many columns a row needs; a label in the last column stands after the texts."""
    texts = max(entry.test_text if test else entry.text) + 1
    if test:
        return texts
    return texts + 1 if entry.label < 0 else max(texts, entry.label + 1)


def _json_rows(path: Path, *, test: bool) -> Iterator[_Row]:
    """Yield line number, (passage, question) and label of BoolQ's lines."""
    for line, text in enumerate(stream_lines(path), start=1):
        try:
            row = json.loads(text)
        except json.JSONDecodeError as error:
            raise bad_row(path, line, "JSON", text[:60], f"one object a line ({error})") from None
        needed = ("passage", "question") if test else ("passage", "question", "label")
        missing = [key for key in needed if not isinstance(row, dict) or key not in row]
        if missing:
            found = sorted(row) if isinstance(row, dict) else row
            raise bad_row(path, line, "keys", found, ", ".join(needed))
        yield line, (str(row["passage"]), str(row["question"])), None if test else json.dumps(row["label"])
