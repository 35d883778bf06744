"""Pruning in the course of training: the original's trace, resuming, ranks, and what a prune keeps."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim import Optimizer

from methods.parts.batches import Batch
from methods.parts.bert import Bert
from methods.parts.importance import Importance
from methods.parts.iterative import Line, fit_pruning
from methods.parts.layout import Layout
from methods.parts.prune_schedule import Prune, depth_layouts, prunes_of, width_layouts
from methods.parts.pruning import prune
from methods.parts.recipe import Recipe
from methods.parts.run import LocalRun
from methods.parts.stages import Cadence
from methods.parts.surgery import narrower
from methods.parts.training import Training
from methods.parts.weights import load
from tests.parts.ranks import run_ranks
from tests.parts.tiny import Rows, defined, flat, label_losses, tiny_bert
from tests.strategies import layouts, random_bert, rows

pytestmark = pytest.mark.long

GOLDEN = Layout.uniform(vocab=512, positions=64, hidden=64, num_layers=4, heads=4, head_width=16, ffn=128)
RECIPE = Recipe(epochs=10, batch_size=32, lr=1e-3, clip="tensor", evaluate_every=1, patience=4)


class Interrupted(Exception):
    pass


@dataclass
class Data(Rows):
    """70 rows in batches of 32, the short last one left out; one update may be the last."""

    num_rows: int = 70
    batch_size: int = 32
    fatal_step: int = -1

    @property
    def num_steps(self) -> int:
        return self.num_rows // self.batch_size

    def step(self, step: int) -> list[Batch]:
        if step == self.fatal_step:
            raise Interrupted
        return super().step(step)


@dataclass
class Watch:
    """A training whose score never changes, and what was seen of it."""

    run: LocalRun
    fatal_step: int = -1
    models: list[Bert] = field(default_factory=list)
    lrs: list[float] = field(default_factory=list)
    counters: list[int] = field(default_factory=list)

    def training(self, model: Bert) -> Training:
        self.models.append(model)

        def before(_step: int, optimizer: Optimizer) -> None:
            self.lrs.append(optimizer.param_groups[0]["lr"])
            state = optimizer.state.get(model.layers[0].output.dense.weight, {})
            self.counters.append(int(state.get("step", 0)))

        def evaluate(_model: nn.Module) -> Mapping[str, float]:
            return {"score": 0.0}

        data = Data(rank=self.run.rank, world_size=self.run.world_size, fatal_step=self.fatal_step)
        return Training(model=model, data=data, losses=label_losses(model), before_step=before, evaluate=evaluate)

    def line(self, model: Bert, target: Layout, recipe: Recipe = RECIPE) -> Line:
        shapes = depth_layouts(model.layout, len(target.layers))
        if not shapes:
            shapes = width_layouts(model.layout, target)
        prunes = prunes_of(shapes, 0.5, recipe, num_rows=70, steps_per_epoch=2)
        return Line(name="width", training=self.training, recipe=recipe, prunes=prunes, final=True)

    def fit(self, model: Bert, target: Layout, recipe: Recipe = RECIPE) -> Bert:
        return fit_pruning(model, self.line(model, target, recipe), self.run)


@pytest.mark.parametrize("schedule", ["linear", "constant"])
def test_the_width_trace_of_the_original_program(tmp_path: Path, schedule: str) -> None:
    """Prunes after 4 and 9 updates of 20, an unbroken rate, fresh optimizers, the end after 14 by patience."""
    run, model = LocalRun(tmp_path), random_bert(GOLDEN)
    watch = Watch(run)
    last = watch.fit(model, narrower(GOLDEN, heads=2, ffn=64, rank=16), replace(RECIPE, schedule=schedule))
    shapes = [
        (each.layout.layers[0].heads, each.layout.layers[0].ffn, each.layout.embedding_rank) for each in watch.models
    ]
    assert shapes == [(4, 128, None), (3, 96, 40), (2, 64, 16)]
    assert [each.layout.params() for each in watch.models[1:]] == [132_482, 85_570]
    rate = [1 - t / 20 if schedule == "linear" else 1.0 for t in range(14)]
    assert watch.lrs == pytest.approx([1e-3 * each for each in rate])
    assert watch.counters == [*range(4), *range(5), *range(5)]
    assert last is watch.models[-1]
    assert load(tmp_path / "stages" / "width-02" / "done").layout == last.layout


def test_the_depth_trace_of_the_original_program(tmp_path: Path) -> None:
    watch = Watch(LocalRun(tmp_path))
    watch.fit(random_bert(GOLDEN), narrower(GOLDEN, layers=2))
    assert [len(model.layers) for model in watch.models] == [4, 3, 2]
    assert [each.layout.params() for each in watch.models[1:]] == [141_826, 108_354]
    assert watch.counters == [*range(4), *range(5), *range(5)]


def test_only_the_final_shape_is_judged(tmp_path: Path) -> None:
    run = LocalRun(tmp_path)
    Watch(run).fit(tiny_bert(), narrower(tiny_bert().layout, heads=1, ffn=4, rank=3))
    assert {report.stage for report in run.reports if report.comparable} == {"width-01"}
    assert all(("score" in report.metrics) == report.comparable for report in run.reports)
    assert all("train/label" in report.metrics for report in run.reports)


def tiny_target(model: Bert) -> Layout:
    return narrower(model.layout, heads=1, ffn=3, rank=4)


def three_headed() -> Bert:
    layout = Layout.uniform(vocab=30, positions=12, hidden=8, num_layers=2, heads=3, head_width=4, ffn=8)
    return tiny_bert(dropout=0.2, layout=layout)


def local(folder: Path) -> LocalRun:
    run = LocalRun(folder)
    run.cadence = Cadence(seconds=0, steps=2)
    return run


@pytest.mark.parametrize("fatal_step", [3, 4, 7, 9, 12])
def test_an_interrupted_training_ends_bit_equal(tmp_path: Path, fatal_step: int) -> None:
    model = three_headed()
    expected = flat(Watch(local(tmp_path / "whole")).fit(model, tiny_target(model)))
    doomed, again = three_headed(), three_headed()
    with pytest.raises(Interrupted):
        Watch(local(tmp_path / "cut"), fatal_step).fit(doomed, tiny_target(doomed))
    watch = Watch(local(tmp_path / "cut"))
    found = watch.fit(again, tiny_target(again))
    assert torch.equal(flat(found), expected)
    assert len(watch.lrs) < 14  # it went on, and did not begin again
    assert [path.name for path in (tmp_path / "cut" / "stages").iterdir()] == ["width-02"]
    silent = Watch(local(tmp_path / "cut"))
    assert torch.equal(flat(silent.fit(three_headed(), tiny_target(again))), expected)
    assert silent.lrs == []


def ranked(rank: int, world_size: int, folder: Path) -> list[float]:
    run, model = LocalRun(folder, rank=rank, world_size=world_size), tiny_bert()
    return defined(Watch(run).fit(model, tiny_target(model))).tolist()


@pytest.mark.process
def test_two_ranks_prune_what_one_prunes(tmp_path: Path) -> None:
    first, second = run_ranks(ranked, tmp_path)
    model = tiny_bert()
    alone = defined(Watch(LocalRun(tmp_path / "alone")).fit(model, tiny_target(model)))
    assert first == second
    torch.testing.assert_close(torch.tensor(first), alone, rtol=1e-4, atol=1e-5)


@given(layouts(labels=2), st.data())
def test_a_cut_model_computes_what_the_masked_one_does(layout: Layout, data: st.DataObject) -> None:
    """With the word table full: what a prune drops, could as well be multiplied by 0."""
    model = random_bert(layout)
    draw = torch.Generator().manual_seed(data.draw(st.integers(0, 9)))
    heads = tuple(torch.rand(layer.heads, generator=draw) for layer in layout.layers)
    neurons = tuple(torch.rand(layer.ffn, generator=draw) for layer in layout.layers)
    target = width_layouts(
        layout,
        narrower(
            layout,
            heads=data.draw(st.integers(0, min(layer.heads for layer in layout.layers))),
            ffn=data.draw(st.integers(0, min(layer.ffn for layer in layout.layers))),
        ),
    )
    shape = target[data.draw(st.integers(0, len(target) - 1))] if target else layout
    pruned = prune(model, Importance(heads, neurons), shape)
    batch = rows(layout)
    expected = masked(model, heads, neurons, shape)(batch).logits
    torch.testing.assert_close(pruned(batch).logits, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def masked(model: Bert, heads: tuple[torch.Tensor, ...], neurons: tuple[torch.Tensor, ...], shape: Layout) -> Bert:
    """The same model, the lowest-scored heads and neurons multiplied by 0."""
    for layer, head_scores, neuron_scores, kept in zip(model.layers, heads, neurons, shape.layers, strict=True):
        for head in head_scores.argsort(descending=True)[kept.heads :].tolist():
            layer.attention.output.dense.weight[:, head * kept.head_width : (head + 1) * kept.head_width] = 0.0
        layer.output.dense.weight[:, neuron_scores.argsort(descending=True)[kept.ffn :]] = 0.0
    return model


def test_the_word_table_is_factorised_once_and_then_truncated() -> None:
    model = random_bert(GOLDEN)
    first = prune(model, None, narrower(GOLDEN, rank=40))
    embeddings = first.bert.embeddings
    with torch.no_grad():
        embeddings.word_embeddings.weight[:, 0] *= (
            0.01  # as training may: the order of the columns is not that of an SVD
        )
    second = prune(first, None, narrower(first.layout, rank=16)).bert.embeddings
    assert embeddings.word_projection is not None
    assert second.word_projection is not None
    assert torch.equal(second.word_embeddings.weight, embeddings.word_embeddings.weight[:, :16])
    assert torch.equal(second.word_projection.weight, embeddings.word_projection.weight[:, :16])


def test_a_target_that_is_no_narrowing_is_refused() -> None:
    model = tiny_bert()
    with pytest.raises(ValueError, match="which is no narrowing of"):
        prune(model, None, narrower(model.layout, heads=1))


def test_a_line_without_prunes_is_one_stage_of_its_name(tmp_path: Path) -> None:
    run, model = LocalRun(tmp_path), tiny_bert()
    watch = Watch(run)
    line = replace(watch.line(model, model.layout), name="distil")
    assert line.prunes == ()
    assert fit_pruning(model, line, run) is model
    assert {report.stage for report in run.reports} == {"distil"}
    assert Prune(1, model.layout) not in line.prunes
