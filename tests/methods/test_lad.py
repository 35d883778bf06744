"""LAD's own properties; the gates' and losses' are in tests/parts/test_gates.py, parity in test_lad_parity.py."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from methods import finetune, lad
from methods.parts.checkpoint import load, save
from methods.parts.files import read_tensors
from methods.parts.layout import Layout
from methods.parts.run import LocalRun, Stopped
from methods.parts.selection import Selection
from methods.parts.surgery import cut
from tests.methods.conftest import Setting
from tests.methods.test_contract import TINY as ALL
from tests.methods.test_contract import Interrupted
from tests.parts.ranks import run_ranks

pytestmark = pytest.mark.long

TINY = ALL["lad"]
BERT_BASE = Layout.uniform(vocab=30522, hidden=768, num_layers=12, heads=12, head_width=64, ffn=3072, labels=2)
ROWS = {"mnli": 392702, "qqp": 363846, "qnli": 104743, "sst2": 67349, "mrpc": 3668, "rte": 2490}


def trained(setting: Setting, run: LocalRun, **values: Any) -> dict[str, Tensor]:
    outcome = lad.compress(setting.task, setting.teacher, lad.Config(**{**TINY, **values}), run)
    return outcome.model.state_dict()


def gates_in(folder: Path) -> dict[str, Tensor]:
    """The gates kept with the stage."""
    return read_tensors(folder / "stages" / "distil" / "done" / "keep.gates.safetensors")


def test_the_defaults_are_the_published_ones() -> None:
    recipe, default = dataclasses.asdict(lad.Config(**lad.RECIPES["sst2"])), dataclasses.asdict(lad.Config())
    assert {name for name in recipe if recipe[name] != default[name]} == {"evaluate_every"}
    assert lad.layout(lad.Config(), BERT_BASE).params() == 66_956_546
    wanted = {"mnli": (49088, 4909), "qqp": (56851, 5685), "qnli": (13093, 1309), "sst2": (42093, 12628)}
    for task, counts in {**wanted, "mrpc": (2292, 229), "rte": (778, 78)}.items():
        found = lad.recipe_of(lad.Config(**lad.RECIPES[task]), ROWS[task])
        assert (found.total_steps, found.warmup_steps) == counts
        assert (found.clip, found.optimizer, found.schedule) == ("group", "adamw", "linear")
    gate = lad.Config(**lad.RECIPES["rte"])
    assert (gate.lr, gate.gate_lr, gate.temperature, gate.hidden_weight) == (7e-4, 3e-5, 10.0, 1000.0)


def test_the_teachers_recipes_are_the_published_ones() -> None:
    wanted = {"mnli": (3e-5, 36816, 10000), "qqp": (2e-5, 34110, 10233), "qnli": (3e-5, 9822, 3274)}
    wanted |= {"sst2": (2e-5, 6315, 1894), "mrpc": (7e-5, 345, 1), "rte": (7e-5, 385, 115)}
    for task, (lr, total, warm) in wanted.items():
        recipe = finetune.recipe_of(finetune.Config(**finetune.RECIPES[f"lad-{task}"]))
        steps = recipe.steps(-(-ROWS[task] // 32))
        assert (recipe.lr, recipe.weight_decay, recipe.batch_size) == (lr, 0.01, 32)
        assert abs(steps - total) <= 5  # published in updates: rows that fill no batch were left out of the count
        assert recipe.warm(steps) == pytest.approx(warm, rel=0.02)


def test_student_and_gates_learn_and_are_kept(setting: Setting, tmp_path: Path) -> None:
    run = LocalRun(tmp_path, store=setting.store)
    trained(setting, run, epochs=10.0, lr=5e-3)
    first, last = run.reports[0].metrics, run.reports[-1].metrics
    for name in ("label", "hidden"):
        assert last[f"train/{name}"] < first[f"train/{name}"]
    assert last["score"] >= 0.8
    assert last["train/loss"] == pytest.approx(sum(last[f"train/{name}"] for name in ("label", "prediction", "hidden")))
    assert last["train/aggregate_rms"] > 0
    drawn, kept = lad.Config(**TINY).gates(3, 16, run, length=None, seed=0).state_dict(), gates_in(tmp_path)
    assert kept.keys() == drawn.keys()
    assert not any(torch.equal(kept[name], drawn[name]) for name in kept)


def test_detached_gates_stay_as_drawn(setting: Setting, tmp_path: Path) -> None:
    run = LocalRun(tmp_path, store=setting.store)
    trained(setting, run, detach_gates=True)
    drawn, kept = lad.Config(**TINY).gates(3, 16, run, length=None, seed=0).state_dict(), gates_in(tmp_path)
    assert all(torch.equal(kept[name], drawn[name]) for name in drawn)


@pytest.mark.parametrize(
    ("values", "layers"),
    [({}, (1, 2)), ({"init": "first"}, (0, 1)), ({"init_layers": (2, 0)}, (2, 0)), ({"layers": 3}, (0, 1, 2))],
)
def test_a_student_begins_as_layers_of_the_pretrained_model(
    setting: Setting, tmp_path: Path, values: dict[str, Any], layers: tuple[int, ...]
) -> None:
    found = trained(setting, LocalRun(tmp_path, store=setting.store), epochs=0.0, **values)
    base = load(setting.teacher.base).state_dict()
    for name, value in found.items():
        source = name
        for number, layer in enumerate(layers):
            if name.startswith(f"bert.encoder.layer.{number}."):
                source = name.replace(f"layer.{number}.", f"layer.{layer}.", 1)
        assert torch.equal(value, base[source]), name


def test_random_embeddings_are_an_option(setting: Setting, tmp_path: Path) -> None:
    run = LocalRun(tmp_path, store=setting.store)
    found, base = trained(setting, run, epochs=0.0, compat=("random-embeddings",)), load(setting.teacher.base)
    for name, value in base.bert.embeddings.state_dict().items():
        same = torch.equal(found[f"bert.embeddings.{name}"], value)
        assert same == name.startswith("LayerNorm")
    assert torch.equal(found["bert.pooler.dense.weight"], base.state_dict()["bert.pooler.dense.weight"])


def test_a_pretrained_model_of_another_shape_is_refused(setting: Setting, tmp_path: Path) -> None:
    base = load(setting.teacher.tuned)
    other = cut(base, layers=range(2))
    save(other, tmp_path / "base", tokenizer=setting.teacher.tokenizer, labels=setting.task.labels)
    teacher = dataclasses.replace(setting.teacher, base=tmp_path / "base")
    with pytest.raises(ValueError, match=r"base: found 4 heads x 2 layers.*allowed is the fine-tuned teacher's shape"):
        trained(dataclasses.replace(setting, teacher=teacher), LocalRun(tmp_path / "run", store=setting.store))


def test_stored_and_live_knowledge_train_alike(setting: Setting, tmp_path: Path) -> None:
    stored, live = (
        trained(setting, LocalRun(tmp_path / mode, store=setting.store), knowledge=mode, dropout=0.0)
        for mode in ("stored", "live")
    )
    for name in stored:
        if not name.endswith("key.bias"):
            torch.testing.assert_close(stored[name], live[name], rtol=1e-3, atol=1e-3, msg=name)
    config, layout = lad.Config(**TINY), setting.teacher.layout
    assert lad.knowledge(config, layout) == Selection(states=(1, 2, 3))
    reverse = dataclasses.replace(config, aggregation="reverse", dtype="float16", soft_weight=0.0)
    assert lad.knowledge(reverse, layout) == Selection(logits=False, states=(2, 3), dtype="float16")
    for values in ({"knowledge": "live"}, {"compat": ("padding",)}, {"teacher_device": "cpu"}):
        assert lad.knowledge(dataclasses.replace(config, **values), layout) is None


@pytest.mark.parametrize(
    "values",
    [
        {"aggregation": "reverse"},
        {"norm": "token"},
        {"compat": ("padding",)},
        {"compat": ("fixed-length", "padding")},
        {"hidden_weight": 0.0},
        {"soft_weight": 0.0, "layers": 1},
        {"gate_device": "cpu", "teacher_device": -1},
    ],
    ids=lambda values: " ".join(values),
)
def test_other_ways_train(setting: Setting, tmp_path: Path, values: dict[str, Any]) -> None:
    run = LocalRun(tmp_path, store=setting.store)
    trained(setting, run, epochs=1.0, **values)
    assert run.reports[-1].comparable
    gates = gates_in(tmp_path)
    assert {name.split(".")[1] for name in gates} == {
        *({"1"} if "aggregation" in values else {"1", "2"} if values.get("hidden_weight", 1) else set())
    }
    if "fixed-length" in values.get("compat", ()):
        assert gates["gate.1.layernorm.weight"].shape == (setting.task.max_length, 16)


def test_gates_continue_where_they_were_stopped(setting: Setting, tmp_path: Path) -> None:
    trained(setting, LocalRun(tmp_path / "whole", store=setting.store))
    with pytest.raises(Stopped):
        trained(setting, Interrupted(tmp_path / "cut", setting.store, 13))
    trained(setting, Interrupted(tmp_path / "cut", setting.store, 10**6))
    whole, cut = gates_in(tmp_path / "whole"), gates_in(tmp_path / "cut")
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def on_ranks(rank: int, world_size: int, folder: Path, setting: Setting) -> dict[str, Any]:
    run = LocalRun(folder / "two", rank=rank, world_size=world_size)
    return {name: value.tolist() for name, value in trained(setting, run, dropout=0.0, accumulation=2).items()}


def test_the_number_of_ranks_changes_nothing(setting: Setting, tmp_path: Path) -> None:
    alone = trained(setting, LocalRun(tmp_path / "alone"), dropout=0.0, accumulation=2)
    one, two = run_ranks(on_ranks, tmp_path, setting)
    for name in alone:
        assert one[name] == two[name]
        if not name.endswith("key.bias"):  # no softmax sees it: its gradient is rounding noise that Adam blows up
            torch.testing.assert_close(torch.tensor(one[name]), alone[name], rtol=0.01, atol=0.01, msg=name)
    for name, value in gates_in(tmp_path / "two").items():
        torch.testing.assert_close(value, gates_in(tmp_path / "alone")[name], rtol=0.01, atol=0.01, msg=name)


def test_a_regression_learns_gold_values_and_the_teacher_s(regression_setting: Setting, tmp_path: Path) -> None:
    run = LocalRun(tmp_path, store=regression_setting.store)
    trained(regression_setting, run, epochs=8.0, lr=5e-3, hidden_weight=1.0)
    assert run.reports[-1].metrics["score"] > 0.3
    assert {"train/label", "train/prediction", "train/hidden"} <= set(run.reports[-1].metrics)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"layers": 4}, "layers: found 4, allowed are 1 to the teacher's 3"),
        ({"init_layers": (1,)}, r"init_layers: found \[1\], allowed are 2 layers"),
        ({"init_layers": (1, 1)}, r"init_layers: found \[1, 1\], allowed are different numbers from 0 to 2"),
        ({"init_layers": (1, 3)}, "allowed are different numbers from 0 to 2"),
    ],
)
def test_layers_that_are_not_there_are_refused(setting: Setting, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lad.layout(lad.Config(**{**TINY, **values}), setting.teacher.layout)


@pytest.mark.parametrize(
    "values",
    [
        *({name: -1.0} for name in ("hard_weight", "hidden_weight", "patience", "gate_lr", "gate_weight_decay")),
        *({name: 0.0} for name in ("temperature", "gate_clip_norm", "clip_norm")),
        *({"layers": 0}, {"batch_size": 0}, {"compat": ("speed",)}, {"warmup": 2.0}, {"gate_betas": (0.9, 1.0)}),
        *({"gate_device": "gpu"}, {"teacher_device": "cuda:x"}, {"soft_weight": 0.0, "hidden_weight": 0.0}),
        *({"knowledge": "stored", name: value} for name, value in (("compat", ("padding",)), ("teacher_device", 0))),
    ],
    ids=lambda values: " ".join(values),
)
def test_values_out_of_range_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^(Recipe.)?{next(iter(values))}"):
        lad.Config(**values)


@pytest.mark.gpu
def test_gates_on_the_cpu_beside_a_student_on_the_gpu(setting: Setting, tmp_path: Path) -> None:
    runs = [LocalRun(tmp_path / str(number), store=setting.store, device="cuda") for number in range(2)]
    usual = trained(setting, runs[0], dropout=0.0)
    apart = trained(setting, runs[1], dropout=0.0, gate_device="cpu", teacher_device="cpu")
    for name, value in usual.items():
        if not name.endswith("key.bias"):
            torch.testing.assert_close(apart[name], value, rtol=0.02, atol=0.02, msg=name)
