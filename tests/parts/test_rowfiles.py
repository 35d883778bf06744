"""Training files as rows: everything but the texts is written back as it was, and our readers read the result."""

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from methods.parts import glue, tables
from methods.parts.rowfiles import RowFile, open_rows

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures" / "glue"
TASKS = ["mnli", "mrpc", "qnli", "qqp", "rte", "stsb", "wnli", "boolq"]


def rewritten(source: RowFile, path: Path, *, shout: bool = False) -> Path:
    """The file as an output file holds it, with its own texts or with others."""
    texts = [[text.upper() if shout else text for text in row.texts] for row in source.rows]
    lines = [row.line(new) for row, new in zip(source.rows, texts, strict=True)]
    head = [] if source.header is None else [source.header]
    path.write_text("".join(f"{line}\n" for line in [*head, *lines]), encoding="utf-8", newline="\n")
    return path


@pytest.mark.parametrize("task", TASKS)
def test_our_reader_reads_what_is_written(task: str, tmp_path: Path) -> None:
    entry = glue.CATALOGUE[task]
    before = glue.read_file(entry, FIXTURES / entry.folder / entry.files["train"], test=False)
    source = open_rows(task, FIXTURES)
    assert [row.texts[0] for row in source.rows] == list(before.texts)
    assert before.pairs is None or [row.texts[1] for row in source.rows] == list(before.pairs)
    after = glue.read_file(entry, rewritten(source, tmp_path / f"a{source.ending}"), test=False)
    assert (after.texts, after.pairs) == (before.texts, before.pairs)
    assert after.labels.tolist() == before.labels.tolist()
    assert (source.skipped, after.skipped) == (before.skipped, 0)
    loud = glue.read_file(entry, rewritten(source, tmp_path / f"b{source.ending}", shout=True), test=False)
    assert loud.texts == [text.upper() for text in before.texts]
    assert loud.labels.tolist() == before.labels.tolist()


def test_the_file_or_a_folder_around_it_may_be_named() -> None:
    prints = {open_rows("rte", path).fingerprint for path in (FIXTURES, FIXTURES / "RTE", FIXTURES / "RTE/train.tsv")}
    assert len(prints) == 1
    assert open_rows("wnli", FIXTURES).fingerprint not in prints


def test_quotes_are_ordinary_characters_and_cola_has_no_header(tmp_path: Path) -> None:
    lines = ['gj04\t1\t\t"Well," she said, "no.', "gj04\t0\t*\tIt's 5\" long"]
    (tmp_path / "train.tsv").write_bytes("\r\n".join(lines).encode())
    source = open_rows("cola", tmp_path)
    assert source.header is None
    assert rewritten(source, tmp_path / "out.tsv").read_text(encoding="utf-8") == "".join(f"{line}\n" for line in lines)
    assert source.rows[0].line(['a\t"b"\nc\rd']) == 'gj04\t1\t\ta "b" c d'


def test_the_header_is_kept_without_its_byte_order_mark() -> None:
    assert open_rows("mrpc", FIXTURES).header == "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String"
    assert open_rows("qqp", FIXTURES).skipped == 1


ROWS = [
    {"id": 1, "question": 'say "hi",\tnow', "answer": "two\nlines", "label": "yes"},
    {"id": 2, "question": "plain", "answer": "", "label": "no"},
]
COLUMNS = {"text": "question", "text_pair": "answer"}


def table(folder: Path, ending: str) -> Path:
    path = folder / f"train{ending}"
    if ending == ".parquet":
        parquet.write_table(pa.Table.from_pylist(ROWS), path)
    elif ending == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(ROWS[0]))
            writer.writeheader()
            writer.writerows(ROWS)
    return path


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_ones_own_tables_become_json_lines_with_the_same_columns(ending: str, tmp_path: Path) -> None:
    path = table(tmp_path, ending)
    source = open_rows("mine", path, COLUMNS)
    out = rewritten(source, tmp_path / "out.jsonl")
    found = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [{**row, "id": int(row["id"])} for row in found] == ROWS
    named = tables.columns_of(COLUMNS)
    before = [row[2:] for row in tables.stream_rows(named, [path])]
    assert [row[2:] for row in tables.stream_rows(named, [out])] == before


def test_a_tab_separated_table_has_no_quotes(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text('text\tlabel\n"a\tx\nb"\ty\n', encoding="utf-8")
    source = open_rows("mine", tmp_path / "train.tsv")
    assert [row.texts for row in source.rows] == [('"a',), ('b"',)]
    assert source.ending == ".jsonl"


def test_bad_input_is_told_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"task rte: looked for .*train\.tsv and .*RTE/train\.tsv; .* holds nothing"):
        open_rows("rte", tmp_path)
    path = table(tmp_path, ".csv")
    with pytest.raises(ValueError, match=r"train\.csv:3: columns: found .* expected text, label"):
        open_rows("mine", path)
    with pytest.raises(ValueError, match="columns: found 'txt', allowed are text, text_pair, label"):
        open_rows("mine", path, {"txt": "question"})
    with pytest.raises(ValueError, match="for the task rte, allowed are none"):
        open_rows("rte", FIXTURES, COLUMNS)
    with pytest.raises(ValueError, match=r"data: found .*notes\.md, expected a training file ending in \.csv"):
        open_rows("mine", tmp_path / "notes.md")
    (tmp_path / "short.tsv").write_text("h\nonly one\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"short\.tsv:2: columns: found 1, expected at least 4"):
        open_rows("rte", tmp_path / "short.tsv")
