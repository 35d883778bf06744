"""What is written from the hub is what the official files hold, and a hub that is away costs seconds and one line."""

import time
from pathlib import Path

import datasets
import huggingface_hub
import numpy as np
import pytest

from methods.parts.glue import CATALOGUE, open_glue
from methods.parts.hub import open_hub
from methods.parts.official import RequestError, fetch, unreachable
from tests.parts.test_glue import FIXTURES
from tests.parts.test_hub import Columns, offline, sst2, store  # noqa: F401  the fixture keeps the library's cache apart

AWAY = "http://127.0.0.1:9"


HUBS = {
    "train": "train",
    "dev": "validation",
    "dev_mismatched": "validation_mismatched",
    "test": "test",
    "test_mismatched": "test_mismatched",
    "mnli dev": "validation_matched",
    "mnli test": "test_matched",
}
"""Our names of splits, or of one task's, and the hub's."""


@pytest.mark.parametrize("name", [name for name in CATALOGUE if name not in ("cola", "sst2")])
def test_official_files_come_back_as_they_were(name: str, tmp_path: Path) -> None:
    entry, theirs = CATALOGUE[name], open_glue(CATALOGUE[name], FIXTURES)
    splits: dict[str, Columns] = {}
    for split in theirs.splits:
        examples = theirs.read(split)
        texts = [examples.texts] if examples.pairs is None else [examples.texts, examples.pairs]
        labels = np.nan_to_num(examples.labels, nan=-1).tolist()
        splits[HUBS.get(f"{name} {split}") or HUBS[split]] = {
            **dict(zip(entry.hub, texts, strict=True)),
            "label": labels,
        }
    copy = store(tmp_path / "hub", name, splits, list(entry.labels) or None)
    (line,) = fetch(name, tmp_path / "glue", copy)
    assert f"`task: {{name: {name}, data: {tmp_path / 'glue'}}}`" in line
    mine = open_glue(entry, tmp_path / "glue")
    assert mine.splits == theirs.splits
    for split in mine.splits:
        ours, reference = mine.read(split), theirs.read(split)
        assert (list(ours.texts), ours.pairs) == (list(reference.texts), reference.pairs)
        assert np.array_equal(ours.labels, reference.labels, equal_nan=True)
    if name != "boolq":  # the names of the columns, as far as the hub can fill them, are the official ones
        for file in ("train.tsv", next(file for split, file in entry.files.items() if split == "test")):
            header = (FIXTURES / entry.folder / file).read_text(encoding="utf-8-sig").split("\n")[0]
            assert (tmp_path / "glue" / entry.folder / file).read_text().split("\n")[0] == header


def test_cola_has_no_header_and_a_tab_becomes_a_space(tmp_path: Path) -> None:
    rows: Columns = {"sentence": ["He\tleft.\n", '"Go," he said.'], "label": [1, 0]}
    test: Columns = {"sentence": ["She left."], "label": [-1]}
    copy = store(
        tmp_path / "hub", "cola", {"train": rows, "validation": rows, "test": test}, ["unacceptable", "acceptable"]
    )
    list(fetch("CoLA", tmp_path / "glue", copy))
    folder = tmp_path / "glue" / "CoLA"
    assert (folder / "train.tsv").read_text() == '\t1\t\tHe left. \n\t0\t\t"Go," he said.\n'
    assert (folder / "test.tsv").read_text() == "index\tsentence\n0\tShe left.\n"
    assert open_glue(CATALOGUE["cola"], folder).read("dev").texts == ["He left. ", '"Go," he said.']


def test_wrong_requests_are_named_and_nothing_is_overwritten(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"task: found 'sst3', allowed are cola, .* \(did you mean 'sst2'\?\)"):
        list(fetch("sst3", tmp_path))
    copy = sst2(tmp_path / "hub")
    list(fetch("sst2", tmp_path / "glue", copy))
    with pytest.raises(RequestError, match="SST-2: exists already"):
        list(fetch("sst2", tmp_path / "glue", copy))
    rows: Columns = {"sentence": ["a", "b"], "label": [0, 1]}
    swapped = store(tmp_path / "swap", "sst2", {"train": rows, "validation": rows}, ["positive", "negative"])
    with pytest.raises(ValueError, match="found the classes positive, negative, expected negative, positive"):
        list(fetch("sst2", tmp_path / "other", swapped))
    assert not (tmp_path / "other" / "SST-2").exists()


def test_a_hub_that_is_away_is_one_line_within_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", AWAY)
    started = time.monotonic()
    with pytest.raises(ValueError, match=rf"^rte: tried {AWAY} for nyu-mll/glue: .*set HF_ENDPOINT .*RTE$"):
        list(fetch("rte", tmp_path))
    assert time.monotonic() - started < 20
    assert list(tmp_path.iterdir()) == []


def test_a_hub_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "get_session", lambda: time.sleep(30))
    assert unreachable(0.1) == "no answer within 0.1 s"


def test_the_offline_setting_asks_the_cache_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    assert unreachable() == ""
    with pytest.raises(ValueError, match=r"^rte: tried .* cannot be loaded from the hub.*put the official files"):
        list(fetch("rte", tmp_path))


def test_the_hub_and_the_files_written_from_it_give_the_same_rows(tmp_path: Path) -> None:
    copy = sst2(tmp_path / "hub")
    list(fetch("sst2", tmp_path / "glue", copy))
    hub, files = open_hub("sst2", copy), open_glue(CATALOGUE["sst2"], tmp_path / "glue")
    for split in hub.splits:
        assert list(hub.read(split).texts) == list(files.read(split).texts)
        assert hub.read(split).labels.tolist() == files.read(split).labels.tolist()
