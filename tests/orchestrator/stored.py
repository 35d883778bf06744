"""A sweep folder with stored models that nobody trained: random BERTs of the task's vocabulary, measured for real."""

import json
from collections.abc import Sequence
from pathlib import Path

from methods.parts.bert import Bert, initialise
from methods.parts.checkpoint import load, save
from methods.parts.layout import Layout
from methods.parts.run import LocalRun
from methods.parts.tasks import open_task
from methods.parts.wordpiece import train_wordpiece
from orchestrator import records
from orchestrator.folder import SweepFolder
from orchestrator.job import measure
from orchestrator.records import TrialRecord
from orchestrator.spec import load_spec
from tests.methods.conftest import WORDS, write_table
from tests.orchestrator.test_cli import SWEEP

VOCAB, POSITIONS = 48, 20


def random_model(
    folder: Path, labels: Sequence[str], words: Sequence[str] = WORDS, *, seed: int = 0, outputs: int | None = None
) -> Path:
    """A checkpoint folder with a tokenizer; equal seeds give equal weights."""
    train_wordpiece(words, VOCAB, folder.parent / f"{folder.name}-tokenizer")
    layout = Layout.uniform(
        vocab=VOCAB,
        positions=POSITIONS,
        hidden=8,
        num_layers=1,
        heads=2,
        head_width=4,
        ffn=6 + seed,
        labels=outputs or len(labels),
    )
    model = Bert(layout, dropout=0.0)
    initialise(model, seed, 0.5)
    save(model, folder, tokenizer=folder.parent / f"{folder.name}-tokenizer", labels=labels or None)
    return folder


def stored_sweep(place: Path) -> SweepFolder:
    """A sweep of a teacher, three finished trials and one that was stopped before it had a model."""
    write_table(place / "data")
    (place / "tiny.yaml").write_text(SWEEP, encoding="utf-8")
    folder = SweepFolder(place / "sweeps", "tiny")
    plan = {"hash": "", "spec": load_spec(place / "tiny.yaml").to_json(), "labels": ["0", "1"], "budget": {}}
    records.write_text(folder.file("plan.json"), json.dumps(plan))
    for number, trial in enumerate(("teacher", "t0000", "t0001", "t0002")):
        store(folder, trial, number, place / "data")
    records.write(folder, TrialRecord(**{**BARE, "trial": "t0003", "status": "stopped"}))
    return folder


BARE = {"method": "rosita", "sample": {}, "config": {}, "key": "key", "seed": 0, "status": "done"}


def store(folder: SweepFolder, trial: str, number: int, data: Path) -> None:
    """One finished trial, as the worker and the ledger leave it."""
    model = random_model(folder.trial(trial) / "model", ("0", "1"), seed=number)
    task = open_task("weather", data, max_length=16)
    opened = load(model)
    metrics = measure(opened, task, model, LocalRun(folder.trial(trial), store=folder.store))
    record = TrialRecord(
        **{**BARE, "trial": trial, "key": trial},
        layout=opened.layout.to_json(),
        costs={"params": opened.layout.params()},
        metrics=metrics,
        model=f"trials/{trial}/model",
    )
    records.write(folder, record)


def write_glue(folder: Path, name: str) -> Path:
    """A GLUE task's folder in the official layout, a few made-up rows per file."""
    place = folder / name
    place.mkdir(parents=True)
    for file, lines in _GLUE[name].items():
        (place / file).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return place


def _rows(columns: str, count: int = 5, labels: Sequence[str] = ("0", "1")) -> list[str]:
    """Tab-separated rows under a header: `index` is counted, `s1`, `s2` are words, `label` goes round; else x."""
    names = columns.split()
    rows = ["\t".join(names)]
    for row in range(count):
        cells = {
            "index": str(row),
            "s1": WORDS[row % 8],
            "s2": WORDS[(row * 3 + 1) % 8],
            "label": labels[row % len(labels)],
        }
        rows.append("\t".join(cells.get(name, "x") for name in names))
    return rows


def _files(train: list[str], test: list[str]) -> dict[str, list[str]]:
    return {"train.tsv": train, "dev.tsv": train, "test.tsv": test}


_LONG, _PAIR = "index b c d e f g {} s1 s2", "index s1 s2"
_NUMBERS, _CLASSES = ("0.5", "3.25", "5.0"), ("entailment", "neutral", "contradiction")
_TWO = ("entailment", "not_entailment")
_GLUE: dict[str, dict[str, list[str]]] = {
    "CoLA": _files(_rows("index label x s1", 6)[1:], _rows("index s1")),
    "SST-2": _files(_rows("s1 label", 6), _rows("index s1")),
    "MRPC": _files(_rows("label x x s1 s2", 6), _rows("index x x s1 s2")),
    "STS-B": _files(_rows("index b c d e f g s1 s2 label", 6, _NUMBERS), _rows("index b c d e f g s1 s2")),
    "QQP": _files(_rows("index b c s1 s2 label", 6), _rows(_PAIR, 6)),
    "MNLI": {
        "train.tsv": _rows(f"{_LONG} label".format("h"), 6, _CLASSES),
        "dev_matched.tsv": _rows(f"{_LONG} label".format("h"), 9, _CLASSES),
        "dev_mismatched.tsv": _rows(f"{_LONG} label".format("h"), 7, _CLASSES),
        "test_matched.tsv": _rows(_LONG.format("h"), 5),
        "test_mismatched.tsv": _rows(_LONG.format("h"), 4),
    },
    "QNLI": _files(_rows(f"{_PAIR} label", 6, _TWO), _rows(_PAIR)),
    "RTE": _files(_rows(f"{_PAIR} label", 6, _TWO), _rows(_PAIR)),
    "WNLI": _files(_rows(f"{_PAIR} label", 6), _rows(_PAIR)),
}


def lines_of(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()
