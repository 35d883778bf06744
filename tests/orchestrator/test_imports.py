"""Published checkpoints from their files to a folder of ours: nothing in them is run, everything assumed is said."""

import json
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from methods.parts.checkpoint import card_of, load
from methods.parts.wordpiece import train_wordpiece
from orchestrator import cli
from orchestrator.configs import load_method, method_names
from orchestrator.errors import SpecError
from orchestrator.imports import Source, import_checkpoint, read_state
from orchestrator.spec import load_spec
from tests.methods.conftest import WORDS
from tests.orchestrator.test_cli import Told, distilsweep
from tests.parts.test_originals import batch_of, config_of, published, theirs
from tests.strategies import rows

__all__ = ["distilsweep"]


def write_published(folder: Path, rank: int | None = 4, labels: int = 3, **more: torch.Tensor) -> Path:
    """The files that the published programs leave behind."""
    folder.mkdir(parents=True)
    model = published(rank=rank)
    state = {**theirs(model), **more}
    if labels != 3:
        state |= {"classifier.weight": state["classifier.weight"][:labels].clone()}
        state |= {"classifier.bias": state["classifier.bias"][:labels].clone()}
    torch.save(state, folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps(config_of(model)))
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in vocabulary))
    return folder


def test_a_folder_becomes_one_that_loads_anywhere(tmp_path: Path) -> None:
    source = write_published(tmp_path / "theirs")
    done = import_checkpoint(Source(path=source), tmp_path / "ours")
    model, batch = published(), rows(published().layout)
    assert torch.equal(load(tmp_path / "ours")(batch).logits, model(batch).logits)
    opened = AutoModelForSequenceClassification.from_pretrained(tmp_path / "ours").eval()
    given = {name: getattr(batch, name) for name in ("input_ids", "attention_mask", "token_type_ids")}
    torch.testing.assert_close(opened(**given).logits, model(batch).logits)
    tokens = AutoTokenizer.from_pretrained(tmp_path / "ours")("Sun moon")["input_ids"]
    assert tokens == [2, 5, 6, 3]
    assert (done.kind, done.labels, done.projection) == ("rosita", (), None)
    about = json.loads((tmp_path / "ours" / "imported.json").read_text())
    assert (about["kind"], about["head"], about["file"]) == ("rosita", "relu", "pytorch_model.bin")


def test_mnlis_outputs_are_permuted_into_our_order(tmp_path: Path) -> None:
    source = write_published(tmp_path / "theirs")
    done = import_checkpoint(Source(path=source, task="MNLI"), tmp_path / "ours")
    assert done.labels == card_of(tmp_path / "ours").labels == ("entailment", "neutral", "contradiction")
    assert any("contradiction, entailment, neutral in the published order" in note for note in done.notes)
    model, batch = published(), rows(published().layout)
    torch.testing.assert_close(load(tmp_path / "ours")(batch).logits, model(batch).logits[:, [1, 2, 0]])


def test_two_classes_keep_their_order(tmp_path: Path) -> None:
    done = import_checkpoint(Source(path=write_published(tmp_path / "theirs", labels=2), task="rte"), tmp_path / "ours")
    assert done.labels == ("entailment", "not_entailment")
    assert not any("published order" in note for note in done.notes)


def test_a_projection_lies_beside_the_model(tmp_path: Path) -> None:
    weight, bias = torch.randn(16, 8), torch.randn(16)
    source = write_published(tmp_path / "theirs", None, **{"fit_dense.weight": weight, "fit_dense.bias": bias})
    done = import_checkpoint(Source(path=source), tmp_path / "ours")
    assert done.kind == "tinybert"
    stored = load_file(tmp_path / "ours" / "projection.safetensors")
    assert torch.equal(stored["weight"], weight)
    assert not any("fit_dense" in name for name in load_file(tmp_path / "ours" / "model.safetensors"))


def test_safetensors_and_a_single_file_are_read_too(tmp_path: Path) -> None:
    source = write_published(tmp_path / "theirs")
    state = torch.load(source / "pytorch_model.bin", weights_only=True)
    import_checkpoint(Source(path=source / "pytorch_model.bin"), tmp_path / "one")
    save_file(state, source / "model.safetensors")
    (source / "pytorch_model.bin").unlink()
    import_checkpoint(Source(path=source), tmp_path / "two")
    assert (tmp_path / "one/model.safetensors").read_bytes() == (tmp_path / "two/model.safetensors").read_bytes()


class Trap:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.mark,))


def test_a_pickle_that_needs_more_than_tensors_is_refused_and_not_run(tmp_path: Path, distilsweep: Told) -> None:
    source, mark = write_published(tmp_path / "theirs"), tmp_path / "mark"
    torch.save({"bert.x": torch.zeros(1), "trap": Trap(mark)}, source / "pytorch_model.bin")
    code, told, error = distilsweep("import", source, "--out", tmp_path / "ours")
    assert (code, told) == (2, "")
    assert "refused" in error
    assert len(error.splitlines()) == 1
    assert not mark.exists()
    assert not (tmp_path / "ours").exists()
    (source / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(mark)))
    with pytest.raises(ValueError, match="refused"):
        read_state(source / "pytorch_model.bin")
    assert not mark.exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"", "refused"), (b"not a pickle", "refused")],
)
def test_broken_files_are_one_line(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=says):
        read_state(path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="not a safetensors file"):
        read_state(path)


@pytest.mark.parametrize("held", [[1, 2], {"epoch": 3}, {1: torch.zeros(1)}, {}])
def test_only_a_dictionary_of_tensors_is_a_checkpoint(tmp_path: Path, held: object) -> None:
    torch.save(held, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="allowed is a"):
        read_state(tmp_path / "pytorch_model.bin")


def test_what_is_wrong_with_the_request_is_said_in_a_line(tmp_path: Path, distilsweep: Told) -> None:
    source, out = write_published(tmp_path / "theirs"), ("--out", tmp_path / "ours")
    for words, says in (
        ((source, "--kind", "rosta", *out), "did you mean 'rosita'?"),
        ((source, "--head", "tanh", *out), "allowed: plain, relu"),
        ((source, "--task", "mnly", *out), "did you mean 'mnli'?"),
        ((source, "--task", "sst2", *out), "found a classifier of 3 outputs; the task sst2 has negative, positive"),
        ((tmp_path / "nowhere", *out), "looked for model.safetensors or pytorch_model.bin"),
        ((source, "--out", source), "exists already"),
        ((source, "--tokenizer", tmp_path / "nowhere", *out), "tokenizer"),
    ):
        code, told, error = distilsweep("import", *words)
        assert (code, told) == (2, ""), says
        assert says in error
        assert len(error.splitlines()) == 1
    (source / "config.json").unlink()
    assert "config.json beside pytorch_model.bin" in distilsweep("import", source, *out)[2]
    assert not (tmp_path / "ours").exists()


def test_a_tokenizer_larger_than_the_word_table_is_refused(tmp_path: Path) -> None:
    train_wordpiece(["a b c"], 40, tmp_path / "tokenizer")
    with pytest.raises(ValueError, match="a tokenizer of 40 pieces, the word table has 20 rows"):
        import_checkpoint(
            Source(path=write_published(tmp_path / "theirs"), tokenizer=tmp_path / "tokenizer"), tmp_path / "ours"
        )


def test_the_command_says_what_it_assumed(tmp_path: Path, distilsweep: Told) -> None:
    source = write_published(tmp_path / "theirs")
    (source / "vocab.txt").unlink()
    code, told, error = distilsweep("import", source, "--out", tmp_path / "ours")
    assert code == 0, error
    for said in ("rosita", "head: relu", "--task", "--tokenizer", "distilsweep evaluate"):
        assert said in told
    code, told, _ = distilsweep("import", source, "--out", tmp_path / "again", "--json", "--head", "plain")
    assert json.loads(told)["kind"] == "rosita"
    with pytest.raises(SpecError, match="exists already"):
        import_checkpoint(Source(path=source), tmp_path / "ours")


GUIDE = Path(__file__).resolve().parents[2] / "docs" / "from-the-originals.md"


def test_the_guide_names_only_what_exists(tmp_path: Path) -> None:
    text = GUIDE.read_text(encoding="utf-8")
    shared, *parts = [part for part in text.split("\n## ")[1:] if not part.startswith("Your")]
    names = [part.split("\n", 1)[0].lower() for part in parts]
    assert {"rosita", "hsk", "tinybert", "lad"} <= {*names} <= {*method_names()}
    for part, name in zip(parts, names, strict=True):
        method = load_method(name)
        said = shared + part if name in {"rosita", "hsk", "tinybert"} else part  # the first three have it in common
        assert set(re.findall(r"fixed\.(\w+)", said)) - {"recipe"} <= set(method.fields)
        assert set(re.findall(r"fixed\.recipe=([\w-]+)", part)) <= set(method.recipes)
    commands = {command.name or getattr(command.callback, "__name__", "") for command in cli.app.registered_commands}
    named = {
        first or second for first, second in re.findall(r"`distilsweep (\w+)|^distilsweep (\w+)", text, re.MULTILINE)
    }
    assert named <= commands
    (tmp_path / "sweep.yaml").write_text(text.split("```yaml\n")[1].split("```")[0], encoding="utf-8")
    assert load_spec(tmp_path / "sweep.yaml").search.trials == 1


@pytest.mark.shared
def test_rositas_golden_model_gives_its_logits_after_the_import(shared: Path, tmp_path: Path) -> None:
    arrays = np.load(shared / "golden" / "golden_rosita.npz")
    begins = ("P.bert.", "P.classifier.")
    state = {key[2:]: torch.from_numpy(arrays[key]) for key in arrays.files if key.startswith(begins)}
    torch.save(state, tmp_path / "pytorch_model.bin")
    config = {"num_attention_heads": 2, "prun_hidden_size": 32, "prun_intermediate_size": 64, "emb_hidden_dim": 16}
    (tmp_path / "config.json").write_text(json.dumps(config))
    done = import_checkpoint(Source(path=tmp_path), tmp_path / "ours")
    assert done.params == int(arrays["P.num_params_state_dict"])
    logits = load(tmp_path / "ours")(batch_of(arrays, "batch0.")).logits.detach()
    np.testing.assert_allclose(logits, arrays["P.out.logits"], rtol=1e-5, atol=1e-6)


@pytest.mark.shared
@pytest.mark.parametrize("name", ["rosita6", "tiny4"])
def test_hsks_golden_models_give_their_logits_after_the_import(shared: Path, tmp_path: Path, name: str) -> None:
    arrays = np.load(shared / "golden" / "golden_mud.npz")
    prefix = f"w.{name}."
    state = {key.removeprefix(prefix): torch.from_numpy(arrays[key]) for key in arrays.files if key.startswith(prefix)}
    torch.save(state, tmp_path / "pytorch_model.bin")
    config = json.loads(arrays["meta_json"].tobytes())["models"][name]
    (tmp_path / "config.json").write_text(json.dumps(config))
    done = import_checkpoint(Source(path=tmp_path, kind="hsk"), tmp_path / "ours")
    assert (done.projection is not None) == (name == "tiny4")
    logits = load(tmp_path / "ours")(batch_of(arrays, "pair.")).logits.detach()
    np.testing.assert_allclose(logits, arrays[f"fwd.{name}.logits_relu"], rtol=1e-5, atol=1e-6)


def write_lad(folder: Path, shared: Path, task: str) -> Any:
    """The golden teacher and gates of LAD as its program leaves them, at two steps."""
    arrays = np.load(shared / "golden" / "golden_lad.npz")
    folder.mkdir(parents=True)
    state = {
        key.removeprefix("teacher/"): torch.from_numpy(arrays[key])
        for key in arrays.files
        if key.startswith("teacher/")
    }
    state["encoder.embeddings.position_ids"] = torch.arange(32)[None]
    torch.save({name: torch.zeros_like(value) for name, value in state.items()}, folder / "model-900.pt")
    torch.save(state, folder / "model-1000.pt")
    for number in range(4):
        prefix = f"gate0/{number}/"
        gate = {
            key.removeprefix(prefix): torch.from_numpy(arrays[key]) for key in arrays.files if key.startswith(prefix)
        }
        torch.save(gate, folder / f"gate-{number}-1000.pt")
    config = {"task": task, "num_attention_heads": 4, "d_model": 64, "num_hidden_layers": 4, "dropout": 0.0}
    (folder / "config.json").write_text(json.dumps(config))
    return arrays


@pytest.mark.shared
def test_lads_golden_teacher_gives_its_logits_and_keeps_its_gates(shared: Path, tmp_path: Path) -> None:
    arrays = write_lad(tmp_path / "theirs", shared, "mnli")
    done = import_checkpoint(Source(path=tmp_path / "theirs"), tmp_path / "ours")
    assert (done.kind, done.labels) == ("lad", ("entailment", "neutral", "contradiction"))
    names = {name: arrays[f"in/{name}"] for name in ("input_ids", "attention_mask", "token_type_ids", "labels")}
    logits = load(tmp_path / "ours")(batch_of(names, "")).logits.detach()
    np.testing.assert_allclose(logits, arrays["teacher_logits"], rtol=1e-5, atol=1e-5)
    gates = load_file(tmp_path / "ours" / "gates.safetensors")
    assert len(gates) == 16
    np.testing.assert_array_equal(gates["3.linear.weight"], arrays["gate0/3/linear.weight"])
    assert any("the 4 gates of this step" in note for note in done.notes)
    about = json.loads((tmp_path / "ours" / "imported.json").read_text())
    assert (about["file"], about["head"]) == ("model-1000.pt", "plain")


def test_a_dynabert_is_cut_to_a_width(tmp_path: Path, distilsweep: Told) -> None:
    model = published(heads=4, head_width=2, rank=None)
    (tmp_path / "theirs").mkdir()
    torch.save(model.state_dict(), tmp_path / "theirs" / "pytorch_model.bin")
    config = {"num_attention_heads": 4, "hidden_size": 8, "intermediate_size": 5, "num_hidden_layers": 2}
    (tmp_path / "theirs" / "config.json").write_text(json.dumps(config))
    words = ("import", tmp_path / "theirs", "--out", tmp_path / "ours")
    code, told, error = distilsweep(*words, "--kind", "dynabert", "--width", "0.5", "--task", "mnli")
    assert code == 0, error
    assert "the leading 2 heads of each layer" in told
    assert "contradiction, entailment, neutral in the published order" in told
    assert [(layer.heads, layer.ffn) for layer in load(tmp_path / "ours").layout.layers] == [(2, 2)] * 2
    words = ("import", tmp_path / "theirs", "--out", tmp_path / "shallow", "--kind", "dynabert", "--depth", "0.5")
    code, told, error = distilsweep(*words)
    assert code == 0, error
    assert "layers 1 of 2 (the first of each group)" in told
    code, _, error = distilsweep(*words[:3], tmp_path / "none", *words[4:], "--keep", "middle")
    assert code == 2
    assert "--keep: found 'middle'; allowed: last, first" in error
    code, _, error = distilsweep("import", tmp_path / "theirs", "--out", tmp_path / "more", "--width", "0.5")
    assert code == 2
    assert "--kind dynabert" in error
