"""The built-in task: is this sentence grammatical?

Data, vocabulary and teacher come from a seed, so a sweep runs anywhere.
A random BERT of four small layers learns it in two CPU minutes, capacity shows in the score, and nothing is downloaded.
In the pair form two sentences are shown of which exactly one is wrong, and the label says which.

References:
    Linzen et al., Assessing the Ability of LSTMs to Learn Syntax-Sensitive Dependencies, 2016,
    https://arxiv.org/abs/1611.01368 Warstadt et al., BLiMP: The Benchmark of Linguistic Minimal Pairs for English,
    2020, https://arxiv.org/abs/1912.00582
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

import numpy as np

from methods.parts.examples import Examples, digest
from methods.parts.grammar import Draft, compose, draw_phenomenon
from methods.parts.rng import derive

VERSION = 1
"""Raised whenever the same seed gives other sentences."""

AGREEMENT_VOCAB = 256
"""Entries of a vocabulary in which every word of the task is one token, known before it is learned so that layouts can
be planned: `train_wordpiece` on the training sentences uses 230 of them, the rest is a reserve."""

PAIR = "agreement-pair"
NAMES = ("agreement", PAIR)
"""The two forms: one sentence, acceptable or not; two sentences, of which one is not."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """Sentences of one stream; the development set comes first and is the same for any size of the training set."""

    seed: int = 0
    pairs: bool = False
    train: int = 20_000
    """Training rows."""
    dev: int = 4_000
    """Development rows; each half then tells accuracies apart that differ by two points."""

    def __post_init__(self) -> None:
        """Refuse empty splits."""
        for name, value in (("train", self.train), ("dev", self.dev)):
            if value < 1:
                raise ValueError(f"agreement: {name}: found {value}, allowed is at least 1")

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names; of a pair, which sentence is wrong."""
        return ("first", "second") if self.pairs else ("unacceptable", "acceptable")

    @property
    def metric(self) -> str:
        """The score."""
        return "accuracy"

    @property
    def max_length(self) -> int:
        """Tokens of the longest row possible, rounded up: a word is one token."""
        return 64 if self.pairs else 32

    @property
    def pair(self) -> bool:
        """Whether a row has two texts."""
        return self.pairs

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits."""
        return ("train", "dev")

    @property
    def fingerprint(self) -> str:
        """Hash of what the sentences are drawn from."""
        return digest(["agreement", str(VERSION), str(self.seed), str(self.pairs), str(self.train), str(self.dev)])

    def read(self, split: str) -> Examples:
        """Draw the rows of a split."""
        stream = _pairs(_sentences(self.seed)) if self.pairs else _singles(_sentences(self.seed))
        skipped = 0 if split == "dev" else self.dev
        rows = [row for row, _ in zip(stream, range(skipped + getattr(self, split)), strict=False)][skipped:]
        texts, sites, labels = zip(*rows, strict=True)
        return Examples(
            texts=[text[0] for text in texts],
            pairs=[text[1] for text in texts] if self.pairs else None,
            labels=np.array(labels, dtype=np.int64),
            sites=list(sites),
        )


_Row = tuple[tuple[str, ...], list[tuple[int, int]], int]
_Drawn = Iterator[tuple[Random, str, Draft]]


def _sentences(seed: int) -> _Drawn:
    """Draw right sentences for ever, no two alike."""
    draw = Random(derive(seed, "agreement"))
    seen: set[str] = set()
    while True:
        phenomenon = draw_phenomenon(draw)
        draft = compose(draw, phenomenon)
        text = " ".join(draft.words)
        if text not in seen:
            seen.add(text)
            yield draw, phenomenon, draft


def _singles(drawn: _Drawn) -> Iterator[_Row]:
    """Rows of one sentence: (text), the words that break it, label."""
    for draw, phenomenon, draft in drawn:
        label = draw.randrange(2)
        text, sites = _finished(draw, phenomenon, draft, wrong=not label)
        yield (text,), [(0, site) for site in sites], label


def _pairs(drawn: _Drawn) -> Iterator[_Row]:
    """Rows of two sentences: texts, the words that break one of them, label."""
    for first, second in zip(drawn, drawn, strict=False):  # both take from the one stream, in turn
        label = first[0].randrange(2)
        both = (_finished(*first, wrong=label == 0), _finished(*second, wrong=label == 1))
        yield tuple(text for text, _ in both), [(label, site) for site in both[label][1]], label


def _finished(draw: Random, phenomenon: str, draft: Draft, *, wrong: bool) -> tuple[str, list[int]]:
    """The sentence, broken or not, and the words that break it."""
    edit = draw.choice(draft.edits[phenomenon])
    if not wrong:
        return " ".join(draft.words), []
    return " ".join(draft.broken(edit)), [position for position, _ in edit]
