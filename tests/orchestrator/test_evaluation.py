"""Stored models measured again: the recorded numbers, every metric with an error, other data, any checkpoint folder."""

import csv
import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from methods.parts.checkpoint import load, save
from methods.parts.metrics import measure
from methods.parts.tasks import open_task
from methods.parts.teacher import permute_classifier
from orchestrator import records
from orchestrator.evaluation import best, with_errors
from orchestrator.folder import SweepFolder
from tests.orchestrator.stored import lines_of, random_model, stored_sweep, write_glue
from tests.orchestrator.test_cli import Told, distilsweep

__all__ = ["distilsweep"]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> SweepFolder:
    return stored_sweep(tmp_path_factory.mktemp("place"))


@pytest.fixture
def root(sweep: SweepFolder) -> tuple[str, Path]:
    return "--folder", sweep.root


def test_one_trial_gives_its_recorded_numbers_again(distilsweep: Told, root: tuple[str, Path]) -> None:
    code, told, error = distilsweep("evaluate", "tiny", "t0001", "--json", *root)
    assert code == 0, error
    found = json.loads(told)
    assert found["trial"] == "t0001"
    assert found["found"] == pytest.approx(found["recorded"], abs=1e-6)
    (row,) = found["measured"]
    assert (row["split"], row["rows"], row["accuracy"]) == ("dev", 80, pytest.approx(found["recorded"]["dev"]))
    assert row["accuracy_se"] == pytest.approx(found["recorded"]["dev_se"])
    assert row["loss_se"] > 0
    told = distilsweep("evaluate", "tiny", "t0001", *root)[1]
    assert "(recorded " in told
    assert "accuracy (SE)" in told


def test_the_best_come_first_and_all_hold_the_teacher(
    distilsweep: Told, sweep: SweepFolder, root: tuple[str, Path], tmp_path: Path
) -> None:
    table = tmp_path / "table.csv"
    code, told, error = distilsweep("evaluate", "tiny", "--all", "--csv", table, *root)
    assert code == 0, error
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["model"] for row in rows] == ["teacher", "t0000", "t0001", "t0002"]
    assert float(rows[1]["accuracy"]) == pytest.approx(records.read_one(sweep.record("t0000")).metrics["dev"])
    assert all(row["model"] in told for row in rows)
    found = json.loads(distilsweep("evaluate", "tiny", "--best", "2", "--json", *root)[1])
    named = [row["model"] for row in found["measured"]]
    assert named == [record.trial for record in best(records.read(sweep), 2)]
    assert found["found"] == {}
    assert len(json.loads(distilsweep("evaluate", "tiny", "--json", *root)[1])["measured"]) == 3


def test_other_data_and_splits_are_measured_too(distilsweep: Told, root: tuple[str, Path], tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text("label,words\n1,sun moon\n0,rain\n1,sun\n", encoding="utf-8")
    words = ("--data", tmp_path / "new.csv", "--column", "text=words", "--json")
    (row,) = json.loads(distilsweep("evaluate", "tiny", "t0000", *words, *root)[1])["measured"]
    assert row["rows"] == 3
    (row,) = json.loads(distilsweep("evaluate", "tiny", "t0000", "--split", "train", "--json", *root)[1])["measured"]
    assert (row["split"], row["rows"]) == ("train", 160)


def test_an_export_is_measured_as_its_trial(
    distilsweep: Told, sweep: SweepFolder, root: tuple[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(sweep.trial("t0002") / "model", tmp_path / "export")
    data = sweep.root.parent / "data"
    words = ("evaluate", tmp_path / "export", "--data", data, "--task", "weather", "--max-length", "16", "--json")
    (found,) = json.loads(distilsweep(*words)[1])["measured"]
    (wanted,) = json.loads(distilsweep("evaluate", "tiny", "t0002", "--json", *root)[1])["measured"]
    assert {**found, "model": "", "method": ""} == {**wanted, "model": "", "method": ""}


def test_outputs_in_another_order_are_put_into_the_tasks(distilsweep: Told, tmp_path: Path) -> None:
    data = write_glue(tmp_path, "MNLI")
    plain = random_model(tmp_path / "plain", ("entailment", "neutral", "contradiction"))
    model = load(plain)
    permute_classifier(model, (2, 0, 1))
    save(model, tmp_path / "other", tokenizer=plain, labels=("contradiction", "entailment", "neutral"))
    rows = []
    for folder in (plain, tmp_path / "other"):
        code, told, error = distilsweep("evaluate", folder, "--task", "mnli", "--data", data, "--json")
        assert code == 0, error
        rows.append([{**row, "model": ""} for row in json.loads(told)["measured"]])
    assert rows[0] == rows[1]
    assert [(row["split"], row["rows"]) for row in rows[0]] == [("dev", 9), ("dev_mismatched", 7)]
    told = distilsweep("evaluate", random_model(tmp_path / "names", (), outputs=3), "--task", "mnli", "--data", data)[1]
    assert "names its classes LABEL_0, LABEL_1, LABEL_2" in told


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("tiny", "t9"), "no trial 't9'"),
        (("tiny", "t0003"), "no model is stored for it (status stopped)"),
        (("tiny", "t0000", "--split", "test"), "has no split 'test'; it has train, dev"),
        (("tiny", "t0000", "--column", "text"), '--column: found "text"'),
        (("tiny", "t0000", "--data", "nowhere"), "nowhere"),
        (("tiny", "--best", "0"), "best"),
        (("tiny", "t0000", "--task", "sst2"), "for the sweep tiny, which has its own"),
        (("tiny", "t0000", "--all"), "found a trial and --all"),
        (("models/nowhere",), "models/nowhere: looked for a checkpoint's config.json; models/nowhere is not there"),
        (("nowhere",), "no sweep named 'nowhere'; there are: tiny"),
        (("MODEL",), "say what it is asked"),
        (("MODEL", "t0000", "--task", "sst2"), "has no trials"),
        (("NAMED", "--task", "agreement"), "found other names: the checkpoint has yes, no; the task has unacceptable"),
        (("BARE", "--task", "agreement"), "has no classifier"),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    distilsweep: Told, sweep: SweepFolder, root: tuple[str, Path], tmp_path: Path, words: tuple[str, ...], says: str
) -> None:
    bare = load(sweep.trial("t0000") / "model")
    bare.classifier, bare.layout = None, dataclasses.replace(bare.layout, labels=0)
    save(bare, tmp_path / "bare", tokenizer=sweep.trial("t0000") / "model")
    places = {"MODEL": sweep.trial("t0000") / "model", "BARE": tmp_path / "bare"}
    places["NAMED"] = random_model(tmp_path / "named", ("yes", "no")) if "NAMED" in words else tmp_path
    code, told, error = distilsweep("evaluate", *(places.get(word, word) for word in words), *root)
    assert (code, told) == (2, "")
    assert says in error
    assert len(error.splitlines()) == 1


def test_every_metric_has_the_error_of_its_own_bootstrap(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    task = open_task("mrpc", write_glue(tmp_path, "MRPC"))
    logits, labels = draw.normal(size=(60, 2)).astype(np.float32), draw.integers(2, size=60)
    metrics, errors = with_errors(task, logits, labels)
    assert set(metrics) == set(errors) == {"accuracy", "f1", "accuracy_f1", "loss"}
    assert errors["accuracy_f1"] == measure(task, logits, labels)["score_se"]
    share = metrics["accuracy"]
    assert errors["accuracy"] == pytest.approx((share * (1 - share) / 60) ** 0.5, rel=0.2)
    task = open_task("stsb", write_glue(tmp_path, "STS-B"))
    metrics, errors = with_errors(task, logits[:, :1], draw.normal(size=60).astype(np.float32))
    assert set(metrics) == set(errors) == {"pearson", "spearman", "pearson_spearman", "mse", "loss"}
    assert errors["mse"] == errors["loss"] > 0
    assert lines_of(tmp_path / "STS-B" / "test.tsv")[0].startswith("index")
