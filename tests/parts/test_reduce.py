from pathlib import Path

import pytest
import torch
from torch import nn

from methods.parts.reduce import (
    BUCKET_BYTES,
    agree,
    agree_text,
    broadcast,
    check_equal,
    gather,
    reduce_gradients,
    total,
)
from methods.parts.run import LocalRun
from tests.parts.ranks import outcomes_of_ranks, run_ranks


def test_one_rank_needs_no_process_group(tmp_path: Path) -> None:
    run = LocalRun(tmp_path)
    weight = nn.Parameter(torch.ones(2))
    assert agree([1.0, 2.0], run) == total([1.0, 2.0], run) == [1.0, 2.0]
    assert agree_text("x", run) == "x"
    assert gather(torch.arange(3), run).tolist() == [[0, 1, 2]]
    assert reduce_gradients([weight], torch.ones(1), run).tolist() == [1.0]
    assert weight.grad is None
    broadcast([weight], run)
    check_equal([weight], run)


def messages(rank: int, world_size: int, folder: Path) -> dict[str, object]:
    run = LocalRun(folder, rank=rank, world_size=world_size)
    tensors = [torch.full((2, 2), float(rank)), torch.tensor([rank])]
    broadcast(tensors, run)
    return {
        "agree": agree([rank + 0.5, 2.0**53 - 1], run),
        "text": agree_text("größer" if rank == 0 else "", run),
        "total": total([1.0, rank, 2.0**52 - rank], run),
        "gather": gather(torch.tensor([rank, 7], dtype=torch.uint8), run).tolist(),
        "broadcast": [tensor.tolist() for tensor in tensors],
    }


def test_messages_between_two_ranks(tmp_path: Path) -> None:
    first, second = run_ranks(messages, tmp_path)
    assert first == second
    assert first == {
        "agree": [0.5, 2.0**53 - 1],
        "text": "größer",
        "total": [2.0, 1.0, 2.0**53 - 1],
        "gather": [[0, 7], [1, 7]],
        "broadcast": [[[0.0, 0.0], [0.0, 0.0]], [0]],
    }


def gradients(rank: int, world_size: int, folder: Path, bucket_bytes: int) -> list[object]:
    run = LocalRun(folder, rank=rank, world_size=world_size)
    shapes = [(3,), (2, 2), (5,), (1,), (4, 3)]
    parameters = [nn.Parameter(torch.zeros(shape)) for shape in shapes]
    parameters[3] = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    for number, parameter in enumerate(parameters):
        both, only_second, nobody = number in (0, 3, 4), number == 1 and rank == 1, number == 2
        if (both or only_second) and not nobody:
            parameter.grad = torch.full_like(parameter, number + 10.0 * rank)
    also = reduce_gradients(parameters, torch.tensor([1.0, rank]), run, bucket_bytes)
    return [
        also.tolist(),
        *(None if p.grad is None else (p.grad.flatten().tolist(), tuple(p.grad.shape)) for p in parameters),
    ]


@pytest.mark.parametrize("bucket_bytes", [1, 20, BUCKET_BYTES])
def test_gradients_are_summed_and_unused_parameters_keep_none(tmp_path: Path, bucket_bytes: int) -> None:
    first, second = run_ranks(gradients, tmp_path, bucket_bytes)
    assert first == second
    assert first == [
        [2.0, 1.0],
        ([10.0] * 3, (3,)),
        ([11.0] * 4, (2, 2)),
        None,
        ([16.0], (1,)),
        ([18.0] * 12, (4, 3)),
    ]


def differing(rank: int, world_size: int, folder: Path) -> None:
    run = LocalRun(folder, rank=rank, world_size=world_size)
    check_equal([torch.ones(3), torch.arange(4)], run)
    check_equal([torch.ones(3), torch.tensor([1.0, 2.0 + rank * 1e-6])], run)


def test_ranks_with_different_models_are_found_out(tmp_path: Path) -> None:
    outcomes = outcomes_of_ranks(differing, tmp_path)
    assert [kind for kind, _ in outcomes] == ["failed", "failed"]
    assert "the ranks hold different models: 1 of 2 tensors differ" in outcomes[0][1]
