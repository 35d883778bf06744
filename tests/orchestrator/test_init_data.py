"""`init --data` fetches official files, or says in one line what was tried and what helps."""

from pathlib import Path

import huggingface_hub
import pytest

from methods.parts import official
from tests.orchestrator.test_cli import Told, distilsweep  # noqa: F401  the fixture
from tests.parts.test_hub import offline, sst2  # noqa: F401  the fixture keeps the library's cache apart


def test_without_a_hub_it_is_one_line_and_exit_code_one(
    distilsweep: Told,  # noqa: F811  the fixture
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    code, said, error = distilsweep("init", "--data", "sst2")
    assert (code, said, error.count("\n")) == (1, "", 1)
    assert error.startswith("init: sst2: tried http://127.0.0.1:9 for nyu-mll/glue: ")
    assert error.endswith("put the official files (train.tsv, dev.tsv, test.tsv) into glue/SST-2\n")


def test_a_wrong_name_and_a_folder_that_is_there_are_exit_code_two(
    distilsweep: Told,  # noqa: F811  the fixture
    tmp_path: Path,
) -> None:
    code, _, error = distilsweep("init", "--data", "sst3")
    assert (code, error.startswith("init: task: found 'sst3', allowed are cola, ")) == (2, True)
    list(official.fetch("sst2", tmp_path / "glue", sst2(tmp_path / "hub")))
    code, _, error = distilsweep("init", "--data", "sst2", tmp_path / "glue")
    assert (code, error) == (2, f"init: {tmp_path / 'glue' / 'SST-2'}: exists already; name another folder\n")
