"""Which shapes a model passes through while it is pruned and trained at once, and after which updates.

ROSITA prunes in K small steps in the first part of training, at equal distances:

    width:  one head a layer and prune; FFN width and rank of the word table in K equal steps beside it
    depth:  one layer a prune, from the top

References:
    Liu, Lin, Yuan: ROSITA: Refined BERT cOmpreSsion with InTegrAted techniques, AAAI 2021,
    https://arxiv.org/abs/2103.11367, released code
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from methods.parts.layout import Layout
from methods.parts.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Prune:
    """One cut in the course of a training."""

    after: int
    """Finished updates of the whole training at that moment."""
    layout: Layout
    """The shape that is left."""


def width_layouts(start: Layout, target: Layout) -> tuple[Layout, ...]:
    """The shapes after each prune, the last equal to `target`; none if there is nothing to do.

    There are as many prunes as heads to lose in the layer that loses most, or one if only the FFN or the word table
    shrinks. Widths between are cut down to whole numbers, as the released code does, from exact fractions.

    Args:
        start: the shape before.
        target: has the same layers, none of them wider.

    Raises:
        ValueError: the number of layers differs.
    """
    if len(start.layers) != len(target.layers):
        raise ValueError(
            f"width_layouts: found {len(start.layers)} and {len(target.layers)} layers, which must be equal"
        )
    pairs = list(zip(start.layers, target.layers, strict=True))
    count = max(before.heads - after.heads for before, after in pairs) or int(start != target)
    rank = start.embedding_rank or min(start.vocab, start.hidden)
    layouts = []
    for k in range(1, count + 1):
        layers = tuple(
            dataclasses.replace(
                before, heads=max(after.heads, before.heads - k), ffn=_between(before.ffn, after.ffn, k, count)
            )
            for before, after in pairs
        )
        width = None if target.embedding_rank is None else _between(rank, target.embedding_rank, k, count)
        layouts.append(dataclasses.replace(target, layers=layers, embedding_rank=width))
    return tuple(layouts)


def depth_layouts(start: Layout, layers: int) -> tuple[Layout, ...]:
    """The shapes after each prune of the top layer, down to the bottom `layers`.

    Raises:
        ValueError: `layers` is not between 1 and those of `start`.
    """
    if not 1 <= layers <= len(start.layers):
        raise ValueError(f"depth_layouts: found {layers} layers, allowed are 1 to {len(start.layers)}")
    left = range(len(start.layers) - 1, layers - 1, -1)
    return tuple(dataclasses.replace(start, layers=start.layers[:number]) for number in left)


def prune_times(count: int, period: float, updates: float) -> tuple[int, ...]:
    """After how many finished updates each of `count` prunes comes.

    With the distance s = floor(period * updates / count), prune k comes after k * s - 1 updates: just before the
    forward pass of update k * s. Where the distance is shorter than two updates the prunes come after each update,
    which is as fast as scores gathered in training allow; the released code divides by zero there.

    Args:
        count: number of prunes.
        period: share of the training in which they happen, (0, 1].
        updates: of the whole training: epochs * rows / rows of a batch, not rounded.
    """
    step = int(period * updates / max(count, 1) + 1e-9)
    return tuple(max(k * step - 1, k) for k in range(1, count + 1))


def prunes_of(
    layouts: Sequence[Layout], period: float, recipe: Recipe, *, num_rows: int, steps_per_epoch: int
) -> tuple[Prune, ...]:
    """The prunes of a training.

    Args:
        layouts: the shapes after each.
        period: share of the training in which they happen, (0, 1].
        recipe: the training's numbers.
        num_rows: of an epoch.
        steps_per_epoch: updates of an epoch.

    Raises:
        ValueError: the training is too short to go on after the last prune.
    """
    times = prune_times(len(layouts), period, recipe.epochs * num_rows / recipe.batch_size)
    total = recipe.steps(steps_per_epoch)
    if times and times[-1] >= total:
        raise ValueError(
            f"pruning: found {total} updates for {len(times)} prunes in {period:g} of them, allowed are more than "
            f"{times[-1]}; train longer, prune less, or let the prunes come earlier"
        )
    return tuple(Prune(after, layout) for after, layout in zip(times, layouts, strict=True))


def _between(before: int, after: int, k: int, count: int) -> int:
    """`before` after k of `count` equal steps to `after`, cut down to a whole number."""
    return before + (after - before) * k // count
