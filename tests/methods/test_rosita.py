"""ROSITA's own properties; parity with the original's numbers is in tests/parts/test_rosita_parity.py."""

from pathlib import Path

import pytest
import torch

from methods import rosita
from methods.parts.batches import Batches
from methods.parts.checkpoint import load
from methods.parts.layout import Layout
from methods.parts.pruning import label_importance, prune
from methods.parts.run import LocalRun
from methods.parts.splits import open_splits
from methods.parts.surgery import narrower
from tests.methods.conftest import Setting
from tests.methods.test_contract import TINY

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
    teacher = load(setting.teacher.tuned)
    student = load(setting.teacher.tuned)
    run = LocalRun(setting.store.parent / "identity", store=setting.store)
    data = open_splits(setting.task, setting.teacher.tokenizer, run).train
    batch = Batches(data, batch_size=8, seed=0).step(0)[0]
    (terms,) = rosita.distillation(student, teacher, rosita.Config())(batch)
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
    config = rosita.Config(**{**TINY["rosita"], "compat": rosita.COMPAT, "epochs": 1.0})
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


@pytest.mark.parametrize(
    "values",
    [{"heads": 0}, {"embedding_rank": 0}, {"patience": -1.0}, {"compat": ("speed",)}, {"optimizer": "sgd"}],
)
def test_values_out_of_range_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        rosita.Config(**values)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least one above 0"):
        rosita.Config(hidden_weight=0.0, prediction_weight=0.0)
