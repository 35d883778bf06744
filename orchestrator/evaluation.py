"""Stored models measured again on any labelled split, every metric with its standard error.

Nothing here changes a record.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from methods.parts.checkpoint import load
from methods.parts.evaluate import Logits, predict, score
from methods.parts.metrics import METRICS
from methods.parts.metrics import measure as bootstrap
from methods.parts.run import LocalRun
from methods.parts.tasks import Task
from methods.parts.tokens import encode
from orchestrator import figures
from orchestrator.folder import SweepFolder
from orchestrator.front import comparable, value
from orchestrator.job import measure
from orchestrator.records import TrialRecord
from orchestrator.subjects import Data, Subject, open_model, splits_of, trial_subjects


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """Every metric of one model on one split."""

    model: str
    method: str
    params: int
    split: str
    rows: int
    metrics: Mapping[str, float]
    errors: Mapping[str, float]
    """Standard error of each metric over resamples of the rows; of `loss` and `mse` that of a mean."""
    note: str = ""

    def row(self) -> dict[str, Any]:
        """One flat row: what was measured, then each metric followed by its standard error."""
        names = ("model", "method", "params", "split", "rows")
        numbers = {
            key: number
            for name, found in self.metrics.items()
            for key, number in ((name, found), (f"{name}_se", self.errors[name]))
        }
        return {**{name: getattr(self, name) for name in names}, **numbers}


def best(records: Sequence[TrialRecord], count: int) -> list[TrialRecord]:
    """The finished trials of the highest scores, best first; of equal scores the smaller model first."""
    finished = comparable(records, {"score": "max", "params": "min"})
    return sorted(finished, key=lambda record: (-value(record, "score"), value(record, "params")))[:count]


def with_models(folder: SweepFolder, records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """All records whose model is stored, the teacher's too."""
    return [record for record in records if record.model and (folder.path / record.model / "config.json").is_file()]


def again(folder: SweepFolder, record: TrialRecord, run: LocalRun) -> dict[str, float]:
    """The numbers that the trial ended with, measured anew in this process.

    Raises:
        SpecError: the trial has no model.
    """
    subject = trial_subjects(folder, [record], Data(), "dev")[0]
    return measure(load(subject.folder).to(run.device), subject.task, subject.folder, run)


def evaluate(subject: Subject, split: str, run: LocalRun) -> list[Measured]:
    """Measures a model on a split, and on MNLI's mismatched rows of the same kind.

    Raises:
        ValueError: there is no such split, its rows have no labels, or the model is of another task.
    """
    model, note = open_model(subject)
    model = model.to(run.device)
    found = []
    for name in splits_of(subject.task, split):
        encoded = encode(subject.task, name, subject.folder, run)
        labels = np.asarray(encoded.labels)
        metrics, errors = with_errors(subject.task, predict(model, encoded, run), labels)
        found.append(
            Measured(
                model=subject.name,
                method=subject.method,
                params=model.layout.params(),
                split=name,
                rows=len(encoded),
                metrics=metrics,
                errors=errors,
                note=note,
            )
        )
    return found


def with_errors(task: Task, logits: Logits, labels: NDArray[np.generic]) -> tuple[dict[str, float], dict[str, float]]:
    """Every published metric of the task with its standard error, and the loss with that of a mean."""
    everything = score(task, logits, labels)
    metrics = {name: number for name, number in everything.items() if name not in ("score", "score_se")}
    errors = {
        name: bootstrap(replace(task, metric=name), logits, labels)["score_se"] for name in metrics if name in METRICS
    }
    spread = _spread(logits, labels, classes=bool(task.labels))
    return metrics, {**{name: spread for name in metrics}, **errors}


def _spread(logits: Logits, labels: NDArray[np.generic], *, classes: bool) -> float:
    """The standard error of the mean of the rows' cross-entropies or squared errors; 0 for a single row."""
    found = logits.astype(np.float64)
    if classes:
        shifted = found - found.max(1, keepdims=True)
        rows = np.log(np.exp(shifted).sum(1)) - shifted[np.arange(len(labels)), labels.astype(np.int64)]
    else:
        rows = (found[:, 0] - labels.astype(np.float64)) ** 2
    return float(np.std(rows, ddof=1) / np.sqrt(len(rows))) if len(rows) > 1 else 0.0


def device() -> torch.device:
    """The GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def table_lines(found: Sequence[Measured]) -> list[str]:
    """The measurements for people, in aligned columns, then what could not be checked."""
    metrics = list(dict.fromkeys(name for item in found for name in item.metrics))
    head = ["model", "method", "parameters", "split", "rows", *(f"{name} (SE)" for name in metrics)]
    rows = [
        [
            *(item.model, item.method or "-", figures.count(item.params), item.split, str(item.rows)),
            *(f"{item.metrics[name]:.4f} ({item.errors[name]:.4f})" for name in metrics),
        ]
        for item in found
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (head, *rows)]
    return [*(line.rstrip() for line in table), *dict.fromkeys(item.note for item in found if item.note)]


def as_csv(found: Sequence[Measured]) -> str:
    """The measurements as a CSV table, one row per model and split."""
    text = io.StringIO()
    rows = [item.row() for item in found]
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
