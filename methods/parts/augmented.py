"""The augmented set of a task: further training rows, often a hundred times as many, read as one stream.

The rows have the form of the task's training file: GLUE's official columns (`train_aug.tsv`, or `train_aug0.tsv`,
`train_aug1.tsv`, ... as `split` cuts it) or the columns of one's own tables. Files are read in their natural order and
no row of any is lost: the published trainers skip the first row of every piece, because only the first has a header.

References:
    Jiao et al., TinyBERT: Distilling BERT for Natural Language Understanding, 2020, https://arxiv.org/abs/1909.10351,
    section 3.2
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from methods.parts import glue, tables
from methods.parts.examples import CHUNK, Examples, LabelReader, contents, digest

VERSION = 1
"""Raised whenever the same files are read in another way."""

_STEM = "train_aug"
_EVALUATED = ("dev", "validation", "valid", "val", "test")


@dataclass(frozen=True, kw_only=True, slots=True)
class Augmented:
    """Files of further training rows."""

    files: tuple[Path, ...]
    """In the order in which they are read."""
    form: glue.Entry | tables.Columns
    """Where a row has its texts and its label."""
    spelled: tuple[str, ...]
    """How the files spell the classes, in order of their ids; empty for regression."""
    pair: bool
    """Whether a row has two texts."""
    fingerprint: str
    """Hash of the content and of how it is read."""

    def chunks(self, size: int = CHUNK) -> Iterator[Examples]:
        """Yield all rows in order, at most `size` at a time; nothing else is held in memory.

        Raises:
            ValueError: `FILE:LINE:` and what is wrong with the row, or a file without rows.
        """
        spelling = LabelReader(self.spelled)
        texts: list[tuple[str, ...]] = []
        labels: list[float] = []
        skipped = 0
        form, files = self.form, self.files
        rows = glue.stream_rows(form, files) if isinstance(form, glue.Entry) else tables.stream_rows(form, files)
        for path, line, row, label in rows:
            if not row:
                skipped += 1
                continue
            texts.append(row)
            labels.append(spelling.read(path, line, label))
            if len(texts) == size:
                yield self._examples(texts, labels, skipped)
                texts, labels, skipped = [], [], 0
        if texts or skipped:
            yield self._examples(texts, labels, skipped)

    def _examples(self, texts: list[tuple[str, ...]], labels: list[float], skipped: int) -> Examples:
        """The rows gathered so far."""
        pairs = [row[1] for row in texts] if self.pair else None
        numbers = LabelReader(self.spelled).array(labels)
        return Examples(texts=[row[0] for row in texts], pairs=pairs, labels=numbers, skipped=skipped)


def open_augmented(data: Path, form: glue.Entry | tables.Columns, spelled: tuple[str, ...], *, pair: bool) -> Augmented:
    """Find the files of an augmented set and hash them; rows are looked at when they are read.

    Args:
        data: one file, or a folder of files; a GLUE task's files may lie in its official folder below.
        form: the task's entry in `glue.CATALOGUE`, or the columns of its tables.
        spelled: how the files spell the classes.
        pair: whether a row has two texts.

    Raises:
        ValueError: no such file, an empty one, or files that would be read twice or are meant for evaluation.
    """
    if isinstance(form, glue.Entry):
        endings = tuple({Path(file).suffix for file in form.files.values()})
        below = data / form.folder
        files = find_shards(below if below.is_dir() else data, endings)
        options = (form.name, str(glue.VERSION))
    else:
        files = find_shards(data, tables.ENDINGS)
        options = (repr(form), str(tables.VERSION))
    for path in files:
        if not path.stat().st_size:
            raise ValueError(f"augmented: {path}: found an empty file, expected rows in the form of the training file")
    stats = tuple((path, path.stat().st_size, path.stat().st_mtime_ns) for path in files)
    fingerprint = _hashed((str(VERSION), *options, repr(spelled)), stats)
    return Augmented(files=files, form=form, spelled=spelled, pair=pair, fingerprint=fingerprint)


def find_shards(data: Path, endings: tuple[str, ...]) -> tuple[Path, ...]:
    """The files of an augmented set in natural order (`2` before `10`).

    In a folder these are the files named `train_aug*`, or all if none is named so. Where both a whole file and its
    pieces are there, the pieces are taken, if together they are as long.

    Raises:
        ValueError: there is no such file, or the folder's files are not the parts of one set.
    """
    if data.is_file() and data.suffix in endings:
        return (data,)
    found = [path for path in data.iterdir() if path.is_file()] if data.is_dir() else []
    usable = [path for path in found if path.suffix in endings and not path.name.startswith(".")]
    named = [path for path in usable if path.stem.startswith(_STEM)]
    files = sorted(named or usable, key=_natural)
    if not files:
        kinds = ", ".join(endings)
        raise ValueError(f"augmented: looked for files ending in {kinds} at {data}; {contents(data)}")
    for path in files:
        if path.stem.lower().split("_")[0] in _EVALUATED:
            raise ValueError(f"augmented: {data}: found {path.name}, expected training rows only; name the file itself")
    whole = [path for path in files if path.stem == _STEM]
    parts = [path for path in files if path.stem != _STEM]
    if whole and parts:
        sizes = [sum(path.stat().st_size for path in some) for some in (whole, parts)]
        if len(whole) > 1 or sizes[0] != sizes[1]:
            names = ", ".join(path.name for path in files[:8])
            raise ValueError(
                f"augmented: {data}: found {names} with {sizes[0]} and {sizes[1]} bytes, expected a whole file or its "
                "pieces; name the file itself"
            )
    return tuple(parts or whole)


def _natural(path: Path) -> list[tuple[int, str]]:
    """A key that sorts numbers in names by value."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name)]


@lru_cache(maxsize=64)
def _hashed(options: tuple[str, ...], files: tuple[tuple[Path, int, int], ...]) -> str:
    """Hash the files' content; once in a process for files of the same size and time, since trials open tasks anew."""
    return digest([*options, *(path for path, _, _ in files)])
