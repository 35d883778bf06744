"""Stored models and the task they are asked on: a sweep's trials with its data or other data, or any checkpoint folder.

A model's classes are compared with the task's by name, and its outputs put into their order, before it answers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from methods.parts import glue
from methods.parts.bert import Bert
from methods.parts.checkpoint import card_of, load
from methods.parts.examples import contents, digest
from methods.parts.metrics import check_metric
from methods.parts.tables import ENDINGS, Tables, columns_of
from methods.parts.tasks import Task, open_task
from methods.parts.teacher import check_labels, permute_classifier
from orchestrator.changes import stored_plan
from orchestrator.errors import SpecError
from orchestrator.folder import SweepFolder
from orchestrator.records import TrialRecord

TABLE = "table"
"""The task's name where the user gives none: one's own table."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    """What the user says of the data; what is None comes from the sweep or the checkpoint."""

    path: Path | None = None
    """A task's folder, or one table (CSV, TSV, JSON lines, Parquet), whose rows are then the only split."""
    task: str | None = None
    columns: Mapping[str, str] | None = None
    max_length: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """A stored model, and the task it is asked on."""

    name: str
    """The trial, or the folder's name."""
    folder: Path
    method: str
    """Empty for a folder."""
    task: Task


def is_checkpoint(name: str) -> bool:
    """Whether a word of the command line is a checkpoint's folder rather than a sweep.

    Raises:
        SpecError: it is neither, for no sweep's name holds a slash.
    """
    path = Path(name)
    if (path / "config.json").is_file():
        return True
    if len(path.parts) > 1 and path.suffix not in (".yaml", ".yml"):
        raise SpecError([f"{name}: looked for a checkpoint's config.json; {contents(path)}"])
    return False


def folder_subject(folder: Path, data: Data, split: str) -> Subject:
    """A checkpoint folder and the task that the user names.

    Raises:
        ValueError: no data is named, or it cannot be read.
    """
    if data.path is None and data.task is None:
        raise SpecError([f"{folder}: is a checkpoint; say what it is asked: --task sst2 --data PATH, or --data FILE"])
    card = card_of(folder)
    name = data.task or TABLE
    entry = glue.find(name)
    section = {"name": name, "max_length": min(entry.max_length if entry else 128, card.layout.positions)}
    task = _opened(section, card.labels if card.layout.labels > 1 else (), data, split)
    return Subject(name=folder.resolve().name, folder=folder, method="", task=task)


def trial_subjects(folder: SweepFolder, records: Sequence[TrialRecord], data: Data, split: str) -> list[Subject]:
    """Trials that have a model, and the sweep's task.

    Raises:
        SpecError: one of them has no model, or another task is named.
        ValueError: the data cannot be read.
    """
    if data.task is not None:
        raise SpecError([f"--task: found {data.task!r} for the sweep {folder.name}, which has its own; leave it out"])
    plan = stored_plan(folder)
    section = {key: found for key, found in plan["spec"]["task"].items() if found is not None}
    task = _opened(section, tuple(plan.get("labels", ())), data, split)
    return [
        Subject(name=record.trial, folder=model_folder(folder, record), method=record.method, task=task)
        for record in records
    ]


def model_folder(folder: SweepFolder, record: TrialRecord) -> Path:
    """Where a trial's model lies.

    Raises:
        SpecError: it has none.
    """
    if record.model is None or not (folder.path / record.model / "config.json").is_file():
        raise SpecError([f"{record.trial}: no model is stored for it (status {record.status})"])
    return folder.path / record.model


def open_model(subject: Subject) -> tuple[Bert, str]:
    """Loads a model with its outputs in the task's order, and says what could not be checked.

    Raises:
        ValueError: it has no classifier, or one of other classes.
    """
    card = card_of(subject.folder)
    if not card.layout.labels:
        raise ValueError(f"{subject.folder}: has no classifier, so it has no answers to measure")
    names = card.labels or tuple(f"LABEL_{number}" for number in range(card.layout.labels))
    try:
        order = check_labels(subject.task.labels, {name: number for number, name in enumerate(names)})
    except ValueError as error:
        raise ValueError(f"{subject.folder}: {str(error).removeprefix('teacher: ')}") from error
    model = load(subject.folder)
    if order.permutation is not None:
        permute_classifier(model, order.permutation)
    return model, order.note


def splits_of(task: Task, split: str) -> tuple[str, ...]:
    """A split and its mismatched companion, if there is one.

    Raises:
        ValueError: the task has no such split.
    """
    if split not in task.splits:
        raise ValueError(
            f"task {task.name}: has no split {split!r}; it has {', '.join(task.splits)} (choose with --split)"
        )
    return tuple(name for name in (split, f"{split}_mismatched") if name in task.splits)


def _opened(section: Mapping[str, Any], labels: tuple[str, ...], data: Data, split: str) -> Task:
    """The task of a section with what the user says in its place; `labels` are those of one's own single table."""
    changes = {"columns": data.columns, "max_length": data.max_length}
    section = {**section, **{key: found for key, found in changes.items() if found is not None}}
    if data.path is not None and data.path.is_file():
        return _one_table(section, labels, data.path, split)
    return open_task(**{**section, **({} if data.path is None else {"data": data.path})})


def _one_table(section: Mapping[str, Any], labels: tuple[str, ...], path: Path, split: str) -> Task:
    """A task of a single table, whose classes are the model's; `test` needs no label column."""
    if path.suffix not in ENDINGS:
        raise ValueError(f"{path}: found a file ending in {path.suffix!r}, allowed are {', '.join(ENDINGS)}")
    name, entry = str(section["name"]), glue.find(str(section["name"]))
    columns = columns_of(section.get("columns"))
    usual = entry.metric if entry else "accuracy" if labels else "pearson_spearman"
    metric = str(section.get("metric") or usual)
    check_metric(metric, labels)
    length = int(section.get("max_length") or (entry.max_length if entry else 128))
    content = digest([repr(columns), repr(labels), path.suffix, path])
    return Task(
        name=name,
        labels=labels,
        metric=metric,
        max_length=length,
        pair=columns.text_pair is not None,
        fingerprint=digest([content, str(length)]),
        splits=(split,),
        source=Tables(files={split: path}, columns=columns, labels=labels, fingerprint=content),
    )
