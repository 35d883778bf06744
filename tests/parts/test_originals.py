"""Checkpoints as the published programs write them: the imported model computes what theirs did."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from methods.parts import glue
from methods.parts.bert import Bert, initialise
from methods.parts.layout import Layout
from methods.parts.originals import convert, kind_of, label_order
from tests.strategies import Rows, rows

CONFIG = {"num_attention_heads": 2, "hidden_act": "gelu", "emb_hidden_dim": -1}
State = dict[str, Tensor]


def published(heads: int = 2, head_width: int = 3, ffn: int = 5, rank: int | None = 4, seed: int = 0) -> Bert:
    """A pruned BERT whose head width is not 64 and whose attention is narrower than its hidden states."""
    layout = Layout.from_json(
        Layout.uniform(
            vocab=20, positions=12, hidden=8, num_layers=2, heads=heads, head_width=head_width, ffn=ffn, labels=3
        ).to_json()
        | {"embedding_rank": rank}
    )
    model = Bert(layout, head="relu", dropout=0.0)
    initialise(model, seed, 0.3)
    return model.eval()


def theirs(model: Bert, *, old_norms: bool = False) -> State:
    """The tensors under the published names."""
    renamed = {}
    for name, value in model.state_dict().items():
        if model.layout.embedding_rank is not None:
            name = name.replace("word_embeddings.weight", "word_embeddings1.weight")
            name = name.replace("word_projection.weight", "word_embeddings2.weight")
        if old_norms:
            name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        renamed[name] = value.clone()
    return renamed


def config_of(model: Bert, **changes: Any) -> dict[str, Any]:
    first = model.layout.layers[0]
    return {
        **CONFIG,
        "hidden_size": model.layout.hidden,
        "intermediate_size": 4 * model.layout.hidden,
        "num_hidden_layers": len(model.layout.layers),
        "num_attention_heads": first.heads,
        "prun_hidden_size": first.width,
        "prun_intermediate_size": first.ffn,
        "emb_hidden_dim": model.layout.embedding_rank or -1,
        **changes,
    }


@settings(max_examples=15, deadline=None)
@given(
    heads=st.integers(1, 3),
    head_width=st.integers(1, 5),
    ffn=st.integers(1, 9),
    rank=st.sampled_from([None, 1, 4]),
    old_norms=st.booleans(),
    wrapped=st.booleans(),
)
def test_any_shape_under_any_published_name_is_read_back(
    heads: int, head_width: int, ffn: int, rank: int | None, old_norms: bool, wrapped: bool
) -> None:
    model = published(heads, head_width, ffn, rank)
    state = theirs(model, old_norms=old_norms)
    state = {f"module.{name}": value for name, value in state.items()} if wrapped else state
    found = convert(state, config_of(model))
    assert found.model.layout == model.layout
    assert (found.kind, found.model.head, found.projection) == ("rosita", "relu", {})
    batch = rows(model.layout)
    assert torch.equal(found.model(batch).logits, model(batch).logits)


def test_the_head_is_the_distillation_programs_unless_asked_otherwise() -> None:
    model = published()
    state, config, batch = theirs(model), config_of(model), rows(model.layout)
    relu, plain = convert(state, config), convert(state, config, head="plain")
    assert any("--head plain" in note for note in relu.notes)
    assert plain.model.head == "plain"
    assert not torch.allclose(relu.model(batch).logits, plain.model(batch).logits)


def test_sizes_that_the_configuration_leaves_out_come_from_the_weights() -> None:
    model = published()
    config = {key: value for key, value in config_of(model).items() if not key.startswith("prun_")}
    found = convert(theirs(model), config)
    assert found.model.layout == model.layout
    assert any("prun_hidden_size 6, prun_intermediate_size 5" in note for note in found.notes)
    found = convert(theirs(model), {"num_attention_heads": 2, "attention_probs_dropout_prob": 0.3})
    assert any("prun_hidden_size 6" in note for note in found.notes)
    assert any("attention_probs_dropout_prob 0.3 is not kept" in note for note in found.notes)


def test_a_projection_is_no_part_of_the_model_but_kept_beside_it() -> None:
    model = published(rank=None)
    extra = {"fit_dense.weight": torch.randn(16, 8), "fit_dense.bias": torch.randn(16)}
    heads = {"cls.predictions.bias": torch.zeros(20), "bert.embeddings.position_ids": torch.arange(12)}
    found = convert({**theirs(model), **extra, **heads}, config_of(model))
    assert found.kind == "tinybert"
    assert set(found.projection) == {"weight", "bias"}
    assert torch.equal(found.projection["weight"], extra["fit_dense.weight"])
    assert any("fit_dense (8 x 16)" in note for note in found.notes)
    assert any("cls.*" in note for note in found.notes)


def test_a_checkpoint_without_classifier_is_a_stock_bert() -> None:
    model = published(rank=None, head_width=4)
    state = {name: value for name, value in theirs(model).items() if not name.startswith("classifier.")}
    found = convert(state, config_of(model), kind="tinybert")
    assert (found.model.layout.labels, found.model.head) == (0, "plain")


def broken(**changes: Any) -> tuple[State, dict[str, Any]]:
    model = published()
    return theirs(model), config_of(model, **changes)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"num_attention_heads": 4}, "num_attention_heads: found 4, allowed is a divisor of the attention's width 6"),
        ({"num_attention_heads": None}, "num_attention_heads: found None"),
        ({"prun_hidden_size": 64}, "prun_hidden_size: found 64, the weights have 6"),
        ({"emb_hidden_dim": -1}, "emb_hidden_dim: found -1, the weights have 4"),
        ({"num_hidden_layers": 3}, "num_hidden_layers: found 3, the weights have 2"),
        ({"layer_norm_eps": None}, "layer_norm_eps: found None, allowed is a number from 0 up to 1"),
        ({"hidden_dropout_prob": "0.1"}, "hidden_dropout_prob: found '0.1'"),
        ({"hidden_act": "relu"}, "hidden_act: found 'relu', allowed is 'gelu'"),
    ],
)
def test_a_configuration_of_another_model_is_refused(changes: Mapping[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says.replace("(", r"\(")):
        convert(*broken(**changes))


def test_broken_weights_are_refused_with_their_names() -> None:
    state, config = broken()
    first = "bert.encoder.layer.0.intermediate.dense.bias"
    with pytest.raises(ValueError, match=f"no {first}"):
        convert({name: value for name, value in state.items() if name != first}, config)
    with pytest.raises(ValueError, match=r"the unknown colour"):
        convert({**state, "colour": torch.zeros(1)}, config)
    with pytest.raises(ValueError, match=r"found the layers \[1\]"):
        convert({name: value for name, value in state.items() if ".layer.0." not in name}, config)
    with pytest.raises(ValueError, match="found NaN or infinite"):
        convert({**state, first: torch.full((5,), float("nan"))}, config)
    with pytest.raises(ValueError, match="no such tensor"):
        convert({"fit_dense.weight": torch.zeros(2, 2)}, config)
    with pytest.raises(ValueError, match=r"classifier\.weight: found no matrix"):
        convert({**state, "classifier.weight": torch.zeros(())}, config)
    with pytest.raises(ValueError, match="found twice"):
        convert({**state, "bert.pooler.dense.beta": torch.zeros(8)}, config)
    with pytest.raises(ValueError, match="a stock BERT needs no import"):
        kind_of(theirs(published(rank=None)), {})


@pytest.mark.parametrize(("task", "order"), [("mnli", (1, 2, 0)), ("qnli", (0, 1)), ("rte", (0, 1)), ("sst2", (0, 1))])
def test_outputs_are_put_into_our_order(task: str, order: tuple[int, ...]) -> None:
    entry = glue.find(task)
    assert entry is not None
    assert label_order(task, entry.labels) == order


def batch_of(arrays: Mapping[str, Any], prefix: str) -> Rows:
    names = ("input_ids", "attention_mask", "token_type_ids", "labels")
    return Rows(**{name: torch.from_numpy(arrays[prefix + name]) for name in names}, sizes={})


@pytest.mark.shared
@pytest.mark.parametrize("name", ["T", "S", "P"])
def test_rositas_models_give_the_logits_of_the_original_code(shared: Path, name: str) -> None:
    arrays = np.load(shared / "golden" / "golden_rosita.npz")
    begins = (f"{name}.bert.", f"{name}.classifier.")
    state = {key[2:]: torch.from_numpy(arrays[key]) for key in arrays.files if key.startswith(begins)}
    state = {key.replace("word_embeddings.", "word_embeddings1."): value for key, value in state.items()}
    config = {"num_attention_heads": 2 if name == "P" else 4, "hidden_size": 64}
    batch = batch_of(arrays, "batch0.")
    found = convert(state, config)
    assert found.kind == "rosita"
    np.testing.assert_allclose(found.model(batch).logits.detach(), arrays[f"{name}.out.logits"], rtol=1e-5, atol=1e-6)
    if name == "S":
        plain = convert(state, config, head="plain").model(batch).logits.detach()
        np.testing.assert_allclose(plain, arrays["S.out.hf_logits"], rtol=1e-5, atol=1e-6)


@pytest.mark.shared
@pytest.mark.parametrize(("name", "kind"), [("rosita6", "rosita"), ("tiny4", "tinybert"), ("tiny2", "tinybert")])
def test_hsks_students_give_the_logits_of_the_original_code(shared: Path, name: str, kind: str) -> None:
    arrays = np.load(shared / "golden" / "golden_mud.npz")
    config = json.loads(arrays["meta_json"].tobytes())["models"][name]
    prefix = f"w.{name}."
    state = {key.removeprefix(prefix): torch.from_numpy(arrays[key]) for key in arrays.files if key.startswith(prefix)}
    found = convert(state, config)
    assert (found.kind, bool(found.projection)) == (kind, kind == "tinybert")
    logits = found.model(batch_of(arrays, "pair.")).logits.detach()
    np.testing.assert_allclose(logits, arrays[f"fwd.{name}.logits_relu"], rtol=1e-5, atol=1e-6)
    as_hsk = convert(state, config, kind="hsk")
    assert as_hsk.model.head == "relu"
