"""Importance of heads and FFN neurons by the loss that would be lost without them, to first order.

    head h      sum over batches of |dL / dM_h|, M_h = 1 a factor of the head's attention probabilities
    neuron k    sum over batches of |W1_k . dL/dW1_k + b1_k dL/db1_k| + |W2_k . dL/dW2_k|, what comes in and goes out

L is a batch's mean loss of the labels, dropout off. A head's output is linear in M_h and then in its columns of the
attention output matrix Wo, so dL/dM_h = Wo_h . dL/dWo_h: no mask is needed, and the gradients are those that the loop
has summed over all ranks and micro-batches. Absolute values are taken batch by batch; the batch size is part of the
definition.

The published code never clears the gradients between batches, so that its "gradient" of a batch is the sum of all up
to it. `accumulated` brings that back.

References:
    Hou et al.: DynaBERT: Dynamic BERT with Adaptive Width and Depth, NeurIPS 2020, https://arxiv.org/abs/2004.04037,
    section 2.1
    Michel, Levy, Neubig: Are Sixteen Heads Really Better than One?, 2019, https://arxiv.org/abs/1905.10650
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from methods.parts.batches import Batches
from methods.parts.bert import Bert, set_dropout
from methods.parts.checkpoint import load
from methods.parts.files import JsonValue
from methods.parts.importance import Importance
from methods.parts.label_training import learn_labels
from methods.parts.layers import Layer
from methods.parts.loop import fit
from methods.parts.pruning import SCORES, read_scores, write_scores
from methods.parts.recipe import Recipe
from methods.parts.run import Run
from methods.parts.sharded import Sharded
from methods.parts.splits import Splits
from methods.parts.tasks import Task
from methods.parts.teacher import Teacher
from methods.parts.tokens import Encoded, encode
from methods.parts.training import Training

MASK_IMPORTANCE_VERSION = 1
"""Raised whenever the meaning of the stored scores changes."""


class MaskScores:
    """Sums over batches of the absolute first-order effects of heads and neurons; the weights must not move."""

    def __init__(self, *, accumulated: bool = False) -> None:
        """Start with no batch.

        Args:
            accumulated: take absolute values of running sums, as published.
        """
        self.accumulated = accumulated
        self._sums: dict[str, Tensor] = {}
        self._running: dict[str, Tensor] = {}

    @torch.no_grad()
    def observe(self, model: Bert) -> None:
        """Add the batch whose gradients the backward pass left in the model.

        Raises:
            ValueError: a matrix has no gradient.
        """
        for number, layer in enumerate(model.layers):
            for name, effect in _effects(layer, number):
                key = f"{number}.{name}"
                if self.accumulated:
                    effect = self._running[key] = self._running.get(key, 0.0) + effect
                self._sums[key] = self._sums.get(key, 0.0) + effect.abs()

    def scores(self) -> Importance:
        """The scores so far.

        Raises:
            ValueError: nothing was observed.
        """
        if not self._sums:
            raise ValueError("MaskScores: nothing observed yet")
        layers = range(len(self._sums) // 3)
        return Importance(
            heads=tuple(self._sums[f"{number}.heads"] for number in layers),
            neurons=tuple(self._sums[f"{number}.in"] + self._sums[f"{number}.out"] for number in layers),
        )

    def state_dict(self) -> dict[str, Tensor]:
        """The sums, for a checkpoint."""
        return {**self._sums, **{f"running.{key}": value for key, value in self._running.items()}}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what `state_dict` gave."""
        self._sums = {key: value for key, value in state.items() if not key.startswith("running.")}
        self._running = {
            key.removeprefix("running."): value for key, value in state.items() if key.startswith("running.")
        }


def _effects(layer: Layer, number: int) -> Sequence[tuple[str, Tensor]]:
    """First-order effects of a layer's heads (h,), and of its neurons (ffn,) by what comes in and goes out."""
    attention, inner = layer.attention.self, layer.intermediate.dense
    columns = _product(layer.attention.output.dense.weight, number).sum(0)
    return (
        ("heads", columns.view(attention.heads, attention.head_width).sum(1)),
        ("in", _product(inner.weight, number).sum(1) + _product(inner.bias, number)),
        ("out", _product(layer.output.dense.weight, number).sum(0)),
    )


def _product(weight: Tensor, number: int) -> Tensor:
    """A parameter times its gradient."""
    if weight.grad is None and weight.numel():
        raise ValueError(f"MaskScores: layer {number} has a matrix without gradient; call after backward")
    return weight * (torch.zeros_like(weight) if weight.grad is None else weight.grad)


Rows = Literal["train", "search", "dev"]
"""Rows of the training set, of the half of dev that choices may look at, or of all of dev (published)."""


def importance_rows(
    task: Task, splits: Splits, teacher: Teacher, run: Run, rows: Rows, limit: int | None
) -> tuple[Encoded, ...]:
    """The rows that importance is taken on; of `dev` both sets where the task has two.

    Args:
        task: the task.
        splits: its rows.
        teacher: names the tokenizer.
        run: the world.
        rows: which.
        limit: how many of the training rows, the same sample for all; None uses all of them.
    """
    if rows == "dev":
        names = [name for name in ("dev", "dev_mismatched") if name in task.splits]
        return tuple(encode(task, name, teacher.tokenizer, run) for name in names)
    if rows == "search":
        return (splits.search,)
    train = splits.train
    if limit is None or limit >= len(train):
        return (train,)
    return (train.subset(np.sort(np.random.default_rng(0).permutation(len(train))[:limit])),)


def mask_importance(
    teacher: Teacher, data: Sequence[Encoded], run: Run, *, batch_size: int = 32, accumulated: bool = False
) -> Importance:
    """The importance of a fine-tuned teacher's heads and neurons, computed once for all trials; collective.

    Args:
        teacher: whose.
        data: labelled rows, in order, unshuffled.
        run: the world.
        batch_size: sentences of one gradient.
        accumulated: see the module.
    """
    inputs: dict[str, JsonValue] = {
        "teacher": teacher.fingerprint,
        "rows": [part.fingerprint for part in data],
        "batch_size": batch_size,
        "accumulated": accumulated,
    }

    def build(folder: Path, inner: Run) -> None:
        model, scores = load(teacher.tuned).to(inner.device), MaskScores(accumulated=accumulated)
        set_dropout(model, 0.0)
        with inner.stage("importance") as stage:
            training = Training(
                model=model,
                data=Sharded(data, lambda part, _number: _in_order(part, batch_size, inner)),
                losses=learn_labels(model),
                before_step=lambda _step, _optimizer: scores.observe(model),
                keep={"scores": scores},
            )
            fit(training, Recipe(epochs=1.0, batch_size=batch_size, lr=0.0, clip="none"), stage, inner)  # lr 0: frozen
        if inner.rank == 0:
            write_scores(scores.scores(), folder / SCORES)

    return read_scores(run.once("mask-importance", inputs, build, version=MASK_IMPORTANCE_VERSION) / SCORES)


def _in_order(data: Encoded, batch_size: int, run: Run) -> Batches:
    """The batches of some rows, unshuffled."""
    return Batches(data, batch_size=batch_size, seed=0, rank=run.rank, world_size=run.world_size, shuffle=False)
