from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from methods.parts.batches import Batch
from methods.parts.bert import Bert, initialise
from methods.parts.knowledge import knowledge_bytes, live
from methods.parts.packing import Format, Packer
from methods.parts.selection import Selection, merged_all
from tests.parts.taught import ATTENTIVE, FULL, LAYOUT


@st.composite
def selections(draw: Callable[..., Any]) -> Selection:
    """Selections that can be stored."""
    states = tuple(sorted(draw(st.sets(st.integers(0, 4), max_size=3))))
    token_scheme = draw(st.sampled_from(["all", "left_first", "right_first", "cls", "attention", "attention_no_sep"]))
    width_scheme = draw(st.sampled_from(["all", "random", "uniform", "importance"]))
    ranked = token_scheme.startswith("attention")
    return Selection(
        logits=draw(st.booleans()) or not states,
        states=states,
        token_scheme=token_scheme,
        tokens={"all": None, "cls": 1}.get(token_scheme, draw(st.integers(1, 6))),
        attention=tuple(draw(st.integers(1, 4)) for _ in states) if ranked else (),
        width_scheme=width_scheme,
        width=1.0 if width_scheme == "all" else draw(st.sampled_from([0.02, 0.2, 0.7, 1.0])),
        threshold=draw(st.sampled_from(["example", "token"])),
        seed=draw(st.integers(0, 2)),
        dtype=draw(st.sampled_from(["float32", "float16"])),
    )


@given(selections())
def test_selections_survive_json_and_cover_themselves(selection: Selection) -> None:
    assert Selection.from_json(selection.to_json()) == selection
    assert selection.storable
    assert selection.covers(selection)
    plain = selection.canonical()
    assert selection.covers(plain)
    assert plain.covers(selection)
    assert plain.canonical() == plain


@given(selections(), selections(), selections())
def test_covering_is_transitive_and_costs_bytes(one: Selection, two: Selection, three: Selection) -> None:
    if one.covers(two):
        assert knowledge_bytes(one, LAYOUT, [3, 9]) >= knowledge_bytes(two, LAYOUT, [3, 9])
        assert not two.covers(three) or one.covers(three)


@given(st.lists(selections(), min_size=1, max_size=6))
def test_merging_covers_everything_with_fewer(wanted: list[Selection]) -> None:
    few = merged_all(wanted)
    assert len(few) <= len(wanted)
    assert all(any(one.covers(selection) for one in few) for selection in wanted)


def test_states_and_tokens_merge_where_they_nest() -> None:
    shallow, deep = Selection(states=(0, 4)), Selection(logits=False, states=(0, 2, 4))
    assert merged_all([shallow, deep]) == (Selection(states=(0, 2, 4)),)
    few = Selection(states=(3,), token_scheme="attention", tokens=2, attention=(4,))
    more = Selection(states=(2, 3), token_scheme="attention", tokens=5, attention=(2, 4))
    assert merged_all([few, more]) == (more,)
    other = replace(few, attention=(3,))
    assert merged_all([other, more]) == (other, more)


@given(selections(), st.lists(st.integers(2, 12), min_size=1, max_size=5))
def test_predicted_bytes_are_those_of_the_packed_records(selection: Selection, lengths: list[int]) -> None:
    form = Format.of(selection, LAYOUT)
    packer = Packer(form, np.array(lengths))
    packer.add(live(TEACHER, selection)(batch_of(lengths)))
    packed = sum(array.nbytes for array in packer.records.values())
    assert knowledge_bytes(selection, LAYOUT, lengths) == packed + 8 * len(lengths)
    assert form.bytes(lengths) == packed


TEACHER = Bert(LAYOUT)
initialise(TEACHER, 0, 0.4)


def batch_of(lengths: list[int]) -> Batch:
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    generator = torch.Generator().manual_seed(len(lengths))
    ids = torch.randint(1, LAYOUT.vocab, mask.shape, generator=generator) * mask
    return Batch(
        input_ids=ids,
        attention_mask=mask.long(),
        token_type_ids=torch.zeros_like(ids),
        labels=torch.zeros(len(lengths)).long(),
        ids=torch.arange(len(lengths)),
        sites=None,
        sizes={},
    )


def test_the_published_amount_takes_what_the_paper_says() -> None:
    base = replace(LAYOUT, hidden=768, layers=LAYOUT.layers * 3)
    tiny = Selection(
        logits=False,
        states=(8,),
        token_scheme="attention_no_sep",
        tokens=10,
        attention=(12,),
        width_scheme="importance",
        width=0.1,
    )
    assert knowledge_bytes(tiny, base, [128]) == 768 * 4 + 7680 // 8 + 10 * 2 + 8
    full = Selection(logits=False, states=(0, 1, 3, 4, 5, 7, 8))
    records = 128 * 7 * 768 * 4
    assert records <= knowledge_bytes(full, base, [128]) <= records + 26
    assert knowledge_bytes(Selection(scores=(1,)), base, [128]) == 0


@pytest.mark.parametrize(
    ("other", "covered"),
    [
        ({"states": (2,), "attention": (4,)}, True),
        ({"states": (2,), "attention": (2,)}, False),
        ({"states": (3,), "attention": (4,)}, False),
        ({"logits": False}, True),
        ({"tokens": 4}, False),  # the largest coordinates are those of all five positions
        ({"tokens": 6}, False),
        ({"token_scheme": "attention"}, False),
        ({"width": 0.2}, False),
        ({"threshold": "token"}, False),
        ({"dtype": "float16"}, False),
        ({"seed": 7}, True),
        ({"states": (), "attention": (), "width": 0.9}, True),
        ({"threshold": "batch"}, False),
        ({"scores": (1,)}, False),
    ],
)
def test_what_a_store_holds(other: dict[str, Any], covered: bool) -> None:
    assert ATTENTIVE.covers(replace(ATTENTIVE, **other)) is covered


@pytest.mark.parametrize("changes", [{"threshold": "token"}, {"width_scheme": "uniform"}, {"width": 1.0}])
def test_fewer_positions_are_a_prefix_where_the_coordinates_allow_it(changes: dict[str, Any]) -> None:
    stored = replace(ATTENTIVE, **changes)
    assert stored.covers(replace(stored, tokens=2))
    assert not replace(stored, tokens=2).covers(stored)


def test_how_deep_a_teacher_must_run() -> None:
    assert Selection().depth(12) == 12
    assert Selection(logits=False, states=(0, 3)).depth(12) == 3
    assert replace(ATTENTIVE, logits=False, states=(0,), attention=(2,)).depth(12) == 2
    assert Selection(logits=False, scores=(5,)).depth(12) == 5
    with pytest.raises(ValueError, match=r"Selection: found layer 5, allowed are the teacher's 0 to 4"):
        Selection(states=(5,)).depth(4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"logits": False, "states": ()}, "found neither logits nor states nor scores"),
        ({"states": (2, 1)}, r"states: found \(2, 1\), allowed are ascending numbers from 0"),
        ({"states": (-1,)}, r"states: found \(-1,\)"),
        ({"scores": (0,)}, r"scores: found \(0,\), allowed are ascending numbers from 1"),
        ({"token_scheme": "best"}, "token_scheme: found 'best', allowed are all, left_first"),
        ({"tokens": 3}, "tokens: found 3 with token_scheme 'all', allowed is None"),
        ({"token_scheme": "left_first"}, "tokens: found None with token_scheme 'left_first'"),
        ({"token_scheme": "cls", "tokens": 2}, "tokens: found 2 with token_scheme 'cls', allowed is 1"),
        ({"token_scheme": "attention", "tokens": 2}, r"attention: found \(\) .* and 3 states, allowed are 3 layers"),
        ({"attention": (1, 2, 3)}, r"attention: found \(1, 2, 3\) with token_scheme 'all'"),
        ({"width_scheme": "random", "width": 0.0}, r"width: found 0.0, allowed is a share in \(0, 1\]"),
        ({"width": 0.5}, "width: found 0.5 with width_scheme 'all', allowed is 1.0"),
        ({"threshold": "layer"}, "threshold: found 'layer'"),
        ({"dtype": "int8"}, "dtype: found 'int8', allowed are float32, float16"),
        ({"seed": -1}, "seed: found -1"),
    ],
)
def test_impossible_selections_are_refused_in_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        replace(FULL, **changes)
    assert "\n" not in str(caught.value)


def test_unknown_keys_are_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown keys \['depth'\]"):
        Selection.from_json({"depth": 3})
