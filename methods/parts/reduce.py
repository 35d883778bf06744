"""What the ranks of one trial tell each other: gradients, small sums, rank 0's decisions.

No DistributedDataParallel: it reduces at every backward, fails when a layer is skipped and must be made again after
surgery, whereas a step here may run several backwards over parts of a model that changes its shape between steps.
Plain gradients are summed once, after the last backward, in asynchronous buckets. With one rank every function
returns without touching torch.distributed.

References:
    Li et al., PyTorch Distributed: Experiences on Accelerating Data Parallel Training, 2020,
    https://arxiv.org/abs/2006.15704, section 3.2
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

BUCKET_BYTES = 25 * 2**20


class Ranked(Protocol):
    """One rank of a trial; with more than one, torch.distributed's default group holds them all."""

    @property
    def rank(self) -> int:
        """This rank, 0 to world_size - 1."""

    @property
    def world_size(self) -> int:
        """How many ranks work on the trial."""

    @property
    def device(self) -> torch.device:
        """Where this rank computes and communicates."""


def agree(values: Sequence[float], ranks: Ranked) -> list[float]:
    """Rank 0's numbers, on every rank; integers are exact up to 2**53."""
    if ranks.world_size == 1:
        return list(values)
    message = torch.tensor(values, dtype=torch.float64, device=ranks.device)
    dist.broadcast(message, src=0)
    return [float(value) for value in message.tolist()]


def agree_text(text: str, ranks: Ranked) -> str:
    """Rank 0's text, on every rank."""
    if ranks.world_size == 1:
        return text
    raw = text.encode()
    (size,) = agree([len(raw)], ranks)
    message = torch.zeros(int(size), dtype=torch.uint8, device=ranks.device)
    if ranks.rank == 0:
        message.copy_(torch.tensor(list(raw), dtype=torch.uint8))
    dist.broadcast(message, src=0)
    return bytes(message.tolist()).decode()


def total(values: Sequence[float], ranks: Ranked) -> list[float]:
    """The sum of each number over the ranks; exact for integers."""
    if ranks.world_size == 1:
        return list(values)
    message = torch.tensor(values, dtype=torch.float64, device=ranks.device)
    dist.all_reduce(message)
    return [float(value) for value in message.tolist()]


def gather(row: Tensor, ranks: Ranked) -> Tensor:
    """Every rank's `row` (N,), stacked by rank to (world_size, N) on the CPU."""
    if ranks.world_size == 1:
        return row.cpu()[None]
    rows = [torch.empty_like(row, device=ranks.device) for _ in range(ranks.world_size)]
    dist.all_gather(rows, row.to(ranks.device))
    return torch.stack(rows).cpu()


@torch.no_grad()
def broadcast(tensors: Iterable[Tensor], ranks: Ranked) -> None:
    """Overwrite `tensors` with rank 0's, in place."""
    if ranks.world_size == 1:
        return
    pending = [dist.broadcast(tensor, src=0, async_op=True) for tensor in tensors]
    for work in pending:
        if work is not None:
            work.wait()


@torch.no_grad()
def check_equal(tensors: Iterable[Tensor], ranks: Ranked) -> None:
    """Prove by checksums that the ranks hold the same `tensors`.

    Raises:
        ValueError: two ranks differ.
    """
    if ranks.world_size == 1:
        return
    doubles = (tensor.to(ranks.device, torch.float64) for tensor in tensors)
    sums = torch.stack([torch.stack((double.sum(), double.abs().sum())) for double in doubles])
    message = torch.stack((sums, -sums))
    dist.all_reduce(message, op=dist.ReduceOp.MAX)
    differing = int((message[0] != -message[1]).any(dim=1).sum())
    if differing:
        raise ValueError(f"the ranks hold different models: {differing} of {len(sums)} tensors differ")


def reduce_gradients(
    parameters: Sequence[Tensor], also: Tensor, ranks: Ranked, bucket_bytes: int = BUCKET_BYTES
) -> Tensor:
    """Sum the gradients of `parameters` over the ranks, in place.

    A parameter that has a gradient on some rank gets the sum on all; one that has none anywhere keeps None, because
    an optimizer treats None and zero differently (decay and moments move under a zero gradient).

    Args:
        parameters: the same ones in the same order on every rank.
        also: (N,) float32 numbers to sum along in the first, small message.
        ranks: this rank and its peers.
        bucket_bytes: gradients per message.

    Returns:
        `also`, summed.
    """
    if ranks.world_size == 1:
        return also
    used = torch.tensor([parameter.grad is not None for parameter in parameters], dtype=torch.float32)
    message = torch.cat((used.to(ranks.device), also.detach().to(ranks.device, torch.float32)))
    dist.all_reduce(message)
    mask, summed = message[: len(parameters)], message[len(parameters) :]
    live = [parameter for parameter, count in zip(parameters, mask.tolist(), strict=True) if count > 0]
    for parameter in live:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    pending = [(bucket, *_send(bucket)) for bucket in _buckets(live, bucket_bytes)]
    for bucket, flat, work in pending:
        if work is not None:
            work.wait()
        _unpack(bucket, flat)
    return summed


def _buckets(parameters: Iterable[Tensor], limit_bytes: int) -> Iterator[list[Tensor]]:
    """Split into runs of one dtype and at most `limit_bytes` (a larger parameter is alone)."""
    bucket: list[Tensor] = []
    size = 0
    for parameter in parameters:
        more = parameter.numel() * parameter.element_size()
        if bucket and (size + more > limit_bytes or parameter.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(parameter)
        size += more
    if bucket:
        yield bucket


def _send(bucket: Sequence[Tensor]) -> tuple[Tensor, dist.Work | None]:
    """Start summing the gradients of a bucket, as one flat tensor."""
    flat = torch.cat([parameter.grad.reshape(-1) for parameter in bucket if parameter.grad is not None])
    return flat, dist.all_reduce(flat, async_op=True)


def _unpack(bucket: Sequence[Tensor], flat: Tensor) -> None:
    """Make the gradients views of the summed flat tensor, which saves a copy."""
    start = 0
    for parameter in bucket:
        parameter.grad = flat[start : start + parameter.numel()].view_as(parameter)
        start += parameter.numel()
