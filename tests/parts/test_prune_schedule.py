"""ROSITA's schedules: the published tables, and what holds for any shape."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from methods.parts.layout import Layout
from methods.parts.prune_schedule import Prune, depth_layouts, prune_times, prunes_of, width_layouts
from methods.parts.recipe import Recipe
from methods.parts.surgery import narrower
from tests.strategies import layouts

BASE = Layout.uniform(vocab=30522, hidden=768, num_layers=12, heads=12, head_width=64, ffn=3072)
EIGHT = narrower(BASE, layers=8)


def widths(found: tuple[Layout, ...]) -> list[tuple[int, int, int | None]]:
    assert all(layout.is_uniform for layout in found)
    return [(layout.layers[0].heads, layout.layers[0].ffn, layout.embedding_rank) for layout in found]


def test_the_published_width_schedule() -> None:
    found = width_layouts(EIGHT, narrower(EIGHT, heads=2, ffn=512, rank=128))
    ffns = [2816, 2560, 2304, 2048, 1792, 1536, 1280, 1024, 768, 512]
    ranks = [704, 640, 576, 512, 448, 384, 320, 256, 192, 128]
    assert widths(found) == list(zip(range(11, 1, -1), ffns, ranks, strict=True))
    assert all(len(layout.layers) == 8 for layout in found)
    assert found[-1].params() == 14_474_754


def test_the_published_depth_schedule() -> None:
    found = depth_layouts(BASE, 8)
    assert [len(layout.layers) for layout in found] == [11, 10, 9, 8]
    assert {layout.layers[0] for layout in found} == {BASE.layers[0]}
    assert found[-1].params() == 81_132_290
    assert depth_layouts(BASE, 12) == ()


def test_the_full_word_table_stays_full() -> None:
    assert {rank for _, _, rank in widths(width_layouts(EIGHT, narrower(EIGHT, heads=8)))} == {None}


def test_widths_between_are_cut_down_and_exact() -> None:
    found = width_layouts(EIGHT, narrower(EIGHT, heads=9, ffn=2000, rank=100))
    assert widths(found) == [(11, 2714, 545), (10, 2357, 322), (9, 2000, 100)]


def test_one_prune_does_where_no_head_goes() -> None:
    target = narrower(EIGHT, ffn=100)
    assert width_layouts(EIGHT, target) == (target,)
    assert width_layouts(EIGHT, EIGHT) == ()


@given(layouts(), st.data())
def test_any_shape_is_reached_by_single_heads(start: Layout, data: st.DataObject) -> None:
    heads = data.draw(st.integers(0, min(layer.heads for layer in start.layers)))
    ffn = data.draw(st.integers(0, min(layer.ffn for layer in start.layers)))
    largest = start.embedding_rank or min(start.vocab, start.hidden)
    target = narrower(start, heads=heads, ffn=ffn, rank=data.draw(st.integers(1, largest) | st.none()))
    line = [start, *width_layouts(start, target)]
    assert line[-1] == target
    for before, after in pairwise(line):
        layer = after.layers[0]
        narrower(before, rank=after.embedding_rank)  # refuses what grows
        pairs = zip(before.layers, after.layers, strict=True)
        assert all(0 <= old.heads - new.heads <= 1 and new.ffn <= old.ffn for old, new in pairs)
        assert layer.heads >= heads


def test_shapes_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(ValueError, match="found 12 and 8 layers"):
        width_layouts(BASE, EIGHT)
    with pytest.raises(ValueError, match="found 13 layers, allowed are 1 to 12"):
        depth_layouts(BASE, 13)


@pytest.mark.parametrize(
    ("count", "period", "epochs", "gap"),
    [
        *[(4, 0.2, 10, 0.5), (4, 0.5, 5, 0.625), (4, 0.2, 2, 0.1), (4, 0.2, 3, 0.15)],
        *[(10, 0.1, 50, 0.5), (10, 0.1, 10, 0.1), (10, 0.1, 5, 0.05)],
        *[(10, 0.01, 50, 0.05), (10, 0.01, 10, 0.01), (10, 0.1, 7, 0.07)],
    ],
)
def test_the_published_gaps_between_prunes(count: int, period: float, epochs: float, gap: float) -> None:
    per_epoch = 4000
    times = prune_times(count, period, epochs * per_epoch)
    assert times == tuple(round(k * gap * per_epoch) - 1 for k in range(1, count + 1))


def test_the_times_of_the_trace() -> None:
    """70 rows in batches of 32, 10 epochs, half of them for two prunes: after 4 and 9 updates of 20."""
    recipe = Recipe(epochs=10, batch_size=32, drop_last=True)
    found = prunes_of([EIGHT, EIGHT], 0.5, recipe, num_rows=70, steps_per_epoch=2)
    assert found == (Prune(4, EIGHT), Prune(9, EIGHT))


@given(st.integers(1, 20), st.floats(1e-4, 1.0), st.integers(1, 5000), st.integers(1, 64), st.integers(1, 9))
def test_prunes_come_apart_and_leave_updates_behind_them(
    count: int, period: float, rows: int, size: int, epochs: int
) -> None:
    recipe, per_epoch = Recipe(epochs=epochs, batch_size=size), -(-rows // size)
    shapes = [EIGHT] * count
    if count >= epochs * per_epoch:
        with pytest.raises(ValueError, match="train longer"):
            prunes_of(shapes, period, recipe, num_rows=rows, steps_per_epoch=per_epoch)
        return
    times = [cut.after for cut in prunes_of(shapes, period, recipe, num_rows=rows, steps_per_epoch=per_epoch)]
    gaps = {later - earlier for earlier, later in pairwise(times)}
    assert times[0] >= 1  # each prune sees gradients
    assert len(gaps) <= 1
    assert all(gap >= 1 for gap in gaps)
    assert times[-1] < max(period * epochs * rows / size, count + 1)
    assert times[-1] < epochs * per_epoch


def test_too_short_an_interval_means_a_prune_after_each_update() -> None:
    assert prune_times(3, 0.01, 30) == (1, 2, 3)
    assert prune_times(3, 0.1, 30) == (1, 2, 3)
    assert prune_times(3, 0.2, 30) == (1, 3, 5)
    assert prune_times(0, 0.5, 30) == ()
