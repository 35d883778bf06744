"""One name, one task: its data is found, its numbers are checked, and its hash covers all that decides the rows."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from methods.parts.agreement import Agreement
from methods.parts.examples import Examples, bad_row, digest
from methods.parts.tasks import Task, open_task
from tests.parts.encoded import Written, written_task
from tests.parts.test_glue import FIXTURES


def table(folder: Path, rows: str = "text,label\na,0\nb,1\nc,0\nd,1\n") -> Path:
    for stem in ("train", "dev"):
        (folder / f"{stem}.csv").write_text(rows)
    return folder


def test_the_built_in_task() -> None:
    task = open_task("agreement", limit=30, seed=3)
    assert (task.labels, task.metric, task.num_outputs, task.pair) == (
        ("unacceptable", "acceptable"),
        "accuracy",
        2,
        False,
    )
    assert len(task.read("train")) == 30
    assert set(task.read("train").texts) <= set(Agreement(seed=3).read("train").texts)
    assert open_task("agreement-pair").pair
    with pytest.raises(ValueError, match="data: found 'x' for the built-in task agreement"):
        open_task("agreement", "x")


def test_a_glue_task() -> None:
    task = open_task("STS-B", FIXTURES, max_length=40)
    assert (task.labels, task.metric, task.num_outputs, task.max_length) == ((), "pearson_spearman", 1, 40)
    assert open_task("mnli", str(FIXTURES)).splits[:3] == ("train", "dev", "dev_mismatched")


def test_tables_by_folder_and_by_file(tmp_path: Path) -> None:
    task = open_task("mine", table(tmp_path))
    files = {split: str(tmp_path / f"{split}.csv") for split in ("train", "dev")}
    assert open_task("mine", files).fingerprint == task.fingerprint
    assert task.labels == ("0", "1")
    scores = open_task("mine", tmp_path, metric="pearson")
    assert (scores.labels, scores.num_outputs, scores.metric) == ((), 1, "pearson")
    assert open_task("sst2", files).labels == ("0", "1")


def test_a_hub_name_with_a_local_copy(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"owner/data: looked for a local copy"):
        open_task("owner/data", tmp_path / "copy")
    with pytest.raises(ValueError, match=r"found .* for the hub data set owner/data, allowed is the folder"):
        open_task("owner/data", {"train": "x.csv"})


def test_the_limit_keeps_a_sample_by_seed() -> None:
    rows = Examples(texts=[str(row) for row in range(100)], pairs=None, labels=np.arange(100) % 2)
    task = written_task(Written(rows), limit=10)
    kept = task.read("train")
    assert len(kept) == 10
    assert kept.texts == sorted(kept.texts, key=int) != [str(row) for row in range(10)]
    assert task.read("train").texts == kept.texts
    assert len(task.read("dev")) == len(written_task(Written(rows), limit=1000).read("train")) == 100


def test_the_fingerprint_covers_what_decides_the_rows(tmp_path: Path) -> None:
    table(tmp_path)
    tasks: list[Task] = [
        open_task("mine", tmp_path),
        open_task("mine", tmp_path, max_length=20),
        open_task("mine", tmp_path, limit=2),
        open_task("mine", tmp_path, limit=2, seed=1),
        open_task("mine", tmp_path, columns={"text": "label"}),
        open_task("mine", tmp_path, metric="pearson"),
    ]
    assert len({task.fingerprint for task in tasks}) == len(tasks)
    assert open_task("other", tmp_path, metric="matthews").fingerprint == tasks[0].fingerprint


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"max_length": 4}, "max_length: found 4, allowed is at least 8"),
        ({"limit": 0}, "limit: found 0, allowed is at least 1"),
        ({"metric": "acuracy"}, r"metric: found 'acuracy', allowed are .* \(did you mean 'accuracy'\?\)"),
        ({"metric": "pearson"}, "metric: found 'pearson' for a task of 2 classes"),
    ],
)
def test_bad_numbers_and_scores_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_task("agreement", **wrong)


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(
        ValueError, match=r"task: found 'agrement', allowed are agreement, .* \(did you mean 'agreement'\?\)"
    ):
        open_task("agrement")


def test_a_split_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"task mine: split: found 'test', allowed are train, dev"):
        open_task("mine", table(tmp_path)).read("test")


def test_columns_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"columns of \[1, 2\] rows"):
        Examples(texts=["a"], pairs=None, labels=np.zeros(2, dtype=np.int64))


def test_a_complaint_names_file_and_line_and_a_hash_its_parts() -> None:
    assert str(bad_row("a.tsv", 3, "label", "x", "0 or 1")) == "a.tsv:3: label: found 'x', expected 0 or 1"
    assert digest(["ab", "c"]) != digest(["a", "bc"]) != digest(["c", b"ab"])
