from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from methods.parts.bert import Bert
from methods.parts.importance import MATRICES, Importance, TaylorScores, top
from methods.parts.layout import Layout
from methods.parts.losses import hard_cross_entropy
from tests.strategies import layouts, random_bert, rows

SMALL = Layout.uniform(vocab=17, positions=8, hidden=6, num_layers=2, heads=3, head_width=2, ffn=5)


def watch(model: Bert, scores: Sequence[TaylorScores], *, num_steps: int = 3, lr: float = 0.0) -> None:
    """Observe some steps; with a learning rate, the weights move after each."""
    for step in range(num_steps):
        batch = rows(model.layout, seed=step)
        model.zero_grad()
        torch.autograd.backward(hard_cross_entropy(model(batch).logits, batch.labels).sum / 3)
        for each in scores:
            each.observe(model)
        with torch.no_grad():
            for parameter in model.parameters():
                if lr and parameter.grad is not None:
                    parameter.sub_(lr * parameter.grad)


def same(one: Importance, other: Importance, scale: float = 1.0) -> None:
    for mine, theirs in zip((*one.heads, *one.neurons), (*other.heads, *other.neurons), strict=True):
        torch.testing.assert_close(mine * scale, theirs, rtol=1e-4, atol=1e-6)


@given(layouts(labels=2))
def test_both_ways_of_summing_agree_while_weights_are_frozen(layout: Layout) -> None:
    model, current, final = random_bert(layout), TaylorScores(), TaylorScores("final")
    watch(model, [current, final])
    same(current.scores(model), final.scores(model))
    same(current.scores(model, per_step=True), current.scores(model), scale=3)


def test_scores_are_sums_over_columns_and_rows() -> None:
    model, scores = random_bert(SMALL), TaylorScores("final")
    watch(model, [scores], num_steps=1)
    found = scores.scores(model)
    for number, layer in enumerate(model.layers):
        out, first, second = (layer.get_parameter(f"{name}.weight") for name in MATRICES[3:])
        assert out.grad is not None
        assert first.grad is not None
        assert second.grad is not None
        for head in range(3):
            columns = (out * out.grad).abs()[:, 2 * head : 2 * head + 2]
            torch.testing.assert_close(found.heads[number][head], columns.sum().detach())
        wanted = (first * first.grad).abs().sum(1) + (second * second.grad).abs().sum(0)
        torch.testing.assert_close(found.neurons[number], wanted.detach())


def test_signs_do_not_cancel_over_steps() -> None:
    model, once, twice = random_bert(SMALL), TaylorScores(), TaylorScores()
    watch(model, [once], num_steps=1)
    twice.observe(model)
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad.neg_()
    twice.observe(model)
    same(once.scores(model), twice.scores(model), scale=2)


def test_moving_weights_make_the_difference() -> None:
    model, current, final = random_bert(SMALL), TaylorScores(), TaylorScores("final")
    watch(model, [current, final], lr=0.5)
    one, other = current.scores(model), final.scores(model)
    assert not torch.allclose(one.heads[0], other.heads[0], rtol=1e-3)
    drifted = model.layers[0].attention.output.dense.weight.detach().abs()
    matrix = final.matrix(0, "attention.output.dense", model.layers[0])
    assert ((matrix > 0) <= (drifted > 0)).all()


@given(layouts(labels=2), st.sampled_from(["current", "final"]))
def test_a_checkpoint_in_the_middle_changes_nothing(layout: Layout, weights: str) -> None:
    model, whole, first, second = random_bert(layout), *(TaylorScores(weights) for _ in range(3))
    watch(model, [whole, first], num_steps=2)
    second.load_state_dict(first.state_dict())
    watch(model, [whole, second], num_steps=3)
    assert whole.num_steps == second.num_steps == 5
    one, other = whole.scores(model), second.scores(model)
    assert all(torch.equal(*pair) for pair in zip(one.heads, other.heads, strict=True))
    assert all(torch.equal(*pair) for pair in zip(one.neurons, other.neurons, strict=True))
    assert first.num_steps == 2


@given(st.lists(st.permutations(range(5)), min_size=1, max_size=3), st.integers(0, 5), st.integers(0, 5))
def test_top_keeps_the_highest(ranks: list[list[int]], heads: int, ffn: int) -> None:
    scores = tuple(torch.tensor(row, dtype=torch.float32) for row in ranks)
    found = top(Importance(scores, scores), heads, ffn)
    for row, kept_heads, kept_neurons in zip(ranks, found.heads, found.neurons, strict=True):
        best = sorted(range(5), key=lambda i: -row[i])
        assert list(kept_heads) == (best[:heads] if heads < 5 else list(range(5)))
        assert list(kept_neurons) == sorted(best[:ffn])


def test_equal_scores_go_to_the_lower_number() -> None:
    tied = (torch.tensor([1.0, 2.0, 1.0, 2.0]),)
    assert top(Importance(tied, tied), 3, 1).heads == ((1, 3, 0),)
    assert top(Importance(tied, tied), 3, 1).neurons == ((1,),)


def test_what_does_not_fit_is_refused() -> None:
    model, scores = random_bert(SMALL), TaylorScores()
    with pytest.raises(ValueError, match="found 'last', allowed are"):
        TaylorScores("last")
    with pytest.raises(ValueError, match="nothing observed yet"):
        scores.scores(model)
    with pytest.raises(ValueError, match=r"layer 0 attention\.output\.dense has no gradient"):
        scores.observe(model)
    watch(model, [scores])
    with pytest.raises(ValueError, match="layer 0 heads: found 4, allowed are 0 to 3"):
        top(scores.scores(model), 4, 1)
    with pytest.raises(ValueError, match="layer 0 neurons: found 6, allowed are 0 to 5"):
        top(scores.scores(model), 1, 6)
