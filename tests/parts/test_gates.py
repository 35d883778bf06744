"""Gates, the losses through them, and the layers they pair; parity with the original is in test_lad_parity.py."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from methods.parts.batches import Batch
from methods.parts.bert import Bert
from methods.parts.clip import clip_gradients
from methods.parts.devices import check_device, open_device
from methods.parts.gated import Gated
from methods.parts.gates import NORMS, Gate, Gates, SequenceNorm
from methods.parts.gating import Gating
from methods.parts.knowledge import live
from methods.parts.losses import Term, kl_divergence, soft_cross_entropy
from methods.parts.optim import Group
from methods.parts.recipe import Recipe
from methods.parts.run import LocalRun
from methods.parts.shallow import start_layers
from methods.parts.training import Training
from methods.parts.update import Updater
from tests.parts.tiny import Rows, collated, tiny_bert, tiny_layout
from tests.strategies import normal

D, L = 6, 5


def states(count: int, *, length: int = L, rows: int = 3) -> list[Tensor]:
    return [normal(number, rows, length, D) for number in range(count)]


def mask_of(*lengths: int, length: int = L) -> Tensor:
    return (torch.arange(length) < torch.tensor(lengths)[:, None]).long()


def length_of(norm: str) -> int | None:
    return L if norm == "position" else None


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("reverse", [False, True])
def test_a_chain_begins_with_its_first_state_untouched(norm: str, reverse: bool) -> None:
    gates = Gates(4, D, norm=norm, length=length_of(norm), reverse=reverse)
    given_states = states(4)
    found = gates(given_states, mask_of(5, 2, 3))
    first = 3 if reverse else 0
    assert torch.equal(found[first], given_states[first])
    assert not list(gates.gate[0].parameters())
    assert all(not torch.equal(found[i], given_states[i]) for i in range(4) if i != first)


@pytest.mark.parametrize(("norm", "shape"), [("token", [D]), ("position", [L, D])])
def test_a_gate_weighs_the_new_layer_by_the_old_aggregate(norm: str, shape: list[int]) -> None:
    gate, scale, shift = Gate(D, norm=norm, length=length_of(norm)), normal(8, *shape), normal(9, *shape)
    gate.load_state_dict({**gate.state_dict(), "layernorm.weight": scale, "layernorm.bias": shift})
    old, new = states(2)
    share = torch.sigmoid(F.linear(old, gate.linear.weight, gate.linear.bias))
    wanted = F.layer_norm(share * new + (1 - share) * old, shape, scale, shift)
    torch.testing.assert_close(gate(old, new, mask_of(5, 2, 3)), wanted)


def test_an_aggregate_holds_its_own_layer_and_all_on_its_side() -> None:
    given_states = [state.requires_grad_() for state in states(4)]
    for reverse, held in ((False, [0, 1, 2]), (True, [2, 3])):
        (*_, aggregate, _) = Gates(4, D, reverse=reverse)(given_states, mask_of(5, 2, 3))
        grads = torch.autograd.grad(aggregate.square().sum(), given_states, allow_unused=True)
        assert [number for number, grad in enumerate(grads) if grad is not None and grad.abs().sum() > 0] == held


def test_a_full_row_is_normalised_as_published() -> None:
    value, whole = normal(0, 3, L, D), nn.LayerNorm([L, D])
    torch.testing.assert_close(SequenceNorm(D)(value, mask_of(5, 5, 5)), whole(value))


@pytest.mark.parametrize("norm", ["sequence", "token"])
def test_padding_changes_no_real_token(norm: str) -> None:
    gates, mask = Gates(4, D, norm=norm, seed=3), mask_of(5, 2, 3)
    short = states(4)
    padding = [normal(10 + number, 3, 4, D) for number in range(4)]
    long = [torch.cat(pair, 1) for pair in zip(short, padding, strict=True)]
    clean = [torch.where(mask[..., None].bool(), state, 0.0) for state in short]  # as a store gives them
    wanted = torch.stack(gates(short, mask))[:, mask.bool()]
    for other, of in ((long, mask_of(5, 2, 3, length=L + 4)), (clean, mask)):
        found = torch.stack(gates(other, of))[:, of.bool()]
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_gates_of_a_fixed_length_refuse_others() -> None:
    gates = Gates(3, D, norm="position", length=L)
    assert gates.state_dict()["gate.1.layernorm.weight"].shape == (L, D)
    with pytest.raises(ValueError, match="found 4 positions, allowed are 5 with norm 'position'"):
        gates(states(3, length=4), mask_of(4, 4, 4, length=4))


def test_new_gates_are_drawn_as_published() -> None:
    gate = Gate(400, seed=1)
    bound = (6 / 800) ** 0.5
    assert 0.99 * bound < float(gate.linear.weight.detach().abs().max()) <= bound
    assert 0.95 / 20 < float(gate.linear.bias.detach().abs().max()) <= 1 / 20
    before = torch.random.get_rng_state()
    one, same, other = (Gates(3, D, seed=seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    name = "gate.1.linear.weight"
    assert torch.equal(one[name], same[name])
    assert not torch.equal(one[name], other[name])
    assert not torch.equal(one[name], one["gate.2.linear.weight"])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"norm": "batch"}, "norm: found 'batch', allowed are sequence, token, position"),
        ({"norm": "position"}, "length: found None with norm 'position'"),
        ({"length": 3}, "length: found 3 with norm 'sequence'"),
    ],
)
def test_gates_that_cannot_be_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Gate(D, **values)  # type: ignore[arg-type]


def test_wrong_states_are_refused() -> None:
    with pytest.raises(ValueError, match="found 2 states, allowed are 3"):
        Gates(3, D)(states(2), mask_of(5, 5, 5))
    with pytest.raises(ValueError, match="must be equal"):
        Gate(D)(states(1)[0], normal(0, 3, L, D + 1), mask_of(5, 5, 5))


@given(st.integers(1, 24), st.data())
def test_every_depth_is_paired_up_to_the_last_layer(teacher: int, data: st.DataObject) -> None:
    student = data.draw(st.integers(1, teacher))
    pairs = Gated(teacher_layers=teacher, student_layers=student).pairs
    assert len(pairs) == student
    assert pairs[-1] == teacher
    assert all(before < after for before, after in zip((0, *pairs), pairs, strict=False))
    if teacher % student == 0:
        step = teacher // student
        assert pairs == tuple(range(step, teacher + 1, step))
    reverse = Gated(teacher_layers=teacher, student_layers=student, reverse=True).selection
    assert reverse.states == tuple(range(pairs[0], teacher + 1))


def test_the_published_pairs_and_starts() -> None:
    wanted = {6: (1, 3, 5, 7, 9, 11), 4: (2, 5, 8, 11), 3: (3, 7, 11), 5: (1, 4, 6, 9, 11)}
    for layers, indices in wanted.items():
        pairs = Gated(teacher_layers=12, student_layers=layers).pairs
        assert start_layers("even", pairs, None) == indices
        assert start_layers("first", pairs, None) == tuple(range(layers))
    with pytest.raises(ValueError, match="layers: found 13, allowed are 1 to the teacher's 12"):
        Gated(teacher_layers=12, student_layers=13)


def setting(**values: object) -> tuple[Gated, Bert, Gates, Bert]:
    gated = Gated(teacher_layers=4, student_layers=2, temperature=3.0, hidden=5.0, **values)  # type: ignore[arg-type]
    teacher, student = tiny_bert(1, layout=tiny_layout(num_layers=4)), tiny_bert(2)
    return gated, student, Gates(len(gated.selection.states), 8, reverse=gated.reverse), teacher


def terms_of(gated: Gated, student: Bert, gates: Gates, teacher: Bert, batch: Batch) -> list[Term]:
    (terms,) = gated.losses(student, gates, live(teacher, gated.selection))(batch)
    return list(terms)


@pytest.mark.parametrize("reverse", [False, True])
def test_one_backward_of_the_sum_is_the_sum_of_separate_ones(reverse: bool) -> None:
    gated, student, gates, teacher = setting(reverse=reverse)
    trained, batch = [*student.parameters(), *gates.parameters()], collated(range(6))
    terms = [term for term in terms_of(gated, student, gates, teacher, batch) if not term.watched]
    assert [term.name for term in terms] == ["label", "prediction", "hidden"]
    values = [term.weight * term.sum / batch.sizes[term.per] for term in terms]
    whole = torch.autograd.grad(torch.stack(values).sum(), trained, retain_graph=True)
    states_of = live(teacher, gated.selection)(batch).states
    for layer in range(2):  # each hidden term by itself, as the original back-propagates them
        hidden = student(batch, hidden=True).hidden[layer + 1]
        target = gated.targets([state.values for state in states_of], gates, batch.attention_mask)[layer]
        term = gated.distances([hidden], [target], batch.attention_mask)[0]
        values.append(0.5 * term.weight * term.sum / batch.sizes[term.per])
    del values[2]
    torch.testing.assert_close(values[2] + values[3], torch.stack(values[2:]).sum())
    parts = [torch.autograd.grad(value, trained, retain_graph=True, allow_unused=True) for value in values]
    for index, wanted in enumerate(whole):
        total = sum((part[index] for part in parts if part[index] is not None), torch.zeros_like(wanted))
        torch.testing.assert_close(total, wanted, rtol=1e-4, atol=1e-6)
    assert all(bool(grad.abs().sum() > 0) for grad in whole[-4 * (len(gates.gate) - 1) :])


def test_detached_gates_get_no_gradient_and_change_no_value() -> None:
    found = []
    for detached in (False, True):
        gated, student, gates, teacher = setting(detached=detached)
        hidden = next(
            term for term in terms_of(gated, student, gates, teacher, collated(range(6))) if term.name == "hidden"
        )
        torch.autograd.backward(hidden.sum)
        found.append(hidden.sum.detach())
        assert all((parameter.grad is None) == detached for parameter in gates.parameters())
        assert student.layers[1].output.dense.weight.grad is not None
    assert torch.equal(*found)


def test_losses_without_weight_are_left_out() -> None:
    names = {}
    for left_out in ("hard", "soft", "hidden", "hard soft"):
        gated = Gated(teacher_layers=4, student_layers=2, **dict.fromkeys(left_out.split(), 0.0))  # type: ignore[arg-type]
        student, teacher = tiny_bert(2), tiny_bert(1, layout=tiny_layout(num_layers=4))
        terms = terms_of(gated, student, Gates(len(gated.selection.states), 8), teacher, collated(range(4)))
        names[left_out] = [term.name for term in terms if not term.watched]
    assert names == {
        "hard": ["prediction", "hidden"],
        "soft": ["label", "hidden"],
        "hidden": ["label", "prediction"],
        "hard soft": ["hidden"],
    }


def test_the_divergence_is_the_cross_entropy_less_the_entropy() -> None:
    student, teacher = normal(0, 4, 3).requires_grad_(), normal(1, 4, 3)
    found = kl_divergence(student, teacher, temperature=2.0).sum
    wanted = F.kl_div((student / 2).log_softmax(-1), (teacher / 2).softmax(-1), reduction="sum")
    torch.testing.assert_close(found, wanted)
    cross = soft_cross_entropy(student, teacher, temperature=2.0).sum
    torch.testing.assert_close(torch.autograd.grad(found, student)[0], torch.autograd.grad(cross, student)[0])
    assert float(kl_divergence(teacher, teacher, temperature=5.0).sum) == pytest.approx(0.0, abs=1e-6)


def test_the_size_of_the_aggregates_is_reported_and_trains_nothing(tmp_path: Path) -> None:
    gated, student, gates, teacher = setting()
    losses = gated.losses(student, gates, live(teacher, gated.selection))
    groups = [Group(name="model", parameters=tuple(student.named_parameters())), *Gating().groups(gates)]
    training = Training(model=student, data=Rows(), losses=losses, groups=groups)
    updater = Updater(training, Recipe(clip="group"), LocalRun(tmp_path))
    updater.update(0, 10, False)
    sums = {name: float(value) for name, value in updater.window.sums.items()}
    assert sums["train/loss"] == pytest.approx(sum(sums[f"train/{name}"] for name in ("label", "prediction", "hidden")))
    batch = Rows().step(0)[0]
    targets = gated.targets(
        [state.values for state in live(teacher, gated.selection)(batch).states], gates, batch.attention_mask
    )
    real = batch.attention_mask.bool()
    wanted = torch.stack([target[real].detach().square().mean(-1).sqrt() for target in targets]).mean()
    assert sums["train/aggregate_rms"] == pytest.approx(float(wanted), rel=1e-4)


def test_each_gate_is_clipped_by_itself() -> None:
    gates = Gates(3, D)
    groups = Gating(gate_lr=1e-3, gate_clip_norm=0.5, gate_weight_decay=0.1).groups(gates)
    assert [(group.name, group.lr, group.weight_decay, group.clip_norm) for group in groups] == [
        ("gate.1", 1e-3, 0.1, 0.5),
        ("gate.2", 1e-3, 0.1, 0.5),
    ]
    for scale, group in zip((1.0, 100.0), groups, strict=True):
        for _, parameter in group.parameters:
            parameter.grad = torch.full_like(parameter, scale)
    clip_gradients([([each for _, each in group.parameters], 0.5) for group in groups], "group", 1.0)
    for group in groups:
        norm = torch.stack([p.grad.norm() for _, p in group.parameters if p.grad is not None]).norm()
        assert float(norm) == pytest.approx(0.5, rel=1e-5)
    assert Gating(detach_gates=True).groups(gates) == ()


def test_devices_by_name(tmp_path: Path) -> None:
    run = LocalRun(tmp_path)
    assert {open_device("x", value, run) for value in (None, "cpu", -1, "-1")} == {torch.device("cpu")}
    for value in ("cuda:x", "gpu", -2, "cpu:0"):
        with pytest.raises(ValueError, match=r"gate_device: found .*allowed are cpu \(or -1\), cuda:0"):
            check_device("gate_device", value)
    for value in (99, "99", "cuda:99"):
        check_device("gate_device", value)
        with pytest.raises(ValueError, match=r"gate_device: found .*99.*GPUs seen here"):
            open_device("gate_device", value, run)
