"""TinyBERT's own properties; the losses' parity with the original is in tests/parts/test_layerwise.py."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from methods import tinybert
from methods.parts.batches import Batches
from methods.parts.bert import Bert
from methods.parts.checkpoint import load, save
from methods.parts.files import read_tensors
from methods.parts.knowledge import live
from methods.parts.layout import Layout
from methods.parts.narrow import narrow_student
from methods.parts.run import LocalRun, Stopped
from methods.parts.selection import Selection
from methods.parts.splits import open_splits
from methods.parts.tasks import open_task
from tests.methods.conftest import WORDS, Setting, sentence
from tests.methods.test_contract import Interrupted
from tests.parts.ranks import run_ranks

pytestmark = pytest.mark.long

BERT_BASE = Layout.uniform(vocab=30522, hidden=768, num_layers=12, heads=12, head_width=64, ffn=3072, labels=2)
TINY: dict[str, Any] = {
    **{"layers": 2, "hidden": 8, "heads": 4, "ffn_dim": 12, "start": "random", "batch_size": 16, "evaluate_every": 10},
    **{"epochs": 1.0, "lr": 3e-3, "prediction_epochs": 1.0, "prediction_lr": 3e-3},
}
GENERAL: dict[str, Any] = {
    **TINY,
    **{"start": "general", "general_epochs": 2, "general_lr": 3e-3, "general_batch_size": 16, "general_length": 24},
}


def with_corpus(setting: Setting, folder: Path) -> Setting:
    """The setting with 40 documents of three sentences."""
    documents = ["\n".join(sentence(3 * number + step)[0] for step in range(3)) for number in range(40)]
    (folder / "corpus.txt").write_text("\n\n".join(documents) + "\n", encoding="utf-8")
    return dataclasses.replace(setting, task=dataclasses.replace(setting.task, corpus=folder / "corpus.txt"))


def trained(setting: Setting, run: LocalRun, **values: Any) -> dict[str, Tensor]:
    outcome = tinybert.compress(setting.task, setting.teacher, tinybert.Config(**{**TINY, **values}), run)
    return outcome.model.state_dict()


def test_the_defaults_are_the_published_architectures() -> None:
    four, six = tinybert.Config(), tinybert.Config(**tinybert.RECIPES["tinybert6-mnli"])
    assert tinybert.layout(four, BERT_BASE).params() == 14_350_874
    assert tinybert.layout(six, BERT_BASE).params() == 66_956_546
    assert tinybert.layout(four, BERT_BASE).layers[0].head_width == 26
    assert tinybert.Config(**tinybert.RECIPES["cola"]).epochs == 50.0


def test_the_student_learns_the_layers_and_then_the_task(setting: Setting, tmp_path: Path) -> None:
    run = LocalRun(tmp_path, store=setting.store)
    trained(setting, run, epochs=6.0, lr=5e-3, prediction_epochs=8.0, prediction_lr=5e-3)
    middle = [report.metrics for report in run.reports if report.stage == "intermediate"]
    for name in ("attention", "hidden", "embedding"):
        assert middle[-1][f"train/{name}"] < middle[0][f"train/{name}"]
    assert "score" not in middle[-1]
    last = run.reports[-1]
    assert (last.stage, last.comparable) == ("prediction", True)
    assert last.metrics["score"] >= 0.8


def test_general_distillation_is_done_once_and_brings_the_student_closer(setting: Setting, tmp_path: Path) -> None:
    informed, store = with_corpus(setting, tmp_path), tmp_path / "store"
    runs = [LocalRun(tmp_path / str(seed), store=store, seed=seed) for seed in range(2)]
    states = [trained(informed, run, **GENERAL) for run in runs]
    assert any(not torch.equal(states[0][name], states[1][name]) for name in states[0])
    (folder,) = store.glob("general-*")
    student = load(folder / "student")
    assert student.layout == dataclasses.replace(
        tinybert.layout(tinybert.Config(**TINY), setting.teacher.layout), labels=0
    )
    base, config = load(setting.teacher.base), tinybert.general_of(tinybert.Config(**GENERAL))
    batch = Batches(open_splits(setting.task, setting.teacher.tokenizer, runs[0]).train, batch_size=32, seed=0).step(0)[
        0
    ]
    teaching = live(base, config.layerwise.selection(student.layout, base.layout))

    def layer_loss(model: Bert, projection: nn.Module) -> float:
        (terms,) = config.layerwise.losses(model.eval(), projection, teaching)(batch)
        return sum(float(term.sum.detach()) / batch.sizes[term.per] for term in terms)

    drawn = config.layerwise.projection(student.layout, base.layout, 0)
    before = layer_loss(narrow_student(student.layout, like=base, checkpoint=None, seed=0), drawn)
    drawn.load_state_dict(read_tensors(folder / "projection.safetensors"))
    assert layer_loss(student, drawn) < 0.8 * before


def test_general_distillation_continues_where_it_was_stopped(setting: Setting, tmp_path: Path) -> None:
    informed = with_corpus(setting, tmp_path)
    whole = trained(informed, LocalRun(tmp_path / "whole", store=tmp_path / "one"), **GENERAL)
    stopped = Interrupted(tmp_path / "cut", tmp_path / "two", 12)
    with pytest.raises(Stopped):
        trained(informed, stopped, **GENERAL)
    assert list((tmp_path / "two").glob("general-*.work/general/step-*"))
    again = trained(informed, Interrupted(tmp_path / "cut", tmp_path / "two", 10**6), **GENERAL)
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def on_ranks(rank: int, world_size: int, folder: Path, setting: Setting) -> dict[str, Any]:
    run = LocalRun(folder / "two", rank=rank, world_size=world_size)
    state = trained(setting, run, **{**GENERAL, "dropout": 0.0, "accumulation": 2})
    return {name: value.tolist() for name, value in state.items()}


@pytest.mark.process
def test_the_number_of_ranks_changes_nothing(setting: Setting, tmp_path: Path) -> None:
    informed = with_corpus(setting, tmp_path)
    alone = trained(informed, LocalRun(tmp_path / "alone"), **{**GENERAL, "dropout": 0.0, "accumulation": 2})
    one, two = run_ranks(on_ranks, tmp_path, informed)
    for name in alone:
        assert one[name] == two[name]
        if not name.endswith("key.bias"):  # no softmax sees it: its gradient is rounding noise that Adam blows up
            torch.testing.assert_close(torch.tensor(one[name]), alone[name], rtol=0.02, atol=0.02, msg=name)


def test_stored_and_live_knowledge_train_alike(setting: Setting, tmp_path: Path) -> None:
    stored, live = (
        trained(setting, LocalRun(tmp_path / mode, store=setting.store), knowledge=mode) for mode in ("stored", "live")
    )
    for name in stored:
        torch.testing.assert_close(stored[name], live[name], rtol=1e-3, atol=1e-4, msg=name)
    config, layout = tinybert.Config(**TINY), setting.teacher.layout
    assert tinybert.knowledge(config, layout) == Selection(logits=True)
    assert tinybert.knowledge(dataclasses.replace(config, knowledge="live"), layout) is None
    assert tinybert.knowledge(config, dataclasses.replace(layout, labels=1)) is None


def test_without_layer_losses_there_is_one_stage(setting: Setting, tmp_path: Path) -> None:
    run = LocalRun(tmp_path, store=setting.store)
    trained(setting, run, attention_weight=0.0, hidden_weight=0.0, embedding_weight=0.0, heads=2)
    assert {report.stage for report in run.reports} == {"prediction"}


@pytest.mark.parametrize("values", [{"layer_map": "top"}, {"layer_map": "bottom"}, {"projections": "separate"}])
def test_other_maps_and_projections_train(setting: Setting, tmp_path: Path, values: dict[str, str]) -> None:
    run = LocalRun(tmp_path, store=setting.store)
    usual = LocalRun(tmp_path / "usual", store=setting.store)
    assert trained(setting, run, **values).keys() == trained(setting, usual).keys()
    assert run.reports[0].metrics["train/loss"] != usual.reports[0].metrics["train/loss"]


def test_a_checkpoint_is_a_start(setting: Setting, tmp_path: Path) -> None:
    config = tinybert.Config(**TINY)
    first = tinybert.compress(setting.task, setting.teacher, config, LocalRun(tmp_path / "first", store=setting.store))
    save(first.model, tmp_path / "checkpoint", tokenizer=setting.teacher.tokenizer, labels=setting.task.labels)
    run = LocalRun(tmp_path / "second", store=setting.store)
    found = trained(setting, run, start=str(tmp_path / "checkpoint"), epochs=0.0, prediction_epochs=0.0)
    assert all(torch.equal(found[name], value) for name, value in first.model.state_dict().items())
    with pytest.raises(ValueError, match=r"checkpoint .*found hidden 8"):
        trained(
            setting, LocalRun(tmp_path / "third", store=setting.store), start=str(tmp_path / "checkpoint"), hidden=12
        )


def test_a_regression_learns_gold_values_on_its_own_rows(regression_setting: Setting, tmp_path: Path) -> None:
    folder = regression_setting.teacher.base.parent / "data"
    (tmp_path / "more.csv").write_text("text,label\n" + "sun moon,0.0\n" * 320, encoding="utf-8")
    task = open_task("weather", folder, max_length=16, metric="pearson", augmented=tmp_path / "more.csv")
    run = LocalRun(tmp_path / "run", store=regression_setting.store)
    augmented = dataclasses.replace(regression_setting, task=task)
    trained(augmented, run, epochs=1.0, prediction_epochs=6.0, prediction_lr=5e-3)
    steps = {report.stage: report.step for report in run.reports}
    assert steps == {"intermediate": 20, "prediction": 60}  # 320 augmented rows once, 160 own rows six times
    assert "train/label" in run.reports[-1].metrics
    assert run.reports[-1].metrics["score"] > 0.3


def test_compat_brings_the_originals_behaviour_back(setting: Setting, tmp_path: Path) -> None:
    config = tinybert.Config(**{**TINY, "compat": tinybert.COMPAT})
    run, usual = (LocalRun(tmp_path / name, store=setting.store) for name in ("compat", "usual"))
    assert tinybert.compress(setting.task, setting.teacher, config, run).model.head == "relu"
    trained(setting, usual)
    assert run.reports[0].metrics["train/attention"] != usual.reports[0].metrics["train/attention"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hidden": 10}, "found 10 with 4 heads"),
        ({"heads": 2}, "heads: found 2, layer 1 of the teacher has 4; allowed are as many, or attention_weight 0"),
        ({"layers": 4}, "layers: found 4, allowed are 1 to the teacher's 3"),
    ],
)
def test_designs_that_cannot_be_compared_are_refused(setting: Setting, values: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tinybert.layout(tinybert.Config(**{**TINY, **values}), setting.teacher.layout)


def test_a_general_start_needs_a_corpus_and_something_to_learn(setting: Setting, tmp_path: Path) -> None:
    run = LocalRun(tmp_path / "run", store=setting.store)
    with pytest.raises(ValueError, match="start: found 'general' without a corpus"):
        trained(setting, run, start="general")
    nothing = {"attention_weight": 0.0, "hidden_weight": 0.0, "embedding_weight": 0.0}
    with pytest.raises(ValueError, match="start: found 'general' with the weights of all layer losses 0"):
        trained(with_corpus(setting, tmp_path), run, start="general", **nothing)
    with pytest.raises(ValueError, match="general_length: found 40, allowed is at most the teacher's 24 positions"):
        trained(with_corpus(setting, tmp_path), run, **{**GENERAL, "general_length": 40})


@pytest.mark.parametrize(
    "values",
    [
        *({name: 0} for name in ("layers", "heads", "general_epochs")),
        *({name: 0.0} for name in ("prediction_weight", "temperature")),
        *({"compat": ("speed",)}, {"layer_map": "middle"}, {"hidden_weight": -1.0}, {"general_length": 3}),
        *({"optimizer": "sgd"}, {"warmup": 2.0}, {"projections": "none"}),
    ],
    ids=lambda values: next(iter(values)),
)
def test_values_out_of_range_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(values)).replace("general_length", "max_length")):
        tinybert.Config(**values)


def test_the_words_of_the_corpus_are_the_teacher_s(setting: Setting, tmp_path: Path) -> None:
    text = with_corpus(setting, tmp_path).task.corpus
    assert text is not None
    assert set(text.read_text(encoding="utf-8").split()) == set(WORDS)
