"""Every score equals scikit-learn's or scipy's; degenerate predictions score 0; the error is the bootstrap's."""

import warnings
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as reference

from methods.parts.metrics import METRICS, check_metric, confusion, f1_by_class, matthews, measure, pearson, spearman

ROWS = st.integers(2, 60)
SEEDS = st.integers(0, 10_000)


@dataclass(frozen=True)
class Scored:
    metric: str
    labels: tuple[str, ...] = ("no", "yes")


def draw(seed: int, rows: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return generator.integers(classes, size=rows), generator.normal(size=(rows, classes))


@given(SEEDS, ROWS, st.integers(2, 4))
def test_class_scores_equal_scikit_learns(seed: int, rows: int, classes: int) -> None:
    labels, logits = draw(seed, rows, classes)
    found = logits.argmax(1)
    matrix = confusion(found, labels, classes)
    names = tuple(map(str, range(classes)))
    assert matrix.tolist() == reference.confusion_matrix(labels, found, labels=range(classes)).tolist()
    assert measure(Scored("accuracy", names), logits, labels)["score"] == pytest.approx(np.mean(found == labels))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns of classes without rows
        assert float(matthews(matrix)) == pytest.approx(reference.matthews_corrcoef(labels, found))
        each = reference.f1_score(labels, found, average=None, labels=range(classes), zero_division=0)
    assert f1_by_class(matrix).tolist() == pytest.approx(each.tolist())
    assert measure(Scored("macro_f1", names), logits, labels)["score"] == pytest.approx(each.mean())


@given(SEEDS, st.integers(3, 60), st.booleans())
def test_correlations_equal_scipys(seed: int, rows: int, ties: bool) -> None:
    generator = np.random.default_rng(seed)
    found, wanted = generator.normal(size=rows), generator.normal(size=rows)
    if ties:
        found, wanted = np.round(found), np.round(2 * wanted)
    if np.ptp(found) == 0 or np.ptp(wanted) == 0:
        return
    assert float(pearson(found, wanted)) == pytest.approx(stats.pearsonr(found, wanted).statistic, abs=1e-12)
    assert float(spearman(found, wanted)) == pytest.approx(stats.spearmanr(found, wanted).statistic, abs=1e-12)


def test_published_scores_of_each_kind() -> None:
    labels, logits = draw(0, 50, 2)
    scores = measure(Scored("accuracy_f1"), logits, labels)
    assert set(scores) == {"accuracy", "f1", "accuracy_f1", "score", "score_se"}
    assert scores["score"] == pytest.approx((scores["accuracy"] + scores["f1"]) / 2)
    assert scores["f1"] == pytest.approx(reference.f1_score(labels, logits.argmax(1)))
    assert set(measure(Scored("matthews"), logits, labels)) == {"matthews", "accuracy", "score", "score_se"}
    numbers = measure(Scored("pearson_spearman", ()), logits[:, :1], logits[:, 1])
    assert set(numbers) == {"pearson", "spearman", "pearson_spearman", "mse", "score", "score_se"}
    assert numbers["score"] == pytest.approx((numbers["pearson"] + numbers["spearman"]) / 2)
    assert numbers["mse"] == pytest.approx(np.mean((logits[:, 0] - logits[:, 1]) ** 2))
    assert set(measure(Scored("spearman", ()), logits[:, 0], logits[:, 1])) == {"spearman", "mse", "score", "score_se"}


@pytest.mark.parametrize("metric", sorted(METRICS))
def test_one_class_for_every_row_is_no_nan(metric: str) -> None:
    labels = np.arange(40) % 2
    if METRICS[metric] == "regression":
        scores = measure(Scored(metric, ()), np.full(40, 0.1), labels.astype(np.float64))
        assert (scores["score"], scores["score_se"]) == (0.0, 0.0)
    else:
        scores = measure(Scored(metric), np.tile([1.0, 0.0], (40, 1)), labels)
        assert scores["score"] == {"accuracy": 0.5, "accuracy_f1": 0.25, "macro_f1": 1 / 3}.get(metric, 0.0)
    assert all(np.isfinite(value) for value in scores.values())


def test_ranks_are_means_over_ties_and_batched() -> None:
    found = np.array([[3.0, 1.0, 3.0, 2.0], [0.0, 0.0, 0.0, 1.0]])
    wanted = np.array([[1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0]])
    each = [stats.spearmanr(a, b).statistic for a, b in zip(found, wanted, strict=True)]
    assert spearman(found, wanted).tolist() == pytest.approx(each)


def test_the_standard_error_is_the_one_of_a_share() -> None:
    logits = np.tile([0.0, 1.0], (400, 1))
    labels = (np.arange(400) < 320).astype(np.int64)
    scores = measure(Scored("accuracy"), logits, labels)
    assert scores["score_se"] == pytest.approx(np.sqrt(0.8 * 0.2 / 400), rel=0.15)
    assert scores == measure(Scored("accuracy"), logits, labels)
    assert scores["score_se"] != measure(Scored("accuracy"), logits, labels, seed=1)["score_se"]
    generator = np.random.default_rng(0)
    wanted = generator.normal(size=300)
    found = wanted + generator.normal(size=300)
    correlation = measure(Scored("pearson", ()), found, wanted)
    assert correlation["score_se"] == pytest.approx((1 - correlation["score"] ** 2) / np.sqrt(300), rel=0.3)


@pytest.mark.parametrize(
    ("metric", "labels", "message"),
    [
        ("acuracy", ("a", "b"), "metric: found 'acuracy', allowed are .*did you mean 'accuracy'"),
        ("f1", ("a", "b", "c"), "metric: found 'f1' for a task of 3 classes, allowed are accuracy, matthews, macro_f1"),
        ("accuracy", (), "for a regression task, allowed are pearson, spearman, pearson_spearman"),
        ("pearson", ("a", "b"), "for a task of 2 classes, allowed are accuracy, matthews, macro_f1, f1, accuracy_f1"),
    ],
)
def test_a_score_that_does_not_apply_is_refused(metric: str, labels: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_metric(metric, labels)


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (np.zeros((3, 3)), np.zeros(3, int), r"found shape \(3, 3\), allowed is \(3, 2\)"),
        (np.zeros((0, 2)), np.zeros(0, int), "at least 1 row"),
        (np.array([[0.0, np.nan], [0.0, 1.0]]), np.zeros(2, int), "found 1 of 2 rows that are not finite"),
        (np.zeros((2, 2)), np.array([0, -1]), "found 1 of 2 rows without a label"),
    ],
)
def test_predictions_that_cannot_be_scored_are_refused(logits: np.ndarray, labels: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measure(Scored("accuracy"), logits, labels)
