"""The score of a model on a whole split: the same numbers on every rank, and the same as with one rank.

Batches are formed before they are dealt to the ranks, every rank gathers all outputs, and the scores are computed from
them in the order of the data. Nothing is averaged over batches or ranks.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from methods.parts.batches import collate, evaluation_rows
from methods.parts.metrics import measure
from methods.parts.reduce import Ranked, gather
from methods.parts.tasks import Task
from methods.parts.tokens import Encoded

Logits = NDArray[np.float32]


def evaluate(model: nn.Module, task: Task, encoded: Encoded, run: Ranked, batch_size: int = 64) -> dict[str, float]:
    """Score a model on all rows of `encoded`, whatever the number of ranks; collective.

    Args:
        model: called with a `Batch`, gives something with `logits` (B, C); its training mode is restored afterwards.
        task: classes and score.
        encoded: a labelled split, or some rows of one.
        run: this rank and its peers.
        batch_size: rows of one forward pass; does not change the scores beyond rounding.

    Returns:
        What `metrics.measure` gives, and `loss`: mean cross-entropy, or mean squared error for regression.

    Raises:
        ValueError: the outputs do not fit the task or are not finite.
    """
    return score(task, predict(model, encoded, run, batch_size), np.asarray(encoded.labels))


def score(task: Task, logits: Logits, labels: NDArray[np.generic]) -> dict[str, float]:
    """Score stored outputs (N, C) of a model; the same numbers as `evaluate`.

    Raises:
        ValueError: the outputs do not fit the task or are not finite.
    """
    return {**measure(task, logits, labels), "loss": _loss(logits, labels, bool(task.labels))}


def predict(model: nn.Module, encoded: Encoded, run: Ranked, batch_size: int = 64) -> Logits:
    """The logits of all rows in the order of the data, (N, C) float32, on every rank; collective."""
    batches = evaluation_rows(encoded, batch_size)
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            mine = [
                model(collate(encoded, picks).to(run.device)).logits.float()
                for picks in batches[run.rank :: run.world_size]
            ]
    finally:
        model.train(training)
    shares = [
        np.concatenate([*batches[rank :: run.world_size], np.empty(0, dtype=np.int64)])
        for rank in range(run.world_size)
    ]
    outputs = _gathered(mine, [len(share) for share in shares], run)
    logits = np.empty((len(encoded), outputs[0].shape[1]), dtype=np.float32)
    for share, output in zip(shares, outputs, strict=True):
        logits[share] = output
    return logits


def _gathered(mine: list[Tensor], sizes: list[int], run: Ranked) -> list[Logits]:
    """Every rank's outputs, (sizes[rank], C) each; a rank without rows learns C from the others."""
    width = int(gather(torch.tensor([mine[0].shape[1] if mine else 0], device=run.device), run).max())
    padded = torch.zeros(max(sizes), width, device=run.device)
    if mine:
        padded[: sizes[run.rank]] = torch.cat(mine)
    everything = gather(padded.reshape(-1), run).reshape(len(sizes), max(sizes), width)
    return [everything[rank, :size].numpy() for rank, size in enumerate(sizes)]


def _loss(logits: Logits, labels: NDArray[np.generic], classes: bool) -> float:
    """Mean cross-entropy, or mean squared error, in float64."""
    found = logits.astype(np.float64)
    if not classes:
        return float(np.mean((found[:, 0] - labels.astype(np.float64)) ** 2))
    shifted = found - found.max(1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return float(-np.mean(logs[np.arange(len(labels)), labels.astype(np.int64)]))
