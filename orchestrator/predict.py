"""Answers of a stored model, row by row: GLUE submission files, the published programs' files, or a table.

The index counts the rows of the file from 0. The published programs leave out a row they cannot read and so shift all
that follow; here every row of a test file keeps its place.

References:
    Wang et al., GLUE: A Multi-Task Benchmark and Analysis Platform for Natural Language Understanding, 2019,
    https://arxiv.org/abs/1804.07461; file names as in https://gluebenchmark.com/faq
"""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from methods.parts import glue
from methods.parts.evaluate import Logits, predict
from methods.parts.examples import Examples, LabelReader, digest, stream_lines
from methods.parts.run import LocalRun
from methods.parts.tables import Columns, Tables
from methods.parts.tasks import Task
from methods.parts.tokens import encode
from orchestrator.errors import SpecError
from orchestrator.records import write_text
from orchestrator.subjects import Subject, open_model, splits_of
from orchestrator.wording import listed, nearest

FORMATS = ("auto", "glue", "original", "csv", "jsonl")
AX = "AX"
"""GLUE's diagnostic set, which an MNLI model answers."""
_AX_PLACES = ("AX.tsv", "AX/AX.tsv", "AX/test.tsv", "diagnostic/diagnostic.tsv", "diagnostic.tsv")


class KeptRows(glue.GlueFiles):
    """A task's files whose short test rows are kept, with empty texts, so that the index of no other row changes."""

    __slots__ = ()

    def read(self, split: str) -> Examples:
        """Read one file; of a test file every row."""
        if not split.startswith("test"):
            return super().read(split)
        columns = self.entry.test_text
        rows = [row + [""] * (max(columns) + 1 - len(row)) for row in _cells(self, split)]
        unlabelled = LabelReader(self.entry.spelled)
        return Examples(
            texts=[row[columns[0]] for row in rows],
            pairs=[row[columns[1]] for row in rows] if self.pair else None,
            labels=unlabelled.array([unlabelled.read("", 0, None)] * len(rows)),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """A model's outputs on one split."""

    task: Task
    split: str
    logits: Logits
    """(N, C), rows in the order of the file."""
    defaults: tuple[int, ...] = ()
    """Rows that could not be read, which are answered with class 0."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """The files that were written, and what is to be known about them."""

    files: tuple[Path, ...]
    notes: tuple[str, ...]

    def lines(self) -> list[str]:
        """The same for people."""
        return [*(f"written: {path}" for path in self.files), *self.notes]


def write_predictions(subject: Subject, split: str, form: str, target: Path, run: LocalRun) -> Written:
    """Answers a split (with MNLI's mismatched rows and GLUE's diagnostic set, if they are there) and writes the files.

    Args:
        subject: The model and its task.
        split: Usually `test`.
        form: One of FORMATS; `auto` is `glue` for GLUE's tasks and `csv` for all others.
        target: The folder to write to; files of the same names are replaced.
        run: The world.

    Raises:
        SpecError: there is no such format, or it is not for this task.
        ValueError: there is no such split, a row is bad, or the model is of another task.
    """
    form = _form(subject.task, form)
    model, note = open_model(subject)
    model = model.to(run.device)
    files, notes = [], [note] if note else []
    for task, name in _asked(subject.task, split, form):
        encoded = encode(task, name, subject.folder, run)
        answers = Answers(task=task, split=name, logits=predict(model, encoded, run), defaults=_short_rows(task, name))
        path = target / _file_name(task, name, form)
        write_text(path, _text(answers, form))
        files.append(path)
        notes += _remarks(answers, form)
    return Written(files=tuple(files), notes=tuple(notes))


def _form(task: Task, form: str) -> str:
    """The format to write."""
    if form not in FORMATS:
        raise SpecError([f"--format: found {form!r}; allowed: {listed(FORMATS)}{nearest(form, FORMATS)}"])
    entry = glue.find(task.name)
    known = entry is not None and entry.labels == task.labels
    if form == "auto":
        return "glue" if known and not isinstance(task.source, Tables) else "csv"
    if form in ("glue", "original") and not known:
        raise SpecError(
            [f"--format: found {form!r} for the task {task.name}, which is none of GLUE's; allowed: csv, jsonl"]
        )
    return form


def _asked(task: Task, split: str, form: str) -> list[tuple[Task, str]]:
    """The splits to answer, each with the task that reads it."""
    source = task.source
    if isinstance(source, glue.GlueFiles) and source.entry.short_rows:
        fingerprint = digest([source.fingerprint, "short rows kept"])
        kept = KeptRows(entry=source.entry, folder=source.folder, splits=source.splits, fingerprint=fingerprint)
        task = replace(task, source=kept, fingerprint=digest([task.fingerprint, fingerprint]))
    found = [(task, name) for name in splits_of(task, split)]
    if split == "test" and form in ("glue", "original") and isinstance(source, glue.GlueFiles):
        found += [(extra, "test") for extra in _diagnostics(task, source)]
    return found


def _diagnostics(task: Task, source: glue.GlueFiles) -> list[Task]:
    """GLUE's diagnostic set beside MNLI's files, if it is there with the columns that are submitted."""
    if source.entry.name != "mnli":
        return []
    places = [folder / name for folder in (source.folder, source.folder.parent) for name in _AX_PLACES]
    path = next((place for place in places if place.is_file()), None)
    if path is None or not {"sentence1", "sentence2"} <= set(next(stream_lines(path), "").split("\t")):
        return []
    columns = Columns(text="sentence1", text_pair="sentence2")
    fingerprint = digest([AX, path, repr(task.labels)])
    tables = Tables(files={"test": path}, columns=columns, labels=task.labels, fingerprint=fingerprint)
    return [
        replace(
            task,
            name=AX,
            source=tables,
            splits=("test",),
            fingerprint=digest([fingerprint, str(task.max_length)]),
        )
    ]


def _cells(source: glue.GlueFiles, split: str) -> list[list[str]]:
    """The cells of a test file's rows; its first line is the header."""
    return [line.split("\t") for line in stream_lines(source.folder / source.entry.files[split])][1:]


def _short_rows(task: Task, split: str) -> tuple[int, ...]:
    """Numbers of the rows that have too few columns."""
    if not isinstance(task.source, KeptRows) or not split.startswith("test"):
        return ()
    width = max(task.source.entry.test_text) + 1
    return tuple(number for number, row in enumerate(_cells(task.source, split)) if len(row) < width)


def _file_name(task: Task, split: str, form: str) -> str:
    """The official or published name of a split's file; splits but test are named in it."""
    other = "" if split.startswith("test") else "-" + split.removesuffix("_mismatched")
    mismatched = split.endswith("_mismatched")
    entry = glue.find("mnli" if task.name == AX else task.name)
    if form in ("csv", "jsonl"):
        return f"predictions{'-mismatched' if mismatched else ''}{other}.{form}"
    assert entry is not None
    stem = AX if task.name == AX else entry.folder
    if form == "original":
        return f"test_results_{stem.lower()}{'-mm' if mismatched else ''}{other}.txt"
    if entry.name == "boolq":
        return f"{stem}{other}.jsonl"
    matched = "-m" if entry.name == "mnli" and task.name != AX else ""
    return f"{stem}{'-mm' if mismatched else matched}{other}.tsv"


def _text(answers: Answers, form: str) -> str:
    """The content of a file."""
    if form in ("csv", "jsonl"):
        return _table(answers, form)
    entry = glue.find("mnli" if answers.task.name == AX else answers.task.name)
    assert entry is not None
    cells = _spelled(entry, answers, clip=form == "glue")
    if form == "glue" and entry.name == "boolq":
        return "".join(json.dumps({"idx": row, "label": cell}) + "\n" for row, cell in enumerate(cells))
    return "index\tprediction\n" + "".join(f"{row}\t{cell}\n" for row, cell in enumerate(cells))


def _spelled(entry: glue.Entry, answers: Answers, *, clip: bool) -> list[str]:
    """Each row's answer as the files spell it; numbers with 3 decimals, within STS-B's 0 to 5 where clipped."""
    if not entry.labels:
        numbers = answers.logits[:, 0].astype(np.float64)
        return [f"{number:.3f}" for number in (np.clip(numbers, 0.0, 5.0) if clip else numbers)]
    return [entry.spelled[number] for number in _classes(answers)]


def _classes(answers: Answers) -> list[int]:
    """Each row's class; 0 where the row could not be read."""
    chosen = answers.logits.argmax(1)
    chosen[list(answers.defaults)] = 0
    return [int(number) for number in chosen]


def _table(answers: Answers, form: str) -> str:
    """A table of index, prediction, probability of each class, and the texts."""
    task = answers.task
    examples = task.read(answers.split)
    texts = {"text": examples.texts, **({} if examples.pairs is None else {"text_pair": examples.pairs})}
    shares = _softmax(answers.logits)
    chosen: Sequence[int] = _classes(answers) if task.labels else ()
    rows: list[dict[str, object]] = []
    for row in range(len(examples)):
        if task.labels:
            said: dict[str, object] = {"prediction": task.labels[chosen[row]]}
            said |= {f"p_{name}": round(float(share), 6) for name, share in zip(task.labels, shares[row], strict=True)}
        else:
            said = {"prediction": round(float(answers.logits[row, 0]), 6)}
        rows.append({"index": row, **said, **{name: column[row] for name, column in texts.items()}})
    if form == "jsonl":
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _softmax(logits: Logits) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Probabilities (N, C) of logits (N, C)."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    return np.asarray(shifted / shifted.sum(1, keepdims=True), dtype=np.float64)


def _remarks(answers: Answers, form: str) -> list[str]:
    """What the reader of a file must know."""
    task, lines = answers.task, []
    if answers.defaults:
        rows, shown = answers.defaults, ", ".join(map(str, answers.defaults[:8]))
        lines.append(
            f"{task.name} {answers.split}: {len(rows)} rows have too few columns (index {shown}"
            f"{', ...' if len(rows) > 8 else ''}); they keep their place with the prediction {task.labels[0]}"
        )
    if skipped := task.read(answers.split).skipped:
        lines.append(
            f"{task.name} {answers.split}: {skipped} rows of the file are left out; the index counts the others"
        )
    if form == "glue" and not task.labels:
        outside = int(((answers.logits[:, 0] < 0) | (answers.logits[:, 0] > 5)).sum())
        lines += [f"{task.name} {answers.split}: {outside} predictions were clipped to 0 to 5"] if outside else []
    return lines
