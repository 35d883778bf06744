"""Checkpoints of LAD, DynaBERT and WID, renamed: the imported model computes what theirs did."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from methods.parts.bert import Bert
from methods.parts.foreign import Part, foreign_kind, translate
from methods.parts.layout import Layout
from methods.parts.originals import convert, kind_of, label_order
from tests.parts.test_originals import batch_of
from tests.strategies import random_bert, rows

LAYOUT = Layout.uniform(vocab=20, positions=12, hidden=16, num_layers=2, heads=4, head_width=4, ffn=8, labels=3)


def lad(model: Bert) -> dict[str, Tensor]:
    return {
        name.replace("classifier.", "linear_layer.").replace("bert.", "encoder."): value.clone()
        for name, value in model.state_dict().items()
    }


@pytest.mark.parametrize(
    "config", [{"num_attention_heads": 4, "d_model": 16}, {"ptrain_ver": "bert-base-uncased", "dropout": 0.2}]
)
def test_lads_names_are_read(config: dict[str, object]) -> None:
    model = random_bert(LAYOUT)
    state = {**lad(model), "encoder.embeddings.position_ids": torch.arange(12)}
    if "ptrain_ver" in config:
        with pytest.raises(ValueError, match="num_attention_heads: found 12"):
            convert(state, config)
        return
    found = convert(state, config)
    assert (found.kind, found.model.head) == ("lad", "plain")
    batch = rows(LAYOUT)
    assert torch.equal(found.model(batch).logits, model(batch).logits)


def test_lads_classes_have_another_order() -> None:
    assert label_order("rte", ("entailment", "not_entailment"), "lad") == (1, 0)
    assert label_order("qnli", ("entailment", "not_entailment"), "lad") == (1, 0)
    assert label_order("mnli", ("entailment", "neutral", "contradiction"), "lad") == (0, 1, 2)
    assert label_order("mnli", ("entailment", "neutral", "contradiction"), "dynabert") == (1, 2, 0)
    assert label_order("mnli", ("entailment", "neutral", "contradiction"), "wid") == (0, 1, 2)


def test_dynaberts_widths_are_the_leading_heads_and_neurons() -> None:
    model = random_bert(LAYOUT)
    config = {"num_attention_heads": 4, "hidden_size": 16, "num_hidden_layers": 2}
    whole = convert(model.state_dict(), config, kind="dynabert")
    assert whole.model.layout == LAYOUT
    half = convert(model.state_dict(), config, kind="dynabert", part=Part(width=0.5))
    assert [(layer.heads, layer.head_width, layer.ffn) for layer in half.model.layout.layers] == [(2, 4, 4)] * 2
    again = convert(half.model.state_dict(), config, kind="dynabert")
    assert again.model.layout == half.model.layout
    odd = convert(model.state_dict(), config, kind="dynabert", part=Part(width=0.6))
    assert any("the nearest to 0.6 of 4" in note for note in odd.notes)
    for width in (0.0, 1.5):
        with pytest.raises(ValueError, match=f"width: found {width}, allowed is a share"):
            convert(model.state_dict(), config, kind="dynabert", part=Part(width=width))
    shallow = convert(model.state_dict(), config, kind="dynabert", part=Part(depth=0.5, keep="last"))
    assert any("layers 2 of 2 (the last of each group)" in note for note in shallow.notes)
    kept, whole_state = shallow.model.state_dict(), model.state_dict()
    assert len(shallow.model.layout.layers) == 1
    for name, value in kept.items():
        assert torch.equal(value, whole_state[name.replace("layer.0.", "layer.1.")]), name
    with pytest.raises(ValueError, match=r"depth: found 0\.1, which keeps 0 of 2 layers"):
        convert(model.state_dict(), config, kind="dynabert", part=Part(depth=0.1))
    with pytest.raises(ValueError, match="for a checkpoint of lad"):
        convert(lad(model), config, part=Part(width=0.5))
    with pytest.raises(ValueError, match="whole model's heads divide"):
        convert(model.state_dict(), {"num_attention_heads": 5, "hidden_size": 16}, kind="dynabert")


UER = {
    "bert.embeddings.word_embeddings.": "embedding.word_embedding.",
    "bert.embeddings.position_embeddings.": "embedding.position_embedding.",
    "bert.embeddings.token_type_embeddings.": "embedding.segment_embedding.",
    "bert.embeddings.LayerNorm.": "embedding.layer_norm.",
    "attention.self.query.": "self_attn.linear_layers.0.",
    "attention.self.key.": "self_attn.linear_layers.1.",
    "attention.self.value.": "self_attn.linear_layers.2.",
    "attention.output.dense.": "self_attn.final_linear.",
    "attention.output.LayerNorm.": "layer_norm_1.",
    "intermediate.dense.": "feed_forward.linear_1.",
    "output.dense.": "feed_forward.linear_2.",
    "output.LayerNorm.": "layer_norm_2.",
    "bert.encoder.layer.": "encoder.transformer.",
    "bert.pooler.dense.": "output_layer_1.",
    "classifier.": "output_layer_2.",
}


def uer(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under UER's names, with its extra row for padding's segment."""
    renamed = {}
    for name, value in state.items():
        for ours, theirs in UER.items():
            name = name.replace(ours, theirs)
        if "layer_norm" in name:
            name = name.replace(".weight", ".gamma").replace(".bias", ".beta")
        renamed[name] = value
    types = renamed["embedding.segment_embedding.weight"]
    return {**renamed, "embedding.segment_embedding.weight": torch.cat([torch.zeros_like(types[:1]), types])}


def test_uers_names_are_read_and_its_layernorm_is_folded() -> None:
    model = random_bert(LAYOUT)
    state = {**uer(model.state_dict()), "target.mlm_linear_1.weight": torch.zeros(16, 16)}
    found = convert(state, {"heads_num": 4, "layers_num": 2, "emb_size": 16, "feedforward_size": 8})
    assert (found.kind, found.model.layout, found.model.head) == ("wid", LAYOUT, "plain")
    assert any("target.*" in note for note in found.notes)
    for name, value in found.model.state_dict().items():
        scale = (15 / 16) ** 0.5 if name.endswith("LayerNorm.weight") else 1.0
        torch.testing.assert_close(value, model.state_dict()[name] * scale)
    newer = {name.replace("word_embedding.", "word.embedding."): value for name, value in state.items()}
    assert convert(newer, {"heads_num": 4}).model.layout == LAYOUT
    with pytest.raises(ValueError, match="found compactors, allowed is the model that WID's"):
        translate("wid", {"embedding.emb_compactor.weight": torch.eye(2)}, {})


def test_the_programs_are_told_apart() -> None:
    assert kind_of(lad(random_bert(LAYOUT)), {}) == "lad"
    assert (
        kind_of({f"module.{name}": value for name, value in uer(random_bert(LAYOUT).state_dict()).items()}, {}) == "wid"
    )
    assert foreign_kind(set(random_bert(LAYOUT).state_dict())) is None


@pytest.mark.shared
@pytest.mark.parametrize("depth", [1.0, 0.5])
@pytest.mark.parametrize("width", [1.0, 0.75, 0.5, 0.25])
def test_dynaberts_golden_subnetworks_give_their_logits(shared: Path, width: float, depth: float) -> None:
    arrays = np.load(shared / "golden" / "golden_dynabert.npz")
    state = {key[3:]: torch.from_numpy(arrays[key]) for key in arrays.files if key.startswith("wr/")}
    config = json.loads(str(arrays["cfg_json"]))
    model = convert(state, config, kind="dynabert", part=Part(width=width, depth=depth)).model
    wanted = arrays[f"sub/w{width}_d{depth}/logits"]
    np.testing.assert_allclose(model(batch_of(arrays, "")).logits.detach(), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.shared
@pytest.mark.parametrize(("strategy", "heads"), [("dim", 4), ("head", 2)])
def test_wids_golden_students_give_their_hidden_states(shared: Path, strategy: str, heads: int) -> None:
    arrays = np.load(shared / "golden" / "golden_wid.npz")
    prefix = f"{strategy}/student/"
    state = {key.removeprefix(prefix): torch.from_numpy(arrays[key]) for key in arrays.files if key.startswith(prefix)}
    theirs = uer({name: value for name, value in state.items() if not name.startswith("cls.")})
    model = convert(theirs, {"heads_num": heads}).model
    ids = arrays["input_ids"]
    batch = batch_of({**arrays, "token_type_ids": np.zeros_like(ids), "labels": ids[:, 0]}, "")
    real = arrays["attention_mask"].astype(bool)
    found, wanted = model(batch).last.detach().numpy()[real], arrays[f"{strategy}/out_merged_raw/layer1"][real]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-5)
