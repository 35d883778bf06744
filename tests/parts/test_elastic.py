"""The arithmetic of sub-networks."""

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from methods.parts.elastic import FULL, Choices, Keep, kept_blocks, kept_heads, kept_neurons
from methods.parts.layout import LayerLayout, Layout
from methods.parts.point import Elastic, Point
from tests.strategies import layouts

BASE = Layout.uniform(vocab=30522, hidden=768, num_layers=12, heads=12, head_width=64, ffn=3072, labels=2)
MINI = Layout.uniform(vocab=30522, hidden=384, num_layers=6, heads=12, head_width=32, ffn=1536, labels=2)
TINYBERT = Layout.uniform(vocab=30522, hidden=312, num_layers=4, heads=12, head_width=26, ffn=1200, labels=2)
PUBLISHED = Choices(widths=(1.0, 5 / 6, 2 / 3, 1 / 2))


@pytest.mark.parametrize(
    ("layout", "heads", "neurons"),
    [
        (BASE, [12, 10, 8, 6], [3072, 2560, 2048, 1536]),
        (TINYBERT, [12, 10, 8, 6], [1200, 1000, 800, 600]),
    ],
)
def test_the_published_widths(layout: Layout, heads: list[int], neurons: list[int]) -> None:
    found = [*PUBLISHED.listed(layout).values()]
    assert [subnet.heads[0] for subnet in found] == heads
    assert [subnet.neurons[0] for subnet in found] == neurons
    assert [*PUBLISHED.listed(layout)] == ["w1-d1", "w0.8333-d1", "w0.6667-d1", "w0.5-d1"]


def test_two_thirds_of_bert_base_have_the_published_size() -> None:
    assert PUBLISHED.listed(BASE)["w0.6667-d1"].layout(BASE).params() == 81_150_722


@pytest.mark.parametrize(
    ("keep", "depth", "layers", "blocks"),
    [
        ("first", 0.5, 12, (0, 2, 4, 6, 8, 10)),
        ("first", 0.75, 12, (0, 1, 2, 4, 5, 6, 8, 9, 10)),
        ("last", 0.5, 12, (1, 3, 5, 7, 9, 11)),
        ("last", 0.75, 12, (0, 1, 3, 4, 5, 7, 8, 9, 11)),
        ("last", 0.75, 6, (0, 2, 3, 5)),  # round(4.5) = 4; the published rule would leave out the last block
        ("last", 0.25, 6, (2, 5)),  # where the published rule looks for block 7
        ("last", 0.67, 3, (0, 2)),
    ],
)
def test_the_published_block_rules(keep: Keep, depth: float, layers: int, blocks: tuple[int, ...]) -> None:
    assert kept_blocks(depth, layers, keep) == blocks


@given(st.integers(1, 24), st.floats(0.05, 1.0), st.sampled_from(["first", "last"]))
def test_blocks_are_distinct_and_keep_the_promised_end(layers: int, depth: float, keep: Keep) -> None:
    if round(depth * layers) < 1:
        with pytest.raises(ValueError, match="depth: found"):
            kept_blocks(depth, layers, keep)
        return
    blocks = kept_blocks(depth, layers, keep)
    assert list(blocks) == sorted({*blocks})
    assert len(blocks) == round(depth * layers)
    assert (blocks[0] == 0) if keep == "first" else (blocks[-1] == layers - 1)
    assert set(blocks) <= set(range(layers))


@given(st.integers(0, 16), st.integers(0, 70), st.floats(0.01, 1.0), st.none() | st.floats(0.01, 1.0))
def test_something_is_kept_of_anything(heads: int, ffn: int, width: float, own: float | None) -> None:
    layer = LayerLayout(heads=heads, head_width=2, ffn=ffn)
    assert min(heads, 1) <= kept_heads(width, heads) <= heads
    assert min(ffn, 1) <= kept_neurons((width, own), layer) <= ffn
    assert (kept_heads(1.0, heads), kept_neurons(FULL, layer), kept_neurons((1.0, None), layer)) == (heads, ffn, ffn)


def test_states_pair_the_embeddings_and_the_last_layers() -> None:
    choices = Choices(widths=(1.0,), depths=(1.0, 0.75, 0.5))
    found = [subnet.states for subnet in choices.listed(BASE).values()]
    assert found == [tuple(range(13)), (0, 1, 2, 4, 5, 6, 8, 9, 10, 12), (0, 2, 4, 6, 8, 10, 12)]


@given(layouts(), st.sampled_from(["all", "random", "sandwich", "progressive"]), st.integers(0, 30), st.booleans())
def test_every_sampled_subnetwork_fits_the_layout(layout: Layout, sampling: Any, step: int, per_layer: bool) -> None:
    choices = Choices(widths=(1.0, 0.75, 0.5), sampling=sampling, samples=3, per_layer=per_layer)
    found = choices.of_step(layout, step, 30, 5)
    assert found == choices.of_step(layout, step, 30, 5)
    for subnet in found:
        small = subnet.layout(layout)
        assert small.params() <= layout.params()
        assert len(small.layers) == len(layout.layers)


def test_sampling_modes() -> None:
    choices = Choices(widths=(1.0, 0.75, 0.5, 0.25), samples=1, depths=(1.0, 0.5))
    every = choices.of_step(BASE, 3, 10, 0)
    assert len(every) == 8
    assert (every[0].heads[0], len(every[0].blocks)) == (12, 12)
    assert (every[-1].heads[0], len(every[-1].blocks)) == (3, 6)
    assert len({dataclasses.replace(choices, sampling="random").of_step(BASE, step, 10, 0) for step in range(40)}) > 4
    sandwich = dataclasses.replace(choices, sampling="sandwich").of_step(BASE, 3, 10, 0)
    assert (sandwich[0], sandwich[2], len(sandwich)) == (every[0], every[-1], 3)
    assert sandwich[1] in every


def test_progressive_shrinking_shows_two_choices_first_and_all_last() -> None:
    choices = Choices(widths=(1.0, 0.75, 0.5, 0.25), sampling="progressive", samples=40)
    seen = [{subnet.heads[0] for subnet in choices.of_step(BASE, step, 9, 0)} for step in (0, 3, 6, 8)]
    assert seen == [{12, 9}, {12, 9, 6}, {12, 9, 6, 3}, {12, 9, 6, 3}]
    deep = dataclasses.replace(choices, depths=(1.0, 0.75, 0.5))
    early, late = (deep.of_step(BASE, step, 9, 0) for step in (0, 8))
    assert {len(subnet.blocks) for subnet in early} == {12, 9}
    assert {subnet.heads[0] for subnet in early} == {12, 9, 6, 3}
    assert {len(subnet.blocks) for subnet in late} == {12, 9, 6}


def test_random_layers_have_widths_of_their_own() -> None:
    choices = Choices(widths=(1.0, 0.5), ffn_widths=(1.0, 0.25), sampling="random", per_layer=True, samples=4)
    found = choices.of_step(BASE, 0, 9, 0)
    assert all(len({*subnet.heads}) == 2 for subnet in found)
    assert {(h, f) for subnet in found for h, f in zip(subnet.heads, subnet.neurons, strict=True)} == {
        (12, 3072),
        (12, 768),
        (6, 3072),
        (6, 768),
    }


def test_frozen_layers_stay_whole_and_tied_layers_alike() -> None:
    choices = Choices(widths=(1.0, 0.5), frozen=(1,), tied=((2, 3), (4, 6)))
    widths = [(0.5, None), (0.5, None), (1.0, None), (1.0, None), (0.5, None), (0.5, None)]
    assert choices.subnet(MINI, widths, 1.0).heads == (12, 6, 6, 12, 6, 12)
    assert choices.subnet(MINI, widths, 1.0).neurons == (1536, 768, 768, 1536, 768, 1536)
    with pytest.raises(ValueError, match=r"frozen_layers: found 7, allowed are the layers 1 to 6"):
        dataclasses.replace(choices, frozen=(7,)).subnet(MINI, widths, 1.0)


def test_equal_widths_are_one_subnetwork() -> None:
    four = Layout.uniform(vocab=9, hidden=8, num_layers=1, heads=4, head_width=2, ffn=8)
    assert [subnet.heads[0] for subnet in PUBLISHED.listed(four).values()] == [4, 3, 2]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"widths": ()}, "widths: found none"),
        ({"widths": (1.0, 1.2)}, "widths: found"),
        ({"widths": (0.5, 0.5)}, "each once"),
        ({"widths": (1.0, 0.5), "ffn_widths": (1.0,)}, "ffn_widths: found 1 for 2 widths"),
        ({"widths": (1.0,), "depths": (0.0,)}, "depths: found"),
        ({"widths": (1.0,), "samples": 0}, "samples: found 0"),
    ],
)
def test_lists_that_make_no_sense_are_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Choices(**values)


def test_a_point_is_a_width_or_a_width_for_each_layer() -> None:
    assert Point(width=0.5).widths_of(2) == ((0.5, None), (0.5, None))
    assert Point(layer_widths=(1.0, 0.5), layer_ffn_widths=(0.5, 0.25)).widths_of(2) == ((1.0, 0.5), (0.5, 0.25))
    assert Point(width=0.5, per_layer=True, width_2=1.0).widths_of(3) == ((0.5, None), (1.0, None), (0.5, None))
    for point, said in (
        (Point(layer_widths=(1.0,)), "layer_widths: found 1 numbers"),
        (Point(width_2=1.0), "width_2: found 1.0 with per_layer false"),
        (Point(per_layer=True, width_4=1.0), "width_4: found 1.0 for a model of 3 layers"),
    ):
        with pytest.raises(ValueError, match=said):
            point.widths_of(3)


def test_a_point_beyond_the_supernet_is_refused() -> None:
    assert Elastic(width=0.8333, depth=1.0).subnet(BASE).heads == (10,) * 12
    assert Elastic(width=0.75).subnet(BASE).heads == (9,) * 12  # between listed ones
    for point, said in (
        (Elastic(width=0.3), "width: found 0.3, allowed is the range that is trained, 0.5 to 1"),
        (Elastic(depth=0.5), "depth: found 0.5, allowed is the range that is trained, 1 to 1"),
        (Elastic(ffn_width=0.3), "ffn_width: found 0.3"),
    ):
        with pytest.raises(ValueError, match=said):
            point.subnet(BASE)
