"""Every form of an export, of every kind of shape: reopened elsewhere, compared, described, or refused in a line."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

import orchestrator.export as exporting
from methods.parts.bert import Bert
from methods.parts.checkpoint import load, save
from methods.parts.layout import LayerLayout, Layout
from orchestrator import graphs, proof, records
from orchestrator.errors import SpecError, SweepError
from orchestrator.export import export
from orchestrator.folder import SweepFolder
from orchestrator.formats import Wanted, write
from orchestrator.records import TrialRecord
from orchestrator.reopen import INPUTS, WAYS
from tests.orchestrator.stored import BARE, POSITIONS, VOCAB, stored_sweep
from tests.orchestrator.test_cli import Told, distilsweep
from tests.strategies import random_bert

pytestmark = pytest.mark.long

__all__ = ["distilsweep"]

ONNX = all(find_spec(name) for name in graphs.NEEDED)
needs_onnx = pytest.mark.skipif(not ONNX, reason="the optional dependencies `onnx` are not installed")


def layer(heads: int, width: int, ffn: int) -> LayerLayout:
    return LayerLayout(heads=heads, head_width=width, ffn=ffn)


SHAPES = {
    "pruned": ((layer(1, 4, 6),) * 2, 3),
    "unequal": ((layer(1, 4, 5), layer(0, 4, 0), layer(2, 3, 9)), None),
    "stock": ((layer(2, 4, 6),) * 2, None),
}


def add(folder: SweepFolder, trial: str, model: Bert) -> None:
    """One more finished trial."""
    tokenizer = folder.trial("t0000") / "model-tokenizer"
    save(model, folder.trial(trial) / "model", tokenizer=tokenizer, labels=("0", "1"))
    metrics = {"score": 0.5, "score_se": 0.05, "held": 0.4, "held_se": 0.05}
    records.write(
        folder,
        TrialRecord(
            **{**BARE, "trial": trial, "key": trial},
            layout=model.layout.to_json(),
            costs={"params": model.layout.params()},
            metrics=metrics,
            model=f"trials/{trial}/model",
        ),
    )


def shaped(layers: tuple[LayerLayout, ...], rank: int | None) -> Layout:
    return Layout(vocab=VOCAB, positions=POSITIONS, types=2, hidden=8, embedding_rank=rank, layers=layers, labels=2)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> SweepFolder:
    folder = stored_sweep(tmp_path_factory.mktemp("place"))
    for trial, (layers, rank) in SHAPES.items():
        add(folder, trial, random_bert(shaped(layers, rank)))
    add(folder, "relu", random_bert(shaped(*SHAPES["pruned"]), head="relu"))
    return folder


def record_of(sweep: SweepFolder, trial: str) -> TrialRecord:
    return records.read_one(sweep.record(trial))


FORMS = {
    "compact": Wanted(),
    "code": Wanted(with_code=True),
    "compatible": Wanted(format="compatible"),
    "torch-export": Wanted(format="torch-export"),
}


@pytest.mark.parametrize("trial", SHAPES)
@pytest.mark.parametrize("form", [*FORMS, pytest.param("onnx", marks=needs_onnx)])
def test_every_form_of_every_shape_answers_like_the_model(
    sweep: SweepFolder, tmp_path: Path, trial: str, form: str
) -> None:
    source = sweep.trial(trial) / "model"
    model = load(source)
    written = write(FORMS[form] if form in FORMS else Wanted(format=form), model, source, tmp_path / "mine")
    assert {"config.json", "vocab.txt", written.file} <= {path.name for path in (tmp_path / "mine").iterdir()}
    answer = WAYS[written.way](tmp_path / "mine")
    for given in proof.batches(model.layout):
        found = torch.tensor(answer({name: getattr(given, name).tolist() for name in INPUTS}))
        torch.testing.assert_close(found, model(given).logits.detach(), rtol=0, atol=exporting.TOLERANCE)
    if form == "compatible":
        assert any("become" in note for note in written.notes) == (trial != "stock")
        assert json.loads((tmp_path / "mine" / "config.json").read_text())["model_type"] == "bert"


@pytest.mark.process
@pytest.mark.parametrize(
    ("trial", "form"),
    [
        ("pruned", "compact"),
        ("unequal", "code"),
        ("pruned", "torch-export"),
        ("unequal", "torch-export"),
        pytest.param("unequal", "onnx", marks=needs_onnx),
    ],
)
def test_an_export_is_proved_in_a_fresh_process(sweep: SweepFolder, tmp_path: Path, trial: str, form: str) -> None:
    wanted = FORMS[form] if form in FORMS else Wanted(format=form)
    done = export(sweep, record_of(sweep, trial), tmp_path / "mine", wanted)
    assert done.max_difference <= exporting.TOLERANCE
    about = json.loads((tmp_path / "mine" / "exported.json").read_text())
    assert (about["trial"], about["format"], len(about["shapes"])) == (trial, wanted.format, 3)
    assert done.size_bytes == (tmp_path / "mine" / about["file"]).stat().st_size > 0
    text = (tmp_path / "mine" / "README.md").read_text(encoding="utf-8")
    code = text.split("```python\n")[1].split("```")[0]
    compile(code, "README.md", "exec")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    if form == "torch-export":
        monkey = {"__name__": "readme"}
        exec(code.replace("'model.pt2'", repr(str(tmp_path / "mine" / "model.pt2"))).replace("128", "16"), monkey)
        assert tuple(monkey["logits"].shape) == (2, 2)  # type: ignore[attr-defined]


CONSUMER = """
import json, sys, torch
for name in ("methods", "orchestrator"):
    sys.modules[name] = None
from transformers import AutoModelForSequenceClassification
given = {name: torch.tensor(rows) for name, rows in json.load(sys.stdin).items()}
model = AutoModelForSequenceClassification.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
loss = model(**given, labels=torch.zeros(len(given["input_ids"]), dtype=torch.long)).loss
loss.backward()
assert model.classifier.weight.grad.abs().sum() > 0
model.save_pretrained(sys.argv[2])
with torch.no_grad():
    print(json.dumps(model(**given).logits.double().tolist()))
"""


@pytest.mark.process
def test_a_consumer_without_this_package_opens_and_trains_a_model_with_its_code(
    sweep: SweepFolder, tmp_path: Path
) -> None:
    export(sweep, record_of(sweep, "unequal"), tmp_path / "mine", Wanted(with_code=True))
    model = load(sweep.trial("unequal") / "model")
    given = proof.batch(model.layout, 3, 9)
    done = subprocess.run(
        [sys.executable, "-c", CONSUMER, str(tmp_path / "mine"), str(tmp_path / "again")],
        input=json.dumps({name: getattr(given, name).tolist() for name in INPUTS}),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HF_MODULES_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    found = torch.tensor(json.loads(done.stdout.splitlines()[-1]))
    torch.testing.assert_close(found, model(given).logits.detach(), rtol=0, atol=1e-5)
    saved = load_file(tmp_path / "again" / "model.safetensors")
    assert set(saved) == set(model.state_dict())
    here = AutoModelForSequenceClassification.from_pretrained(tmp_path / "mine").eval()
    assert type(here).__module__ == "methods.parts.registered"  # the installed package's own class, not the file's


@pytest.mark.process
def test_the_command_exports_the_winner_and_says_what_compatibility_costs(
    distilsweep: Told, sweep: SweepFolder, tmp_path: Path
) -> None:
    words = ("--folder", sweep.root, "--format", "compatible", "--licence", "apache-2.0")
    code, told, error = distilsweep("export", "tiny", "pruned", *words)
    assert code == 0, error
    assert "parameters become" in told
    assert "it runs like its shape: 2 heads x 2 layers" in told
    folder = sweep.path / "export" / "pruned-compatible"
    text = (folder / "README.md").read_text(encoding="utf-8")
    for said in (
        'license: "apache-2.0"',
        "2 heads x 2 layers",
        "weather",
        "trained from random weights by the sweep",
        "The teacher scores",
        "data fingerprint",
        "0.5000 ± 0.1000",
        "AutoModelForSequenceClassification.from_pretrained('.')",
    ):
        assert said in text
    assert str(sweep.root) not in text
    words = ("--folder", sweep.root, "--format", "torch-export")
    code, told, error = distilsweep("export", "tiny", *words, "--out", tmp_path / "best", "--json")
    assert code == 0, error
    assert json.loads(told)["path"] == str(tmp_path / "best")
    assert 'license: "unknown"' in (tmp_path / "best" / "README.md").read_text(encoding="utf-8")


@pytest.mark.process
def test_nothing_is_left_of_an_export_that_answers_differently(
    sweep: SweepFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "TOLERANCE", -1.0)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "exported.json").write_text("before")
    with pytest.raises(SweepError, match="stock: reopened logits differ by"):
        export(sweep, record_of(sweep, "stock"), tmp_path / "mine", FORMS["torch-export"])
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert (tmp_path / "mine" / "exported.json").read_text() == "before"


@pytest.mark.process
def test_other_weights_and_broken_folders_are_found_out(tmp_path: Path) -> None:
    layout = shaped(*SHAPES["stock"])
    graphs.write_program(random_bert(layout), tmp_path)
    other = random_bert(layout, seed=5)
    assert proof.difference(other, tmp_path, "torch-export") > 1e-3
    three = random_bert(Layout.from_json(layout.to_json() | {"labels": 3}))
    with pytest.raises(SweepError, match="the trained model's differ"):
        proof.difference(three, tmp_path, "torch-export")
    (tmp_path / "model.pt2").write_bytes(b"no")
    with pytest.raises(SweepError, match="does not reopen in a fresh process"):
        proof.difference(other, tmp_path, "torch-export")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("pruned", "--format", "compatable"), "did you mean 'compatible'?"),
        (("pruned", "--format", "onnx", "--with-code"), "--with-code: found --format onnx"),
        (("pruned", "--int8"), "--int8: found --format compact; allowed with onnx"),
        (("pruned", "--licence", " "), "--licence: found ' '"),
        (("relu", "--format", "compatible"), "relu: head: found 'relu', allowed is 'plain'"),
        (("t9",), "no trial 't9'"),
        (("t0003",), "no model is stored for it (status stopped)"),
    ],
)
def test_what_cannot_be_had_is_said_in_a_line(
    distilsweep: Told, sweep: SweepFolder, words: tuple[str, ...], says: str
) -> None:
    code, told, error = distilsweep("export", "tiny", *words, "--folder", sweep.root)
    assert (code, told) == (1 if "t0003" in words else 2, "")
    assert says in error
    assert len(error.splitlines()) == 1
    assert not list(sweep.path.glob("export/*relu*"))


@pytest.mark.skipif(ONNX, reason="the optional dependencies `onnx` are installed")
def test_onnx_without_its_packages_names_the_extra(sweep: SweepFolder, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"not installed: pip install 'distilsweep\[onnx\]'"):
        export(sweep, record_of(sweep, "stock"), tmp_path / "mine", Wanted(format="onnx"))
    assert not list(tmp_path.iterdir())


@needs_onnx
@pytest.mark.process
def test_a_quantised_graph_is_measured_on_dev(sweep: SweepFolder, tmp_path: Path) -> None:
    done = export(sweep, record_of(sweep, "pruned"), tmp_path / "mine", Wanted(format="onnx", int8=True))
    assert done.int8 is not None
    assert done.int8.before["accuracy"] == pytest.approx(done.int8.after["accuracy"], abs=0.2)
    assert any("accuracy" in line for line in done.lines())
    assert (tmp_path / "mine" / "model.int8.onnx").is_file()
