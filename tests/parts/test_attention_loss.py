from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from methods.parts.attention_loss import attention_mse
from tests.strategies import normal

SEEDS = st.integers(0, 10_000)
MASK = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1]])


def scores(seed: int, mask: Tensor = MASK, heads: int = 2, layers: int = 2) -> list[Tensor]:
    """Random scores with -10000 added to padded keys."""
    length = mask.shape[1]
    added = (1.0 - mask.float())[:, None, None] * -10000.0
    return [normal(seed + 7 * layer, len(mask), heads, length, length) + added for layer in range(layers)]


def by_loops(student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor) -> float:
    """The mean over examples of the mean over heads, real queries and real keys, summed over layers."""
    whole = 0.0
    for mine, theirs in zip(student, teacher, strict=True):
        for row in range(len(mask)):
            real = [place for place in range(mask.shape[1]) if mask[row, place]]
            squares = [
                float(mine[row, head, query, key] - theirs[row, head, query, key]) ** 2
                for head in range(mine.shape[1])
                for query in real
                for key in real
            ]
            whole += sum(squares) / len(squares) / len(mask)
    return whole


def published(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """The released code, line by line."""
    loss = torch.zeros(())
    for mine, theirs in zip(student, teacher, strict=True):
        mine = torch.where(mine <= -1e2, torch.zeros_like(mine), mine)
        theirs = torch.where(theirs <= -1e2, torch.zeros_like(theirs), theirs)
        loss = loss + F.mse_loss(mine, theirs)
    return loss


@given(SEEDS)
def test_it_is_the_mean_over_real_pairs(seed: int) -> None:
    student, teacher = scores(seed), scores(seed + 50)
    term = attention_mse(student, teacher, MASK)
    assert (term.name, term.per, term.weight) == ("attention", "examples", 1.0)
    assert float(term.sum) / len(MASK) == pytest.approx(by_loops(student, teacher, MASK), rel=1e-5)


@given(SEEDS)
def test_padding_compat_is_the_published_code(seed: int) -> None:
    student, teacher = scores(seed), scores(seed + 50)
    term = attention_mse(student, teacher, MASK, compat="padding")
    assert term.per == "positions"
    torch.testing.assert_close(term.sum / MASK.numel(), published(student, teacher))


@given(SEEDS)
def test_it_does_not_depend_on_the_padding(seed: int) -> None:
    student, teacher = scores(seed), scores(seed + 50)
    wider = F.pad(MASK, (0, 3))
    longer = [[F.pad(layer, (0, 3, 0, 3), value=-9999.0) for layer in model] for model in (student, teacher)]
    torch.testing.assert_close(attention_mse(*longer, wider).sum, attention_mse(student, teacher, MASK).sum)


@given(SEEDS)
def test_parts_of_a_batch_add_up(seed: int) -> None:
    student, teacher = scores(seed), scores(seed + 50)
    for compat in (None, "padding"):
        whole = attention_mse(student, teacher, MASK, compat=compat).sum
        parts = [
            attention_mse([s[rows] for s in student], [t[rows] for t in teacher], MASK[rows], compat=compat).sum
            for rows in (slice(0, 1), slice(1, 3))
        ]
        torch.testing.assert_close(parts[0] + parts[1], whole)


def test_equal_scores_have_no_loss_and_no_gradient_reaches_the_teacher() -> None:
    student = [layer.requires_grad_() for layer in scores(1)]
    for compat in (None, "padding"):
        term = attention_mse(student, student, MASK, compat=compat)
        gradients = torch.autograd.grad(term.sum, student)
        assert float(term.sum.detach()) == 0.0
        assert not any(gradient.any() for gradient in gradients)
    teacher = [layer.requires_grad_() for layer in scores(2)]
    torch.autograd.backward(attention_mse(student, teacher, MASK).sum)
    assert all(layer.grad is None for layer in teacher)
    assert all(torch.isfinite(layer.grad).all() for layer in student if layer.grad is not None)
    assert not student[0].grad[0, :, 4:].any()  # type: ignore[index]  # padded queries learn nothing


def test_only_the_published_code_takes_a_low_real_score_for_padding() -> None:
    mask = torch.ones(1, 1, dtype=torch.long)
    student, teacher = torch.zeros(1, 1, 1, 1), torch.full((1, 1, 1, 1), -200.0)
    assert float(attention_mse([student], [teacher], mask).sum) == 40000.0
    assert float(attention_mse([student], [teacher], mask, compat="padding").sum) == 0.0


def test_half_precision_is_summed_in_fp32() -> None:
    student, teacher = scores(0), scores(3)
    halves = [[layer.to(torch.bfloat16) for layer in model] for model in (student, teacher)]
    assert attention_mse(*halves, MASK).sum.dtype == torch.float32


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="found 2 student, 1 teacher layers"):
        attention_mse(scores(0), scores(0, layers=1), MASK)
    with pytest.raises(ValueError, match="do the head counts differ"):
        attention_mse(scores(0), scores(0, heads=4), MASK)
    with pytest.raises(ValueError, match="found 'pads', allowed are None and 'padding'"):
        attention_mse([], [], MASK, compat="pads")
