"""Packing keeps every token and the budget; the reference below is the published procedure, token by token."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from methods.parts.sequences import Corpus, Packed, Packing, pack

FULL_STOP = 7
DOCUMENTS = st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=9), min_size=2, max_size=5)
"""Sentence lengths by document."""


def corpus_of(documents: list[list[int]]) -> Corpus:
    """Every token of the corpus is another number, from 1000 on."""
    lengths = [length for document in documents for length in document]
    return Corpus(
        tokens=np.arange(1000, 1000 + sum(lengths), dtype=np.uint32),
        sentences=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        documents=np.concatenate([[0], np.cumsum([len(document) for document in documents])]).astype(np.int64),
        full_stop=np.array([FULL_STOP], dtype=np.uint32),
    )


def packed(documents: list[list[int]], packing: Packing, seed: int = 0) -> list[Packed]:
    return list(pack(corpus_of(documents), packing, np.random.default_rng(seed)))


def tokens_of(rows: list[Packed], *, own: bool) -> Counter[int]:
    """How often each token comes up in a first part or a true second part."""
    parts = [row.first for row in rows] + [row.second for row in rows if not own or not row.random_next]
    return Counter(int(token) for part in parts for token in part if token != FULL_STOP)


@given(DOCUMENTS, st.integers(5, 30), st.sampled_from((0.0, 0.1, 1.0)), st.booleans(), st.integers(0, 1000))
def test_sequences_keep_to_the_budget(
    documents: list[list[int]], max_length: int, short: float, one_sequence: bool, seed: int
) -> None:
    packing = Packing(max_length=max_length, short=short, one_sequence=one_sequence)
    for row in packed(documents, packing, seed):
        assert len(row.first) >= 1
        assert len(row.second) >= 1
        assert len(row.first) + len(row.second) <= max_length - 3
        assert not (one_sequence and row.random_next)
        for part in (row.first, row.second):
            assert (np.diff(part.astype(np.int64)) == 1).all()  # a stretch of the text


@given(DOCUMENTS, st.sampled_from((0.0, 0.5, 1.0)), st.booleans(), st.integers(0, 1000))
def test_no_token_is_lost_or_repeated_where_nothing_is_trimmed(
    documents: list[list[int]], short: float, one_sequence: bool, seed: int
) -> None:
    packing = Packing(max_length=400, short=short, one_sequence=one_sequence)
    own = tokens_of(packed(documents, packing, seed), own=True)
    assert own == Counter(corpus_of(documents).tokens.tolist())


@given(DOCUMENTS, st.integers(5, 20), st.integers(0, 1000))
def test_only_trimming_loses_tokens(documents: list[list[int]], max_length: int, seed: int) -> None:
    rows = packed(documents, Packing(max_length=max_length), seed)
    own = tokens_of(rows, own=True)
    assert max(own.values()) == 1
    trims = [row for row in rows if len(row.first) + len(row.second) == max_length - 3]
    everything = len(corpus_of(documents).tokens)
    assert own.total() == everything if not trims else own.total() <= everything


@given(DOCUMENTS, st.integers(5, 30), st.integers(0, 1000))
def test_equal_seeds_pack_equally(documents: list[list[int]], max_length: int, seed: int) -> None:
    one, two = (packed(documents, Packing(max_length=max_length), seed) for _ in range(2))
    assert [(row.first.tolist(), row.second.tolist(), row.random_next) for row in one] == [
        (row.first.tolist(), row.second.tolist(), row.random_next) for row in two
    ]


@given(DOCUMENTS, st.integers(0, 1000))
def test_a_random_second_part_is_of_another_document(documents: list[list[int]], seed: int) -> None:
    corpus = corpus_of(documents)
    starts = corpus.sentences[corpus.documents]

    def document(token: int) -> int:
        return int(np.searchsorted(starts, token - 1000, side="right"))

    for row in packed(documents, Packing(max_length=40), seed):
        if row.second[0] != FULL_STOP:
            assert (document(int(row.first[0])) != document(int(row.second[0]))) == row.random_next


def test_half_of_the_second_parts_are_random_and_a_tenth_of_the_documents_short() -> None:
    documents = [[5] * 40 for _ in range(400)]
    rows = packed(documents, Packing(max_length=53))
    assert 0.45 < sum(row.random_next for row in rows) / len(rows) < 0.65
    full = [row for row in rows if not row.random_next and len(row.first) + len(row.second) == 50]
    true = [row for row in rows if not row.random_next]
    assert 0.7 < len(full) / len(true) < 0.95


def test_other_documents_come_up_by_their_sentences() -> None:
    documents = [[3] * 200, [3] * 20, [3] * 60]
    counts: Counter[int] = Counter()
    for seed in range(60):
        for row in packed(documents, Packing(max_length=30), seed):
            if row.random_next and row.first[0] < 1600:
                counts[1 if row.second[0] < 1660 else 2] += 1
    assert counts[2] / counts[1] == pytest.approx(3.0, rel=0.15)


def test_trimming_takes_from_both_ends_of_the_longer_part() -> None:
    rows = packed([[40], [2]], Packing(max_length=13), 1)
    long = [row for row in rows if row.first[0] < 1040 and len(row.first) > 2]
    assert all(len(row.first) == 8 and len(row.second) == 2 for row in long)
    fronts = {int(packed([[40], [2]], Packing(max_length=13), seed)[0].first[0]) for seed in range(20)}
    assert len(fronts) > 4


def test_where_nothing_follows_there_is_a_full_stop() -> None:
    (row,) = packed([[4]], Packing(one_sequence=True))
    assert row.first.tolist() == [1000, 1001, 1002, 1003]
    assert row.second.tolist() == [FULL_STOP]


def test_what_cannot_be_packed_is_refused() -> None:
    with pytest.raises(ValueError, match="found 1 documents"):
        packed([[4, 4]], Packing())
    with pytest.raises(ValueError, match="max_length: found 4"):
        Packing(max_length=4)
    with pytest.raises(ValueError, match=r"short: found 1\.5"):
        Packing(short=1.5)
