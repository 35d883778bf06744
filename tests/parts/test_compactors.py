import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from methods.parts.bert import Bert
from methods.parts.compactors import CompactedBert, MaskedNorm
from methods.parts.layout import Layout
from tests.strategies import Rows, random_bert, rows

LAYOUT = Layout.uniform(
    vocab=40, positions=12, hidden=16, num_layers=2, heads=4, head_width=4, ffn=24, labels=0, masked_lm=True
)


def compacted(seed: int = 0, noise: float = 0.1, compat: tuple[str, ...] = ()) -> CompactedBert:
    """A random model with compactors that are not identities."""
    model = CompactedBert.inherit(random_bert(LAYOUT, seed=seed), compat)
    generator = torch.Generator().manual_seed(seed + 7)
    with torch.no_grad():
        for _, parameter in model.named_compactors():
            parameter.add_(noise * torch.empty(parameter.shape).normal_(generator=generator))
    return model.eval()


def places(batch: Rows) -> Tensor:
    return batch.attention_mask.bool() & (torch.arange(batch.input_ids.shape[1]) % 2 == 1)


def uncomposed(model: CompactedBert, batch: Rows) -> Tensor:
    """The logits of the formulas of the paper, token by token through every matrix."""

    def linear(name: str, states: Tensor) -> Tensor:
        weight, bias = (model.get_parameter(f"{name}.{part}") for part in ("weight", "bias"))
        inner, outer = (model.compactor(f"{name}.{side}") for side in ("in", "out"))
        return F.linear(F.linear(F.linear(states, inner), weight, bias), outer)

    def norm(name: str, group: str, states: Tensor) -> Tensor:
        kept = states[..., model.mask(group)]
        mean, variance = kept.mean(-1, keepdim=True), kept.var(-1, unbiased=False, keepdim=True)
        weight, bias = (model.get_parameter(f"{name}.{part}") for part in ("weight", "bias"))
        return weight * (states - mean) / (variance + 1e-12).sqrt() + bias

    ids, head = batch.input_ids, "cls.predictions"
    tables = [model.get_parameter(f"bert.embeddings.{name}_embeddings.weight") for name in ("word", "token_type")]
    positions = model.get_parameter("bert.embeddings.position_embeddings.weight")[: ids.shape[1]]
    total = tables[0][ids] + tables[1][batch.token_type_ids] + positions
    states = norm("bert.embeddings.LayerNorm", "residual", F.linear(total, model.compactor("bert.embeddings.out")))
    pad = (1.0 - batch.attention_mask[:, None, None].float()) * -10000.0
    for number in range(2):
        where = f"bert.encoder.layer.{number}"
        split = [
            linear(f"{where}.attention.self.{name}", states).view(*ids.shape, 4, 4).transpose(1, 2)
            for name in ("query", "key", "value")
        ]
        chances = (split[0] @ split[1].mT / math.sqrt(4) + pad).softmax(-1)
        context = (chances @ split[2]).transpose(1, 2).flatten(2)
        inner = linear(f"{where}.attention.output.dense", context) + states
        states = norm(f"{where}.attention.output.LayerNorm", "residual", inner)
        second = linear(f"{where}.output.dense", F.gelu(linear(f"{where}.intermediate.dense", states)))
        states = norm(f"{where}.output.LayerNorm", "residual", second + states)
    chosen = F.gelu(linear(f"{head}.transform.dense", states[places(batch)]))
    words = norm(f"{head}.transform.LayerNorm", "words", chosen) @ model.compactor(f"{head}.decoder.in").T
    return words @ model.get_parameter(f"{head}.decoder.weight").T + model.get_parameter(f"{head}.bias")


@pytest.mark.parametrize("tied", [True, False])
def test_it_starts_as_the_model_it_inherits_from(tied: bool) -> None:
    layout = Layout.from_json({**LAYOUT.to_json(), "tied": tied})
    teacher, batch = random_bert(layout), rows(LAYOUT)
    model = CompactedBert.inherit(teacher)
    wanted, found = (each.mlm_logits(batch, places(batch)) for each in (teacher, model))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    for mine, theirs in zip(model(batch, hidden=True).hidden, teacher(batch, hidden=True).hidden, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
    assert model.layout == Layout.from_json({**LAYOUT.to_json(), "tied": False, "pooler": False})
    assert len(list(model.named_compactors())) == 1 + 12 * 2 + 3


def test_composed_weights_give_the_outputs_and_gradients_of_three_products() -> None:
    model, batch = compacted(), rows(LAYOUT)
    kept = torch.arange(16) % 3 > 0
    model.set_masks({"residual": kept, "words": ~kept})
    losses = (model.mlm_logits(batch, places(batch)), uncomposed(model, batch))
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=1e-5)
    parameters = dict(model.named_parameters())
    found, wanted = (torch.autograd.grad(loss.square().sum(), [*parameters.values()]) for loss in losses)
    for name, mine, theirs in zip(parameters, found, wanted, strict=True):
        if not name.endswith("key.bias"):  # no softmax sees it
            torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-3 * float(theirs.abs().max()), msg=name)


@pytest.mark.parametrize("uer", [False, True])
def test_statistics_are_those_of_the_kept_dimensions(uer: bool) -> None:
    norm, states = MaskedNorm(8, 1e-12, uer), torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    kept = torch.tensor([0, 2, 3, 7])
    nn.init.uniform_(norm.weight)
    norm.share.zero_()[kept] = 1 / 4
    found = norm(states)
    wanted = F.layer_norm(states[:, kept], (4,), norm.weight[kept], norm.bias[kept], 1e-12)
    torch.testing.assert_close(found[:, kept], wanted * (math.sqrt(3 / 4) if uer else 1.0), rtol=1e-5, atol=1e-5)
    assert found.shape == states.shape


def test_masks_travel_with_the_state() -> None:
    model, other = compacted(), CompactedBert(LAYOUT)
    model.set_masks({"ffn.1": torch.arange(24) < 5})
    other.load_state_dict(model.state_dict())
    assert int(other.mask("ffn.1").sum()) == 5
    assert all(torch.equal(other.compactor(name), value) for name, value in model.named_compactors())


def test_bf16_composes_in_fp32() -> None:
    model, batch = compacted(), rows(LAYOUT)
    with torch.no_grad():
        exact = model.mlm_logits(batch, places(batch))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        rough = model.mlm_logits(batch, places(batch)).float()
        weights = model._composed(model.layers[0], "bert.encoder.layer.0", ("output.dense",))
    assert weights["output.dense.weight"].dtype == torch.float32
    assert float((rough - exact).abs().max()) < 0.1 * float(exact.abs().max())


def test_what_cannot_be_compacted_is_refused() -> None:
    with pytest.raises(ValueError, match="without masked-LM head"):
        CompactedBert.inherit(Bert(Layout.from_json({**LAYOUT.to_json(), "masked_lm": False})))
    with pytest.raises(ValueError, match="full heads and word table"):
        CompactedBert(Layout.from_json({**LAYOUT.to_json(), "embedding_rank": 4}))
    with pytest.raises(ValueError, match="compat: found 'x', allowed are uer-layernorm"):
        CompactedBert(LAYOUT, compat=("x",))
