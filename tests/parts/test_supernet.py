"""A supernet against its parts: rewired, extracted, trained together."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from methods.parts.batches import Batch
from methods.parts.bert import Bert
from methods.parts.elastic import Choices, Subnet
from methods.parts.elastic_training import Said, Weights, distilled, learn_together, one_mentor, same_width_mentor
from methods.parts.importance import Importance
from methods.parts.knowledge import live
from methods.parts.layout import Layout
from methods.parts.loop import Training, fit
from methods.parts.losses import Term
from methods.parts.recipe import Recipe
from methods.parts.run import LocalRun
from methods.parts.selection import Selection
from methods.parts.supernet import Slice, extract, rewired, run_subnet
from tests.parts.tiny import Rows, collated, tiny_bert, tiny_layout
from tests.strategies import layouts, normal, random_bert, rows

LAYOUT = tiny_layout(heads=4, num_layers=3, ffn=12)
CHOICES = Choices(widths=(1.0, 0.75, 0.5), depths=(1.0, 2 / 3))
BATCH = collated([1, 2, 3, 4, 5])
WEIGHTS = Weights(prediction=1.0, hidden=0.1)


def teacher() -> Bert:
    return tiny_bert(seed=1, layout=LAYOUT).eval()


def mentor_of(model: Bert) -> Callable[[Batch], Callable[[Subnet], Said]]:
    states = tuple(range(len(model.layers) + 1))
    return one_mentor(live(model, Selection(states=states)), states)


def value(terms: Sequence[Term], batch: Batch = BATCH) -> Tensor:
    return torch.stack([term.weight * term.sum / batch.sizes[term.per] for term in terms]).sum()


def gradients(model: Bert) -> dict[str, Tensor]:
    return {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


@given(layouts(labels=3), st.integers(0, 5))
def test_rewiring_keeps_the_function(layout: Layout, seed: int) -> None:
    model = random_bert(layout, seed=seed)
    heads = tuple(normal(seed + i, layer.heads) for i, layer in enumerate(layout.layers))
    neurons = tuple(normal(seed + i, layer.ffn) for i, layer in enumerate(layout.layers))
    batch, new = rows(layout), rewired(model, Importance(heads, neurons))
    torch.testing.assert_close(new(batch).logits, model(batch).logits, rtol=1e-4, atol=1e-5)
    if layout.layers[0].heads:
        best, width = int(heads[0].argmax()), layout.layers[0].head_width
        assert torch.equal(
            new.layers[0].attention.self.key.bias[:width],
            model.layers[0].attention.self.key.bias[best * width : (best + 1) * width],
        )


@given(layouts(labels=2), st.floats(0.1, 1.0), st.floats(0.34, 1.0), st.data())
def test_an_extracted_model_is_the_supernet_at_that_point(
    layout: Layout, width: float, depth: float, data: st.DataObject
) -> None:
    choices = Choices(widths=(1.0, 0.1), keep=data.draw(st.sampled_from(["first", "last"])))
    each = [(data.draw(st.floats(0.1, 1.0)), data.draw(st.none() | st.just(width))) for _ in layout.layers]
    model, batch = random_bert(layout), rows(layout)
    subnet = choices.subnet(layout, each, max(depth, 0.6 / len(layout.layers)))
    own = extract(model, subnet)
    assert own.layout == subnet.layout(layout)
    cut_out, shared = own(batch, hidden=True), run_subnet(model, subnet, batch, hidden=True)
    for mine, theirs in zip((cut_out.logits, *cut_out.hidden), (shared.logits, *shared.hidden), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


def test_the_whole_model_is_its_largest_subnetwork() -> None:
    model = tiny_bert(layout=LAYOUT, dropout=0.3).train()
    largest = next(iter(CHOICES.listed(LAYOUT).values()))
    torch.manual_seed(3)
    wanted = model(BATCH).logits
    torch.manual_seed(3)
    assert torch.equal(run_subnet(model, largest, BATCH).logits, wanted)  # dropout included


def test_dropout_acts_in_training_only() -> None:
    model, subnet = tiny_bert(layout=LAYOUT, dropout=0.3), CHOICES.listed(LAYOUT)["w0.5-d0.6667"]
    shared = Slice(model, subnet)
    assert not [*shared.parameters()]
    assert torch.equal(shared.eval()(BATCH).logits, shared(BATCH).logits)
    assert not model.training
    assert not torch.equal(shared.train()(BATCH).logits, shared(BATCH).logits)
    assert model.training


def test_small_subnetworks_leave_the_rest_without_gradient() -> None:
    model, subnet = teacher(), CHOICES.listed(LAYOUT)["w0.5-d0.6667"]
    assert subnet.blocks == (0, 2)
    value(distilled(model, subnet, BATCH, mentor_of(tiny_bert(2, layout=LAYOUT))(BATCH)(subnet), WEIGHTS)).backward()  # type: ignore[no-untyped-call]
    found, used = gradients(model), model.layers[2]
    assert used.attention.self.query.weight.grad is not None
    assert found["bert.encoder.layer.2.attention.self.value.weight"][:8].abs().sum() > 0
    assert found["bert.encoder.layer.2.attention.self.value.weight"][8:].abs().sum() == 0
    assert found["bert.encoder.layer.2.attention.output.dense.weight"][:, 8:].abs().sum() == 0
    assert found["bert.encoder.layer.2.intermediate.dense.bias"][6:].abs().sum() == 0
    assert found["bert.encoder.layer.2.output.dense.weight"][:, 6:].abs().sum() == 0
    assert all(parameter.grad is None for parameter in model.layers[1].parameters())


def test_the_gradients_of_all_subnetworks_add_up_to_the_joint_step() -> None:
    model, mentor = teacher(), mentor_of(tiny_bert(2, layout=LAYOUT))
    each = [*CHOICES.listed(LAYOUT).values()]
    total: dict[str, Tensor] = {}
    for subnet in each:
        model.zero_grad()
        value(distilled(model, subnet, BATCH, mentor(BATCH)(subnet), WEIGHTS)).backward()  # type: ignore[no-untyped-call]
        total = {name: gradient + total.get(name, 0.0) for name, gradient in gradients(model).items()}
    model.zero_grad()
    for terms in learn_together(model, lambda: each, mentor, WEIGHTS)(BATCH):
        value(terms).backward()  # type: ignore[no-untyped-call]
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, total[name], rtol=1e-5, atol=1e-7, msg=name)


def test_the_full_width_has_nothing_to_learn_of_the_states_at_first() -> None:
    model = teacher()
    scores = Importance((normal(1, 4),) * 3, (normal(2, 12),) * 3)
    each, mentor = CHOICES.listed(LAYOUT), mentor_of(model)
    hidden = []
    for subnet in each.values():
        terms = distilled(rewired(model, scores), subnet, BATCH, mentor(BATCH)(subnet), Weights(prediction=0.0))
        hidden.append(float(value(terms).detach()))
    assert hidden[0] < 1e-10 < 1e-4 < min(hidden[2:])


def test_padding_counts_only_on_request() -> None:
    model, subnet = teacher(), CHOICES.listed(LAYOUT)["w0.5-d1"]
    mentor = mentor_of(tiny_bert(2, layout=LAYOUT))
    wide = {
        name: torch.nn.functional.pad(getattr(BATCH, name), (0, 3))
        for name in ("input_ids", "attention_mask", "token_type_ids")
    }
    sizes = {**BATCH.sizes, "positions": BATCH.sizes["positions"] + 3 * 5}
    padded = dataclasses.replace(BATCH, **wide, sizes=sizes)  # type: ignore[arg-type]
    for compat, same in (((), True), (("padding",), False)):
        short, long = (
            float(value(distilled(model, subnet, batch, mentor(batch)(subnet), WEIGHTS, compat), batch).detach())
            for batch in (BATCH, padded)
        )
        assert (abs(short - long) < 1e-5 * short) == same


def test_a_regression_trains_its_head_unless_told_otherwise() -> None:
    layout = dataclasses.replace(LAYOUT, labels=1)
    batch = dataclasses.replace(BATCH, labels=torch.rand(5))
    for compat, trains in (((), True), (("no-regression-loss",), False)):
        model, other = tiny_bert(1, layout=layout), tiny_bert(2, layout=layout)
        subnet = CHOICES.listed(layout)["w0.5-d1"]
        terms = distilled(model, subnet, batch, mentor_of(other)(batch)(subnet), WEIGHTS, compat)
        assert [term.name for term in terms] == (["prediction", "hidden"] if trains else ["hidden"])
        value(terms).backward()  # type: ignore[no-untyped-call]
        assert model.classifier is not None
        assert (model.classifier.weight.grad is not None) == trains


def test_a_teacher_is_asked_once_an_update_and_one_of_the_same_width_once_a_width() -> None:
    """Counted by what the teacher's dropout draws: each answer is another one."""
    model, noisy = teacher(), tiny_bert(2, layout=LAYOUT, dropout=0.5)
    states = (0, 1, 2, 3)
    mentor = one_mentor(live(noisy, Selection(states=states), dropout=True), states)
    asked = mentor(BATCH)
    answers = [asked(subnet)[0] for subnet in CHOICES.listed(LAYOUT).values()]
    assert all(answer is answers[0] for answer in answers)
    again = mentor(BATCH)(next(iter(CHOICES.listed(LAYOUT).values())))[0]
    assert again is not None
    assert not torch.equal(again, answers[0])  # type: ignore[arg-type]
    same = same_width_mentor(model)(BATCH)
    own = {name: same(subnet)[0] for name, subnet in CHOICES.listed(LAYOUT).items()}
    assert own["w0.5-d1"] is own["w0.5-d0.6667"]
    assert torch.equal(own["w0.5-d1"], extract(model, CHOICES.listed(LAYOUT)["w0.5-d1"])(BATCH).logits)  # type: ignore[arg-type]
    assert not torch.equal(own["w0.5-d1"], own["w0.75-d1"])  # type: ignore[arg-type]


@pytest.mark.parametrize("micro_batches", [1, 3])
def test_one_update_of_the_loop_is_the_joint_step(tmp_path: Path, micro_batches: int) -> None:
    """The loop sums over sub-networks, micro-batches and padded lengths as one large batch would."""
    each = [*CHOICES.listed(LAYOUT).values()]
    mentor, model, found = mentor_of(tiny_bert(2, layout=LAYOUT)), tiny_bert(1, layout=LAYOUT), dict[str, Tensor]()

    def keep_gradients(_step: int, _optimizer: object) -> None:
        found.update(gradients(model))

    data = Rows(num_rows=8, batch_size=8, micro_batches=micro_batches)
    losses = learn_together(model, lambda: each, mentor, WEIGHTS)
    training = Training(model=model, data=data, losses=losses, before_step=keep_gradients, best={})
    with LocalRun(tmp_path).stage("one") as stage:
        fit(training, Recipe(total_steps=1, lr=0.0), stage, LocalRun(tmp_path))
    (whole,) = Rows(num_rows=8, batch_size=8).step(0)
    wanted = tiny_bert(1, layout=LAYOUT)
    for terms in learn_together(wanted, lambda: each, mentor, WEIGHTS)(whole):
        value(terms, whole).backward()  # type: ignore[no-untyped-call]
    for name, gradient in gradients(wanted).items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-7, msg=name)
