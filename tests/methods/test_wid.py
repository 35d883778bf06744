"""WID's own properties; parity with the original is in tests/parts/test_wid_parity.py."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from methods import wid
from methods.parts import weights
from methods.parts.files import read_json
from methods.parts.layout import Layout
from methods.parts.masked_lm import HeadMissing
from methods.parts.run import LocalRun, Outcome, Stopped
from tests.methods.conftest import Setting, sentence
from tests.methods.test_contract import Interrupted

pytestmark = pytest.mark.long

BERT_BASE = Layout.uniform(vocab=30522, hidden=768, num_layers=12, heads=12, head_width=64, ffn=3072, labels=2)
TINY: dict[str, Any] = {
    **{"target": 8, "text": "task", "inherit_steps": 40, "inherit_batch_size": 16, "inherit_evaluate_every": 20},
    **{"mask_every": 2, "ramp_ffn": 4, "compactor_lr": 1e-2, "base_lr": 1e-3, "penalty": 60.0, "head_steps": 20},
    **{"head_lr": 3e-3, "epochs": 2.0, "lr": 3e-3, "batch_size": 16},
}


def with_corpus(setting: Setting, folder: Path) -> Setting:
    """The setting with 60 documents, one a line."""
    lines = [" ".join(sentence(3 * number + step)[0] for step in range(3)) for number in range(60)]
    (folder / "corpus.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return dataclasses.replace(setting, task=dataclasses.replace(setting.task, corpus=folder / "corpus.txt"))


def compressed(setting: Setting, run: LocalRun, **values: Any) -> Outcome:
    return wid.compress(setting.task, setting.teacher, wid.Config(**{**TINY, **values}), run)


def trained(setting: Setting, run: LocalRun, **values: Any) -> dict[str, Tensor]:
    return compressed(setting, run, **values).model.state_dict()


def test_the_defaults_are_the_published_students() -> None:
    small, large = (wid.layout(wid.Config(**wid.RECIPES[name]), BERT_BASE) for name in ("wid-11m", "wid-55m"))
    assert small.params() == 11_335_106
    assert round(large.params() / 1e6, 1) == 54.7
    assert (small.layers[0].heads, small.layers[0].head_width, small.layers[0].ffn) == (12, 16, 768)
    heads = wid.layout(wid.Config(strategy="head"), BERT_BASE)
    assert (heads.layers[0].heads, heads.layers[0].head_width) == (3, 64)
    assert heads.params() == small.params()
    assert wid.inheritance_of(wid.Config(mode="faithful")).penalty == 20.0


@pytest.mark.parametrize("strategy", ["dim", "head"])
def test_the_merged_student_is_the_trained_model_and_then_learns_the_task(
    setting: Setting, tmp_path: Path, strategy: str
) -> None:
    run = LocalRun(tmp_path, store=setting.store)
    outcome = compressed(setting, run, strategy=strategy, epochs=12.0, lr=1e-2)
    notes: dict[str, Any] = dict(outcome.notes)
    assert abs(notes["mlm_merged"] - notes["mlm_unmerged"]) <= 1e-4 * notes["mlm_unmerged"]
    assert notes["mlm_difference"] <= 1e-4
    assert notes["leak"] <= 1e-4
    assert outcome.layout == wid.layout(wid.Config(**TINY, strategy=strategy), setting.teacher.layout)  # type: ignore[arg-type]
    assert (run.reports[-1].stage, run.reports[-1].comparable) == ("finetune", True)
    assert run.reports[-1].metrics["score"] >= 0.7


def test_a_corpus_trains_one_student_for_all_trials(setting: Setting, tmp_path: Path) -> None:
    informed, store = with_corpus(setting, tmp_path), tmp_path / "store"
    values = {"text": "corpus", "length": 16}
    runs = [LocalRun(tmp_path / str(seed), store=store, seed=seed) for seed in range(2)]
    states = [trained(informed, run, **values, lr=lr) for run, lr in zip(runs, (1e-3, 2e-3), strict=True)]
    assert any(not torch.equal(states[0][name], states[1][name]) for name in states[0])
    (student,) = store.glob("wid-*")
    (head,) = store.glob("masked-lm-*")
    assert weights.load(student / "student").layout.hidden == 8
    assert weights.load(head).layout.tied
    assert set(read_json(student / "numbers.json")) == {
        *("mlm_teacher", "mlm_unmerged", "mlm_merged", "mlm_difference", "leak")
    }


def test_the_control_has_the_shape_and_inherits_nothing(setting: Setting, tmp_path: Path) -> None:
    runs = [LocalRun(tmp_path / str(seed), store=tmp_path / "store", seed=seed) for seed in (0, 0, 1)]
    first, again, other = (compressed(setting, run, start="random", lr=0.0, inherit_steps=0) for run in runs)
    assert first.layout == wid.layout(wid.Config(**TINY), setting.teacher.layout)  # type: ignore[arg-type]
    assert first.notes == {}
    assert not list((tmp_path / "store").glob("wid-*"))
    words, same, drawn = (
        outcome.model.state_dict()["bert.embeddings.word_embeddings.weight"] for outcome in (first, again, other)
    )
    assert torch.equal(words, same)
    assert not torch.equal(words, drawn)


def test_a_stopped_training_on_text_ends_as_if_never_stopped(setting: Setting, tmp_path: Path) -> None:
    whole = trained(setting, LocalRun(tmp_path / "whole", store=tmp_path / "one"), inherit_steps=32, penalty=95.0)
    with pytest.raises(Stopped):  # 20 updates of the head come first
        trained(setting, Interrupted(tmp_path / "cut", tmp_path / "two", 30), inherit_steps=32, penalty=95.0)
    assert list((tmp_path / "two").glob("wid-*.work/compact/step-*"))
    again = trained(setting, Interrupted(tmp_path / "cut", tmp_path / "two", 10**6), inherit_steps=32, penalty=95.0)
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_faithful_training_leaves_more_behind(setting: Setting, tmp_path: Path) -> None:
    faithful = {"mode": "faithful", "penalty": 20.0, "compat": ("uer-layernorm",)}
    run = LocalRun(tmp_path, store=setting.store)
    with pytest.raises(ValueError, match="merge: found values up to"):
        compressed(setting, run, **faithful)
    notes: dict[str, Any] = dict(compressed(setting, run, **faithful, tolerance=None).notes)
    assert notes["leak"] > 1e-4


def test_a_teacher_without_masked_lm_head_may_be_refused(setting: Setting, tmp_path: Path) -> None:
    with pytest.raises(HeadMissing, match="head_steps above 0 train one first"):
        compressed(setting, LocalRun(tmp_path, store=setting.store), head_steps=0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"target": 200}, "target: found 200 with strategy 'dim', allowed are multiples of 12"),
        ({"target": 516, "strategy": "head"}, "target: found 516 with strategy 'head', allowed are multiples of 64"),
        ({"inherit_steps": 5000}, "inherit_steps: found 5000, allowed are at least 8000"),
        ({"inherit_steps": 8500}, "penalty: found 100, which leaves"),
        ({"penalty": 0.1}, "penalty: found 0.1, which leaves .* of what is removed last, allowed is 0.0001"),
    ],
)
def test_a_training_that_cannot_reach_its_width_is_refused_beforehand(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        wid.layout(wid.Config(**values), BERT_BASE)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"penalty": -1.0}, "penalty: found -1.0"),
        ({"mask_every": 0}, "mask_every: found 0"),
        ({"compat": ("x",)}, "compat: found 'x', allowed are uer-layernorm, published-text"),
        ({"optimizer": "sgd"}, "optimizer: found 'sgd'"),
    ],
)
def test_values_out_of_range_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        wid.Config(**values)


def test_a_sweep_without_corpus_is_told_so(setting: Setting, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="corpus: found none"):
        compressed(setting, LocalRun(tmp_path, store=setting.store), text="corpus")
