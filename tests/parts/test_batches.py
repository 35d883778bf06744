"""An epoch is the data set once, whatever ranks and micro-batches; a step is the same rows on 1 and on 8 ranks."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from methods.parts.batches import Batches, collate, evaluation_batches, evaluation_rows
from tests.parts.encoded import encoded

SIZES = st.lists(st.integers(2, 9), min_size=1, max_size=40)


def test_a_batch_is_padded_to_its_longest_row() -> None:
    data = encoded([2, 4, 3], sites=True)
    batch = collate(data, np.array([1, 0]))
    assert batch.input_ids.tolist() == [[2, 2, 2, 2], [1, 1, 0, 0]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert batch.token_type_ids.tolist() == [[0, 0, 1, 1], [0, 1, 0, 0]]
    assert batch.sites is not None
    assert batch.sites.tolist() == [[0, 0, 0, 1], [0, 1, 0, 0]]
    assert (batch.labels.tolist(), batch.ids.tolist()) == ([1, 0], [1, 0])
    assert batch.sizes == {"examples": 2, "tokens": 6, "positions": 8}
    assert batch.input_ids.dtype == batch.labels.dtype == batch.ids.dtype == torch.int64


def test_a_fixed_length_and_numbers_as_labels() -> None:
    batch = collate(encoded([2, 3], labels=[0.5, 1.5]), np.array([0, 1]), 6)
    assert batch.input_ids.tolist() == [[1, 1, 0, 0, 0, 0], [2, 2, 2, 0, 0, 0]]
    assert batch.sizes["positions"] == 12
    assert (batch.labels.dtype, batch.labels.tolist(), batch.sites) == (torch.float32, [0.5, 1.5], None)


def test_a_batch_moves_whole() -> None:
    batch = collate(encoded([2, 3], sites=True), np.array([0, 1])).to("meta")
    tensors = (batch.input_ids, batch.attention_mask, batch.token_type_ids, batch.labels, batch.ids, batch.sites)
    assert {str(tensor.device) for tensor in tensors if tensor is not None} == {"meta"}
    assert batch.sizes["examples"] == 2


def test_row_numbers_survive_a_subset() -> None:
    batch = collate(encoded([2, 3, 4, 5]).subset([3, 1]), np.array([0, 1]))
    assert (batch.ids.tolist(), batch.input_ids[1].tolist()) == ([3, 1], [2, 2, 2, 0, 0])


@given(SIZES, st.integers(1, 7), st.integers(0, 5), st.sampled_from([None, 9]), st.booleans())
def test_an_epoch_is_the_data_once(
    lengths: list[int], batch_size: int, epoch: int, pad_to: int | None, shuffle: bool
) -> None:
    batches = Batches(encoded(lengths), batch_size=batch_size, seed=3, pad_to=pad_to, shuffle=shuffle)
    steps = [batches.rows(epoch * batches.num_steps + step) for step in range(batches.num_steps)]
    assert sorted(np.concatenate(steps).tolist()) == list(range(len(lengths)))
    assert sum(len(rows) < batch_size for rows in steps) <= 1


@given(SIZES, st.integers(1, 9), st.integers(1, 3), st.integers(1, 3), st.integers(0, 30))
def test_ranks_and_micro_batches_share_one_global_batch(
    lengths: list[int], batch_size: int, world_size: int, micro_batches: int, step: int
) -> None:
    data = encoded(lengths)
    alone = Batches(data, batch_size=batch_size, seed=1).rows(step).tolist()
    dealt: list[int] = []
    for rank in range(world_size):
        batches = Batches(
            data, batch_size=batch_size, seed=1, rank=rank, world_size=world_size, micro_batches=micro_batches
        )
        mine = batches.step(step)
        assert len(mine) <= micro_batches
        assert all(batch.sizes["examples"] > 0 for batch in mine)
        dealt += [row for batch in mine for row in batch.ids.tolist()]
    assert sorted(dealt) == sorted(alone)


def test_shares_have_similar_lengths() -> None:
    data = encoded(np.random.default_rng(0).integers(2, 60, 640).tolist())
    ranks = [Batches(data, batch_size=64, seed=0, rank=rank, world_size=4) for rank in range(4)]
    for step in range(10):
        tokens = [batches.step(step)[0].sizes["tokens"] for batches in ranks]
        assert max(tokens) - min(tokens) <= 60


def test_a_rank_without_rows_gets_no_batch() -> None:
    last = [
        Batches(encoded([3] * 5), batch_size=4, seed=0, rank=rank, world_size=3, shuffle=False) for rank in range(3)
    ]
    assert [len(batches.step(1)) for batches in last] == [1, 0, 0]


def test_steps_are_random_access_and_depend_on_seed_and_epoch() -> None:
    data = encoded(list(range(2, 42)))
    there, back = (Batches(data, batch_size=4, seed=7) for _ in range(2))
    forward = [there.rows(step).tolist() for step in range(20)]
    assert [back.rows(step).tolist() for step in reversed(range(20))] == forward[::-1]
    assert forward[:10] != forward[10:]
    assert [Batches(data, batch_size=4, seed=8).rows(step).tolist() for step in range(10)] != forward[:10]


def test_rows_of_similar_length_share_a_batch() -> None:
    lengths = np.random.default_rng(1).integers(2, 60, 960)
    sorted_, plain = (Batches(encoded(lengths.tolist()), batch_size=32, seed=0, pad_to=pad) for pad in (None, 60))
    spans = [
        np.mean([np.ptp(lengths[batches.rows(step)]) for step in range(batches.num_steps)])
        for batches in (sorted_, plain)
    ]
    assert spans[0] < 5 < 40 < spans[1]


def test_the_order_of_the_data_and_left_out_rows() -> None:
    data = encoded([3] * 10)
    assert Batches(data, batch_size=4, seed=0, shuffle=False).rows(1).tolist() == [4, 5, 6, 7]
    batches = Batches(data, batch_size=4, seed=0, drop_last=True)
    epochs = [{row for step in (0, 1) for row in batches.rows(2 * epoch + step).tolist()} for epoch in range(20)]
    assert batches.num_steps == 2
    assert {len(epoch) for epoch in epochs} == {8}
    assert set.union(*epochs) == set(range(10))


@pytest.mark.parametrize("world_size", [1, 3])
def test_evaluation_deals_whole_batches(world_size: int) -> None:
    data = encoded([4, 9, 2, 7, 5, 3, 8])
    alone = [batch.ids.tolist() for batch in evaluation_batches(data, 2)]
    dealt = [
        [batch.ids.tolist() for batch in evaluation_batches(data, 2, rank, world_size)] for rank in range(world_size)
    ]
    assert alone == [[1, 6], [3, 4], [0, 5], [2]] == [rows.tolist() for rows in evaluation_rows(data, 2)]
    assert sorted(rows for share in dealt for rows in share) == sorted(alone)
    assert dealt[0] == alone[::world_size]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"batch_size": 0}, "batch_size: found 0, allowed is at least 1"),
        ({"batch_size": 2, "rank": 2, "world_size": 2}, "rank: found 2, allowed is 0 to 1"),
        ({"batch_size": 2, "micro_batches": 0}, "micro_batches: found 0"),
        ({"batch_size": 2, "pad_to": 4}, "pad_to: found 4, allowed is at least 5"),
        ({"batch_size": 4, "drop_last": True}, "found 4 with drop_last for 3 rows"),
    ],
)
def test_impossible_numbers_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Batches(encoded([3, 5, 4]), seed=0, **wrong)
    with pytest.raises(ValueError, match="batch_size"):
        evaluation_rows(encoded([3]), 0)
