"""The work of a trial without a cluster: teacher from a description, method, final numbers, a model that reopens."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from methods.parts.checkpoint import load, save
from methods.parts.layout import Layout
from methods.parts.run import LocalRun
from methods.parts.tasks import open_task
from orchestrator.errors import SweepError
from orchestrator.export import export
from orchestrator.folder import SweepFolder
from orchestrator.job import run_job
from orchestrator.records import TrialRecord
from orchestrator.teachers import checkpoint_folder, prepare_teacher
from tests.methods.conftest import write_table

ARCHITECTURE = {"layers": 2, "heads": 2, "hidden": 8, "ffn_dim": 12, "vocab": 48, "positions": 20}
SCRATCH = {"architecture": {**ARCHITECTURE, "dropout": 0.0, "init_std": 0.2}}
STUDENT = {"heads": 1, "layers": 1, "ffn_dim": 6, "embedding_rank": 4, "epochs": 1.0, "batch_size": 16}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("table")
    write_table(folder)
    return folder


def job(table: Path, folder: Path, **changes: Any) -> dict[str, Any]:
    task = {"name": "weather", "data": str(table), "max_length": 16}
    teacher = {**SCRATCH, "finetune": {"epochs": 1.0, "lr": 3e-3, "batch_size": 16}}
    return {
        **{"kind": "trial", "task": task, "teacher": teacher, "folder": str(folder)},
        **{"method": "rosita", "config": STUDENT},
        **changes,
    }


def test_a_trial_gives_a_model_and_numbers_on_both_halves(table: Path, tmp_path: Path) -> None:
    run = LocalRun(tmp_path / "t0000", store=tmp_path / "store")
    result = run_job(job(table, tmp_path / "t0000"), run)
    json.dumps(result)
    assert {"score", "score_se", "held", "held_se", "dev", "dev_se", "loss"} <= set(result["metrics"])
    halves = (result["metrics"]["score"] + result["metrics"]["held"]) / 2
    assert result["metrics"]["dev"] == pytest.approx(halves)
    model = load(tmp_path / "t0000" / result["model"])
    assert model.layout == Layout.from_json(result["layout"])
    assert model.layout.params() == sum(
        value.numel() for value in load_file(tmp_path / "t0000/model/model.safetensors").values()
    )


def test_teacher_and_trials_share_one_teacher(table: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    first = run_job(job(table, tmp_path / "teacher", kind="teacher"), LocalRun(tmp_path / "teacher", store=store))
    run_job(job(table, tmp_path / "t0000"), LocalRun(tmp_path / "t0000", store=store))
    assert len(list(store.glob("teacher-*/manifest.json"))) == 1
    tuned = next(store.glob("teacher-*/model"))
    stored, own = (load_file(folder / "model.safetensors") for folder in (tuned, tmp_path / "teacher" / "model"))
    assert all(torch.equal(stored[name], own[name]) for name in stored)
    assert first["notes"]["stored"] == str(tuned)


def test_an_untrained_checkpoint_needs_fine_tuning(table: Path, tmp_path: Path) -> None:
    task = open_task("weather", table, max_length=16)
    run = LocalRun(tmp_path, store=tmp_path / "store")
    teacher = prepare_teacher(task, {**SCRATCH, "finetune": {"epochs": 0.0}}, run)
    bare = dataclasses.replace(load(teacher.tuned).layout, labels=0)
    model = load(teacher.tuned)
    state = {name: value for name, value in model.state_dict().items() if not name.startswith("classifier")}
    model.layout, model.classifier = bare, None
    assert set(model.state_dict()) == set(state)
    save(model, tmp_path / "bare", tokenizer=teacher.tokenizer)
    with pytest.raises(ValueError, match=r"has no classifier; give teacher\.finetune"):
        prepare_teacher(task, {"model": str(tmp_path / "bare")}, run)


def test_a_teacher_in_another_order_is_permuted_and_one_of_another_task_refused(table: Path, tmp_path: Path) -> None:
    task = open_task("weather", table, max_length=16)
    run = LocalRun(tmp_path, store=tmp_path / "store")
    tuned = prepare_teacher(task, {**SCRATCH, "finetune": {"epochs": 0.0}}, run).tuned
    save(load(tuned), tmp_path / "swapped", tokenizer=tuned, labels=("1", "0"))
    opened = prepare_teacher(task, {"model": str(tmp_path / "swapped")}, run)
    weights, swapped = load(opened.tuned).state_dict(), load(tuned).state_dict()
    assert torch.equal(weights["classifier.weight"], swapped["classifier.weight"].flip(0))
    assert opened.labels == ("0", "1")
    save(load(tuned), tmp_path / "other", tokenizer=tuned, labels=("cat", "dog"))
    with pytest.raises(ValueError, match="the checkpoint has cat, dog; the task has 0, 1"):
        prepare_teacher(task, {"model": str(tmp_path / "other")}, run)


def test_a_package_without_a_checkpoint_is_named() -> None:
    with pytest.raises(ValueError, match="found no checkpoint in 'json'"):
        checkpoint_folder({"package": "json"})
    with pytest.raises(ValueError, match="found no checkpoint in 'no_such_package'"):
        checkpoint_folder({"package": "no_such_package"})


@pytest.mark.process
def test_an_export_reopens_in_a_fresh_process(table: Path, tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path, "sweep")
    trial = folder.trial("t0000")
    result = run_job(job(table, trial), LocalRun(trial, store=folder.store))
    record = TrialRecord(
        **{
            "trial": "t0000",
            "method": "rosita",
            "sample": {},
            "config": STUDENT,
            "key": "k",
            "seed": 0,
            "status": "done",
        },
        **{"layout": result["layout"], "metrics": result["metrics"], "model": "trials/t0000/model"},
    )
    exported = export(folder, record)
    assert exported.path == folder.path / "export" / "t0000"
    assert exported.max_difference <= 1e-6
    assert "from_pretrained('.')" in (exported.path / "README.md").read_text(encoding="utf-8")
    assert {path.name for path in exported.path.iterdir()} >= {"config.json", "model.safetensors", "vocab.txt"}
    assert export(folder, record).path == exported.path
    with pytest.raises(SweepError, match="no model is stored"):
        export(folder, dataclasses.replace(record, model=None, status="failed"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("keep me")
    with pytest.raises(SweepError, match="is not an exported model"):
        export(folder, record, tmp_path / "mine")
    assert (tmp_path / "mine" / "letter.txt").read_text() == "keep me"
