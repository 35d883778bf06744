"""A compressed model in a stock BERT's shape: zeros in place of what is missing, and the same outputs."""

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from methods.parts import standalone
from methods.parts.layout import LayerLayout, Layout
from methods.parts.stock import stock, stock_layout
from tests.strategies import layouts, random_bert, rows


def layer(heads: int, width: int, ffn: int) -> LayerLayout:
    return LayerLayout(heads=heads, head_width=width, ffn=ffn)


def shaped(*layers: LayerLayout, hidden: int = 24, rank: int | None = None) -> Layout:
    return Layout(vocab=20, positions=12, types=2, hidden=hidden, embedding_rank=rank, layers=layers, labels=3)


@given(layout=layouts(labels=2), seed=st.integers(0, 3))
def test_any_layout_that_fits_keeps_its_outputs(layout: Layout, seed: int) -> None:
    try:
        wanted = stock_layout(layout)
    except ValueError:
        assume(False)
    model = random_bert(layout, seed=seed)
    filled = stock(model)
    assert filled.layout == wanted
    assert wanted.is_stock
    batch = rows(layout, lengths=(min(6, layout.positions), 1), length=min(6, layout.positions))
    torch.testing.assert_close(filled(batch).logits, model(batch).logits, rtol=1e-5, atol=1e-5)


def test_pruned_heads_come_back_as_zeros_and_the_widest_ffn_is_every_ones() -> None:
    layout = shaped(layer(2, 4, 7), layer(0, 4, 0), layer(5, 4, 3), rank=3)
    found = stock_layout(layout)
    assert found.layers == (layer(6, 4, 7),) * 3
    assert found.embedding_rank is None
    filled = stock(random_bert(layout))
    query = filled.state_dict()["bert.encoder.layer.0.attention.self.query.weight"]
    assert torch.count_nonzero(query[8:]) == 0
    assert torch.count_nonzero(filled.state_dict()["bert.encoder.layer.1.output.dense.weight"]) == 0


def test_a_head_width_that_does_not_divide_grows() -> None:
    layout = shaped(layer(2, 5, 4), layer(3, 2, 4))
    assert stock_layout(layout).layers[0] == layer(4, 6, 4)
    model, batch = random_bert(layout), rows(layout)
    torch.testing.assert_close(stock(model)(batch).logits, model(batch).logits, rtol=1e-5, atol=1e-5)


def test_a_stock_layout_stays_as_it_is() -> None:
    model = random_bert(shaped(layer(6, 4, 9), layer(6, 4, 9)))
    filled = stock(model)
    assert filled.layout == model.layout
    assert all(torch.equal(one, other) for one, other in zip(filled.parameters(), model.parameters(), strict=True))


def test_what_no_stock_bert_holds_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot hold 5 heads of width 5: found the hidden width 24"):
        stock_layout(shaped(layer(5, 5, 4)))
    with pytest.raises(ValueError, match=r"head: found 'relu', allowed is 'plain'"):
        stock(random_bert(shaped(layer(2, 4, 4)), head="relu"))


def test_the_models_code_is_one_file_without_this_package() -> None:
    text = standalone.source()
    names: dict[str, object] = {"__name__": "methods.parts.registered"}  # where dataclasses look their module up
    exec(compile(text, "modeling", "exec"), names)
    assert {"torch", "nn", "Bert", "Layout"} <= set(names)
    assert "from methods" not in text
    assert "import methods" not in text
    assert text.count("from __future__") == 1
    for name in standalone.AUTO_MAP.values():
        assert f"class {name.split('.')[1]}(" in text
