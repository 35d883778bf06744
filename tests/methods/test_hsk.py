"""HSK's own properties; parity with the original's numbers is in tests/parts/test_mud_parity.py."""

import ast
import dataclasses
import inspect
from pathlib import Path
from typing import Any

import pytest
import torch

from methods import hsk
from methods.parts import amounts
from methods.parts.bert import Bert, initialise
from methods.parts.checkpoint import load, save
from methods.parts.layout import Layout
from methods.parts.run import LocalRun, Stopped
from methods.parts.selection import Selection
from tests.methods.conftest import Setting
from tests.methods.test_contract import Interrupted
from tests.parts.ranks import run_ranks
from tests.parts.tiny import defined

pytestmark = pytest.mark.long

BERT_BASE = Layout.uniform(vocab=30522, hidden=768, num_layers=12, heads=12, head_width=64, ffn=3072, labels=2)
NUMBERS: dict[str, Any] = {"hsk_epochs": 1.0, "epochs": 1.0, "hsk_lr": 3e-3, "lr": 3e-3, "batch_size": 16}
SHAPE: dict[str, Any] = {"heads": 2, "layers": 2, "ffn_dim": 8, "embedding_rank": 6, "top": 3, **NUMBERS}
NARROW: dict[str, Any] = {"student": "narrow", "hidden": 8, "heads": 2, "layers": 2, "ffn_dim": 12, "top": 3, **NUMBERS}


def distilled(setting: Setting, run: LocalRun, config: hsk.Config) -> Bert:
    outcome = hsk.compress(setting.task, setting.teacher, config, run)
    assert outcome.layout == hsk.layout(config, setting.teacher.layout) == outcome.model.layout
    return outcome.model


def stage_values(run: LocalRun, stage: str, name: str) -> list[float]:
    return [report.metrics[name] for report in run.reports if report.stage == stage]


def test_the_published_students_have_their_published_sizes() -> None:
    """ROSITA6 has 14.46 M parameters beside its classifier, TinyBERT4 14.5 M (vocabulary 30522)."""
    pruned = hsk.layout(hsk.Config(), BERT_BASE)
    assert pruned.params() - 2 * 769 == pytest.approx(14.46e6, rel=1e-3)
    narrow = hsk.layout(hsk.Config(**hsk.RECIPES["tinybert4-sst2"]), BERT_BASE)
    assert narrow.params() == pytest.approx(14.5e6, rel=0.02)
    assert (narrow.hidden, narrow.layers[0].head_width, len(narrow.layers)) == (312, 26, 4)


def test_its_fields_of_the_choice_are_documented_too() -> None:
    (body,) = (
        node.body
        for node in ast.parse(inspect.getsource(amounts)).body
        if isinstance(node, ast.ClassDef) and node.name == "Choice"
    )
    for index, node in enumerate(body):
        if isinstance(node, ast.AnnAssign):
            assert isinstance(body[index + 1], ast.Expr), ast.unparse(node.target)


def test_what_a_trial_stores_is_known_beforehand() -> None:
    published = hsk.Config(amounts="1l_10t_0.1h")
    assert hsk.knowledge(published, BERT_BASE) == Selection(
        states=(8,), token_scheme="attention_no_sep", tokens=10, attention=(12,), width_scheme="importance", width=0.1
    )
    for config in (
        hsk.Config(stages="prediction"),
        hsk.Config(amounts="1l_10t_0.1h", width_scheme="random_dynamic"),
        hsk.Config(amounts="1l_10t_0.1h", compat=("batch-threshold",)),
    ):
        assert hsk.knowledge(config, BERT_BASE) == Selection()
    for config in (hsk.Config(knowledge="live"), hsk.Config(compat=("teacher-dropout",))):
        assert hsk.knowledge(config, BERT_BASE) is None
    regression = dataclasses.replace(BERT_BASE, labels=1)
    assert hsk.knowledge(hsk.Config(stages="prediction"), regression) is None
    assert hsk.knowledge(published, regression) == dataclasses.replace(
        hsk.chosen(published, BERT_BASE)[0], logits=False
    )


def test_stored_knowledge_teaches_as_a_live_teacher_does(setting: Setting, tmp_path: Path) -> None:
    models = []
    for mode in ("stored", "live"):
        run = LocalRun(tmp_path / mode, store=setting.store)
        models.append(distilled(setting, run, hsk.Config(**SHAPE, amounts="2l_4t_0.5h", knowledge=mode)))
    for key, value in models[0].state_dict().items():
        torch.testing.assert_close(value, models[1].state_dict()[key], rtol=1e-3, atol=1e-4, msg=key)


def test_both_stages_learn(setting: Setting, tmp_path: Path) -> None:
    run = LocalRun(tmp_path, store=setting.store)
    config = hsk.Config(**{**SHAPE, "amounts": "3l_6t_0.5h", "hsk_epochs": 4.0, "epochs": 4.0, "evaluate_every": 10})
    distilled(setting, run, config)
    hidden = stage_values(run, "hsk", "train/hidden")
    assert hidden[-1] < 0.8 * hidden[0]
    assert stage_values(run, "predict", "score")[-1] >= 0.8
    assert [report.comparable for report in run.reports] == [False] * 4 + [True] * 4
    assert all("score" not in report.metrics for report in run.reports if report.stage == "hsk")


def test_the_first_stage_leaves_pooler_classifier_and_upper_layers_alone(setting: Setting, tmp_path: Path) -> None:
    run = LocalRun(tmp_path, store=setting.store)
    config = hsk.Config(**{**SHAPE, "epochs": 0.0, "student_states": (0, 1), "teacher_states": (0, 2)})
    model, teacher = distilled(setting, run, config), load(setting.teacher.tuned)
    for name in ("bert.pooler.dense.weight", "classifier.weight", "classifier.bias"):
        assert torch.equal(model.state_dict()[name], teacher.state_dict()[name])
    upper = "bert.encoder.layer.1.output.dense.bias"
    assert torch.equal(model.state_dict()[upper], teacher.state_dict()[upper])
    lower = "bert.encoder.layer.0.output.dense.bias"
    assert not torch.equal(model.state_dict()[lower], teacher.state_dict()[lower])


CHOICES: list[dict[str, Any]] = [
    {},
    {"token_scheme": "left_first", "keep_tokens": 3},
    {"token_scheme": "right_first", "keep_tokens": 3, "threshold": "token", "keep_hidden": 0.3},
    {"token_scheme": "cls", "keep_layers": 1},
    {"token_scheme": "attention", "keep_tokens": 16, "ranking": "own"},
    {"keep_layers": 1, "keep_tokens": 3, "width_scheme": "random", "keep_hidden": 0.5},
    {"width_scheme": "random_dynamic", "keep_hidden": 0.5},
    {"width_scheme": "uniform", "keep_hidden": 0.5, "dtype": "float16"},
    {"hsk_share": 0.1, "keep_layers": 2, "keep_tokens": 4, "hsk_length": 16},
    {"amounts": "2l_3t_0.2h", "compat": hsk.COMPAT},
    {"compat": ("padding",)},
]


@pytest.mark.parametrize("values", CHOICES, ids=str)
def test_every_way_to_choose_trains(setting: Setting, tmp_path: Path, values: dict[str, Any]) -> None:
    run = LocalRun(tmp_path, store=setting.store)
    model = distilled(setting, run, hsk.Config(**{**SHAPE, **values, "hsk_epochs": 0.4, "epochs": 0.2}))
    assert model.head == ("relu" if "relu-head" in values.get("compat", ()) else "plain")
    assert run.reports[-1].comparable


def test_a_narrow_student_learns_through_its_projection(setting: Setting, tmp_path: Path) -> None:
    run = LocalRun(tmp_path, store=setting.store)
    config = hsk.Config(**{**NARROW, "amounts": "2l_4t_0.5h", "hsk_epochs": 3.0, "evaluate_every": 10})
    model = distilled(setting, run, config)
    assert model.layout.hidden == 8
    hidden = stage_values(run, "hsk", "train/hidden")
    assert hidden[-1] < 0.8 * hidden[0]
    (kept,) = (tmp_path / "stages" / "hsk" / "done").glob("keep.projection.safetensors")
    assert kept.is_file()


def test_a_projection_survives_a_stop_in_the_first_stage(setting: Setting, tmp_path: Path) -> None:
    config = hsk.Config(**NARROW, amounts="2l_4t_0.5h")
    expected = distilled(setting, LocalRun(tmp_path / "whole", store=setting.store), config).state_dict()
    with pytest.raises(Stopped):
        distilled(setting, Interrupted(tmp_path / "cut", setting.store, 6), config)
    found = distilled(setting, Interrupted(tmp_path / "cut", setting.store, 10**6), config).state_dict()
    assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_a_narrow_student_starts_from_a_checkpoint(setting: Setting, tmp_path: Path) -> None:
    config = hsk.Config(**{**NARROW, "hsk_epochs": 0.0, "epochs": 0.0, "checkpoint": str(tmp_path / "general")})
    general = Bert(dataclasses.replace(hsk.layout(config, setting.teacher.layout), labels=0))
    initialise(general, 3)
    save(general, tmp_path / "general")
    model = distilled(setting, LocalRun(tmp_path / "run", store=setting.store), config)
    for name, value in general.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)
    other = dataclasses.replace(config, ffn_dim=13)
    with pytest.raises(ValueError, match=r"general: found hidden 8, .* FFN 12, .* allowed is hidden 8, .* FFN 13"):
        distilled(setting, LocalRun(tmp_path / "other", store=setting.store), other)


def test_the_baseline_learns_from_predictions_alone(setting: Setting, tmp_path: Path) -> None:
    run = LocalRun(tmp_path, store=setting.store)
    distilled(setting, run, hsk.Config(**SHAPE, stages="prediction"))
    assert {report.stage for report in run.reports} == {"predict"}
    assert "train/prediction" in run.reports[-1].metrics


def test_a_regression_learns_states_and_gold_values(regression_setting: Setting, tmp_path: Path) -> None:
    run = LocalRun(tmp_path, store=regression_setting.store)
    distilled(regression_setting, run, hsk.Config(**{**SHAPE, "epochs": 6.0, "amounts": "2l_4t_0.5h"}))
    assert stage_values(run, "hsk", "train/hidden")
    assert "train/label" in run.reports[-1].metrics
    assert run.reports[-1].metrics["score"] > 0.5


def on_ranks(rank: int, world_size: int, folder: Path, setting: Setting) -> list[float]:
    run = LocalRun(folder / "trial", store=folder / "store", rank=rank, world_size=world_size)
    config = hsk.Config(**{**NARROW, "amounts": "2l_4t_0.5h", "dropout": 0.0, "hsk_epochs": 0.5, "epochs": 0.5})
    values: list[float] = defined(distilled(setting, run, config)).tolist()
    return values


@pytest.mark.process
def test_two_ranks_do_what_one_does(setting: Setting, tmp_path: Path) -> None:
    (tmp_path / "alone").mkdir()
    alone = on_ranks(0, 1, tmp_path / "alone", setting)
    first, second = run_ranks(on_ranks, tmp_path, setting)
    assert first == second
    torch.testing.assert_close(torch.tensor(alone), torch.tensor(first), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hsk_share": 0.1, "keep_tokens": 4}, "hsk_length: found 64, allowed is the task's max_length, 16"),
        ({"keep_tokens": 17}, "keep_tokens: found 17, allowed is at most max_length, 16"),
        ({"keep_layers": 4}, "keep_layers: found 4, allowed are 1 to 3"),
    ],
)
def test_amounts_that_do_not_fit_are_refused_at_once(
    setting: Setting, tmp_path: Path, values: dict[str, Any], message: str
) -> None:
    run = LocalRun(tmp_path, store=setting.store)
    with pytest.raises(ValueError, match=message):
        hsk.compress(setting.task, setting.teacher, hsk.Config(**SHAPE, **values), run)
    assert not (tmp_path / "stages").exists()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"heads": 0}, "heads: found 0, allowed is at least 1"),
        ({"temperature": 0.0}, r"temperature, patience: found 0.0, 0.0"),
        ({"compat": ("speed",)}, "compat: found 'speed', allowed are relu-head, padding"),
        ({"knowledge": "stored", "compat": ("padding",)}, "knowledge: found 'stored' with compat"),
        ({"amounts": "1l_10t"}, "amounts: found '1l_10t', allowed is the form"),
        ({"amounts": "1l_10t_0.1h", "keep_tokens": 3}, "amounts: found '1l_10t_0.1h' beside keep_layers"),
        ({"keep_hidden": 1.5}, r"keep_hidden: found 1.5, allowed is a share in \(0, 1\]"),
        ({"hsk_epochs": -1.0}, r"Recipe.epochs: found -1.0"),
    ],
)
def test_values_out_of_range_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hsk.Config(**values)


def test_a_narrow_student_s_heads_share_its_width() -> None:
    with pytest.raises(ValueError, match="hidden: found 10 with 4 heads, allowed is a multiple of the heads"):
        hsk.layout(hsk.Config(student="narrow", hidden=10, heads=4), BERT_BASE)
