import dataclasses
import json
from typing import Any

import pytest
import torch
from hypothesis import given
from torch.utils.flop_counter import FlopCounterMode

from methods.parts.bert import Bert
from methods.parts.layout import LayerLayout, Layout
from tests.strategies import layouts, rows

BASE: dict[str, Any] = {"vocab": 30522, "hidden": 768, "head_width": 64}


@pytest.mark.parametrize(
    ("shape", "params", "gigamacs"),
    [
        ({"num_layers": 12, "heads": 12, "ffn": 3072}, 109_483_778, (11.17, 5.51)),
        ({"num_layers": 8, "heads": 12, "ffn": 3072}, 81_132_290, (7.45, 3.68)),
        ({"num_layers": 8, "heads": 2, "ffn": 512, "embedding_rank": 128}, 14_474_754, (1.255, 0.619)),
    ],
)
def test_published_sizes(shape: dict[str, Any], params: int, gigamacs: tuple[float, float]) -> None:
    layout = Layout.uniform(**BASE, **shape)
    assert layout.params() == params
    assert layout.bytes() == 4 * params
    for length, wanted in zip((128, 64), gigamacs, strict=True):
        assert layout.flops(length) / 2e9 == pytest.approx(wanted, rel=2e-3)


@given(layouts())
def test_params_are_those_of_the_model(layout: Layout) -> None:
    parameters = list(Bert(layout).parameters())
    assert layout.params() == sum(parameter.numel() for parameter in parameters)
    assert layout.bytes() == sum(parameter.nbytes for parameter in parameters)


@given(layouts())
def test_flops_are_those_torch_counts(layout: Layout) -> None:
    batch = rows(layout, lengths=(5,), length=5)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        Bert(layout).eval()(batch, scores=True)  # explicit attention: the fused CPU kernel is counted as nothing
    assert layout.flops(5) == counter.get_total_flops()


@given(layouts())
def test_json_round_trip(layout: Layout) -> None:
    assert Layout.from_json(json.loads(json.dumps(layout.to_json()))) == layout


@given(layouts(min_heads=1, min_ffn=1))
def test_stock_means_that_bert_config_fits(layout: Layout) -> None:
    fits = all(layer.heads * layer.head_width == layout.hidden for layer in layout.layers)
    same = all(layer == layout.layers[0] for layer in layout.layers)
    assert layout.is_uniform == same
    assert layout.is_stock == (fits and same and layout.embedding_rank is None)


@pytest.mark.parametrize("name", ["heads", "ffn"])
def test_a_layer_without_heads_or_neurons_is_not_stock(name: str) -> None:
    shape: dict[str, Any] = {"heads": 2, "ffn": 8}
    assert Layout.uniform(vocab=9, hidden=8, num_layers=2, head_width=4, **shape).is_stock
    assert not Layout.uniform(vocab=9, hidden=8, num_layers=2, head_width=4, **{**shape, name: 0}).is_stock


def test_describe() -> None:
    shape: dict[str, Any] = {"num_layers": 8, "heads": 2, "ffn": 512}
    said = Layout.uniform(**BASE, **shape, embedding_rank=128).describe()
    assert said == "2 heads x 8 layers, FFN 512, rank 128, 14.47 M parameters"
    layers = (LayerLayout(heads=1, head_width=2, ffn=5), LayerLayout(heads=3, head_width=2, ffn=4))
    small = Layout(vocab=9, positions=8, types=2, hidden=4, embedding_rank=None, layers=layers, pooler=False, labels=0)
    assert small.describe() == f"1-3 heads x 2 layers, FFN 4-5, {small.params()} parameters"


GOOD = Layout.uniform(vocab=9, hidden=4, num_layers=2, heads=2, head_width=2, ffn=8).to_json()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden": 0}, r"Layout\.hidden: found 0, allowed is an integer of at least 1"),
        ({"vocab": 2.5}, r"Layout\.vocab: found 2\.5"),
        ({"types": True}, r"Layout\.types: found True"),
        ({"embedding_rank": 0}, r"Layout\.embedding_rank: found 0"),
        ({"labels": -1}, r"Layout\.labels: found -1, allowed is an integer of at least 0"),
        ({"masked_lm": 1}, r"Layout\.masked_lm: found 1, allowed is true or false"),
        ({"pooler": False}, r"Layout\.pooler: found False with 2 labels"),
        ({"layers": []}, r"Layout\.layers: found no layer"),
        ({"layers": 3}, r"Layout\.layers: found 3, allowed is a list"),
        ({"layers": [{"heads": -1, "head_width": 1, "ffn": 1}]}, r"LayerLayout\.heads: found -1"),
        ({"layers": [{"heads": 1, "head_width": 0, "ffn": 1}]}, r"LayerLayout\.head_width: found 0"),
        (
            {"layers": [{"heads": 1, "ffn": 1}]},
            r"Layout\.layers\[0\]: unknown keys \[\], missing keys \['head_width'\]",
        ),
        ({"widht": 4}, r"Layout: unknown keys \['widht'\], missing keys \[\]"),
    ],
)
def test_impossible_shapes_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Layout.from_json({**GOOD, **change})


def test_from_json_wants_a_mapping() -> None:
    with pytest.raises(ValueError, match="Layout: found 7, allowed is a mapping"):
        Layout.from_json(7)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("length", "message"), [(0, "found 0"), (513, "found 513, allowed is at most positions = 512")]
)
def test_flops_want_a_possible_length(length: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Layout.from_json(GOOD).flops(length)


def test_uniform_wants_a_layer() -> None:
    with pytest.raises(ValueError, match=r"Layout\.num_layers: found 0"):
        Layout.uniform(vocab=9, hidden=4, num_layers=0, heads=2, head_width=2, ffn=8)


def test_an_untied_decoder_counts_and_only_then_is_written_down() -> None:
    tied = Layout.uniform(
        vocab=30, hidden=8, num_layers=1, heads=2, head_width=4, ffn=8, positions=6, labels=0, masked_lm=True
    )
    untied = dataclasses.replace(tied, tied=False)
    assert "tied" not in tied.to_json()
    assert Layout.from_json(untied.to_json()) == untied
    assert untied.params() - tied.params() == 30 * 8
    assert untied.params() == sum(parameter.numel() for parameter in Bert(untied).parameters())
