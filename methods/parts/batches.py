"""Which rows a step sees: a function of seed, epoch and step, whatever the number of ranks and micro-batches.

A step's *global* batch is chosen first and only then dealt out, so 1 and 8 workers train on the same examples in the
same order and a resumed run needs nothing but its step number. Rows of similar length share a batch, because padding is
work: an epoch is permuted, sorted by length within stretches of `CHUNK` batches, and its batches are shuffled again.

Shape legend: `B` batch, `L` length.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from methods.parts.tokens import Encoded

CHUNK = 50
"""Batches' worth of rows that are sorted by length together."""

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows padded to one length, ready for the model."""

    input_ids: Tensor
    """(B, L) int64."""
    attention_mask: Tensor
    """(B, L) int64, 1 at real tokens."""
    token_type_ids: Tensor
    """(B, L) int64, 1 from the second text on."""
    labels: Tensor
    """(B,) int64 class ids, or float32 scores."""
    ids: Tensor
    """(B,) int64 row numbers in the whole set, over all its shards."""
    sites: Tensor | None
    """(B, L) float32, 1 at the words that break the sentence (built-in task only)."""
    sizes: Mapping[str, int]
    """What a loss may be averaged over: `examples` B, `tokens` real tokens, `positions` B*L."""

    def to(self, device: torch.device | str) -> Batch:
        """Copy to a device."""
        return Batch(
            input_ids=self.input_ids.to(device, non_blocking=True),
            attention_mask=self.attention_mask.to(device, non_blocking=True),
            token_type_ids=self.token_type_ids.to(device, non_blocking=True),
            labels=self.labels.to(device, non_blocking=True),
            ids=self.ids.to(device, non_blocking=True),
            sites=None if self.sites is None else self.sites.to(device, non_blocking=True),
            sizes=self.sizes,
        )


def collate(data: Encoded, picks: Rows, length: int | None = None) -> Batch:
    """Pad the rows at positions `picks` of `data` to `length`, by default to the longest of them."""
    rows = data.rows[picks]
    starts, ends = data.offsets[rows], data.offsets[rows + 1]
    sizes = ends - starts
    columns = np.arange(length or int(sizes.max()))
    real = columns < sizes[:, None]
    places = np.minimum(starts[:, None] + columns, ends[:, None] - 1)
    ids = np.where(real, data.flat[places], data.pad_id).astype(np.int64)
    types = (columns >= data.seconds[rows][:, None]) & real
    sites = None if data.flat_sites is None else torch.from_numpy((data.flat_sites[places] * real).astype(np.float32))
    return Batch(
        input_ids=torch.from_numpy(ids),
        attention_mask=torch.from_numpy(real.astype(np.int64)),
        token_type_ids=torch.from_numpy(types.astype(np.int64)),
        labels=torch.from_numpy(np.array(data.all_labels[rows])),
        ids=torch.from_numpy(rows + data.start),
        sites=sites,
        sizes={"examples": len(rows), "tokens": int(sizes.sum()), "positions": int(ids.size)},
    )


class Batches:
    """The batches of a training run by step number."""

    def __init__(  # noqa: PLR0913  the facts that decide a batch
        self,
        data: Encoded,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        shuffle: bool = True,
        drop_last: bool = False,
        pad_to: int | None = None,
        micro_batches: int = 1,
    ) -> None:
        """Describe the batches; nothing is read yet.

        Args:
            data: the tokenised rows.
            batch_size: rows of one optimizer step over all ranks and micro-batches.
            seed: decides the order, together with the epoch.
            rank: which share of each global batch is ours.
            world_size: number of shares.
            shuffle: a new order each epoch, bucketed by length; otherwise the order of the data.
            drop_last: leave out the rows that fill no whole batch (other rows each epoch).
            pad_to: pad every batch to this length; the order is then a plain permutation, since bucketing would gain
                nothing.
            micro_batches: parts in which a rank works through its share.

        Raises:
            ValueError: a number is out of range, `pad_to` is shorter than a row, or no whole batch is left.
        """
        _check_shares(batch_size, rank, world_size, micro_batches)
        if pad_to is not None and pad_to < data.lengths.max():
            raise ValueError(
                f"pad_to: found {pad_to}, allowed is at least {data.lengths.max()}, the longest row's tokens"
            )
        self.num_steps = len(data) // batch_size if drop_last else -(-len(data) // batch_size)
        if self.num_steps == 0:
            raise ValueError(
                f"batch_size: found {batch_size} with drop_last for {len(data)} rows, allowed is at most the rows"
            )
        self._data, self._batch_size, self._seed = data, batch_size, seed
        self._share, self._shares = (rank, world_size), world_size * micro_batches
        self._shuffle, self._pad_to = shuffle, pad_to
        self._lengths = data.lengths
        self._epoch: tuple[int, list[Rows]] = (-1, [])

    def step(self, step: int) -> list[Batch]:
        """This rank's micro-batches of optimizer step `step`; an empty list when a small last batch leaves it nothing.

        Steps count on over epochs: step `num_steps` is the first of the second epoch.
        """
        rows = self.rows(step)
        rank, world_size = self._share
        shares = [rows[part :: self._shares] for part in range(rank, self._shares, world_size)]
        return [collate(self._data, share, self._pad_to) for share in shares if len(share)]

    def rows(self, step: int) -> Rows:
        """Positions in the data of the global batch of `step`, the same on every rank."""
        epoch, within = divmod(step, self.num_steps)
        if self._epoch[0] != epoch:
            self._epoch = (epoch, self._order(epoch))
        return self._epoch[1][within]

    def _order(self, epoch: int) -> list[Rows]:
        """The global batches of an epoch."""
        size = self._batch_size
        order = np.arange(len(self._data), dtype=np.int64)
        if not self._shuffle:
            return _cut(order, size, self.num_steps)
        draw = np.random.default_rng([self._seed, epoch])
        order = draw.permutation(order)[: self.num_steps * size]
        if self._pad_to is not None:
            return _cut(order, size, self.num_steps)
        stretches = [order[start : start + CHUNK * size] for start in range(0, len(order), CHUNK * size)]
        by_length = [stretch[np.argsort(self._lengths[stretch], kind="stable")] for stretch in stretches]
        batches = _cut(np.concatenate(by_length), size, self.num_steps)
        return [batches[number] for number in draw.permutation(self.num_steps)]


def evaluation_batches(data: Encoded, batch_size: int, rank: int = 0, world_size: int = 1) -> Iterator[Batch]:
    """Walk this rank's share of the data once, longest rows first.

    The batches are the same whatever `world_size` is, and are dealt out whole: a model gives bit-equal outputs on 1 and
    on 8 ranks.
    """
    for picks in evaluation_rows(data, batch_size)[rank::world_size]:
        yield collate(data, picks)


def evaluation_rows(data: Encoded, batch_size: int) -> list[Rows]:
    """Positions in the data of all evaluation batches, longest rows first."""
    if batch_size < 1:
        raise ValueError(f"batch_size: found {batch_size}, allowed is at least 1")
    order = np.argsort(-data.lengths, kind="stable").astype(np.int64)
    return _cut(order, batch_size, -(-len(order) // batch_size))


def _cut(order: Rows, size: int, count: int) -> list[Rows]:
    """Cut an order into `count` batches of `size`, the last possibly smaller."""
    return [order[number * size : (number + 1) * size] for number in range(count)]


def _check_shares(batch_size: int, rank: int, world_size: int, micro_batches: int) -> None:
    """Refuse numbers that describe no split of a batch."""
    for name, value in (("batch_size", batch_size), ("world_size", world_size), ("micro_batches", micro_batches)):
        if value < 1:
            raise ValueError(f"{name}: found {value}, allowed is at least 1")
    if not 0 <= rank < world_size:
        raise ValueError(f"rank: found {rank}, allowed is 0 to {world_size - 1}")
