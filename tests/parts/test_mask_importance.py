"""Importance by the gradient of masks, against masks that are there."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from methods.parts.batches import Batch, collate
from methods.parts.bert import Bert
from methods.parts.checkpoint import load
from methods.parts.layout import Layout
from methods.parts.losses import hard_cross_entropy
from methods.parts.mask_importance import MaskScores, importance_rows, mask_importance
from methods.parts.run import LocalRun
from methods.parts.splits import open_splits
from tests.methods.conftest import Setting, make_setting
from tests.parts.tiny import collated, tiny_layout
from tests.strategies import random_bert

LAYOUT = tiny_layout(heads=2, num_layers=2, ffn=5)


def mean_loss(model: Bert, batch: Batch) -> Tensor:
    return hard_cross_entropy(model(batch).logits, batch.labels).sum / len(batch.labels)


def masked_loss(model: Bert, batch: Batch, masks: list[Tensor]) -> Tensor:
    """The model with a factor on each head's probabilities, written out."""
    states = model.bert.embeddings(batch)
    mask = (1.0 - batch.attention_mask[:, None, None, :].float()) * -10000.0
    for layer, factors in zip(model.layers, masks, strict=True):
        attention = layer.attention.self
        parts = [part(states).unflatten(-1, (2, 4)).transpose(1, 2) for part in (attention.query, attention.key)]
        probabilities = (parts[0] @ parts[1].transpose(-1, -2) / 2.0 + mask).softmax(-1) * factors[None, :, None, None]
        context = probabilities @ attention.value(states).unflatten(-1, (2, 4)).transpose(1, 2)
        states = layer.attention.output(context.transpose(1, 2).flatten(2), states)
        states = layer.output(layer.intermediate(states), states)
    assert model.bert.pooler is not None
    assert model.classifier is not None
    return F.cross_entropy(model.classifier(model.bert.pooler(states[:, 0])), batch.labels)


def test_heads_score_the_gradient_of_a_mask_on_their_probabilities() -> None:
    model, scores = random_bert(LAYOUT), MaskScores()
    wanted = torch.zeros(2, 2)
    for picks in ([1, 2, 3], [4, 5]):
        batch = collated(picks)
        masks = [torch.ones(2, requires_grad=True) for _ in range(2)]
        loss = masked_loss(model, batch, masks)
        wanted += torch.stack([gradient.abs() for gradient in torch.autograd.grad(loss, masks)])
        model.zero_grad()
        mean_loss(model, batch).backward()  # type: ignore[no-untyped-call]
        scores.observe(model)
    torch.testing.assert_close(torch.stack(scores.scores().heads), wanted, rtol=1e-4, atol=1e-6)


def test_neurons_score_both_sides_apart() -> None:
    model, scores, batch = random_bert(LAYOUT), MaskScores(), collated([1, 2, 3])
    mean_loss(model, batch).backward()  # type: ignore[no-untyped-call]
    scores.observe(model)
    layer = model.layers[1]
    first, bias, second = (
        (weight * weight.grad).detach()
        for weight in (layer.intermediate.dense.weight, layer.intermediate.dense.bias, layer.output.dense.weight)
        if weight.grad is not None
    )
    wanted = [abs(float(first[k].sum() + bias[k])) + abs(float(second[:, k].sum())) for k in range(5)]
    assert scores.scores().neurons[1].tolist() == pytest.approx(wanted, rel=1e-5)


def test_gradients_accumulate_on_request() -> None:
    model, clean, running = random_bert(LAYOUT), MaskScores(), MaskScores(accumulated=True)
    published = MaskScores()
    for picks in ([1, 2, 3], [4, 5], [6]):
        mean_loss(model, collated(picks)).backward()  # type: ignore[no-untyped-call]
        published.observe(model)  # gradients never cleared
    for picks in ([1, 2, 3], [4, 5], [6]):
        model.zero_grad()
        mean_loss(model, collated(picks)).backward()  # type: ignore[no-untyped-call]
        clean.observe(model)
        running.observe(model)
        again = MaskScores(accumulated=True)
        again.load_state_dict(running.state_dict())
        running = again  # as after a resume
    for found, wanted in zip(running.scores().heads, published.scores().heads, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(clean.scores().heads[0], running.scores().heads[0])


def test_layers_without_heads_or_neurons_score_nothing() -> None:
    layout = Layout.uniform(vocab=30, positions=12, hidden=8, num_layers=1, heads=0, head_width=4, ffn=0, labels=2)
    model, scores = random_bert(layout), MaskScores()
    mean_loss(model, collated([1, 2])).backward()  # type: ignore[no-untyped-call]
    scores.observe(model)
    assert (scores.scores().heads[0].numel(), scores.scores().neurons[0].numel()) == (0, 0)
    with pytest.raises(ValueError, match="nothing observed"):
        MaskScores().scores()


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return make_setting(tmp_path_factory.mktemp("mask"))


def test_a_teacher_is_scored_once_in_order_without_dropout(setting: Setting, tmp_path: Path) -> None:
    store, model = tmp_path / "store", load(setting.teacher.tuned)
    run = LocalRun(tmp_path / "one", store=store)
    data = importance_rows(
        setting.task, open_splits(setting.task, setting.teacher.tokenizer, run), setting.teacher, run, "dev", None
    )
    assert [len(part) for part in data] == [80]
    found = mask_importance(setting.teacher, data, run, batch_size=32)
    scores = MaskScores()
    for first in (0, 32, 64):
        model.zero_grad()
        mean_loss(model, collate(data[0], np.arange(first, min(first + 32, 80)))).backward()  # type: ignore[no-untyped-call]
        scores.observe(model)
    for mine, theirs in zip(found.neurons, scores.scores().neurons, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)
    mask_importance(setting.teacher, data, LocalRun(tmp_path / "two", store=store, seed=9), batch_size=32)
    assert len(list(store.glob("mask-importance-*/manifest.json"))) == 1


def test_rows_of_importance(setting: Setting, tmp_path: Path) -> None:
    run = LocalRun(tmp_path)
    splits = open_splits(setting.task, setting.teacher.tokenizer, run)
    (train,) = importance_rows(setting.task, splits, setting.teacher, run, "train", None)
    (some,) = importance_rows(setting.task, splits, setting.teacher, run, "train", 24)
    (search,) = importance_rows(setting.task, splits, setting.teacher, run, "search", 3)
    assert (len(train), len(some), len(search)) == (160, 24, 40)
    assert sorted(some.rows.tolist()) == some.rows.tolist() != list(range(24))
