"""DynaBERT's own properties; parity with the original's numbers is in tests/parts/test_dynabert_parity.py."""

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from methods import dynabert
from methods.parts.checkpoint import load
from methods.parts.evaluate import evaluate
from methods.parts.layout import Layout
from methods.parts.run import LocalRun, Stopped
from methods.parts.selection import Selection
from methods.parts.splits import open_splits
from methods.parts.supernet import Slice
from methods.parts.tasks import open_task
from tests.methods.conftest import Setting
from tests.methods.test_contract import Interrupted
from tests.parts.ranks import run_ranks

pytestmark = pytest.mark.long

BERT_BASE = Layout.uniform(vocab=30522, hidden=768, num_layers=12, heads=12, head_width=64, ffn=3072, labels=2)
TINY: dict[str, Any] = {
    **{"widths": (1.0, 0.5), "width": 0.5, "epochs": 1.0, "lr": 2e-3, "batch_size": 16, "evaluate_every": 0},
    **{"depth_epochs": 1.0, "importance_examples": 64},
}
DEEP: dict[str, Any] = {**TINY, "depths": (1.0, 0.67), "depth": 0.67}


def config(values: dict[str, Any], **more: Any) -> dynabert.Config:
    return dynabert.Config(**{**values, **more})


def trained(setting: Setting, run: LocalRun, values: dict[str, Any], **more: Any) -> dict[str, Tensor]:
    outcome = dynabert.compress(setting.task, setting.teacher, config(values, **more), run)
    return outcome.model.state_dict()


def test_the_defaults_are_the_published_sub_network() -> None:
    assert dynabert.layout(dynabert.Config(), BERT_BASE).params() == 81_150_722  # 110 to 81 million
    half = dynabert.Config(**dynabert.RECIPES["dynabert"], depth=0.75)
    small = dynabert.layout(half, BERT_BASE)
    assert (len(small.layers), small.layers[0].heads, small.layers[0].ffn) == (9, 6, 1536)


def test_a_supernet_is_trained_once_for_all_its_sub_networks(setting: Setting, tmp_path: Path) -> None:
    store, points = tmp_path / "store", [{}, {"width": 1.0}, {"depth": 1.0}, {"per_layer": True, "width_1": 1.0}]
    runs = []
    for number, point in enumerate(points):
        run = LocalRun(tmp_path / str(number), store=store, seed=number)
        outcome = dynabert.compress(setting.task, setting.teacher, config(DEEP, **point), run)
        assert outcome.layout == dynabert.layout(config(DEEP, **point), setting.teacher.layout)
        runs.append(run)
    built = Counter(path.parent.name.rsplit("-", 1)[0] for path in store.glob("*/manifest.json"))
    assert (built["supernet"], built["mask-importance"]) == (2, 1)  # widths, and on top of them depths
    assert [[(report.stage, report.step, report.comparable) for report in run.reports] for run in runs] == [
        [("subnet", 0, True)]
    ] * 4


def test_a_trial_is_the_supernet_at_its_point(setting: Setting, tmp_path: Path) -> None:
    run = LocalRun(tmp_path, store=setting.store)
    outcome = dynabert.compress(setting.task, setting.teacher, config(DEEP), run)
    splits, subnet = (
        open_splits(setting.task, setting.teacher.tokenizer, run),
        config(DEEP).subnet(setting.teacher.layout),
    )
    plan = dynabert.upbringing(config(DEEP))
    folder = dynabert.supernet(plan, setting.task, splits, setting.teacher, run)
    found = evaluate(Slice(load(folder), subnet), setting.task, splits.search, run)
    assert run.reports[-1].metrics["score"] == found["score"]
    assert run.reports[-1].metrics["loss"] == pytest.approx(found["loss"], rel=1e-5)
    assert outcome.notes["layers"] == [1, 3]
    assert outcome.notes["heads"] == [2, 2, 2]


def test_small_sub_networks_learn_the_task(setting: Setting, tmp_path: Path) -> None:
    values = {**TINY, "epochs": 6.0, "lr": 3e-3, "evaluate_every": 10}
    run = LocalRun(tmp_path, store=setting.store)
    trained(setting, run, values, width=0.5)
    before = LocalRun(tmp_path / "before", store=setting.store)
    trained(setting, before, {**values, "epochs": 0.0}, width=0.5)
    assert run.reports[-1].metrics["score"] >= 0.8
    assert run.reports[-1].metrics["loss"] < before.reports[-1].metrics["loss"]


def test_each_sub_network_may_have_its_own_best(setting: Setting, tmp_path: Path) -> None:
    store, own = tmp_path / "store", config(TINY, epochs=3.0, lr=5e-3, evaluate_every=3, select="subnet")
    scores = {}
    for width in (1.0, 0.5):
        run = LocalRun(tmp_path / str(width), store=store)
        trained(setting, run, dataclasses.asdict(own), width=width)
        scores[width] = run.reports[-1].metrics["score"]
    (folder,) = (path.parent for path in store.glob("supernet-*/manifest.json"))
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {"w1-d1", "w0.5-d1"}
    model, search = load(folder), open_splits(setting.task, setting.teacher.tokenizer, run).search
    for width in (1.0, 0.5):  # at least as good as the weights that are best for the sum
        common = Slice(model, config(TINY, width=width).subnet(model.layout))
        assert scores[width] >= evaluate(common, setting.task, search, run)["score"]


@pytest.mark.parametrize(
    "values",
    [
        {"sampling": "random", "sample_layers": True, "frozen_layers": (1,), "samples": 1},
        {"sampling": "sandwich", "samples": 1, "ffn_widths": (1.0, 0.25), "keep": "first"},
        {"sampling": "progressive", "tied_layers": ((1, 2),), "depth_teacher": "same", "widths": (1.0, 0.75, 0.5)},
        {"knowledge": "stored", "final_epochs": 1.0, "select": "last"},
        {"compat": dynabert.COMPAT, "importance_rows": "dev", "clip": "none", "dropout": 0.0},
    ],
)
def test_every_way_to_train_ends_in_the_promised_layout(
    values: dict[str, Any], setting: Setting, tmp_path: Path
) -> None:
    run = LocalRun(tmp_path, store=setting.store)
    outcome = dynabert.compress(setting.task, setting.teacher, config(DEEP, **values), run)
    assert outcome.layout == dynabert.layout(config(DEEP, **values), setting.teacher.layout)
    if values.get("frozen_layers"):
        assert outcome.layout.layers[0].heads == 4
    usual = trained(setting, LocalRun(tmp_path / "usual", store=setting.store), DEEP)
    name = "classifier.weight"
    assert not torch.equal(outcome.model.state_dict()[name], usual[name])


def test_another_supernet_seed_is_another_supernet(setting: Setting, tmp_path: Path) -> None:
    zero, one = (trained(setting, LocalRun(tmp_path, store=setting.store), TINY, supernet_seed=seed) for seed in (0, 1))
    assert not torch.equal(zero["classifier.weight"], one["classifier.weight"])


@pytest.mark.parametrize("compat", [(), ("no-regression-loss",)])
def test_a_regression(compat: tuple[str, ...], regression_setting: Setting, tmp_path: Path) -> None:
    run = LocalRun(tmp_path, store=regression_setting.store)
    state = trained(regression_setting, run, TINY, compat=compat, epochs=2.0)
    tuned = load(regression_setting.teacher.tuned).state_dict()
    assert torch.equal(state["classifier.weight"], tuned["classifier.weight"]) == bool(compat)
    assert run.reports[-1].metrics["score"] > 0.5


def test_an_augmented_set_is_what_the_supernet_learns_on(setting: Setting, tmp_path: Path) -> None:
    (tmp_path / "more.csv").write_text("text,label\n" + "sun moon,1\nrain wind,0\n" * 40, encoding="utf-8")
    folder = setting.teacher.base.parent / "data"
    task = open_task("weather", folder, max_length=16, augmented=tmp_path / "more.csv")
    more = dataclasses.replace(setting, task=task)
    run, usual = (LocalRun(tmp_path / name, store=setting.store) for name in ("more", "usual"))
    assert not torch.equal(
        trained(more, run, TINY)["classifier.weight"], trained(setting, usual, TINY)["classifier.weight"]
    )


DRAWN: dict[str, Any] = {**DEEP, "sampling": "random", "sample_layers": True, "final_epochs": 1.0, "dropout": 0.1}


@pytest.fixture(scope="module")
def unstopped(setting: Setting, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    return trained(setting, LocalRun(tmp_path_factory.mktemp("whole")), DRAWN)


@pytest.mark.parametrize("after", [14, 26])
def test_a_supernet_stopped_in_any_stage_ends_as_if_never_stopped(
    after: int, setting: Setting, tmp_path: Path, unstopped: dict[str, Tensor]
) -> None:
    """Two updates of importance, then ten each: widths, depths, labels; random draws go on where they were."""
    with pytest.raises(Stopped):
        trained(setting, Interrupted(tmp_path / "cut", tmp_path / "store", after), DRAWN)
    resumed = Interrupted(tmp_path / "cut", tmp_path / "store", 10**6)
    found = trained(setting, resumed, DRAWN)
    assert all(torch.equal(unstopped[name], found[name]) for name in unstopped)
    assert resumed.polls < 32 - after + 4


def ranked(rank: int, world_size: int, folder: Path, setting: Setting) -> dict[str, Any]:
    run = LocalRun(folder / "trial", store=folder / "store", rank=rank, world_size=world_size)
    values = {**DEEP, "dropout": 0.0, "lr": 1e-4, "sampling": "sandwich", "final_epochs": 1.0}
    state = trained(setting, run, values)
    return {name: value.tolist() for name, value in state.items() if not name.endswith("key.bias")}


def test_one_and_two_ranks_agree(setting: Setting, tmp_path: Path) -> None:
    """But for the key biases: no softmax sees them, so Adam blows their rounding up."""
    alone = ranked(0, 1, tmp_path / "alone", setting)
    one, two = run_ranks(ranked, tmp_path, setting)
    assert one == two
    for name, value in alone.items():
        torch.testing.assert_close(torch.tensor(one[name]), torch.tensor(value), rtol=1e-3, atol=2e-4, msg=name)


def test_what_is_stored_of_the_teacher() -> None:
    assert dynabert.knowledge(dynabert.Config(), BERT_BASE) is None
    stored = dynabert.knowledge(dynabert.Config(knowledge="auto"), BERT_BASE)
    assert stored == Selection(states=tuple(range(13)))
    assert dynabert.knowledge(dynabert.Config(knowledge="auto", hidden_weight=0.0), BERT_BASE) == Selection()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"knowledge": "stored", "compat": ("padding",)}, "knowledge: found 'stored'"),
        ({"compat": ("relu",)}, "compat: found 'relu'"),
        ({"prediction_weight": 0.0, "hidden_weight": 0.0}, "prediction_weight, hidden_weight"),
        ({"widths": (0.0,)}, "widths: found"),
    ],
)
def test_bad_values_are_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        dynabert.Config(**values)
