"""An augmented set is read row by row, however it was cut into files; no row is lost, and a bad one is named."""

import os
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet as parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tests.strategies  # noqa: F401  its hypothesis profile
from methods.parts.augmented import Augmented
from methods.parts.glue import CATALOGUE
from methods.parts.tasks import open_task
from tests.parts.test_glue import FIXTURES, SHARED
from tests.parts.test_tasks import table

HEADER = "sentence\tlabel"


def sst2(folder: Path) -> Path:
    for split in ("train", "dev"):
        (folder / f"{split}.tsv").write_text(f"{HEADER}\nfine\t1\nbad\t0\n")
    return folder


def augmented(name: str, data: Path, more: Path) -> Augmented:
    found = open_task(name, data, augmented=more).augmented
    assert found is not None
    return found


def rows(found: Augmented, size: int = 3) -> list[tuple[str, int]]:
    chunks = list(found.chunks(size))
    assert all(len(chunk) <= size for chunk in chunks)
    return [(text, label) for chunk in chunks for text, label in zip(chunk.texts, chunk.labels.tolist(), strict=True)]


def write(folder: Path, **files: str) -> Path:
    folder.mkdir(exist_ok=True)
    for stem, text in files.items():
        (folder / f"{stem}.tsv").write_bytes(text.encode())
    return folder


@given(st.integers(1, 40), st.integers(1, 12), st.sampled_from(["first", "each", "none"]), st.integers(1, 9))
def test_no_row_is_lost_over_pieces(tmp_path_factory: pytest.TempPathFactory, count: int, piece: int, headers: str,
                                    size: int) -> None:  # fmt: skip
    folder = tmp_path_factory.mktemp("pieces")
    written = [(f"row {number} ", number % 2) for number in range(count)]
    lines = [f"{text}\t{label}\n" for text, label in written]
    for number, start in enumerate(range(0, count, piece)):
        header = f"{HEADER}\n" if headers == "each" or (headers == "first" and not number) else ""
        (folder / f"train_aug{number}.tsv").write_text(header + "".join(lines[start : start + piece]))
    assert rows(augmented("sst2", sst2(folder), folder), size) == written


def test_a_file_that_split_cut_has_its_header_once_and_windows_ends(tmp_path: Path) -> None:
    whole = f"{HEADER}\r\na\t1\r\nb\t0\r\nc\t1\r\n"
    lines = whole.splitlines(keepends=True)
    more = write(tmp_path / "aug", train_aug=whole, train_aug0="".join(lines[:2]), train_aug1="".join(lines[2:]))
    found = augmented("sst2", sst2(tmp_path), more)
    assert [path.name for path in found.files] == ["train_aug0.tsv", "train_aug1.tsv"]
    assert rows(found) == [("a", 1), ("b", 0), ("c", 1)]


def test_pieces_are_read_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    more = write(tmp_path / "aug", **{f"train_aug{number}": f"{number}\t1\n" for number in range(12)})
    assert [text for text, _ in rows(augmented("sst2", sst2(tmp_path), more))] == [str(n) for n in range(12)]


def test_cola_has_no_header_and_its_first_row_counts(tmp_path: Path) -> None:
    row = "gj04\t1\t\t{}\n"
    for split in ("train", "dev"):
        (tmp_path / f"{split}.tsv").write_text(row.format("He left.") + "gj04\t0\t*\tHe leave.\n")
    more = write(tmp_path / "aug", train_aug0=row.format("a"), train_aug1=row.format("b"))
    assert rows(augmented("cola", tmp_path, more)) == [("a", 1), ("b", 1)]


@pytest.mark.parametrize("name", [name for name in CATALOGUE if name not in ("cola", "sst2")])
def test_the_official_training_file_is_its_own_augmented_set(name: str) -> None:
    task = open_task(name, FIXTURES)
    file = FIXTURES / CATALOGUE[name].folder / CATALOGUE[name].files["train"]
    found, train = augmented(name, FIXTURES, file), task.read("train")
    chunks = list(found.chunks(6))
    assert [text for chunk in chunks for text in chunk.texts] == list(train.texts)
    assert [text for chunk in chunks for text in chunk.pairs or ()] == list(train.pairs or ())
    assert np.concatenate([chunk.labels for chunk in chunks]).tolist() == train.labels.tolist()
    assert {chunk.labels.dtype for chunk in chunks} == {train.labels.dtype}
    assert sum(chunk.skipped for chunk in chunks) == train.skipped


def test_short_rows_of_qqp_and_rows_without_gold_are_skipped_even_first_in_a_piece(tmp_path: Path) -> None:
    good = "1\t2\t3\tWhy?\tHow?\t{}\n"
    more = write(tmp_path / "q", train_aug0=good.format(1), train_aug1="7\t8\tbroken\n" + good.format(0))
    chunks = list(augmented("qqp", FIXTURES, more).chunks())
    assert ([chunk.labels.tolist() for chunk in chunks], [chunk.skipped for chunk in chunks]) == ([[1, 0]], [1])
    mnli = "\t".join("12345678") + "\tp\th\t{}\n"
    more = write(tmp_path / "m", train_aug0=mnli.format("neutral"), train_aug1=mnli.format("-") * 2)
    chunks = list(augmented("mnli", FIXTURES, more).chunks())
    assert ([chunk.labels.tolist() for chunk in chunks], [chunk.skipped for chunk in chunks]) == ([[1]], [2])


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
def test_tables_of_ones_own(tmp_path: Path, ending: str) -> None:
    more = tmp_path / "more"
    more.mkdir()
    for number, texts in enumerate((["p, q", "r"], ["s"])):
        path = more / f"part{number}.{ending}"
        if ending == "parquet":
            parquet.write_table(pyarrow.table({"label": [number] * len(texts), "text": texts}), path)
        elif ending == "jsonl":
            path.write_text("".join(f'{{"text": "{text}", "label": {number}}}\n' for text in texts))
        else:
            cut, quote = (",", '"') if ending == "csv" else ("\t", "")
            header = f"label{cut}text\n" if not number else ""
            path.write_text(header + "".join(f"{number}{cut}{quote}{text}{quote}\n" for text in texts))
    assert rows(augmented("mine", table(tmp_path), more)) == [("p, q", 0), ("r", 0), ("s", 1)]


def test_a_built_in_task_takes_tables_with_its_class_names(tmp_path: Path) -> None:
    file = tmp_path / "more.csv"
    file.write_text("text,label\nthe dogs run,acceptable\nthe dogs runs,unacceptable\n")
    found = open_task("agreement", augmented=file).augmented
    assert found is not None
    assert rows(found) == [("the dogs run", 1), ("the dogs runs", 0)]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"train_aug0": f"{HEADER}\na\t1\n", "train_aug1": "b\tmaybe\n"}, r"train_aug1\.tsv:1: label: found 'maybe'"),
        ({"train_aug": f"{HEADER}\na\t1\nb\n"}, r"train_aug\.tsv:3: columns: found 1, expected at least 2"),
        ({"train_aug": "a,1\n"}, r"train_aug\.tsv:1: columns: found 1"),
        ({"train_aug": f"{HEADER}\n"}, r"train_aug\.tsv: found no rows, expected at least 1"),
        ({"train_aug": ""}, r"augmented: .*train_aug\.tsv: found an empty file"),
        (
            {"train_aug": "a\t1\n", "train_aug0": "b\t1\nc\t1\n"},
            r"with 4 and 8 bytes, expected a whole file or its pie",
        ),
        ({"more": "a\t1\n", "dev": "b\t1\n"}, r"found dev\.tsv, expected training rows only; name the file itself"),
        ({}, r"augmented: looked for files ending in \.tsv at .*aug holds nothing"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, files: dict[str, str], message: str) -> None:
    more = write(tmp_path / "aug", **files)
    with pytest.raises(ValueError, match=message):
        rows(augmented("sst2", sst2(tmp_path), more))


def test_wrong_columns_of_a_table_are_named(tmp_path: Path) -> None:
    (tmp_path / "more.csv").write_text("body,label\na,1\n")
    with pytest.raises(ValueError, match=r"more\.csv:2: columns: found \['body', 'label'\], expected text, label"):
        rows(augmented("mine", table(tmp_path), tmp_path / "more.csv"))


def test_the_fingerprint_covers_augmented_set_and_corpus_but_not_for_labelled_rows(tmp_path: Path) -> None:
    sst2(tmp_path)
    file, corpus = tmp_path / "train_aug.tsv", tmp_path / "corpus.txt"
    file.write_text("a\t1\n")
    corpus.write_text("One.\n\nTwo.\n")
    plain = open_task("sst2", tmp_path)
    tasks = [
        plain,
        open_task("sst2", tmp_path, augmented=file),
        open_task("sst2", tmp_path, corpus=corpus),
        open_task("sst2", tmp_path, augmented=tmp_path, corpus=corpus),
    ]
    os.utime(file, ns=(1, 1))
    assert open_task("sst2", tmp_path, augmented=file).fingerprint == tasks[1].fingerprint
    file.write_text("b\t1\n")
    tasks.append(open_task("sst2", tmp_path, augmented=file))
    assert len({task.fingerprint for task in tasks}) == len(tasks)
    assert {task.labelled for task in tasks} == {plain.fingerprint}
    assert tasks[3].corpus == corpus


@pytest.mark.parametrize(("text", "message"), [("", "found an empty file"), (None, "looked for .*corpus.txt, a text")])
def test_a_corpus_that_is_not_there_is_named(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "corpus.txt").write_text(text)
    with pytest.raises(ValueError, match=f"corpus: .*{message}"):
        open_task("agreement", corpus=tmp_path / "corpus.txt")


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.exists(), reason="no glue under $DISTILSWEEP_SHARED")
@pytest.mark.parametrize(("name", "folder"), [("cola", "CoLA"), ("sst2", "SST-2")])
def test_the_real_training_files_in_pieces(name: str, folder: str, tmp_path: Path) -> None:
    lines = (SHARED / folder / "train.tsv").read_bytes().splitlines(keepends=True)
    for number, start in enumerate(range(0, len(lines), 5000)):
        (tmp_path / f"train_aug{number}.tsv").write_bytes(b"".join(lines[start : start + 5000]))
    train = open_task(name, SHARED).read("train")
    chunks = list(augmented(name, SHARED, tmp_path).chunks())
    assert [text for chunk in chunks for text in chunk.texts] == list(train.texts)
    assert np.concatenate([chunk.labels for chunk in chunks]).tolist() == train.labels.tolist()
