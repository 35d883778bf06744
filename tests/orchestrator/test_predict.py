"""Answers of stored models in GLUE's, the published programs' and our own files; the index is the file's."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from methods.parts import glue
from methods.parts.batches import collate
from methods.parts.checkpoint import load, save
from methods.parts.run import LocalRun
from methods.parts.tasks import open_task
from methods.parts.tokens import encode
from orchestrator.folder import SweepFolder
from tests.orchestrator.stored import lines_of, random_model, stored_sweep, write_glue
from tests.orchestrator.test_cli import Told, distilsweep

__all__ = ["distilsweep"]

OFFICIAL = {
    "cola": ["CoLA.tsv"],
    "sst2": ["SST-2.tsv"],
    "mrpc": ["MRPC.tsv"],
    "stsb": ["STS-B.tsv"],
    "qqp": ["QQP.tsv"],
    "mnli": ["MNLI-m.tsv", "MNLI-mm.tsv"],
    "qnli": ["QNLI.tsv"],
    "rte": ["RTE.tsv"],
    "wnli": ["WNLI.tsv"],
}
PUBLISHED = {
    "cola": ["test_results_cola.txt"],
    "sst2": ["test_results_sst-2.txt"],
    "stsb": ["test_results_sts-b.txt"],
    "mnli": ["test_results_mnli.txt", "test_results_mnli-mm.txt"],
    "rte": ["test_results_rte.txt"],
}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> SweepFolder:
    return stored_sweep(tmp_path_factory.mktemp("place"))


@pytest.fixture
def root(sweep: SweepFolder) -> tuple[str, Path]:
    return "--folder", sweep.root


def model_for(folder: Path, name: str, seed: int = 0) -> Path:
    entry = glue.CATALOGUE[name]
    return random_model(folder / "model", entry.labels, seed=seed, outputs=len(entry.labels) or 1)


def expected(model: Path, name: str, data: Path, split: str, folder: Path) -> list[str]:
    """What each row of a split is answered with, worked out row by row."""
    task, run = open_task(name, data, max_length=20), LocalRun(folder / "run")
    encoded, opened = encode(task, split, model, run), load(model)
    said = []
    for row in range(len(encoded)):
        logits = opened(collate(encoded, np.array([row]))).logits[0].detach()
        spelled = glue.CATALOGUE[name].spelled
        said.append(spelled[int(logits.argmax())] if spelled else f"{float(logits[0].clamp(0, 5)):.3f}")
    return said


@pytest.mark.parametrize("name", OFFICIAL)
def test_submission_files_have_official_names_and_every_row(name: str, distilsweep: Told, tmp_path: Path) -> None:
    data, model = write_glue(tmp_path, glue.CATALOGUE[name].folder), model_for(tmp_path, name, seed=3)
    code, told, error = distilsweep("predict", model, "--task", name, "--data", data, "--out", tmp_path / "out")
    assert code == 0, error
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == OFFICIAL[name]
    for file, split in zip(OFFICIAL[name], ("test", "test_mismatched"), strict=False):
        header, *rows = lines_of(tmp_path / "out" / file)
        wanted = expected(model, name, data, split, tmp_path)
        assert header == "index\tprediction"
        assert rows == [f"{row}\t{said}" for row, said in enumerate(wanted)]
        assert file in told


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_programs_files(name: str, distilsweep: Told, tmp_path: Path) -> None:
    data, model = write_glue(tmp_path, glue.CATALOGUE[name].folder), model_for(tmp_path, name)
    words = ("--task", name, "--data", data, "--format", "original", "--out", tmp_path / "out", "--json")
    code, told, error = distilsweep("predict", model, *words)
    assert code == 0, error
    assert [Path(file).name for file in json.loads(told)["files"]] == PUBLISHED[name]
    header, *rows = lines_of(tmp_path / "out" / PUBLISHED[name][0])
    assert header == "index\tprediction"
    assert [row.split("\t")[0] for row in rows] == [str(number) for number in range(5)]


def test_a_number_is_clipped_for_glue_alone(distilsweep: Told, tmp_path: Path) -> None:
    data, model = write_glue(tmp_path, "STS-B"), model_for(tmp_path, "stsb")
    opened = load(model)
    opened.classifier.weight.data *= 30.0
    opened.classifier.bias.data -= 48.0
    save(opened, model)
    words = ("predict", model, "--task", "stsb", "--data", data, "--out", tmp_path / "out")
    told = distilsweep(*words)[1]
    distilsweep(*words, "--format", "original")
    clipped, free = (
        [float(line.split("\t")[1]) for line in lines_of(tmp_path / "out" / file)[1:]]
        for file in ("STS-B.tsv", "test_results_sts-b.txt")
    )
    assert min(free) < 0
    assert clipped == [min(max(number, 0.0), 5.0) for number in free]
    assert "predictions were clipped" in told


def test_a_malformed_test_row_shifts_no_index(distilsweep: Told, tmp_path: Path) -> None:
    data, model = write_glue(tmp_path, "QQP"), model_for(tmp_path, "qqp", seed=1)
    words = ("predict", model, "--task", "qqp", "--data", data, "--out", tmp_path / "out")
    assert distilsweep(*words)[0] == 0
    whole = lines_of(tmp_path / "out" / "QQP.tsv")
    rows = lines_of(data / "test.tsv")
    rows[2], rows[5] = "1\tonly one question", ""
    (data / "test.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    code, told, error = distilsweep(*words)
    assert code == 0, error
    assert "2 rows have too few columns (index 1, 4); they keep their place with the prediction not_duplicate" in told
    found = lines_of(tmp_path / "out" / "QQP.tsv")
    assert [row for row in range(len(whole)) if row not in (2, 5) and found[row] != whole[row]] == []
    assert (found[2], found[5]) == ("1\t0", "4\t0")


def test_mnlis_diagnostic_set_is_answered_where_it_lies(distilsweep: Told, tmp_path: Path) -> None:
    data, model = write_glue(tmp_path, "MNLI"), model_for(tmp_path, "mnli")
    (tmp_path / "diagnostic").mkdir()
    rows = ["index\tsentence1\tsentence2", '0\tsun "moon\tsun', "1\train\tsnow"]
    (tmp_path / "diagnostic" / "diagnostic.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    words = ("predict", model, "--task", "mnli", "--data", data, "--out", tmp_path / "out")
    assert distilsweep(*words)[0] == 0
    header, *found = lines_of(tmp_path / "out" / "AX.tsv")
    assert header == "index\tprediction"
    assert [row.split("\t")[0] for row in found] == ["0", "1"]
    assert {row.split("\t")[1] for row in found} <= {"entailment", "neutral", "contradiction"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"MNLI-m.tsv", "MNLI-mm.tsv", "AX.tsv"}


def test_ones_own_table_gets_probabilities(
    distilsweep: Told, sweep: SweepFolder, root: tuple[str, Path], tmp_path: Path
) -> None:
    new = tmp_path / "new.csv"
    new.write_text('text\nsun moon\n"rain, ""snow"""\nwind\n', encoding="utf-8")
    words = ("predict", "tiny", "t0001", "--data", new, "--out", tmp_path / "out", *root)
    code, _, error = distilsweep(*words)
    assert code == 0, error
    with (tmp_path / "out" / "predictions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["index", "prediction", "p_0", "p_1", "text"]
    assert [row["text"] for row in rows] == ["sun moon", 'rain, "snow"', "wind"]
    for row in rows:
        assert float(row["p_0"]) + float(row["p_1"]) == pytest.approx(1, abs=2e-6)
        assert float(row[f"p_{row['prediction']}"]) >= 0.5
    assert distilsweep(*words, "--format", "jsonl")[0] == 0
    read = [json.loads(line) for line in lines_of(tmp_path / "out" / "predictions.jsonl")]
    assert [{key: str(value) for key, value in row.items()} for row in read] == rows


def test_a_folder_answers_a_table_without_a_task(distilsweep: Told, tmp_path: Path) -> None:
    model = random_model(tmp_path / "model", ("good", "bad"))
    (tmp_path / "new.jsonl").write_text('{"a": "sun", "b": "moon"}\n{"a": "rain", "b": ""}\n', encoding="utf-8")
    columns = ("--column", "text=a", "--column", "text_pair=b")
    words = (
        "predict",
        model,
        "--data",
        tmp_path / "new.jsonl",
        *columns,
        "--out",
        tmp_path / "out",
        "--format",
        "jsonl",
    )
    code, _, error = distilsweep(*words)
    assert code == 0, error
    rows = [json.loads(line) for line in lines_of(tmp_path / "out" / "predictions.jsonl")]
    assert [(row["index"], row["text"], row["text_pair"]) for row in rows] == [(0, "sun", "moon"), (1, "rain", "")]
    assert {row["prediction"] for row in rows} <= {"good", "bad"}


def test_a_regressions_table_holds_numbers(distilsweep: Told, tmp_path: Path) -> None:
    model = random_model(tmp_path / "model", (), outputs=1)
    (tmp_path / "new.csv").write_text("text\nsun\n", encoding="utf-8")
    code, _, error = distilsweep("predict", model, "--data", tmp_path / "new.csv", "--out", tmp_path / "out")
    assert code == 0, error
    assert lines_of(tmp_path / "out" / "predictions.csv")[0] == "index,prediction,text"


def test_without_a_trial_the_winner_answers(
    distilsweep: Told, sweep: SweepFolder, root: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    picked = json.loads(distilsweep("pick", "tiny", "--json", *root)[1])["trial"]
    found = json.loads(distilsweep("predict", "tiny", "--split", "dev", "--json", *root)[1])
    assert found["model"] == picked
    assert found["files"] == [f"predictions/tiny-{picked}/predictions-dev.csv"]
    assert len(lines_of(Path(found["files"][0]))) == 81


def test_other_splits_are_named_in_the_file(distilsweep: Told, tmp_path: Path) -> None:
    data, model = write_glue(tmp_path, "MNLI"), model_for(tmp_path, "mnli")
    (data / "dev_matched.tsv").write_text((data / "dev_matched.tsv").read_text() + "\t".join(["x"] * 11 + ["-"]) + "\n")
    words = ("predict", model, "--task", "mnli", "--data", data, "--out", tmp_path / "out", "--split", "dev")
    code, told, error = distilsweep(*words)
    assert code == 0, error
    assert "mnli dev: 1 rows of the file are left out; the index counts the others" in told
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["MNLI-m-dev.tsv", "MNLI-mm-dev.tsv"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("tiny", "t0000"), "has no split 'test'; it has train, dev (choose with --split)"),
        (("tiny", "t0000", "--split", "dev", "--format", "glue"), "which is none of GLUE's; allowed: csv, jsonl"),
        (("tiny", "t0000", "--split", "dev", "--format", "cvs"), "did you mean 'csv'?"),
        (("tiny", "t0003", "--split", "dev"), "no model is stored for it"),
        (("tiny", "t0000", "--data", "DATA/train.parquet"), "DATA/train.parquet"),
        (("tiny", "t0000", "--data", "NOTES"), "found a file ending in '.txt'"),
        (("tiny", "t0000", "--data", "WRONG"), "columns: found ['words'], expected text"),
        (("tiny", "t0000", "--data", "EMPTY"), "found no rows"),
    ],
)
def test_what_cannot_be_answered_is_one_line(
    distilsweep: Told, root: tuple[str, Path], tmp_path: Path, words: tuple[str, ...], says: str
) -> None:
    files = {"NOTES": ("notes.txt", "x"), "WRONG": ("wrong.csv", "words\nsun\n"), "EMPTY": ("empty.csv", "text\n")}
    for name, content in files.values():
        (tmp_path / name).write_text(content, encoding="utf-8")
    places = {word: tmp_path / name for word, (name, _) in files.items()}
    given = (places.get(word, word) for word in words)
    code, told, error = distilsweep("predict", *given, "--out", tmp_path / "out", *root)
    assert (code, told) == (2, "")
    assert says in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.shared
@pytest.mark.parametrize(("name", "folder", "rows"), [("cola", "CoLA", 1063), ("sst2", "SST-2", 1821)])
def test_real_test_files_get_a_line_for_each_row(
    shared: Path, distilsweep: Told, tmp_path: Path, name: str, folder: str, rows: int
) -> None:
    if len(lines_of(shared / "glue" / folder / "test.tsv")) != rows + 1:
        pytest.skip("the shared test file is not the official one")
    shutil.copytree(shared / "glue" / folder, tmp_path / folder)
    model = model_for(tmp_path, name)
    words = ("--task", name, "--data", tmp_path, "--out", tmp_path / "out")
    assert distilsweep("predict", model, *words)[0] == 0
    indices = [line.split("\t")[0] for line in lines_of(tmp_path / "out" / OFFICIAL[name][0])[1:]]
    official = [line.split("\t")[0] for line in lines_of(tmp_path / folder / "test.tsv")[1:]]
    assert indices == official
