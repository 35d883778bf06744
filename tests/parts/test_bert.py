import copy
import dataclasses
import math

import pytest
import torch
from hypothesis import given
from torch import Tensor

from methods.parts.bert import Bert, initialise, set_dropout
from methods.parts.layers import MASKED
from methods.parts.layout import Layout
from tests.strategies import layouts, random_bert, rows

SMALL = Layout.uniform(vocab=17, positions=8, hidden=8, num_layers=2, heads=2, head_width=4, ffn=12, labels=3)


def close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@given(layouts())
def test_requested_states_and_scores_have_their_shapes(layout: Layout) -> None:
    output = random_bert(layout)(rows(layout), hidden=True, scores=True, cls_scores=True)
    assert output.last.shape == (3, 6, layout.hidden)
    assert [tuple(state.shape) for state in output.hidden] == [(3, 6, layout.hidden)] * (len(layout.layers) + 1)
    assert [tuple(raw.shape) for raw in output.scores] == [(3, layer.heads, 6, 6) for layer in layout.layers]
    assert [tuple(first.shape) for first in output.cls_scores] == [(3, layer.heads, 6) for layer in layout.layers]
    assert torch.equal(output.hidden[-1], output.last)
    if layout.labels:
        assert output.logits.shape == (3, layout.labels)


@given(layouts())
def test_fused_and_explicit_attention_agree(layout: Layout) -> None:
    model, batch = random_bert(layout), rows(layout)
    explicit, fused = model(batch, scores=True, cls_scores=True), model(batch, cls_scores=True)
    close(fused.last, explicit.last)
    for raw, first in zip(explicit.scores, fused.cls_scores, strict=True):
        close(first, raw[:, :, 0])


def test_scores_are_scaled_products_plus_the_mask() -> None:
    model, batch = random_bert(SMALL), rows(SMALL)
    output = model(batch, hidden=True, scores=True)
    attention = model.layers[0].attention.self
    query, key = (part(output.hidden[0]).view(3, 6, 2, 4) for part in (attention.query, attention.key))
    wanted = torch.einsum("bqhd,bkhd->bhqk", query, key) / math.sqrt(4)
    close(output.scores[0], wanted + MASKED * (1 - batch.attention_mask[:, None, None, :]))


@given(layouts(labels=2))
def test_padding_changes_nothing(layout: Layout) -> None:
    model = random_bert(layout)
    short, long = (model(rows(layout, lengths=(4,), length=length)) for length in (4, 6))
    close(long.logits, short.logits)
    close(long.last[:, :4], short.last)


@pytest.mark.parametrize("name", ["hidden", "scores", "cls_scores"])
def test_asking_for_what_was_not_computed_is_an_error(name: str) -> None:
    output = random_bert(SMALL)(rows(SMALL))
    with pytest.raises(ValueError, match=f"{name}=True"):
        getattr(output, name)


def test_no_classifier_no_logits() -> None:
    layout = Layout.uniform(vocab=9, hidden=4, num_layers=1, heads=1, head_width=4, ffn=4, labels=0)
    with pytest.raises(ValueError, match="no classifier"):
        _ = random_bert(layout)(rows(layout)).logits


def test_relu_head_is_the_plain_one_after_a_relu() -> None:
    plain = random_bert(SMALL)
    relu = random_bert(SMALL, head="relu")
    batch = rows(SMALL)
    assert plain.bert.pooler is not None
    assert plain.classifier is not None
    pooled = plain.bert.pooler(plain(batch).last[:, 0])
    close(plain(batch).logits, plain.classifier(pooled))
    close(relu(batch).logits, plain.classifier(pooled.relu()))
    assert not torch.allclose(relu(batch).logits, plain(batch).logits)


def test_dropout_acts_in_training_only_and_not_in_the_relu_head() -> None:
    batch = rows(SMALL)
    for head, noisy in (("plain", True), ("relu", False)):
        model = random_bert(SMALL, head=head, dropout=0.5)
        assert torch.equal(model(batch).logits, model(batch).logits)
        model.train()
        assert not torch.equal(model(batch).last, model(batch).last)
        first = model(batch).last[:, 0].detach()
        torch.manual_seed(0)
        one, two = (model._classify(first) for _ in range(2))
        assert one is not None
        assert two is not None
        assert torch.equal(one, two) != noisy


def test_set_dropout_reaches_every_place() -> None:
    model, batch = random_bert(SMALL, dropout=0.5).train(), rows(SMALL)
    set_dropout(model, None)
    assert not torch.equal(model(batch).logits, model(batch).logits)
    set_dropout(model, 0.0)
    for scores in (False, True):
        assert torch.equal(model(batch, scores=scores).logits, model(batch, scores=scores).logits)
    with pytest.raises(ValueError, match="dropout: found 1"):
        set_dropout(model, 1.0)


@given(layouts(labels=2))
def test_every_part_takes_part(layout: Layout) -> None:
    model, batch = random_bert(layout), rows(layout, lengths=(6, 6, 5))
    torch.autograd.backward(model(batch).logits.square().sum())
    idle = {name for name, parameter in model.named_parameters() if parameter.grad is None and parameter.numel()}
    assert idle == {name for name, _ in model.named_parameters() if name.startswith("cls.")}


@pytest.mark.parametrize("rank", [None, 3])
def test_the_padding_word_gets_no_gradient(rank: int | None) -> None:
    layout = dataclasses.replace(SMALL, embedding_rank=rank)
    model = random_bert(layout)
    torch.autograd.backward(model(rows(layout, lengths=(2, 3, 4))).last.square().sum())
    gradient = model.bert.embeddings.word_embeddings.weight.grad
    assert gradient is not None
    assert not gradient[0].any()
    assert gradient[1:].any()


@given(layouts())
def test_masked_words_are_decoded_with_the_word_table(layout: Layout) -> None:
    model, batch = random_bert(layout), rows(layout)
    chosen = torch.zeros(3, 6, dtype=torch.bool)
    chosen[0, 1] = chosen[2, 3] = True
    if not layout.masked_lm:
        with pytest.raises(ValueError, match="no masked-LM head"):
            model.mlm_logits(batch, chosen)
        return
    embeddings = model.bert.embeddings
    table = embeddings.word_embeddings.weight
    if embeddings.word_projection is not None:
        table = table @ embeddings.word_projection.weight.T
    assert model.cls is not None
    states = model.cls.predictions.transform(model(batch).last[[0, 2], [1, 3]])
    close(model.mlm_logits(batch, chosen), states @ table.T + model.cls.predictions.bias)


def test_masked_words_want_a_bool_mask() -> None:
    layout = Layout.uniform(vocab=9, hidden=4, num_layers=1, heads=1, head_width=4, ffn=4, masked_lm=True)
    with pytest.raises(ValueError, match=r"found dtype torch\.int64"):
        random_bert(layout).mlm_logits(rows(layout), torch.ones(3, 6, dtype=torch.long))


def test_wrong_head_and_too_long_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="found 'linear', allowed are"):
        Bert(SMALL, head="linear")
    with pytest.raises(ValueError, match="found sequences of 9 tokens, allowed are 8"):
        random_bert(SMALL)(rows(SMALL, length=9))


@given(layouts())
def test_initialise_is_a_function_of_the_seed(layout: Layout) -> None:
    model, before = Bert(layout), torch.get_rng_state()
    initialise(model, 3)
    first = copy.deepcopy(model.state_dict())
    initialise(model, 3)
    assert all(torch.equal(first[name], value) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), before)
    initialise(model, 4)
    assert any(not torch.equal(first[name], value) for name, value in model.state_dict().items())


def test_initialise_draws_like_bert() -> None:
    model = Bert(Layout.uniform(vocab=500, hidden=64, num_layers=1, heads=4, head_width=16, ffn=256, masked_lm=True))
    for std in (0.02, 0.5):
        initialise(model, 0, std)
        for name, value in model.named_parameters():
            if name.endswith("bias"):
                assert not value.any()
            elif "LayerNorm" in name:
                assert (value == 1).all()
            elif value.numel() > 1000:
                assert float(value.detach().std()) == pytest.approx(std, rel=0.1)
        assert not model.bert.embeddings.word_embeddings.weight[0].any()


def test_equal_inputs_give_bit_equal_outputs() -> None:
    model, batch = random_bert(SMALL), rows(SMALL)
    assert torch.equal(model(batch).logits, model(batch).logits)
    assert torch.equal(model(batch).logits, copy.deepcopy(model)(batch).logits)
