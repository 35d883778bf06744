from itertools import chain

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from methods.parts.layout import Layout
from methods.parts.mask_groups import Narrowing, groups_of, keep_top
from tests.parts.test_compactors import LAYOUT as TINY
from tests.parts.test_compactors import compacted

BASE = Layout.uniform(vocab=30522, hidden=768, num_layers=12, heads=12, head_width=64, ffn=3072)


@st.composite
def narrowings(draw: st.DrawFn) -> Narrowing:
    """Any geometry, target and ramps that fit."""
    heads, width, ratio = draw(st.integers(1, 5)), draw(st.integers(1, 9)), draw(st.integers(1, 4))
    strategy = draw(st.sampled_from(("dim", "head")))
    target = draw(st.integers(1, width)) * heads if strategy == "dim" else draw(st.integers(1, heads)) * width
    hidden = heads * width
    layout = Layout.uniform(vocab=5, hidden=hidden, num_layers=2, heads=heads, head_width=width, ffn=ratio * hidden)
    return Narrowing(
        layout=layout,
        target=target,
        strategy=strategy,
        scoring=draw(st.sampled_from(("single", "group"))),
        ramp_residual=draw(st.none() | st.integers(1, 20)),
        ramp_ffn=draw(st.integers(1, 20)),
    )


def compactors_of(narrowing: Narrowing, seed: int, ties: bool = False) -> dict[str, Tensor]:
    """Random compactors, or identities, of which every score is equal."""
    generator, found = torch.Generator().manual_seed(seed), {}
    for group in groups_of(len(narrowing.layout.layers)):
        size = narrowing.layout.layers[0].ffn if group.name.startswith("ffn") else narrowing.layout.hidden
        for name in (*(f"{name}.in" for name in group.inputs), *(f"{name}.out" for name in group.outputs)):
            found[name] = torch.eye(size) if ties else torch.randn(size, size, generator=generator)
    return found


def test_every_compactor_belongs_to_exactly_one_group() -> None:
    groups = groups_of(2)
    members = [
        *chain.from_iterable((f"{name}.in" for name in group.inputs) for group in groups),
        *chain.from_iterable((f"{name}.out" for name in group.outputs) for group in groups),
    ]
    assert len(members) == len(set(members)) == 1 + 12 * 2 + 3
    assert set(members) == {name for name, _ in compacted().named_compactors()}
    assert [group.name for group in groups] == ["residual", "attention.0", "ffn.0", "attention.1", "ffn.1", "words"]
    vectors = [*chain.from_iterable(group.vectors for group in groups)]
    model = compacted()
    wanted = {name for name, value in model.named_parameters() if value.dim() == 1} - {"cls.predictions.bias"}
    assert sorted(vectors) == sorted(wanted)


def test_the_published_students_have_their_shapes_and_schedules() -> None:
    small, large = (Narrowing(layout=BASE, target=target) for target in (192, 516))
    heads = Narrowing(layout=BASE, target=192, strategy="head")
    assert [layer.heads for layer in small.student.layers] == [12] * 12
    assert (small.student.layers[0].head_width, small.student.layers[0].ffn) == (16, 768)
    assert (heads.student.layers[0].heads, heads.student.layers[0].head_width) == (3, 64)
    assert (large.student.layers[0].head_width, large.student.layers[0].ffn) == (43, 2064)
    assert [narrow.complete for narrow in (small, large, heads)] == [16, 16, 18]
    assert [small.removed(number).residual for number in (1, 7, 8, 9)] == [72, 504, 576, 576]


def test_a_small_surplus_shrinks_too() -> None:
    almost = Narrowing(layout=BASE, target=756)
    assert [almost.removed(number).residual for number in (1, 2)] == [12, 12]


@given(narrowings(), st.integers(0, 5), st.booleans())
def test_choices_have_the_promised_sizes_at_every_step(narrowing: Narrowing, seed: int, ties: bool) -> None:
    compactors, layer = compactors_of(narrowing, seed, ties), narrowing.layout.layers[0]
    before = narrowing.removed(0)
    assert (before.residual, before.attention, before.ffn, before.words) == (0, 0, 0, 0)
    for number in range(1, narrowing.complete + 2):
        removed, masks = narrowing.removed(number), narrowing.select(compactors, number)
        assert removed.residual >= before.residual
        assert removed.ffn >= before.ffn
        before = removed
        assert int(masks["residual"].sum()) == narrowing.layout.hidden - removed.residual
        assert int(masks["words"].sum()) == narrowing.layout.hidden - removed.words
        for place in range(2):
            assert int(masks[f"ffn.{place}"].sum()) == layer.ffn - removed.ffn
            heads = masks[f"attention.{place}"].view(layer.heads, layer.head_width).sum(1).tolist()
            assert sum(heads) == narrowing.layout.hidden - removed.attention
            assert len(set(heads)) == 1 if narrowing.strategy == "dim" else {*heads} <= {0, layer.head_width}
    student = narrowing.student
    assert int(masks["residual"].sum()) == int(masks["words"].sum()) == student.hidden
    assert int(masks["ffn.0"].sum()) == student.layers[0].ffn
    assert student.layers[0].width == student.hidden


def test_of_equal_scores_the_lower_number_is_kept() -> None:
    assert keep_top(torch.ones(1, 5), 2).tolist() == [[True, True, False, False, False]]
    assert keep_top(torch.zeros(2, 3), 3).all()
    narrowing = Narrowing(layout=TINY, target=8)
    masks = narrowing.select(compactors_of(narrowing, 0, ties=True), 99)
    assert masks["residual"].tolist() == [True, True, False, False] * 4
    assert masks["ffn.0"].tolist() == [True] * 12 + [False] * 12


def test_a_single_matrix_decides_or_all_of_the_group() -> None:
    single, group = (Narrowing(layout=TINY, target=8, scoring=scoring) for scoring in ("single", "group"))
    compactors = compactors_of(single, 0, ties=True)
    compactors["bert.encoder.layer.0.attention.self.value.in"][:, 13:] *= 2.0
    compactors["bert.encoder.layer.1.output.dense.out"][4:8] *= 5.0
    assert single.select(compactors, 99)["residual"].tolist() == [True, True, False, False] * 3 + [
        False,
        True,
        True,
        False,
    ]
    found = group.select(compactors, 99)["residual"].nonzero().flatten().tolist()
    assert found == [0, 4, 5, 6, 7, 13, 14, 15]


def test_a_removed_dimension_may_come_back() -> None:
    narrowing = Narrowing(layout=TINY, target=8, ramp_ffn=1)
    compactors = compactors_of(narrowing, 0, ties=True)
    assert not narrowing.select(compactors, 1)["words"][15]
    compactors["cls.predictions.decoder.in"][:, 15] *= 2.0
    assert narrowing.select(compactors, 2)["words"][15]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"target": 516, "strategy": "head"}, "target: found 516 with strategy 'head', allowed are multiples of 64"),
        ({"target": 128}, "target: found 128 with strategy 'dim', allowed are multiples of 12, the teacher's heads"),
        ({"target": 780}, "target: found 780, allowed are 1 to the teacher's 768"),
        ({"target": 192, "strategy": "row"}, "strategy: found 'row', allowed are dim, head"),
        ({"target": 192, "scoring": "row"}, "scoring: found 'row', allowed are single, group"),
        ({"target": 192, "ramp_ffn": 0}, "ramp_ffn: found 0"),
    ],
)
def test_targets_that_do_not_fit_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Narrowing(layout=BASE, **values)  # type: ignore[arg-type]


def test_other_layouts_are_refused() -> None:
    with pytest.raises(ValueError, match="heads fill the hidden width"):
        Narrowing(layout=Layout.from_json({**TINY.to_json(), "embedding_rank": 4}), target=8)
    odd = Layout.uniform(vocab=5, hidden=16, num_layers=1, heads=4, head_width=4, ffn=18)
    with pytest.raises(ValueError, match="whole number of neurons"):
        Narrowing(layout=odd, target=12)
