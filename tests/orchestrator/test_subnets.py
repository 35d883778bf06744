"""Another sub-network of a trial's supernet, exported without a trial of its own."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from methods.parts.checkpoint import load
from methods.parts.run import LocalRun
from orchestrator import records
from orchestrator.folder import SweepFolder
from orchestrator.job import run_job
from orchestrator.records import TrialRecord
from orchestrator.spec import load_spec
from orchestrator.subnets import Point
from tests.methods.conftest import write_table
from tests.orchestrator.stored import BARE
from tests.orchestrator.test_cli import Told, distilsweep

pytestmark = [pytest.mark.long, pytest.mark.process]

__all__ = ["distilsweep"]

SWEEP = """
name: nets
task: {name: weather, data: data, max_length: 16}
teacher:
  architecture: {layers: 3, heads: 4, hidden: 16, ffn_dim: 24, vocab: 64, positions: 24, init_std: 0.2}
  finetune: {epochs: 2, lr: 5.0e-3, batch_size: 16}
method: dynabert
space: {width: {choice: [1.0, 0.5]}, depth: {choice: [1.0, 0.67]}}
"""
CONFIG = {
    **{"widths": [1.0, 0.5], "depths": [1.0, 0.67], "width": 1.0, "epochs": 1.0, "depth_epochs": 1.0, "lr": 3e-3},
    **{"batch_size": 16, "importance_examples": 64},
}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> SweepFolder:
    """Two trials of one supernet: the whole of it, and two of its three layers at half the width."""
    place = tmp_path_factory.mktemp("nets")
    write_table(place / "data")
    folder = SweepFolder(place / "sweeps", "nets")
    (place / "nets.yaml").write_text(SWEEP, encoding="utf-8")
    spec = load_spec(place / "nets.yaml")
    common = {"kind": "trial", "task": spec.task_arguments(), "teacher": spec.to_json()["teacher"]}
    for trial, changes in (("t0000", {}), ("t0001", {"width": 0.5, "depth": 0.67})):
        config = {**CONFIG, **changes}
        run = LocalRun(folder.trial(trial), store=folder.store)
        job = {**common, "folder": str(folder.trial(trial)), "method": "dynabert", "config": config}
        result = run_job(job, run)
        result["model"] = f"trials/{trial}/{result['model']}"
        records.write(
            folder, TrialRecord(**{**BARE, "trial": trial, "method": "dynabert", "config": config}, **result, costs={})
        )
    records.write(folder, TrialRecord(**{**BARE, "trial": "t0002"}))
    plan = {"hash": "", "spec": spec.to_json(), "labels": ["0", "1"], "budget": {}, "length": 16}
    records.write_text(folder.file("plan.json"), json.dumps(plan))
    return folder


def test_a_sub_network_is_the_one_that_a_trial_would_have_taken(sweep: SweepFolder, distilsweep: Told) -> None:
    words = ("export", "nets", "t0000", "--folder", sweep.root)
    code, told, error = distilsweep(*words, "--width", "0.5", "--depth", "0.67")
    assert code == 0, error
    exported = sweep.path / "export" / "t0000-width-0.5-depth-0.67"
    assert str(exported) in told
    same = load_file(sweep.trial("t0001") / "model" / "model.safetensors")
    found = load_file(exported / "model.safetensors")
    assert found.keys() == same.keys()
    assert all(found[name].equal(value) for name, value in same.items())
    score = records.read_one(sweep.record("t0001")).metrics["score"]
    card = (exported / "README.md").read_text(encoding="utf-8")
    assert f"{score:.4f}" in card
    assert "2 heads x 2 layers" in card
    assert records.read_one(sweep.record("t0000")).config == {**CONFIG}, "the trial's own record stays"


def test_a_width_for_each_layer(sweep: SweepFolder, distilsweep: Told, tmp_path: Path) -> None:
    words = ("export", "nets", "t0001", "--folder", sweep.root, "--depth", "1", "--out", tmp_path / "mine")
    code, _, error = distilsweep(*words, "--layer-widths", "1,0.5,0.75")
    assert code == 0, error
    assert [layer.heads for layer in load(tmp_path / "mine").layout.layers] == [4, 2, 3]


@pytest.mark.parametrize(
    ("trial", "option", "said"),
    [
        ("t0000", ("--width", "0.25"), "t0000: width: found 0.25"),
        ("t0000", ("--layer-widths", "1,0.5"), "layer_widths: found 2 numbers"),
        ("t0000", ("--layer-widths", "1,wide"), "--layer-widths: found '1,wide'"),
        ("t0002", ("--width", "0.5"), "t0002: found a trial of rosita"),
    ],
)
def test_what_the_supernet_does_not_hold_is_refused_in_a_line(
    sweep: SweepFolder, distilsweep: Told, trial: str, option: tuple[str, str], said: str
) -> None:
    code, _, error = distilsweep("export", "nets", trial, "--folder", sweep.root, *option)
    assert code == 2
    assert said in error
    assert len(error.splitlines()) == 1


def test_a_point_replaces_what_it_names() -> None:
    assert not Point()
    own = {"width": 1.0, "per_layer": True, "width_1": 0.5, "depth": 1.0, "ffn_width": 0.75, "epochs": 3}
    assert Point(depth=0.5).over(own) == {**own, "depth": 0.5}
    wide = Point(width=0.5).over(own)
    assert (wide["width"], wide["per_layer"], wide["width_1"], wide["ffn_width"]) == (0.5, False, None, None)
    assert Point(layer_widths=(1.0, 0.5)).over(own)["ffn_width"] is None, "neurons follow the heads"
    assert Point(ffn_width=0.5).over(own)["width_1"] == 0.5, "heads stay"
    assert Point(width=0.5, layer_widths=(1.0, 0.5)).name == "width-0.5-layer-widths-1+0.5"
