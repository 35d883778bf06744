"""BERT's sequences from running text: two stretches of sentences, the second the continuation or from elsewhere.

A document's sentences are taken in order until they fill a target length, and split into A and B at a random sentence.
Half of the time B is thrown back and replaced by sentences of another document. What does not fit is trimmed from the
longer side, a token at a time at a random end. Every sentence therefore comes up exactly once in an epoch as A or as a
true B.

References:
    Devlin et al.: BERT: Pre-training of Deep Bidirectional Transformers, 2019, https://arxiv.org/abs/1810.04805,
    appendix A.2; the sampling of other documents by their sentences is that of the TinyBERT code,
    https://github.com/huawei-noah/Pretrained-Language-Model
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from methods.parts.encoding import kept

Ids = NDArray[np.unsignedinteger]


@dataclass(frozen=True, kw_only=True, slots=True)
class Packing:
    """How sequences are made of sentences; the defaults are the published ones."""

    max_length: int = 128
    """Tokens of a sequence, its three special tokens included."""
    short: float = 0.1
    """Share of documents that are packed to a random shorter target, [0, 1]."""
    one_sequence: bool = False
    """Whether B is always what follows A; where nothing follows it is a full stop."""

    def __post_init__(self) -> None:
        """Refuse numbers that leave no room."""
        if self.max_length < 5:
            raise ValueError(f"Packing.max_length: found {self.max_length}, allowed is at least 5")
        if not 0.0 <= self.short <= 1.0:
            raise ValueError(f"Packing.short: found {self.short!r}, allowed is a share in [0, 1]")

    @property
    def room(self) -> int:
        """Tokens of A and B together, special tokens left out."""
        return self.max_length - 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Corpus:
    """Tokenised documents, back to back; the arrays may stay on disk."""

    tokens: Ids
    """Token ids of all sentences, without special tokens."""
    sentences: NDArray[np.int64]
    """Where each sentence begins in `tokens`, and the end of the last."""
    documents: NDArray[np.int64]
    """Where each document begins in `sentences`, and the end of the last; no document and no sentence is empty."""
    full_stop: Ids
    """The tokens of "."."""

    def text(self, start: int, end: int) -> Ids:
        """The tokens of sentences `start` to `end`, the end excluded."""
        return self.tokens[self.sentences[start] : self.sentences[end]]

    def filled(self, start: int, end: int, target: int) -> int:
        """Where to stop so that sentences from `start` hold at least `target` tokens: after one at least, or `end`."""
        ends = self.sentences[start + 1 : end + 1]
        return min(start + 1 + int(np.searchsorted(ends, self.sentences[start] + target)), end)


@dataclass(frozen=True, slots=True)
class Packed:
    """One sequence, without its special tokens."""

    first: Ids
    second: Ids
    random_next: bool
    """Whether the second part is from another document."""


def pack(corpus: Corpus, packing: Packing, draw: Generator) -> Iterator[Packed]:
    """One epoch of sequences; the documents come in a random order, so that every stretch of it is a fair sample.

    Memory grows with the number of documents (8 bytes each), not with their text.

    Raises:
        ValueError: there is no other document to take a second part from.
    """
    num_documents = len(corpus.documents) - 1
    if num_documents < 2 and not packing.one_sequence:
        raise ValueError(
            f"corpus: found {num_documents} documents, allowed are 2 or more, with blank lines between; or one_sequence"
        )
    for document in draw.permutation(num_documents):
        yield from _packed(corpus, int(document), packing, draw)


def _packed(corpus: Corpus, document: int, packing: Packing, draw: Generator) -> Iterator[Packed]:
    """The sequences of one document."""
    start, end = (int(place) for place in corpus.documents[document : document + 2])
    target = packing.room
    if draw.random() < packing.short:
        target = int(draw.integers(2, packing.room, endpoint=True))
    while start < end:
        stop = corpus.filled(start, end, target)
        middle = start + 1 if stop - start < 2 else int(draw.integers(start + 1, stop))
        random_next = not packing.one_sequence and (stop - start == 1 or draw.random() < 0.5)
        first = corpus.text(start, middle)
        if random_next:
            second, stop = _elsewhere(corpus, document, target - len(first), draw), middle
        else:
            second = corpus.text(middle, stop) if middle < stop else corpus.full_stop
        keep, rest = kept(len(first), len(second), packing.room)
        yield Packed(_trimmed(first, keep, draw), _trimmed(second, rest, draw), random_next)
        start = stop


def _elsewhere(corpus: Corpus, document: int, target: int, draw: Generator) -> Ids:
    """Sentences of another document, from one of theirs that is drawn uniformly.

    Drawing a sentence is drawing a document in proportion to its sentences, and then a place in it.
    """
    start, end = (int(place) for place in corpus.documents[document : document + 2])
    sentence = int(draw.integers(len(corpus.sentences) - 1 - (end - start)))
    sentence += end - start if sentence >= start else 0
    theirs = int(corpus.documents[np.searchsorted(corpus.documents, sentence, side="right")])
    return corpus.text(sentence, corpus.filled(sentence, theirs, target))


def _trimmed(tokens: Ids, keep: int, draw: Generator) -> Ids:
    """Take tokens away until `keep` are left, each from a random end."""
    surplus = len(tokens) - keep
    front = int(draw.binomial(surplus, 0.5)) if surplus else 0
    return tokens[front : front + keep]
