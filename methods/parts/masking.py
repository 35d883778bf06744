"""What a masked LM is asked for: 15 % of a row's tokens are hidden anew at every step, singly, as words or as spans.

What is hidden depends on seed, epoch, step and row only, so equal runs hide equal words whatever the number of ranks
and micro-batches. Of what is hidden, 80 % is shown as [MASK], 10 % as a random word and 10 % as it is.

References:
    Devlin et al., BERT: Pre-training of Deep Bidirectional Transformers, 2019, https://arxiv.org/abs/1810.04805,
    section 3.1 and appendix A.1; whole words: https://github.com/google-research/bert; spans: Joshi et al., SpanBERT,
    2020, https://arxiv.org/abs/1907.10529, section 3.1
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray

from methods.parts.batches import Batch
from methods.parts.examples import unknown
from methods.parts.training import Steps
from methods.parts.wordpiece import SPECIAL, load_pieces

HIDDEN_SHARE, MASK_SHARE, RANDOM_SHARE = 0.15, 0.8, 0.1
"""Share of a row's tokens that is hidden; of these, the share shown as [MASK] and as a random word; the rest is shown
as it is."""

OPEN = -100
"""Class of a token that is not hidden."""

SPAN_STOP, LONGEST_SPAN = 0.2, 10
"""Spans: the chance that one ends after each of its tokens, and the most tokens it has."""

Unit: TypeAlias = Literal["token", "word", "span"]
Compat: TypeAlias = Literal["published"]

Ids: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """What masking needs to know of a tokenizer."""

    size: int
    """Number of token ids."""
    mask: int
    """Id of [MASK]."""
    special: tuple[int, ...]
    """Ids that are never hidden: those that no text is made of."""
    barred: tuple[int, ...] = ()
    """Ids that are never shown as a random word."""
    continuations: tuple[int, ...] = field(default=(), repr=False)
    """Ids of the pieces (`##ing`) that go on with the word before them."""

    @cached_property
    def random(self) -> Ids:
        """The ids that a random word is drawn from."""
        return np.setdiff1d(np.arange(self.size, dtype=np.int64), self.barred)

    @cached_property
    def goes_on(self) -> NDArray[np.bool_]:
        """For each id, (size,), whether it goes on with the word before it."""
        flags = np.zeros(self.size, dtype=bool)
        flags[list(self.continuations)] = True
        return flags


def vocabulary(tokenizer: Path, compat: Compat | None = None) -> Vocabulary:
    """Read the vocabulary of a tokenizer's folder.

    Args:
        tokenizer: the folder.
        compat: with `published`, as in the UER and WID code, `[UNK]` and the unused ids may be shown as random words.

    Raises:
        ValueError: there is no BERT tokenizer, or it has no [MASK].
    """
    pieces = load_pieces(tokenizer)
    ids = pieces.tokenizer.get_vocab()
    if "[MASK]" not in ids:
        raise ValueError(f"{tokenizer}: found no [MASK] in the vocabulary, expected the tokenizer of a masked LM")
    unused = [] if compat else [number for name, number in ids.items() if name.startswith("[unused")]
    named = [ids[name] for name in SPECIAL if name in ids and not (compat and name == "[UNK]")]
    return Vocabulary(
        size=pieces.size,
        mask=ids["[MASK]"],
        special=(pieces.pad, pieces.cls, pieces.sep),
        barred=tuple(sorted([*named, *unused])),
        continuations=tuple(sorted(number for name, number in ids.items() if name.startswith("##"))),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Masking:
    """How tokens are chosen; the defaults are BERT's first ones, which WID has too."""

    unit: Unit = "token"
    """What is hidden or left together: single tokens, whole words, or spans of random length."""

    def __post_init__(self) -> None:
        """Refuse an unknown unit."""
        if self.unit not in get_args(Unit):
            raise unknown("Masking.unit", self.unit, get_args(Unit))


class MaskedBatches:
    """Training batches with hidden words; a `Steps`.

    `Batch.labels` become (B, L) int64, the true ids of hidden tokens and `OPEN` elsewhere; `Batch.sizes` gains
    `masked`, the number of hidden tokens.
    """

    def __init__(self, data: Steps, words: Vocabulary, seed: int, masking: Masking | None = None) -> None:
        self._data, self._words, self._seed, self._masking = data, words, seed, masking or Masking()

    @property
    def num_steps(self) -> int:
        """Updates of an epoch."""
        return self._data.num_steps

    def step(self, step: int, /) -> Sequence[Batch]:
        """This rank's micro-batches of update `step`."""
        epoch, within = divmod(step, self.num_steps)
        key = (self._seed, epoch, within)
        return [mask(batch, self._words, key, self._masking) for batch in self._data.step(step)]


def mask(batch: Batch, words: Vocabulary, key: tuple[int, ...], masking: Masking | None = None) -> Batch:
    """Hide words of each row: 15 % of its tokens (special ones counted, never hidden), at least one.

    Where every whole word is longer than these 15 %, the shortest is hidden, so that a row with any ordinary token
    always has a hidden one; the published whole-word code hides nothing then.

    Args:
        batch: on the CPU.
        words: the tokenizer's vocabulary.
        key: what the draws depend on, beside the row's number.
        masking: how tokens are chosen; None is single tokens.
    """
    unit: Unit = "token" if masking is None else masking.unit
    shown = batch.input_ids.numpy().copy()
    hidden = np.full_like(shown, OPEN)
    ordinary = ~np.isin(shown, words.special) & batch.attention_mask.numpy().astype(bool)
    goes_on = words.goes_on[shown] if unit == "word" else np.zeros_like(ordinary)
    for place, row in enumerate(batch.ids.tolist()):
        draw = np.random.default_rng([*key, row])
        wanted = max(1, round(HIDDEN_SHARE * int(batch.attention_mask[place].sum())))
        chosen, groups = _chosen(unit, np.flatnonzero(ordinary[place]), goes_on[place], wanted, draw)
        others = words.random[draw.integers(len(words.random), size=len(chosen))]
        fate = draw.random(len(chosen))[groups]
        hidden[place, chosen] = shown[place, chosen]
        random = np.where(fate < MASK_SHARE + RANDOM_SHARE, others, shown[place, chosen])
        shown[place, chosen] = np.where(fate < MASK_SHARE, words.mask, random)
    return replace(
        batch,
        input_ids=torch.from_numpy(shown),
        labels=torch.from_numpy(hidden),
        sizes={**batch.sizes, "masked": int((hidden != OPEN).sum())},
    )


def _chosen(
    unit: Unit, candidates: Ids, goes_on: NDArray[np.bool_], wanted: int, draw: Generator
) -> tuple[Ids, NDArray[np.intp]]:
    """Choose tokens of one row.

    Args:
        unit: what is chosen.
        candidates: (N,) places of ordinary tokens.
        goes_on: (L,) whether a token goes on with the word before it.
        wanted: tokens to hide; words may be fewer, or a single longer one.
        draw: the row's.

    Returns:
        Places, (K,), and for each the number of the group whose fate it shares: a span's tokens are shown alike, as in
        SpanBERT, those of words each for itself.
    """
    if unit == "token" or not len(candidates):
        chosen = draw.permutation(candidates)[:wanted]
        return chosen, np.arange(len(chosen))
    # A word and a span end where a special token stands between.
    apart = np.diff(candidates, prepend=candidates[0]) > 1
    if unit == "word":
        parts = np.split(candidates, np.flatnonzero((~goes_on[candidates] | apart)[1:]) + 1)
        chosen = np.concatenate(_words(parts, wanted, draw))
        return chosen, np.arange(len(chosen))
    spans = _spans(np.split(candidates, np.flatnonzero(apart)), wanted, draw)
    return np.concatenate(spans), np.repeat(np.arange(len(spans)), [len(span) for span in spans])


def _words(parts: Sequence[Ids], wanted: int, draw: Generator) -> list[Ids]:
    """Whole words in random order, as long as they fit; at least one."""
    order = [parts[number] for number in draw.permutation(len(parts))]
    found: list[Ids] = []
    room = wanted
    for word in order:
        if len(word) <= room:
            found.append(word)
            room -= len(word)
    return found or [min(order, key=len)]


def _spans(stretches: Sequence[Ids], wanted: int, draw: Generator) -> list[Ids]:
    """Stretches of text cut to spans of geometric length, of which some are taken in random order, the last one cut."""
    cut: list[Ids] = []
    for stretch in stretches:
        while len(stretch):
            length = span_length(draw)
            cut.append(stretch[:length])
            stretch = stretch[length:]
    found: list[Ids] = []
    room = wanted
    for number in draw.permutation(len(cut)):
        if room:
            found.append(cut[number][:room])
            room -= len(found[-1])
    return found


def span_length(draw: Generator) -> int:
    """A length from the geometric distribution, drawn again while it is above `LONGEST_SPAN`."""
    while (length := int(draw.geometric(SPAN_STOP))) > LONGEST_SPAN:
        pass
    return length
