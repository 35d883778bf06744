"""Hub data sets from local copies in the hub's layout: Parquet files named by a README, as the hub serves them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import datasets
import numpy as np
import pytest

from methods.parts.hub import open_hub


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the library's cache in the test's folder, and its progress bars off."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()


def store(
    folder: Path, config: str, splits: Mapping[str, Mapping[str, Sequence[object]]], names: list[str] | None
) -> Path:
    """Write a data set as the hub lays it out."""
    lines = ["---", "configs:", f"- config_name: {config}", "  data_files:"]
    for split, columns in splits.items():
        features = {name: datasets.Value("string") for name in columns}
        if "label" in columns:
            numbers = datasets.Value("float32" if isinstance(columns["label"][0], float) else "int64")
            features["label"] = datasets.ClassLabel(names=names) if names else numbers
        table = datasets.Dataset.from_dict(dict(columns), features=datasets.Features(features))
        file = folder / config / f"{split}-00000-of-00001.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        table.to_parquet(file)
        lines += [f"  - split: {split}", f"    path: {config}/{split}-*"]
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]))
    return folder


Columns = Mapping[str, Sequence[object]]


def sst2(folder: Path) -> Path:
    train: Columns = {"sentence": ["fine", "awful", "great"], "label": [1, 0, 1], "idx": ["0", "1", "2"]}
    dev: Columns = {"sentence": ["good", "bad"], "label": [1, 0], "idx": ["0", "1"]}
    test: Columns = {"sentence": ["eh"], "label": [-1], "idx": ["0"]}
    return store(folder, "sst2", {"train": train, "validation": dev, "test": test}, ["negative", "positive"])


def test_a_glue_task_from_a_local_copy(tmp_path: Path) -> None:
    task = open_hub("glue/sst2", sst2(tmp_path / "copy"))
    assert (task.labels, task.metric, task.max_length, task.pair) == (("negative", "positive"), "accuracy", 64, False)
    assert task.splits == ("train", "dev", "test")
    assert task.read("train").texts == ["fine", "awful", "great"]
    assert task.read("dev").labels.tolist() == [1, 0]
    assert task.read("test").labels.tolist() == [-1]


def test_a_pair_task_with_two_dev_sets_and_missing_gold(tmp_path: Path) -> None:
    rows: Columns = {"premise": ["p", "q", "r"], "hypothesis": ["h", "i", "j"], "label": [2, -1, 0]}
    splits = {"train": rows, "validation_matched": rows, "validation_mismatched": rows}
    task = open_hub("mnli", store(tmp_path / "copy", "mnli", splits, ["entailment", "neutral", "contradiction"]))
    assert task.splits == ("train", "dev", "dev_mismatched")
    examples = task.read("dev_mismatched")
    assert (examples.texts, examples.pairs, examples.labels.tolist(), examples.skipped) == (
        ["p", "r"],
        ["h", "j"],
        [2, 0],
        1,
    )


def test_a_data_set_of_ones_own_with_numbers(tmp_path: Path) -> None:
    rows: Columns = {"a": ["x", "y"], "label": [0.5, 2.5]}
    copy = store(tmp_path / "copy", "main", {"train": rows, "dev": rows}, None)
    task = open_hub("someone/data/main", copy, {"text": "a"})
    assert (task.labels, task.metric) == ((), "pearson_spearman")
    labels = task.read("dev").labels
    assert labels.dtype == np.float32
    assert labels.tolist() == [0.5, 2.5]


def test_plain_integers_are_classes(tmp_path: Path) -> None:
    rows: Columns = {"text": ["x", "y", "z"], "label": [0, 2, 1]}
    task = open_hub("someone/data", store(tmp_path / "copy", "default", {"train": rows, "validation": rows}, None))
    assert task.labels == ("0", "1", "2")


def test_names_are_classes_and_an_unknown_one_is_named(tmp_path: Path) -> None:
    rows: Columns = {"text": ["x", "y"], "mood": ["sad", "glad"]}
    dev: Columns = {"text": ["x"], "mood": ["so-so"]}
    task = open_hub("a/b", store(tmp_path / "copy", "default", {"train": rows, "dev": dev}, None), {"label": "mood"})
    assert task.labels == ("glad", "sad")
    assert task.read("train").labels.tolist() == [1, 0]
    with pytest.raises(ValueError, match=r"a/b: dev:1: label: found 'so-so', expected one of 'glad', 'sad'"):
        task.read("dev")


def test_the_fingerprint_follows_the_content(tmp_path: Path) -> None:
    first = open_hub("glue/sst2", sst2(tmp_path / "one"))
    assert open_hub("glue/sst2", sst2(tmp_path / "two")).fingerprint == first.fingerprint
    other: Columns = {"sentence": ["fine", "awful"], "label": [0, 1]}
    copy = store(tmp_path / "three", "sst2", {"train": other, "validation": other}, ["negative", "positive"])
    assert open_hub("glue/sst2", copy).fingerprint != first.fingerprint


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"glue/sst2: looked for a local copy.*is not there"):
        open_hub("glue/sst2", tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"cannot be loaded from the local copy; .*empty holds nothing"):
        open_hub("glue/sst2", tmp_path / "empty")
    rows: Columns = {"text": ["x", "y"], "label": [0, 1]}
    with pytest.raises(ValueError, match=r"looked for the split validation or .* the data set has train"):
        open_hub("someone/data", store(tmp_path / "half", "default", {"train": rows}, None))
    copy = store(tmp_path / "whole", "default", {"train": rows, "validation": rows}, None)
    with pytest.raises(ValueError, match=r"train: columns: found text, label, expected body, label"):
        open_hub("someone/data", copy, {"text": "body"})
    gaps: Columns = {"text": ["x", "y"], "label": [0, 2]}
    copy = store(tmp_path / "gaps", "default", {"train": gaps, "validation": gaps}, None)
    with pytest.raises(ValueError, match=r"column label: found values of kind int64, expected class names, integers"):
        open_hub("someone/data", copy)
