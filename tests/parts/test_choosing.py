"""The choices of knowledge and its amounts; parity with the original's is in test_mud_parity.py."""

import math
import re
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from methods.parts.amounts import Amounts, Choice, amounts_of, normalised_share, paired_states, parse_amounts
from methods.parts.choosing import attention_layers, keep, positions, separators, state_pairs
from methods.parts.layout import Layout
from methods.parts.lesson import Lesson, State
from methods.parts.losses import hidden_mse, state_mse
from methods.parts.selection import Selection
from tests.strategies import normal

TEACHER = Layout.uniform(vocab=30, positions=64, hidden=16, num_layers=12, heads=2, head_width=8, ffn=8)
SEEDS = st.integers(0, 10_000)
SCHEMES = ("left_first", "right_first", "attention", "attention_no_sep")
LENGTHS = st.lists(st.integers(3, 9), min_size=1, max_size=4)


def mask_of(lengths: list[int]) -> Tensor:
    return (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()


def scored(lengths: list[int], seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mask, scores of two heads with the additive mask, types with a second text from the third token on."""
    mask = mask_of(lengths)
    scores = normal(seed, len(lengths), 2, mask.shape[1]) - 10000.0 * (1 - mask[:, None])
    return mask, scores, (torch.arange(mask.shape[1]) > 2).long() * mask


@given(st.integers(1, 12), st.integers(0, 12), st.data())
def test_states_ascend_and_end_at_the_top(student: int, more: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, student + 1))
    theirs, mine = state_pairs(student, student + more, count)
    assert len(theirs) == len(mine) == count
    assert (theirs[-1], mine[-1]) == (student + more, student)
    assert list(theirs) == sorted(set(theirs))
    assert state_pairs(student, student + more)[0][-count:] == theirs


@pytest.mark.parametrize(
    ("student", "top", "wanted"),
    [
        (6, 8, (0, 1, 3, 4, 5, 7, 8)),
        (6, 10, (0, 2, 3, 5, 7, 8, 10)),
        (6, 12, (0, 2, 4, 6, 8, 10, 12)),
        (4, 8, (0, 2, 4, 6, 8)),
        (4, 10, (0, 2, 5, 8, 10)),
        (4, 12, (0, 3, 6, 9, 12)),
    ],
)
def test_the_published_pairs_of_states(student: int, top: int, wanted: tuple[int, ...]) -> None:
    assert state_pairs(student, top) == (wanted, tuple(range(student + 1)))


def test_tokens_are_ranked_at_the_student_s_relative_depth_or_where_the_state_was_made() -> None:
    depths = {"teacher_layers": 12, "student_layers": 6}
    assert attention_layers("top12", (7, 8), (5, 6), **depths) == (10, 12)
    assert attention_layers("own", (0, 7, 8), (0, 5, 6), **depths) == (1, 7, 8)
    assert attention_layers("top12", (0,), (0,), **depths) == (1,)
    with pytest.raises(ValueError, match="ranking: found 'best', allowed are top12, own"):
        attention_layers("best", (8,), (6,), **depths)


def test_a_separator_is_the_last_real_token_of_each_segment() -> None:
    types = torch.tensor([[0, 0, 0, 1, 1, 0], [0, 0, 0, 0, 0, 0], [0, 0, 1, 1, 1, 1]])
    mask = torch.tensor([[1, 1, 1, 1, 1, 0], [1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1]])
    found = [row.nonzero().flatten().tolist() for row in separators(types, mask)]
    assert found == [[2, 4], [2], [1, 5]]


@given(LENGTHS, SEEDS, st.integers(1, 12), st.sampled_from(SCHEMES))
def test_positions_are_real_distinct_and_as_many_as_there_are(
    lengths: list[int], seed: int, tokens: int, scheme: str
) -> None:
    mask, scores, types = scored(lengths, seed)
    chosen, real = positions(scheme, tokens, mask=mask, cls_scores=scores, types=types)
    assert chosen.shape == real.shape == (len(lengths), tokens)
    for row, length in enumerate(lengths):
        mine = chosen[row][real[row]].tolist()
        assert len(mine) == len(set(mine)) == min(tokens, length)
        assert all(place < length for place in mine)
        assert not chosen[row][~real[row]].any()
    fewer, _ = positions(scheme, max(1, tokens - 1), mask=mask, cls_scores=scores, types=types)
    assert torch.equal(fewer, chosen[:, : fewer.shape[1]])


@given(LENGTHS, SEEDS, st.sampled_from(SCHEMES))
def test_positions_do_not_depend_on_the_padding(lengths: list[int], seed: int, scheme: str) -> None:
    mask, scores, types = scored(lengths, seed)
    wide = [torch.nn.functional.pad(tensor, (0, 3)) for tensor in (mask, types)]
    wider = torch.nn.functional.pad(scores, (0, 3), value=-10000.0)
    narrow = positions(scheme, 4, mask=mask, cls_scores=scores, types=types)
    padded = positions(scheme, 4, mask=wide[0], cls_scores=wider, types=wide[1])
    assert all(torch.equal(*pair) for pair in zip(narrow, padded, strict=True))


def test_every_scheme_by_hand() -> None:
    mask, types = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]]), torch.tensor([[0, 0, 1, 1, 0], [0, 0, 0, 0, 0]])
    first = [[0.0, 8.0, 2.0, 9.0, 0.0], [0.0, 0.0, 2.0, 0.0, 0.0]]
    second = [[1.0, 2.0, 0.0, 0.0, 0.0], [1.0, 2.0, 0.0, 0.0, 0.0]]
    heads = torch.tensor([first, second])
    scores = heads - 10000.0 * (1 - mask[:, None])
    found = {
        scheme: positions(scheme, 1 if scheme == "cls" else 3, mask=mask, cls_scores=scores, types=types)[0].tolist()
        for scheme in (*SCHEMES, "cls")
    }
    assert found == {
        "left_first": [[0, 1, 2], [0, 1, 0]],
        "right_first": [[3, 2, 1], [1, 0, 0]],
        "cls": [[0], [0]],
        "attention": [[3, 1, 2], [1, 0, 0]],
        "attention_no_sep": [[2, 0, 1], [0, 1, 0]],
    }


def test_ranking_is_by_raw_scores_not_by_probabilities() -> None:
    mask, scores = torch.ones(1, 3, dtype=torch.int64), torch.tensor([[[0.0, 3.0, 0.5], [0.0, -10.0, 0.5]]])
    assert scores.softmax(-1).mean(1).argmax() == 1
    assert positions("attention", 1, mask=mask, cls_scores=scores)[0].item() == 2


@given(SEEDS, st.floats(0.02, 1.0), LENGTHS, st.sampled_from(["example", "token", "batch"]))
def test_the_largest_magnitudes_are_kept(seed: int, share: float, lengths: list[int], threshold: str) -> None:
    real = mask_of(lengths).bool()
    values = normal(seed, *real.shape, 5)
    chosen = keep(values, real, Selection(states=(1,), width_scheme="importance", width=share, threshold=threshold))
    assert not chosen[~real].any()
    groups = {"example": len(lengths), "token": real.numel(), "batch": 1}[threshold]
    magnitudes = values.abs().masked_fill(~real[..., None], -1.0).reshape(groups, -1)
    for mine, kept in zip(magnitudes, chosen.reshape(groups, -1), strict=True):
        total = int((mine >= 0).sum())
        assert int(kept.sum()) == min(total, max(1, math.floor(share * total)))
        if kept.any() and not kept.all():
            assert mine[kept].min() >= mine[~kept].max()


def test_equal_magnitudes_do_not_inflate_the_count() -> None:
    selection = Selection(states=(0,), width_scheme="importance", width=0.25)
    chosen = keep(torch.ones(2, 3, 4), torch.ones(2, 3, dtype=torch.bool), selection)
    assert chosen.flatten(1).sum(1).tolist() == [3, 3]
    assert chosen[0, 0, :3].all()


def test_fixed_widths_are_fixed_and_moving_ones_move() -> None:
    values, real = torch.zeros(1, 2, 64), torch.ones(1, 2, dtype=torch.bool)

    def mask(scheme: str, seed: int = 0) -> Tensor:
        return keep(values, real, Selection(states=(1,), width_scheme=scheme, width=0.5, seed=seed))

    assert mask("uniform")[0, 0].nonzero().flatten().tolist() == list(range(0, 64, 2))
    assert torch.equal(mask("random"), mask("random"))
    assert not torch.equal(mask("random"), mask("random", seed=1))
    assert not torch.equal(mask("random_dynamic"), mask("random_dynamic"))
    assert mask("random").shape == (1, 1, 64)


@given(LENGTHS, SEEDS, st.integers(1, 4))
def test_the_loss_looks_at_the_chosen_slots_alone(lengths: list[int], seed: int, tokens: int) -> None:
    mask, scores, types = scored(lengths, seed)
    mine = [normal(seed + 1, *mask.shape, 3), normal(seed + 2, *mask.shape, 3)]
    places, real = positions("attention", tokens, mask=mask, cls_scores=scores, types=types)
    theirs = normal(seed + 3, len(lengths), tokens, 3)
    lesson = Lesson(None, (State(theirs, places, real),) * 2, ())
    plain, padded = (state_mse(mine, lesson, mask, compat=compat) for compat in (None, "padding"))

    def apart(row: int, state: Tensor) -> list[Tensor]:
        slots = [slot for slot in range(tokens) if real[row, slot]]
        return [(state[row, places[row, slot]] - theirs[row, slot]).square().mean() for slot in slots]

    distances = [apart(row, state) for row in range(len(lengths)) for state in mine]
    torch.testing.assert_close(plain.sum, torch.stack([torch.stack(row).mean() for row in distances]).sum())
    torch.testing.assert_close(padded.sum, torch.stack([torch.stack(row).sum() / tokens for row in distances]).sum())
    assert (plain.name, plain.per, padded.per) == ("hidden", "examples", "examples")


@given(LENGTHS, SEEDS)
def test_without_a_choice_of_positions_it_is_the_plain_hidden_loss(lengths: list[int], seed: int) -> None:
    mask = mask_of(lengths)
    mine, theirs = normal(seed, *mask.shape, 3), normal(seed + 1, *mask.shape, 3)
    lesson = Lesson(None, (State(theirs, None, mask.bool()),), ())
    for compat in (None, "padding"):
        found, wanted = (
            state_mse([mine], lesson, mask, compat=compat),
            hidden_mse([mine], [theirs], mask, compat=compat),
        )
        assert torch.equal(found.sum, wanted.sum)
        assert found.per == wanted.per


def test_amounts_are_read_strictly() -> None:
    assert parse_amounts("1l_10t_0.1h") == Amounts(layers=1, tokens=10, hidden=0.1)
    assert parse_amounts("7l_128t_1h") == Amounts(layers=7, tokens=128, hidden=1.0)
    assert parse_amounts("2l_3t_.5h").hidden == 0.5
    for wrong in ("1l_10t_1e-2h", "1l_10t", "l_10t_0.1h", "1l_10t_0.1.2h", " 1l_10t_0.1h", "1l-10t-0.1h"):
        with pytest.raises(ValueError, match=re.escape(f"amounts: found {wrong!r}, allowed is the form 1l_10t_0.1h")):
            parse_amounts(wrong)
    for wrong in ("0l_10t_0.1h", "1l_0t_0.1h", "1l_10t_0h", "1l_10t_1.5h"):
        with pytest.raises(ValueError, match="keep_"):
            parse_amounts(wrong)


def test_an_amount_is_given_once() -> None:
    with pytest.raises(ValueError, match="beside keep_layers"):
        amounts_of("1l_10t_0.1h", Amounts(tokens=3), None)
    with pytest.raises(ValueError, match=r"hsk_share: found 0\.1 beside keep_hidden"):
        amounts_of(None, Amounts(hidden=0.5), 0.1)
    with pytest.raises(ValueError, match=r"hsk_share: found 0\.1 beside amounts"):
        amounts_of("1l_10t_0.1h", Amounts(), 0.1)


@given(st.integers(1, 7), st.integers(1, 64), st.floats(0.2, 1.0))
def test_the_width_follows_from_the_share(layers: int, tokens: int, hidden: float) -> None:
    share = normalised_share(layers=layers, tokens=tokens, hidden=hidden, states=7, length=64)
    choice = Choice(keep_layers=layers, keep_tokens=tokens, hsk_share=share)
    selection, mine = choice.select(TEACHER, 6)
    assert selection.width == pytest.approx(hidden)
    assert len(mine) == layers
    given_ = Choice(keep_layers=layers, keep_tokens=tokens, keep_hidden=hidden).select(TEACHER, 6)[0]
    assert (given_.states, given_.attention) == (selection.states, selection.attention)


def test_the_published_example_of_a_share() -> None:
    share = normalised_share(layers=1, tokens=10, hidden=0.1, states=7, length=128)
    assert share == pytest.approx(1 / 896)


WRONG: list[tuple[dict[str, Any], str]] = [
    (
        {"hsk_share": 0.5, "keep_layers": 1, "keep_tokens": 10},
        "hsk_share: found 0.5, allowed is at most 0.02232",
    ),
    ({"hsk_share": 1e-4, "width_scheme": "uniform"}, "keep_hidden: found 0.0001, allowed is at least 0.0625, 1 of 16"),
    ({"keep_hidden": 0.05, "threshold": "token"}, "keep_hidden: found 0.05, allowed is at least 0.0625, 1 of 16"),
    ({"top": 13}, "top: found 13, allowed are 6 to 12"),
    ({"top": 5}, "top: found 5, allowed are 6 to 12"),
    ({"keep_layers": 8}, "keep_layers: found 8, allowed are 1 to 7"),
    ({"teacher_states": (3, 13), "keep_layers": 2}, "teacher_states: found [3, 13], allowed are ascending"),
    ({"teacher_states": (3, 3), "keep_layers": 2}, "teacher_states: found [3, 3], allowed are ascending"),
    ({"teacher_states": (3, 4)}, "teacher_states: found 2 teacher states, 7 student states, keep_layers None"),
    ({"hsk_length": 0}, "hsk_length: found 0, allowed is at least 1"),
]


@pytest.mark.parametrize(("values", "message"), WRONG)
def test_what_cannot_be_chosen_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Choice(**values).select(TEACHER, 6)


def test_lists_replace_their_half_of_the_rule() -> None:
    assert paired_states((12, 6), 8, 2, (3, 9)) == ((3, 9), (5, 6))
    assert paired_states((12, 6), 8, 2, (), (1, 2)) == ((7, 8), (1, 2))
    assert paired_states((12, 6), 99, None, (0, 12), (1, 2)) == ((0, 12), (1, 2))


def test_all_of_it_is_no_choice() -> None:
    selection, mine = Choice(top=12).select(TEACHER, 6)
    assert selection == Selection(logits=False, states=(0, 2, 4, 6, 8, 10, 12))
    assert mine == (0, 1, 2, 3, 4, 5, 6)
    one = Choice(top=12, token_scheme="cls", keep_layers=1).select(TEACHER, 6)[0]
    assert (one.token_scheme, one.tokens, one.attention) == ("cls", 1, ())


@pytest.mark.parametrize(
    ("scheme", "tokens", "message"),
    [
        ("best", 2, "token_scheme: found 'best', allowed are left_first"),
        ("cls", 2, "keep_tokens: found 2, allowed is 1"),
        ("attention", 0, "keep_tokens: found 0, allowed is at least 1"),
        ("attention", 2, "token_scheme 'attention': found no cls_scores"),
    ],
)
def test_positions_refuse_what_they_cannot_choose(scheme: str, tokens: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        positions(scheme, tokens, mask=mask_of([3, 4]))
