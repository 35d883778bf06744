import copy
import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from methods.parts.bert import Bert
from methods.parts.layout import Layout
from methods.parts.surgery import cut, factorise, narrower, reorder, truncate
from tests.strategies import kept, layouts, normal, random_bert, rows

SMALL = Layout.uniform(vocab=17, positions=8, hidden=6, num_layers=2, heads=3, head_width=2, ffn=5)


def close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def masked(model: Bert, heads: list[list[int]], neurons: list[list[int]]) -> Bert:
    """A copy whose other heads and neurons do nothing, because their output columns are zero."""
    model = copy.deepcopy(model)
    for layer, kept_heads, kept_neurons in zip(model.layers, heads, neurons, strict=True):
        width = layer.attention.self.head_width
        columns = [head * width + j for head in kept_heads for j in range(width)]
        for weight, stay in ((layer.attention.output.dense.weight, columns), (layer.output.dense.weight, kept_neurons)):
            weight.data *= torch.tensor([column in stay for column in range(weight.shape[1])])
    return model


@given(st.data())
def test_a_cut_is_a_mask(data: st.DataObject) -> None:
    layout = data.draw(layouts(labels=2))
    heads = [data.draw(kept(layer.heads)) for layer in layout.layers]
    neurons = [data.draw(kept(layer.ffn)) for layer in layout.layers]
    model, batch = random_bert(layout), rows(layout)
    small = cut(model, heads=heads, neurons=neurons)
    assert [layer.heads for layer in small.layout.layers] == [len(chosen) for chosen in heads]
    assert [layer.ffn for layer in small.layout.layers] == [len(chosen) for chosen in neurons]
    assert small.layout.params() == sum(parameter.numel() for parameter in small.parameters())
    wanted = masked(model, heads, neurons)(batch, hidden=True)
    found = small(batch, hidden=True)
    close(found.logits, wanted.logits)
    for mine, theirs in zip(found.hidden, wanted.hidden, strict=True):
        close(mine, theirs)


@given(st.data())
def test_another_order_is_the_same_function(data: st.DataObject) -> None:
    layout = data.draw(layouts(labels=2))
    model, batch = random_bert(layout), rows(layout)
    heads = [data.draw(st.permutations(range(layer.heads))) for layer in layout.layers]
    neurons = [data.draw(st.permutations(range(layer.ffn))) for layer in layout.layers]
    other = reorder(model, heads=heads, neurons=neurons)
    assert other.layout == layout
    close(other(batch).logits, model(batch).logits)
    back = reorder(
        other,
        heads=[[order.index(i) for i in range(len(order))] for order in heads],
        neurons=[[order.index(i) for i in range(len(order))] for order in neurons],
    )
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in back.state_dict().items())


@given(layouts(labels=2, factorised=False))
def test_full_rank_keeps_the_outputs(layout: Layout) -> None:
    model, batch = random_bert(layout), rows(layout)
    other = cut(model, rank=min(layout.vocab, layout.hidden))
    assert other.layout.embedding_rank == min(layout.vocab, layout.hidden)
    close(other(batch).logits, model(batch).logits)


@given(st.data())
def test_layers_are_chosen_by_number(data: st.DataObject) -> None:
    layout = data.draw(layouts(labels=2))
    chosen = data.draw(kept(len(layout.layers)).filter(len))
    model = random_bert(layout)
    small = cut(model, layers=chosen)
    assert small.layout.layers == tuple(layout.layers[i] for i in chosen)
    for layer, i in zip(small.layers, chosen, strict=True):
        old = model.layers[i].state_dict()
        assert all(torch.equal(value, old[name]) for name, value in layer.state_dict().items())


def test_bottom_layers_give_the_states_they_gave_before() -> None:
    model, batch = random_bert(SMALL), rows(SMALL)
    assert torch.equal(cut(model, layers=range(1))(batch).last, model(batch, hidden=True).hidden[1])


@given(st.integers(0, 1000), st.integers(1, 9), st.integers(1, 7), st.data())
def test_factors_are_the_thin_svd(seed: int, vocab: int, hidden: int, data: st.DataObject) -> None:
    table = normal(seed, vocab, hidden)
    rank = data.draw(st.integers(1, min(vocab, hidden)))
    first, second = factorise(table, rank)
    left, values, right = torch.linalg.svd(table.double(), full_matrices=False)
    close(first @ second.T, ((left[:, :rank] * values[:rank]) @ right[:rank]).float())
    close(first.norm(dim=0), values[:rank].float())  # all singular values are in the first factor
    close(second.T @ second, torch.eye(rank))
    assert (second.gather(0, second.abs().argmax(0, keepdim=True)) > 0).all()


@given(layouts(labels=2, factorised=False), st.data())
def test_a_lower_rank_drops_columns_and_does_no_new_svd(layout: Layout, data: st.DataObject) -> None:
    rank = data.draw(st.integers(1, min(layout.vocab, layout.hidden)))
    first = cut(random_bert(layout), rank=rank)
    embeddings = first.bert.embeddings
    assert embeddings.word_projection is not None
    with torch.no_grad():  # training mixes the columns
        embeddings.word_projection.weight.copy_(embeddings.word_projection.weight.flip(1).clone())
    lower = data.draw(st.integers(1, rank))
    second = cut(first, rank=lower).bert.embeddings
    assert second.word_projection is not None
    assert torch.equal(second.word_embeddings.weight, embeddings.word_embeddings.weight[:, :lower])
    assert torch.equal(second.word_projection.weight, embeddings.word_projection.weight[:, :lower])
    assert second.word_embeddings.padding_idx == 0


def test_truncate_gives_copies() -> None:
    first, second = torch.ones(3, 2), torch.ones(4, 2)
    for part in truncate(first, second, 1):
        part.zero_()
    assert first.all()
    assert second.all()


@given(layouts())
def test_a_cut_shares_nothing_and_draws_nothing(layout: Layout) -> None:
    model, state = random_bert(layout, head="relu", dropout=0.3).train(), torch.get_rng_state()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    other = cut(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert (other.layout, other.head, other.dropout, other.training) == (layout, "relu", 0.3, True)
    assert all(parameter.requires_grad and parameter.is_leaf for parameter in other.parameters())


def test_exact_zeros_are_kept() -> None:
    model = random_bert(SMALL)
    with torch.no_grad():
        for layer in model.layers:
            layer.intermediate.dense.bias.zero_()
            layer.attention.self.query.bias.zero_()
    small = cut(model, heads=[[2, 0], [1, 2]], neurons=[[1, 3], [0, 4]])
    assert small.layout == narrower(SMALL, heads=2, ffn=2)
    assert not small.layers[0].intermediate.dense.bias.any()


def test_every_layer_uses_its_own_choice_though_no_neuron_is_cut() -> None:
    model = random_bert(SMALL)
    small = cut(model, heads=[[0], [2]])
    weight = model.layers[1].attention.self.query.weight
    assert torch.equal(small.layers[1].attention.self.query.weight, weight[4:6])


@given(layouts(labels=2), st.data())
def test_narrower_is_what_cut_makes(layout: Layout, data: st.DataObject) -> None:
    heads = data.draw(st.integers(0, min(layer.heads for layer in layout.layers)))
    ffn = data.draw(st.integers(0, min(layer.ffn for layer in layout.layers)))
    count = data.draw(st.integers(1, len(layout.layers)))
    rank = data.draw(st.none() | st.integers(1, layout.embedding_rank or min(layout.vocab, layout.hidden)))
    num = len(layout.layers)
    small = cut(
        random_bert(layout), heads=[range(heads)] * num, neurons=[range(ffn)] * num, layers=range(count), rank=rank
    )
    assert small.layout == narrower(layout, heads=heads, ffn=ffn, layers=count, rank=rank)
    assert narrower(layout) == layout


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 4}, r"narrower\(heads\): found 4, layer 0 allows 0 to 3"),
        ({"ffn": 6}, r"narrower\(ffn\): found 6, layer 0 allows 0 to 5"),
        ({"layers": 3}, r"narrower\(layers\): found 3, allowed are 1 to 2"),
        ({"layers": 0}, r"narrower\(layers\): found 0"),
        ({"rank": 7}, "embedding rank: found 7, allowed are 1 to 6"),
        ({"rank": 0}, "embedding rank: found 0"),
    ],
)
def test_nothing_grows(change: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        narrower(SMALL, **change)


def test_a_rank_does_not_grow_again() -> None:
    with pytest.raises(ValueError, match="embedding rank: found 4, allowed are 1 to 3"):
        narrower(dataclasses.replace(SMALL, embedding_rank=3), rank=4)


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"heads": [[0]]}, r"cut\(heads\): found 1 lists, allowed is one for each of 2 layers"),
        ({"heads": [[0], [3]]}, r"cut\(heads\): list 1: found unknown \[3\], allowed are 0 to 2"),
        ({"neurons": [[0, 0], [1]]}, r"cut\(neurons\): list 0: found an index twice in \[0, 0\]"),
        ({"layers": [2]}, r"cut\(layers\): list 0: found unknown \[2\]"),
        ({"layers": []}, r"Layout\.layers: found no layer"),
        ({"rank": 7}, "embedding rank: found 7"),
    ],
)
def test_wrong_choices_are_refused(chosen: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cut(random_bert(SMALL), **chosen)


def test_reorder_wants_permutations() -> None:
    with pytest.raises(ValueError, match="exactly once"):
        reorder(random_bert(SMALL), heads=[[0, 1], [0, 1, 2]])
