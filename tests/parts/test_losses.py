import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from methods.parts.losses import (
    Term,
    hard_cross_entropy,
    hidden_mse,
    label_loss,
    layer_map,
    regression_mse,
    site_loss,
    soft_cross_entropy,
)
from tests.strategies import normal

SEEDS = st.integers(0, 10_000)


@given(SEEDS, st.integers(1, 5), st.integers(2, 4), st.floats(0.5, 4.0))
def test_soft_cross_entropy_is_torch_s(seed: int, rows: int, classes: int, temperature: float) -> None:
    student, teacher = normal(seed, rows, classes), normal(seed + 1, rows, classes)
    term = soft_cross_entropy(student, teacher, temperature=temperature)
    wanted = F.cross_entropy(student / temperature, (teacher / temperature).softmax(-1), reduction="sum")
    torch.testing.assert_close(term.sum, wanted)
    assert (term.per, term.weight) == ("examples", 1.0)
    over = soft_cross_entropy(student, teacher, temperature=temperature, mean_over_classes=True)
    torch.testing.assert_close(over.sum * classes, wanted)


@given(SEEDS, st.floats(0.5, 4.0))
def test_a_student_equal_to_its_teacher_is_at_the_minimum(seed: int, temperature: float) -> None:
    logits = normal(seed, 4, 3).requires_grad_()
    term = soft_cross_entropy(logits, logits, temperature=temperature)
    torch.autograd.backward(term.sum)
    assert logits.grad is not None
    assert float(logits.grad.abs().max()) < 1e-6
    soft = (logits.detach() / temperature).softmax(-1)
    torch.testing.assert_close(term.sum.detach(), -(soft * soft.log()).sum())


@given(SEEDS)
def test_hidden_loss_of_equal_states_is_zero_with_its_gradient(seed: int) -> None:
    states, mask = normal(seed, 2, 4, 3).requires_grad_(), torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])
    for compat in (None, "padding"):
        term = hidden_mse([states], [states], mask, compat=compat)
        (gradient,) = torch.autograd.grad(term.sum, states)
        assert float(term.sum.detach()) == 0.0
        assert not gradient.any()


@given(SEEDS, st.integers(1, 3))
def test_hidden_loss_counts_real_tokens_or_all_positions(seed: int, pairs: int) -> None:
    student = [normal(seed + i, 2, 4, 3) for i in range(pairs)]
    teacher = [normal(seed - i - 1 if seed > i else seed + 99 + i, 2, 4, 3) for i in range(pairs)]
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])
    real, every = hidden_mse(student, teacher, mask), hidden_mse(student, teacher, mask, compat="padding")
    pad = mask.bool()
    means = [F.mse_loss(s[pad], t[pad]) for s, t in zip(student, teacher, strict=True)]
    torch.testing.assert_close(real.sum / 5, torch.stack(means).sum())
    means = [F.mse_loss(s, t) for s, t in zip(student, teacher, strict=True)]
    torch.testing.assert_close(every.sum / 8, torch.stack(means).sum())
    assert (real.per, every.per) == ("tokens", "positions")


def test_no_gradient_reaches_the_teacher() -> None:
    student, teacher = normal(0, 2, 4, 3).requires_grad_(), normal(1, 2, 4, 3).requires_grad_()
    hidden = hidden_mse([student], [teacher], torch.ones(2, 4, dtype=torch.long))
    torch.autograd.backward(hidden.sum + soft_cross_entropy(student[:, 0], teacher[:, 0]).sum)
    assert teacher.grad is None
    assert student.grad is not None


def test_label_losses_are_sums_over_the_examples() -> None:
    logits, classes, values = normal(0, 5, 3), torch.tensor([0, 2, 1, 1, 0]), normal(1, 5)
    hard = hard_cross_entropy(logits, classes)
    torch.testing.assert_close(hard.sum / 5, F.cross_entropy(logits, classes))
    squared = regression_mse(logits[:, :1], values)
    torch.testing.assert_close(squared.sum / 5, F.mse_loss(logits[:, 0], values))
    assert torch.equal(label_loss(logits, classes).sum, hard.sum)
    assert torch.equal(label_loss(logits[:, :1], values).sum, squared.sum)
    assert hard.per == squared.per == "examples"
    assert float(regression_mse(values[:, None], values).sum) == 0.0


def test_site_loss_is_over_real_tokens() -> None:
    logits, mask = normal(0, 2, 3, 1), torch.tensor([[1, 1, 0], [1, 1, 1]])
    sites = torch.tensor([[0.0, 1.0, 1.0], [0.0, 0.0, 1.0]])
    every = F.binary_cross_entropy_with_logits(logits[..., 0], sites, reduction="none")
    term = site_loss(logits, mask, sites)
    torch.testing.assert_close(term.sum, (every * mask).sum())
    assert term.per == "tokens"
    with pytest.raises(ValueError, match="the batch has no sites"):
        site_loss(logits, mask, None)


def test_half_precision_is_summed_in_fp32() -> None:
    student, teacher = normal(0, 64, 3), normal(1, 64, 3)
    for dtype in (torch.bfloat16, torch.float16):
        assert soft_cross_entropy(student.to(dtype), teacher.to(dtype)).sum.dtype == torch.float32
        term = hidden_mse([student.to(dtype)[None]], [teacher.to(dtype)[None]], torch.ones(1, 64))
        assert term.sum.dtype == torch.float32
        assert hard_cross_entropy(student.to(dtype), torch.zeros(64, dtype=torch.long)).sum.dtype == torch.float32


def test_weights_multiply() -> None:
    term = 0.5 * (0.5 * Term("x", torch.tensor(2.0), "examples"))
    assert (term.weight, term.name, float(term.sum)) == (0.25, "x", 2.0)


def modulo_rule(teacher: int, student: int) -> list[int]:
    """The published code's map, with its defect."""
    if teacher % student == 0:
        return [i * teacher // student for i in range(student + 1)]
    return [i for i in range(teacher + 1) if (i + 1) % (teacher / student) >= 1e-5]


@pytest.mark.parametrize("teacher", range(1, 25))
def test_layer_map_is_the_published_one_where_that_is_sound(teacher: int) -> None:
    for student in range(1, teacher + 1):
        found, published = layer_map(teacher, student), modulo_rule(teacher, student)
        assert len(found) == student + 1
        assert (found[0], found[-1]) == (0, teacher)
        assert list(found) == sorted(set(found))
        if len(published) == student + 1:
            assert list(found) == published


def test_layer_maps_of_a_teacher_of_twelve() -> None:
    assert layer_map(12, 8) == (0, 1, 3, 4, 6, 7, 9, 10, 12)
    assert layer_map(12, 9) == (0, 1, 2, 4, 5, 6, 8, 9, 10, 12)
    assert layer_map(12, 10) == (0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 12)
    assert layer_map(12, 4) == (0, 3, 6, 9, 12)
    assert {len(modulo_rule(12, student)) for student in (5, 7)} == {12}
    assert [student for student in range(1, 13) if len(modulo_rule(12, student)) != student + 1] == [5, 7]
    assert layer_map(8, 6, "round") == (0, 1, 3, 4, 5, 7, 8)
    assert layer_map(10, 4, "round") == (0, 2, 5, 8, 10)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: soft_cross_entropy(normal(0, 2, 3), normal(0, 2, 2)), r"found shapes \(2, 3\) and \(2, 2\)"),
        (lambda: soft_cross_entropy(normal(0, 2, 3), normal(0, 2, 3), temperature=0.0), "found 0.0"),
        (lambda: hidden_mse([normal(0, 1, 2, 3)], [normal(0, 1, 2, 4)], torch.ones(1, 2)), "found shapes"),
        (lambda: hidden_mse([normal(0, 1, 2, 3)], [], torch.ones(1, 2)), "found 1 student, 0 teacher states"),
        (lambda: hidden_mse([], [], torch.ones(1, 2), compat="pads"), "found 'pads', allowed are None and 'padding'"),
        (lambda: regression_mse(normal(0, 2, 3), normal(0, 2)), r"found logits \(2, 3\), allowed are \(2, 1\)"),
        (lambda: layer_map(4, 5), "found 5 student layers, allowed are 1 to 4"),
        (lambda: layer_map(4, 0), "found 0 student layers"),
        (lambda: layer_map(4, 2, "ceil"), "found 'ceil', allowed are"),
    ],
)
def test_what_does_not_fit_is_refused(wrong: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        wrong()


def test_softmax_of_extreme_logits_is_finite() -> None:
    assert math.isfinite(float(soft_cross_entropy(torch.tensor([[1e4, -1e4]]), torch.tensor([[-1e4, 1e4]])).sum))
