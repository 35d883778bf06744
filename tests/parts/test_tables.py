"""A user's own files: four formats, classes found, numbers recognised, rows that are wrong."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from methods.parts.tables import Tables, find_files, open_tables

ROWS = [('a fine, "good" day', "yes"), ("rain\tagain", "no"), ("so-so", "maybe"), ("naïve", "no")]
NAMES = {"text": "review", "label": "mood"}


def write(path: Path, rows: Sequence[tuple[str, object]]) -> Path:
    table = {"mood": [label for _, label in rows], "review": [text for text, _ in rows]}
    if path.suffix == ".parquet":
        parquet.write_table(pyarrow.table(table), path)
    elif path.suffix == ".jsonl":
        lines = [json.dumps({"review": text, "mood": label}, ensure_ascii=False) for text, label in rows]
        path.write_text("\n".join(lines), encoding="utf-8")
    elif path.suffix == ".tsv":
        lines = [f"{label}\t{text}".replace("\tagain", " again") for text, label in rows]
        path.write_text("\n".join(["mood\treview", *lines]) + "\n", encoding="utf-8")
    else:
        quoted = ['{},"{}"'.format(label, text.replace('"', '""')) for text, label in rows]
        path.write_text("\n".join(["mood,review", *quoted]) + "\n", encoding="utf-8")
    return path


def opened(folder: Path, ending: str, rows: Sequence[tuple[str, object]], *, regression: bool = False) -> Tables:
    for stem in ("train", "validation"):
        write(folder / f"{stem}{ending}", rows)
    return open_tables(find_files(folder), NAMES, regression=regression)


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_every_format_gives_the_same_rows(tmp_path: Path, ending: str) -> None:
    task = opened(tmp_path, ending, ROWS)
    examples = task.read("dev")
    assert task.labels == ("maybe", "no", "yes")
    assert [text.replace("\t", " ") for text in examples.texts] == [text.replace("\t", " ") for text, _ in ROWS]
    assert examples.labels.tolist() == [2, 1, 0, 1]
    assert (task.pair, task.splits, task.metric) == (False, ("train", "dev"), "accuracy")


def test_pairs_and_a_test_file_without_labels(tmp_path: Path) -> None:
    for stem in ("train", "dev"):
        (tmp_path / f"{stem}.csv").write_text("a,b,label\nx,y,0\nz,w,1\n")
    (tmp_path / "test.csv").write_text('a,b\n"two\nlines",y\n')
    task = open_tables(find_files(tmp_path), {"text": "a", "text_pair": "b"})
    assert task.read("train").pairs == ["y", "w"]
    assert task.read("test").texts == ["two\nlines"]
    assert task.read("test").labels.tolist() == [-1]


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ([10, 9, 2], ("2", "9", "10")),
        (["b", "a", "10"], ("10", "a", "b")),
        ([1.0, 0.0, 1.0], ("0", "1")),
        ([True, False, True], ("False", "True")),
        ([0.5, 1.0, 2.0], ()),
    ],
)
def test_classes_are_found_in_order(tmp_path: Path, labels: list[object], classes: tuple[str, ...]) -> None:
    task = opened(tmp_path, ".jsonl", [("text", label) for label in labels])
    assert task.labels == classes


def test_integers_are_numbers_when_the_score_says_so(tmp_path: Path) -> None:
    task = opened(tmp_path, ".csv", [("a", 1), ("b", 3)], regression=True)
    assert task.labels == ()
    assert task.metric == "pearson_spearman"
    labels = task.read("train").labels
    assert labels.dtype == np.float32
    assert labels.tolist() == [1.0, 3.0]


def test_the_fingerprint_follows_bytes_and_columns(tmp_path: Path) -> None:
    files = {split: write(tmp_path / f"{split}.csv", ROWS) for split in ("train", "dev")}
    first = open_tables(files, NAMES).fingerprint
    assert open_tables(files, {**NAMES, "text_pair": "mood"}).fingerprint != first
    write(tmp_path / "dev.csv", ROWS[:2])
    assert open_tables(files, NAMES).fingerprint != first


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("train.csv", "mood,review\nyes,a\nno\n", r"train\.csv:3: cells: found 1, expected 2: mood, review"),
        (
            "train.csv",
            "mood,text\nyes,a\nno,b\n",
            r"train\.csv:2: columns: found \['mood', 'text'\], expected review, mood",
        ),
        ("train.csv", 'mood,review\nyes,"a\n', r"train\.csv:2: CSV"),
        ("train.csv", "mood,review\nyes,a\n,b\n", r"train\.csv:3: column mood: found '', expected a label"),
        ("train.csv", "mood,review\n", r"train\.csv: found no rows"),
        ("train.csv", "", r"train\.csv: found no rows"),
        ("train.csv", "mood,review\nyes,a\nyes,b\n", r"found the one class 'yes', expected at least 2"),
        ("train.jsonl", '{"review": "a", "mood": "yes"}\nnope\n', r"train\.jsonl:2: JSON: found 'nope'"),
        ("train.jsonl", "3\n", r"train\.jsonl:1: JSON: found 3"),
        ("train.jsonl", '{"review": null, "mood": "yes"}\n', r"train\.jsonl:1: columns: found \['mood'\]"),
        ("train.tsv", "mood\treview\nyes\ta\tb\n", r"train\.tsv:2: cells: found 3, expected 2"),
    ],
)
def test_a_bad_row_of_the_training_file_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    write(tmp_path / "dev.csv", ROWS)
    with pytest.raises(ValueError, match=message):
        open_tables(find_files(tmp_path), NAMES)


def test_a_class_that_training_lacks_is_named(tmp_path: Path) -> None:
    files = {
        "train": write(tmp_path / "train.csv", ROWS),
        "dev": write(tmp_path / "dev.csv", [("a", "no"), ("b", "meh")]),
    }
    with pytest.raises(ValueError, match=r"dev\.csv:3: label: found 'meh', expected one of 'maybe', 'no', 'yes'"):
        open_tables(files, NAMES).read("dev")


def test_files_that_are_missing_doubled_or_of_an_unknown_kind(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", ROWS)
    with pytest.raises(ValueError, match=r"looked for dev\.\* or validation\.\* .* holds train\.csv"):
        find_files(tmp_path)
    write(tmp_path / "dev.csv", ROWS)
    write(tmp_path / "val.tsv", ROWS)
    with pytest.raises(ValueError, match=r"found dev\.csv, val\.tsv for dev, expected one"):
        find_files(tmp_path)
    with pytest.raises(ValueError, match=r"expected a file ending in \.csv"):
        open_tables({"train": tmp_path / "train.csv", "dev": tmp_path / "dev.xls"})
    with pytest.raises(ValueError, match=r"found no file for dev"):
        open_tables({"train": tmp_path / "train.csv"})
    with pytest.raises(ValueError, match=r"found 'trian'.*did you mean 'train'"):
        open_tables({"trian": tmp_path / "train.csv"})
    with pytest.raises(ValueError, match=r"columns: found 'lable'.*did you mean 'label'"):
        open_tables(find_files_of(tmp_path), {"lable": "mood"})


def find_files_of(folder: Path) -> dict[str, Path]:
    return {"train": folder / "train.csv", "dev": folder / "dev.csv"}
