"""Scores of predictions, with their standard error; numpy only, and never NaN for a model that predicts one class.

Scores of class predictions are functions of the confusion matrix, so their bootstrap draws matrices (multinomial) and
not rows: the same distribution at the cost of 200 small matrices, whatever the number of rows. Correlations resample
rows.

Shape legend: `N` rows, `C` classes, `R` resamples; every score maps (..., C, C) or (..., N) arrays to (...).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from methods.parts.examples import unknown

RESAMPLES = 200
"""Bootstrap resamples behind `score_se`."""

Floats = NDArray[np.float64]
Kind = Literal["classes", "binary", "regression"]

METRICS: Mapping[str, Kind] = MappingProxyType(
    {
        "accuracy": "classes",
        "matthews": "classes",
        "macro_f1": "classes",
        "f1": "binary",
        "accuracy_f1": "binary",
        "pearson": "regression",
        "spearman": "regression",
        "pearson_spearman": "regression",
    }
)
"""The scores a task may have and what they apply to: any classes, two classes (F1 is of class id 1), or real numbers.
`accuracy_f1` and `pearson_spearman` are the means that GLUE publishes."""


class Scored(Protocol):
    """What a score needs to know of a task."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names; empty for regression."""
        ...

    @property
    def metric(self) -> str:
        """The score, a key of `METRICS`."""
        ...


def check_metric(metric: str, labels: Sequence[str]) -> None:
    """Refuse a score that does not exist or does not apply to a task with these classes.

    Raises:
        ValueError: with the scores that apply.
    """
    if metric not in METRICS:
        raise unknown("metric", metric, METRICS)
    applies = {"regression"} if not labels else {"classes", "binary"} if len(labels) == 2 else {"classes"}
    if METRICS[metric] not in applies:
        task = f"a task of {len(labels)} classes" if labels else "a regression task"
        allowed = [name for name, kind in METRICS.items() if kind in applies]
        raise ValueError(f"metric: found {metric!r} for {task}, allowed are {', '.join(allowed)}")


def measure(
    task: Scored, predictions: NDArray[np.floating], labels: NDArray[np.generic], seed: int = 0
) -> dict[str, float]:
    """Score predictions with every published score of the task.

    Args:
        task: its classes and its score.
        predictions: logits (N, C), or numbers (N,) or (N, 1) for regression.
        labels: class ids or numbers, (N,).
        seed: of the bootstrap.

    Returns:
        The scores by name, `score` (the task's own) and `score_se` (its standard error over resamples of the rows).

    Raises:
        ValueError: the sizes do not fit, a prediction is not finite, or a row has no label.
    """
    _check(task, predictions, labels)
    draw = np.random.default_rng(seed)
    if task.labels:
        matrix = confusion(np.argmax(predictions, axis=1), labels.astype(np.int64), len(task.labels))
        scores = _class_scores(task.metric, matrix)
        cells = draw.multinomial(len(labels), matrix.ravel() / len(labels), size=RESAMPLES)
        resampled = _class_scores(task.metric, cells.reshape(RESAMPLES, *matrix.shape).astype(np.float64))
    else:
        found, wanted = predictions.astype(np.float64).reshape(-1), labels.astype(np.float64)
        scores = {**_number_scores(task.metric, found, wanted), "mse": np.asarray(np.mean((found - wanted) ** 2))}
        rows = draw.integers(len(wanted), size=(RESAMPLES, len(wanted)))
        resampled = _number_scores(task.metric, found[rows], wanted[rows])
    error = np.std(resampled[task.metric], ddof=1)
    return {
        **{name: float(value) for name, value in scores.items()},
        "score": float(scores[task.metric]),
        "score_se": float(error),
    }


def confusion(found: NDArray[np.int64], wanted: NDArray[np.int64], classes: int) -> Floats:
    """Count rows by (class, predicted class), (C, C)."""
    return (
        np.bincount(wanted * classes + found, minlength=classes * classes).reshape(classes, classes).astype(np.float64)
    )


def accuracy(matrix: Floats) -> Floats:
    """Share of the rows on the diagonal of (..., C, C)."""
    return _ratio(np.trace(matrix, axis1=-2, axis2=-1), matrix.sum((-2, -1)))


def matthews(matrix: Floats) -> Floats:
    """Matthews' correlation of (..., C, C), any number of classes; 0 when one class takes all predictions or rows.

    References:
        Gorodkin, Comparing two K-category assignments by a K-category correlation coefficient, 2004, equation 8
    """
    total = matrix.sum((-2, -1))
    wanted, found = matrix.sum(-1), matrix.sum(-2)
    covariance = np.trace(matrix, axis1=-2, axis2=-1) * total - (wanted * found).sum(-1)
    spread = (total**2 - (found**2).sum(-1)) * (total**2 - (wanted**2).sum(-1))
    return _ratio(covariance, np.sqrt(np.maximum(spread, 0)))


def f1_by_class(matrix: Floats) -> Floats:
    """F1 of each class of (..., C, C), (..., C); 0 for a class without rows and predictions."""
    hits = np.diagonal(matrix, axis1=-2, axis2=-1)
    return _ratio(2 * hits, matrix.sum(-1) + matrix.sum(-2))


def pearson(found: Floats, wanted: Floats) -> Floats:
    """Linear correlation over the last axis of (..., N); 0 when either side is constant."""
    a = found - found.mean(-1, keepdims=True)
    b = wanted - wanted.mean(-1, keepdims=True)
    size = np.sqrt((a * a).sum(-1) * (b * b).sum(-1))
    constant = (np.ptp(found, axis=-1) == 0) | (np.ptp(wanted, axis=-1) == 0)  # rounding leaves `size` above 0
    return np.where(constant, 0.0, np.clip(_ratio((a * b).sum(-1), size), -1.0, 1.0))


def spearman(found: Floats, wanted: Floats) -> Floats:
    """Rank correlation over the last axis of (..., N), ties at their mean rank; 0 when either side is constant."""
    return pearson(_ranks(found), _ranks(wanted))


def _class_scores(metric: str, matrix: Floats) -> dict[str, Floats]:
    """The task's score and the published ones beside it, of (..., C, C)."""
    right = accuracy(matrix)
    if metric == "accuracy":
        return {"accuracy": right}
    if metric == "matthews":
        return {"matthews": matthews(matrix), "accuracy": right}
    each = f1_by_class(matrix)
    if metric == "macro_f1":
        return {"macro_f1": each.mean(-1), "accuracy": right}
    f1 = each[..., 1]
    return {"accuracy": right, "f1": f1, "accuracy_f1": (right + f1) / 2}


def _number_scores(metric: str, found: Floats, wanted: Floats) -> dict[str, Floats]:
    """Both correlations and their mean, of (..., N); only the needed ones for a single metric."""
    scores: dict[str, Callable[[Floats, Floats], Floats]] = {"pearson": pearson, "spearman": spearman}
    if metric in scores:
        return {metric: scores[metric](found, wanted)}
    both = {name: score(found, wanted) for name, score in scores.items()}
    return {**both, "pearson_spearman": (both["pearson"] + both["spearman"]) / 2}


def _ranks(values: Floats) -> Floats:
    """Ranks over the last axis of (..., N), from 0, ties at their mean rank."""
    flat = values.reshape(-1, values.shape[-1])
    size = flat.shape[1]
    order = np.argsort(flat, axis=1, kind="stable")
    ordered = np.take_along_axis(flat, order, axis=1)
    fresh = np.concatenate([np.ones((len(flat), 1), dtype=bool), ordered[:, 1:] != ordered[:, :-1]], axis=1)
    places = np.broadcast_to(np.arange(size), flat.shape)
    first = np.maximum.accumulate(np.where(fresh, places, 0), axis=1)
    ends = np.concatenate([fresh[:, 1:], np.ones((len(flat), 1), dtype=bool)], axis=1)
    last = np.minimum.accumulate(np.where(ends, places, size)[:, ::-1], axis=1)[:, ::-1]
    ranks = np.empty(flat.shape)
    np.put_along_axis(ranks, order, (first + last) / 2, axis=1)
    return ranks.reshape(values.shape)


def _ratio(top: Floats, bottom: Floats) -> Floats:
    """Divide, with 0 where the denominator is 0."""
    return np.divide(
        top, bottom, out=np.zeros(np.broadcast_shapes(np.shape(top), np.shape(bottom))), where=np.asarray(bottom) != 0
    )


def _check(task: Scored, predictions: NDArray[np.floating], labels: NDArray[np.generic]) -> None:
    """Refuse predictions that cannot be scored."""
    rows, outputs = len(labels), len(task.labels) or 1
    allowed = [(rows, outputs)] if task.labels else [(rows,), (rows, 1)]
    if rows == 0 or predictions.shape not in allowed:
        raise ValueError(f"predictions: found shape {predictions.shape}, allowed is {allowed[-1]} with at least 1 row")
    if not np.isfinite(predictions).all():
        bad = int((~np.isfinite(predictions.reshape(rows, -1))).any(1).sum())
        raise ValueError(
            f"predictions: found {bad} of {rows} rows that are not finite, allowed are numbers; the training diverged"
        )
    numbers = labels.astype(np.float64)
    unlabelled = (numbers < 0) if task.labels else np.isnan(numbers)
    if unlabelled.any():
        raise ValueError(
            f"labels: found {int(unlabelled.sum())} of {rows} rows without a label, expected a labelled split"
        )
