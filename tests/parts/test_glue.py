"""The official files of every task, quirk by quirk, on hand-written rows and on the real CoLA and SST-2."""

import os
from pathlib import Path

import numpy as np
import pytest

from methods.parts.glue import CATALOGUE, GlueFiles, find, open_glue

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "tests" / "fixtures" / "glue"
SHARED = Path(os.environ.get("DISTILSWEEP_SHARED", ROOT.parent / "shared")) / "glue"
HERE = [name for name in CATALOGUE if name not in ("cola", "sst2")]


def opened(name: str) -> GlueFiles:
    return open_glue(CATALOGUE[name], FIXTURES)


@pytest.mark.parametrize("name", HERE)
def test_every_split_of_the_official_layout_is_read(name: str) -> None:
    task = opened(name)
    assert set(task.splits) == set(CATALOGUE[name].files)
    for split in task.splits:
        examples = task.read(split)
        assert (examples.pairs is not None) == task.pair
        if split.startswith("test"):
            assert np.isnan(examples.labels).all() if name == "stsb" else (examples.labels == -1).all()
            assert len(examples) in (4, 5)
        else:
            assert len(examples) + examples.skipped == 20 + (name == "qqp")
            assert set(examples.labels.tolist()) == set(range(len(task.labels))) or name == "stsb"


FERRY = ("The ferry left the harbour before sunrise.", "The ferry was at sea when the sun came up.", "entailment")
FIRST = {
    "wnli": ("The jug did not fit on the shelf because it was too wide.", "The jug was too wide.", "entailment"),
    "mnli": FERRY,
    "rte": FERRY,
    "qqp": ("How do I stop a tap from dripping?", "What is the best way to fix a dripping tap?", "duplicate"),
    "mrpc": (
        "The firm sold its last mill on Tuesday.",
        "On Tuesday the firm sold the last of its mills.",
        "equivalent",
    ),
    "qnli": (
        "When was the lighthouse finished?",
        "The lighthouse was finished in 1871 after six years of work.",
        "entailment",
    ),
    "boolq": (
        "Lighthouse -- The lighthouse was finished in 1871. Visitors may climb its 214 steps in summer.",
        "is the lighthouse open to visitors",
        "True",
    ),
}


@pytest.mark.parametrize("name", FIRST)
def test_the_first_row_is_the_first_row(name: str) -> None:
    task = opened(name)
    examples = task.read("train")
    assert examples.pairs is not None
    assert (examples.texts[0], examples.pairs[0], task.labels[int(examples.labels[0])]) == FIRST[name]


def test_label_order_is_hugging_faces() -> None:
    assert CATALOGUE["mnli"].labels == ("entailment", "neutral", "contradiction")
    assert CATALOGUE["qnli"].labels == CATALOGUE["rte"].labels == ("entailment", "not_entailment")
    assert CATALOGUE["wnli"].labels == ("not_entailment", "entailment")
    assert CATALOGUE["boolq"].labels == ("False", "True")
    assert opened("qnli").read("train").labels[:4].tolist() == [0, 1, 0, 1]


def test_quotes_and_accents_are_data() -> None:
    texts = opened("mnli").read("train").texts
    assert texts[6] == 'He bought bread and a jar of "honey".'
    assert texts[10] == "The café on the corner sells crêpes."


def test_a_byte_order_mark_is_no_part_of_a_header() -> None:
    assert len(opened("mrpc").read("train")) == 20


def test_short_rows_of_qqp_are_skipped_and_counted() -> None:
    examples = opened("qqp").read("dev")
    assert (len(examples), examples.skipped) == (20, 1)


def test_rows_of_mnli_without_gold_label_are_skipped_in_both_dev_sets() -> None:
    task = opened("mnli")
    assert [(len(task.read(split)), task.read(split).skipped) for split in ("dev", "dev_mismatched")] == [
        (18, 2),
        (19, 1),
    ]
    assert task.read("dev").texts[0] != task.read("dev_mismatched").texts[0]


def test_similarity_is_a_number() -> None:
    task = opened("stsb")
    labels = task.read("train").labels
    assert task.labels == ()
    assert labels.dtype == np.float32
    assert labels[-1] == np.float32(1.333)


@pytest.mark.parametrize(
    "name", ["SST-2", "sst2", "glue/sst2", "STS-B", "nyu-mll/glue/mnli", "super_glue/boolq", "WNLI"]
)
def test_a_task_is_found_however_it_is_spelled(name: str) -> None:
    assert find(name) is not None


def test_the_folder_itself_or_the_one_above_it() -> None:
    above, itself = open_glue(CATALOGUE["rte"], FIXTURES), open_glue(CATALOGUE["rte"], FIXTURES / "RTE")
    assert above == itself
    assert above.fingerprint != open_glue(CATALOGUE["wnli"], FIXTURES).fingerprint


def write(folder: Path, name: str, **files: str) -> GlueFiles:
    for stem, text in files.items():
        (folder / f"{stem}.tsv").write_bytes(text.encode() if isinstance(text, str) else text)
    return open_glue(CATALOGUE[name], folder)


def test_headers_of_cola_and_sst2(tmp_path: Path) -> None:
    (tmp_path / "CoLA").mkdir()
    rows = "gj04\t1\t\tHe left.\ngj04\t0\t*\tHe leave."
    cola = write(tmp_path / "CoLA", "cola", train=rows, dev=rows, test="index\tsentence\n0\tShe left.\n")
    assert cola.read("train").texts == ["He left.", "He leave."]
    assert cola.read("train").labels.tolist() == [1, 0]
    assert cola.read("test").texts == ["She left."]
    sst2 = write(tmp_path, "sst2", train="sentence\tlabel\r\nfine . \t1\r\n", dev="sentence\tlabel\nno\u2028break\t0\n")
    assert sst2.read("train").texts == ["fine . "]
    assert sst2.read("dev").texts == ["no\u2028break"]
    assert sst2.splits == ("train", "dev")


def test_the_fingerprint_follows_the_bytes(tmp_path: Path) -> None:
    first = write(tmp_path, "sst2", train="sentence\tlabel\na\t1\n", dev="sentence\tlabel\nb\t0\n").fingerprint
    assert write(tmp_path, "sst2", dev="sentence\tlabel\nb\t1\n").fingerprint != first
    assert write(tmp_path, "sst2", dev="sentence\tlabel\nb\t0\n").fingerprint == first


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ("sentence\tlabel\ngood\t1\nodd\tmaybe\n", r"train\.tsv:3: label: found 'maybe', expected one of '0', '1'"),
        ("sentence\tlabel\ngood\n", r"train\.tsv:2: columns: found 1, expected at least 2"),
        ("sentence\tlabel\n", r"train\.tsv: found no rows"),
        ("sentence\tlabel\ngood\t1\nbad \xff\t1\n", r"train\.tsv:3: bytes: found b'\\xff.*expected UTF-8"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, train: str, message: str) -> None:
    (tmp_path / "train.tsv").write_bytes(train.encode("latin-1"))
    (tmp_path / "dev.tsv").write_text("sentence\tlabel\nfine\t1\n")
    with pytest.raises(ValueError, match=message):
        open_glue(CATALOGUE["sst2"], tmp_path).read("train")


def test_a_hyphen_is_a_label_of_mnli_only(tmp_path: Path) -> None:
    task = write(tmp_path, "sst2", train="sentence\tlabel\ngood\t-\n", dev="sentence\tlabel\nfine\t1\n")
    with pytest.raises(ValueError, match=r"train\.tsv:2: label: found '-'"):
        task.read("train")


def test_a_score_that_is_no_number_is_named(tmp_path: Path) -> None:
    for file in ("train.tsv", "dev.tsv"):
        text = (FIXTURES / "STS-B" / file).read_text(encoding="utf-8").replace("4.800", "much")
        (tmp_path / file).write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"train\.tsv:2: label: found 'much', expected a finite number"):
        open_glue(CATALOGUE["stsb"], tmp_path).read("train")


def test_a_row_whose_label_is_missing_is_not_read_with_its_text_as_label(tmp_path: Path) -> None:
    task = write(tmp_path, "rte", train="h\n0\ta\tentailment\n", dev="h\n0\ta\tb\tentailment\n")
    with pytest.raises(ValueError, match=r"train\.tsv:2: columns: found 3, expected at least 4"):
        task.read("train")


@pytest.mark.parametrize(("row", "message"), [("{", "JSON"), ('{"question": "q"}', "keys"), ("[1]", "keys")])
def test_a_bad_line_of_boolq_is_named(tmp_path: Path, row: str, message: str) -> None:
    good = (FIXTURES / "BoolQ" / "val.jsonl").read_text(encoding="utf-8")
    (tmp_path / "train.jsonl").write_text(good + row + "\n", encoding="utf-8")
    (tmp_path / "val.jsonl").write_text(good, encoding="utf-8")
    with pytest.raises(ValueError, match=rf"train\.jsonl:21: {message}: found"):
        open_glue(CATALOGUE["boolq"], tmp_path).read("train")


def test_a_missing_file_is_named_beside_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(
        ValueError, match=r"looked for train\.tsv, dev_matched\.tsv, dev_mismatched\.tsv .*holds notes\.txt"
    ):
        open_glue(CATALOGUE["mnli"], tmp_path)
    with pytest.raises(ValueError, match="is not there"):
        open_glue(CATALOGUE["mnli"], tmp_path / "nowhere")


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.exists(), reason="no glue under $DISTILSWEEP_SHARED")
@pytest.mark.parametrize(
    ("name", "sizes"), [("cola", (8551, 1043, 1063)), ("sst2", (67349, 872, 1821))], ids=["cola", "sst2"]
)
def test_the_real_files_have_the_published_sizes(name: str, sizes: tuple[int, int, int]) -> None:
    task = open_glue(CATALOGUE[name], SHARED)
    assert tuple(len(task.read(split)) for split in ("train", "dev", "test")) == sizes
    assert task.read("dev").skipped == 0
