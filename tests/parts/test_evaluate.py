"""The scores of a split are those of its rows, on one rank and on several, and leave the model as it was."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from methods.parts.batches import Batch, collate
from methods.parts.evaluate import evaluate, predict
from methods.parts.examples import Examples
from methods.parts.run import LocalRun
from tests.parts.encoded import Written, encoded, written_task
from tests.parts.ranks import run_ranks
from tests.parts.tiny import tiny_bert

LENGTHS = [4, 9, 2, 7, 5, 3, 8, 6, 2]
NOTHING = Examples(texts=[], pairs=None, labels=np.zeros(0, dtype=np.int64))
TASK = written_task(Written(NOTHING))


class Constant(nn.Module):
    """Logits are a function of the row number."""

    def __init__(self, outputs: int = 2) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, batch: Batch) -> SimpleNamespace:
        columns: list[Tensor] = [torch.sin(batch.ids.double() * (column + 1)) for column in range(self.outputs)]
        return SimpleNamespace(logits=torch.stack(columns, dim=1))


def test_logits_come_in_the_order_of_the_data(tmp_path: Path) -> None:
    data = encoded(LENGTHS).subset([8, 0, 3, 5])
    logits = predict(Constant(), data, LocalRun(tmp_path), batch_size=3)
    assert logits.dtype == np.float32
    assert logits[:, 1] == pytest.approx(np.sin(2 * data.rows))


def test_scores_and_loss_are_those_of_torch(tmp_path: Path) -> None:
    data = encoded(LENGTHS)
    scores = evaluate(Constant(), TASK, data, LocalRun(tmp_path), batch_size=4)
    logits = Constant()(collate(data, np.arange(9))).logits
    labels = torch.from_numpy(np.array(data.labels))
    assert scores["loss"] == pytest.approx(functional.cross_entropy(logits, labels).item(), rel=1e-6)
    assert scores["score"] == scores["accuracy"] == pytest.approx((logits.argmax(1) == labels).double().mean().item())


def test_regression(tmp_path: Path) -> None:
    labels = np.cos(np.arange(9)).tolist()
    task = replace(written_task(Written(NOTHING, labels=())), metric="pearson")
    scores = evaluate(Constant(1), task, encoded(LENGTHS, labels=labels), LocalRun(tmp_path))
    assert scores["loss"] == scores["mse"] == pytest.approx(np.mean((np.sin(np.arange(9)) - labels) ** 2), rel=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_evaluated_without_dropout_and_left_as_it_was(tmp_path: Path, training: bool) -> None:
    model = tiny_bert(dropout=0.5).train(training)
    first, second = (predict(model, encoded(LENGTHS), LocalRun(tmp_path)) for _ in range(2))
    assert (first == second).all()
    assert model.training is training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_model_that_raises_is_left_as_it_was(tmp_path: Path) -> None:
    model = tiny_bert().train()
    with pytest.raises(ValueError, match="sequences of 30 tokens"):
        predict(model, encoded([30]), LocalRun(tmp_path))
    assert model.training


def scored(rank: int, world_size: int, folder: Path, rows: int) -> tuple[dict[str, float], list[list[float]]]:
    run = LocalRun(folder, rank=rank, world_size=world_size)
    data = encoded(LENGTHS[:rows])
    return evaluate(tiny_bert(), TASK, data, run, batch_size=2), predict(tiny_bert(), data, run, batch_size=2).tolist()


@pytest.mark.parametrize("rows", [9, 2])
def test_two_ranks_give_the_bits_of_one(tmp_path: Path, rows: int) -> None:
    alone = scored(0, 1, tmp_path, rows)
    assert run_ranks(scored, tmp_path, rows) == [alone, alone]
