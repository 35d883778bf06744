"""ROSITA's own properties; parity with the original's numbers is in tests/parts/test_rosita_parity.py."""

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from methods import rosita
from methods.parts.batches import Batches
from methods.parts.checkpoint import load
from methods.parts.course import COMPAT, Course, selected
from methods.parts.layout import Layout
from methods.parts.losses import layer_map
from methods.parts.pruning import label_importance, prune
from methods.parts.run import LocalRun, Stopped
from methods.parts.selection import Selection
from methods.parts.splits import open_splits
from methods.parts.surgery import narrower
from tests.methods.conftest import Setting
from tests.methods.test_contract import TINY, Interrupted
from tests.parts.ranks import run_ranks

pytestmark = pytest.mark.long

BERT_BASE = Layout.uniform(vocab=30522, hidden=768, num_layers=12, heads=12, head_width=64, ffn=3072, labels=2)


def test_the_defaults_are_the_published_architecture() -> None:
    assert rosita.layout(rosita.Config(), BERT_BASE).params() == 14_474_754


def test_importance_is_computed_once_for_all_trials(setting: Setting, tmp_path: Path) -> None:
    store = tmp_path / "store"
    for number in range(2):
        run = LocalRun(tmp_path / str(number), store=store)
        rosita.compress(setting.task, setting.teacher, rosita.Config(**TINY["rosita"]), run)
    assert len(list(store.glob("importance-*/importance.safetensors"))) == 1


def test_distillation_brings_the_student_back(setting: Setting, tmp_path: Path) -> None:
    run = LocalRun(tmp_path, store=setting.store)
    config = rosita.Config(**{**TINY["rosita"], "epochs": 6.0, "evaluate_every": 10})
    rosita.compress(setting.task, setting.teacher, config, run)
    first, last = run.reports[0].metrics, run.reports[-1].metrics
    assert last["train/hidden"] < first["train/hidden"]
    assert last["score"] >= 0.8


def test_a_model_distilled_into_itself_has_no_hidden_loss(setting: Setting) -> None:
    teacher, student = load(setting.teacher.tuned), load(setting.teacher.tuned)
    run = LocalRun(setting.store.parent / "identity", store=setting.store)
    splits = open_splits(setting.task, setting.teacher.tokenizer, run)
    course = Course(task=setting.task, splits=splits, knowledge="live")
    batch = Batches(splits.train, batch_size=8, seed=0).step(0)[0]
    known = course.knowledge_of(setting.teacher, run, selected(3, 3, hidden=True))
    (terms,) = course.losses(student, known, (1.0, 1.0))(batch)
    hidden, prediction = (term.sum.detach() for term in terms)
    assert float(hidden) == 0.0
    probabilities = teacher(batch).logits.detach().softmax(-1)
    entropy = -(probabilities * probabilities.log()).sum() / 2  # mean over the two classes, as published
    assert float(prediction) == pytest.approx(float(entropy), rel=1e-5)


def test_a_weight_of_zero_leaves_its_loss_out(setting: Setting, tmp_path: Path) -> None:
    run = LocalRun(tmp_path, store=setting.store)
    config = rosita.Config(**{**TINY["rosita"], "hidden_weight": 0.0, "epochs": 1.0})
    rosita.compress(setting.task, setting.teacher, config, run)
    assert "train/prediction" in run.reports[-1].metrics
    assert "train/hidden" not in run.reports[-1].metrics


def test_the_control_learns_from_labels_alone(setting: Setting, tmp_path: Path) -> None:
    run = LocalRun(tmp_path, store=setting.store)
    config = rosita.Config(**{**TINY["rosita"], "setting": "no-kd", "optimizer": "adamw"})
    rosita.compress(setting.task, setting.teacher, config, run)
    assert {name for name in run.reports[-1].metrics if name.startswith("train/")} == {"train/label", "train/loss"}


def test_a_regression_learns_gold_values(regression_setting: Setting, tmp_path: Path) -> None:
    run = LocalRun(tmp_path, store=regression_setting.store)
    config = rosita.Config(**{**TINY["rosita"], "epochs": 6.0})
    rosita.compress(regression_setting.task, regression_setting.teacher, config, run)
    assert run.reports[-1].metrics["score"] > 0.5
    assert "train/label" in run.reports[-1].metrics


def test_compat_brings_the_originals_behaviour_back(setting: Setting, tmp_path: Path) -> None:
    run = LocalRun(tmp_path, store=setting.store)
    config = rosita.Config(**{**TINY["rosita"], "compat": COMPAT, "epochs": 1.0})
    outcome = rosita.compress(setting.task, setting.teacher, config, run)
    assert outcome.model.head == "relu"
    assert (
        rosita.compress(
            setting.task,
            setting.teacher,
            rosita.Config(**TINY["rosita"]),
            LocalRun(tmp_path / "own", store=setting.store),
        ).model.head
        == "plain"
    )


def test_pruning_keeps_the_best_heads(setting: Setting, tmp_path: Path) -> None:
    run = LocalRun(tmp_path, store=setting.store)
    splits = open_splits(setting.task, setting.teacher.tokenizer, run)
    scores = label_importance(setting.teacher, splits, run)
    teacher = load(setting.teacher.tuned)
    student = prune(teacher, scores, narrower(teacher.layout, heads=1, ffn=5, layers=2))
    best = int(scores.heads[1].argmax())
    rows = slice(4 * best, 4 * best + 4)
    assert torch.equal(
        student.layers[1].attention.self.query.weight, teacher.layers[1].attention.self.query.weight[rows]
    )
    kept = scores.neurons[0].argsort(descending=True)[:5].sort().values
    assert torch.equal(student.layers[0].intermediate.dense.bias, teacher.layers[0].intermediate.dense.bias[kept])


CHAIN: dict[str, Any] = {
    **TINY["rosita"],
    **{"epochs": 1.0, "prune_period": 0.6, "lr": 2e-3, "evaluate_every": 0, "student_evaluate_every": 0},
    **{"student_epochs": 1.0, "student_lr": 3e-3, "depth_epochs": 1.0, "depth_lr": 2e-3},
}
"""All stages of settings 2 to 4, each an epoch of ten updates; 4 heads lose 2, 3 layers lose 1."""


@pytest.mark.parametrize("number", [2, 3, 4])
def test_the_later_settings_end_with_the_layout_they_promised(number: int, setting: Setting, tmp_path: Path) -> None:
    run, config = LocalRun(tmp_path, store=setting.store), rosita.Config(**{**CHAIN, "setting": number})
    outcome = rosita.compress(setting.task, setting.teacher, config, run)
    assert outcome.layout == outcome.model.layout == rosita.layout(config, setting.teacher.layout)
    stages = ["distil"] if number == 2 else ["width-00", "width-01", "width-02"]
    assert list(dict.fromkeys(report.stage for report in run.reports)) == stages
    assert {report.stage for report in run.reports if report.comparable} == {stages[-1]}
    assert {"train/hidden", "train/prediction", "score"} <= run.reports[-1].metrics.keys()


def test_the_stages_before_are_trained_once_for_all_widths_and_seeds(setting: Setting, tmp_path: Path) -> None:
    store = tmp_path / "store"
    trials: list[dict[str, Any]] = [
        {"setting": 4},
        {"setting": 4, "heads": 3, "ffn_dim": 4, "lr": 1e-3, "prune_period": 0.3, "epochs": 2.0},
        {"setting": 4, "layers": 1, "hidden_weight": 0.0},
        {"setting": 3, "embedding_rank": 5},
        {"setting": 2, "layers": 3},
        {"setting": 2, "heads": 1},
    ]
    for number, values in enumerate(trials):
        run = LocalRun(tmp_path / str(number), store=store, seed=number)
        rosita.compress(setting.task, setting.teacher, rosita.Config(**{**CHAIN, **values}), run)
    built = Counter(path.name.rsplit("-", 1)[0] for path in store.iterdir())
    assert {name: built[name] for name in ("bert-student", "shallow-student", "distilled-importance")} == {
        "bert-student": 1,
        "shallow-student": 1,
        "distilled-importance": 1,
    }
    (shallow,) = store.glob("shallow-student-*")
    assert len(load(shallow).layers) == 2
    (student,) = store.glob("bert-student-*")
    assert load(student).layout == setting.teacher.layout


STOPPABLE = rosita.Config(**{**CHAIN, "setting": 4, "knowledge": "live"})


@pytest.fixture(scope="module")
def unstopped(setting: Setting, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    run = LocalRun(tmp_path_factory.mktemp("whole"))
    return rosita.compress(setting.task, setting.teacher, STOPPABLE, run).model.state_dict()


@pytest.mark.parametrize("after", [4, 17, 24, 27])
def test_a_trial_stopped_in_any_stage_ends_as_if_never_stopped(
    after: int, setting: Setting, tmp_path: Path, unstopped: dict[str, torch.Tensor]
) -> None:
    """Ten updates each: BERT(student), the shallow student, pruned after 4, the widths, pruned after 2 and 5."""
    doomed = Interrupted(tmp_path, tmp_path / "store", after)
    with pytest.raises(Stopped):
        rosita.compress(setting.task, setting.teacher, STOPPABLE, doomed)
    resumed = Interrupted(tmp_path, tmp_path / "store", 10**6)
    found = rosita.compress(setting.task, setting.teacher, STOPPABLE, resumed).model.state_dict()
    assert all(torch.equal(unstopped[key], found[key]) for key in unstopped)
    assert resumed.polls < 34 - after + 4


def ranked(rank: int, world_size: int, folder: Path, setting: Setting) -> dict[str, Any]:
    """A student of setting 4, without the key biases, whose gradient is nothing but rounding.

    It has fewer layers than its teacher: a whole copy without dropout would be pruned by rounding at first.
    """
    run = LocalRun(folder / "trial", store=folder / "store", rank=rank, world_size=world_size)
    slow = {"lr": 1e-4, "student_lr": 1e-4, "depth_lr": 1e-4, "clip": "global"}
    config = rosita.Config(**{**CHAIN, **slow, "setting": 4, "layers": 1, "dropout": 0.0})
    state = rosita.compress(setting.task, setting.teacher, config, run).model.state_dict()
    return {name: value.tolist() for name, value in state.items() if not name.endswith("key.bias")}


@pytest.mark.process
def test_two_ranks_make_the_student_that_one_makes(setting: Setting, tmp_path: Path) -> None:
    (tmp_path / "two").mkdir()
    first, second = run_ranks(ranked, tmp_path / "two", setting)
    alone = ranked(0, 1, tmp_path / "one", setting)
    assert first == second
    for name, value in alone.items():  # other heads or neurons would differ by tenths
        torch.testing.assert_close(torch.tensor(first[name]), torch.tensor(value), rtol=1e-3, atol=1e-3, msg=name)
    names = [sorted(path.name for path in (tmp_path / part / "store").iterdir()) for part in ("one", "two")]
    assert names[0] == names[1]  # the stages before have the same keys, and so the same seeds


@pytest.mark.parametrize("number", [2, 4])
def test_a_regression_goes_through_the_later_settings(number: int, regression_setting: Setting, tmp_path: Path) -> None:
    run = LocalRun(tmp_path, store=regression_setting.store)
    config = rosita.Config(**{**CHAIN, "setting": number, "student_epochs": 4.0, "epochs": 3.0})
    outcome = rosita.compress(regression_setting.task, regression_setting.teacher, config, run)
    assert outcome.layout == rosita.layout(config, regression_setting.teacher.layout)
    assert {"train/label", "train/hidden"} <= run.reports[-1].metrics.keys()


def test_a_chain_with_the_originals_behaviour(setting: Setting, tmp_path: Path) -> None:
    store = tmp_path / "store"
    config = rosita.Config(**{**CHAIN, "setting": 4, "compat": COMPAT})
    outcome = rosita.compress(setting.task, setting.teacher, config, LocalRun(tmp_path, store=store))
    assert outcome.model.head == "relu"
    assert {load(path).head for path in store.glob("*-student-*")} == {"relu"}
    assert rosita.knowledge(config, setting.teacher.layout) is None


def test_a_fast_schedule_prunes_after_each_update(setting: Setting, tmp_path: Path) -> None:
    run, config = (
        LocalRun(tmp_path, store=setting.store),
        rosita.Config(**{**CHAIN, "setting": 3, "prune_period": 0.01}),
    )
    rosita.compress(setting.task, setting.teacher, config, run)
    assert [report.step for report in run.reports] == [1, 2, 10]


def test_a_training_too_short_for_its_prunes_is_refused(setting: Setting, tmp_path: Path) -> None:
    config = rosita.Config(**{**CHAIN, "setting": 3, "epochs": 0.2})
    with pytest.raises(ValueError, match="found 2 updates for 2 prunes"):
        rosita.compress(setting.task, setting.teacher, config, LocalRun(tmp_path, store=setting.store))


@pytest.mark.parametrize(
    ("layers", "cut", "depth"), [(12, None, 12), (9, None, 9), (8, None, 8), (4, None, 8), (4, 6, 6)]
)
def test_the_depth_of_the_last_teacher(layers: int, cut: int | None, depth: int) -> None:
    config = rosita.Config(setting=4, layers=layers, depth_cut_layers=cut)
    assert rosita.depth_of(config, 12) == depth
    assert len(rosita.layout(config, BERT_BASE).layers) == layers
    chosen = rosita.knowledge(config, BERT_BASE)
    assert chosen is not None
    assert chosen.states == layer_map(depth, layers)


@pytest.mark.parametrize("layers", range(1, 13))
def test_any_teacher_loses_a_third_of_its_layers(layers: int) -> None:
    assert rosita.depth_of(rosita.Config(setting=4, layers=1), layers) == round(layers * 2 / 3)


@pytest.mark.parametrize(("layers", "cut"), [(8, 6), (8, 13)])
def test_a_depth_that_does_not_fit_is_refused(layers: int, cut: int) -> None:
    with pytest.raises(ValueError, match=f"depth_cut_layers: found {cut}, allowed are 8 .* to the teacher's 12"):
        rosita.layout(rosita.Config(setting=4, layers=layers, depth_cut_layers=cut), BERT_BASE)


def test_what_would_be_stored() -> None:
    def stored(values: dict[str, Any]) -> Selection | None:
        return rosita.knowledge(rosita.Config(**values), BERT_BASE)

    assert stored({}) == Selection(states=(0, 1, 3, 4, 6, 7, 9, 10, 12))
    assert stored({"setting": 4}) == Selection(states=tuple(range(9)))
    assert stored({"hidden_weight": 0.0}) == Selection()
    assert stored({"setting": "no-kd"}) is stored({"knowledge": "live"}) is stored({"compat": ("padding",)}) is None


def test_the_published_tables() -> None:
    """Spot checks of every configuration file, and the names of old."""
    tasks, three = {"cola", "sst2", "mnli", "qnli", "qqp"}, {"cola", "sst2", "mnli"}
    names = {*tasks, *(f"setting4-{task}" for task in tasks), *(f"no-kd-{task}" for task in tasks)}
    assert set(rosita.RECIPES) == names | {f"setting{number}-{task}" for number in (1, 2, 3) for task in three}
    configs = {name: rosita.Config(**fields) for name, fields in rosita.RECIPES.items()}
    assert {configs[task].setting for task in tasks} == {4}
    cola, mnli, qnli = configs["cola"], configs["mnli"], configs["qnli"]
    assert (cola.lr, cola.epochs, cola.prune_period, cola.patience, cola.schedule) == (1e-5, 50, 0.01, 10, "constant")
    assert (cola.depth_lr, cola.depth_epochs, cola.depth_period, cola.student_evaluate_every) == (1e-5, 10, 0.2, 100)
    assert (mnli.lr, mnli.schedule, mnli.warmup, mnli.batch_size, mnli.student_lr) == (5e-5, "linear", 0.0, 64, 5e-5)
    assert (qnli.lr, qnli.epochs, qnli.depth_lr, qnli.depth_epochs, qnli.student_epochs) == (3e-5, 7, 3e-5, 3, 3)
    one = configs["setting1-sst2"]
    assert (one.setting, one.lr, one.warmup, one.schedule, one.epochs) == (1, 5e-5, 0.1, "linear", 10)
    assert dataclasses.replace(one, setting=2) == configs["setting2-sst2"]
    assert one == rosita.Config()
    assert all(fields.get("heads") is None for fields in rosita.RECIPES.values())


@pytest.mark.parametrize(
    "values",
    [
        *[{"heads": 0}, {"embedding_rank": 0}, {"patience": -1.0}, {"compat": ("speed",)}, {"optimizer": "sgd"}],
        *[{"prune_period": 0.0}, {"depth_period": 1.5}, {"depth_cut_layers": 0}],
    ],
)
def test_values_out_of_range_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        rosita.Config(**values)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least one above 0"):
        rosita.Config(hidden_weight=0.0, prediction_weight=0.0)
    with pytest.raises(ValueError, match="knowledge: found 'stored' with compat 'padding'"):
        rosita.Config(knowledge="stored", compat=("padding",))
