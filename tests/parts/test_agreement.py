"""The built-in task is right, the same for a seed, and gives nothing away to length, single words or neighbours."""

import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from methods.parts.agreement import AGREEMENT_VOCAB, Agreement
from methods.parts.examples import Examples
from methods.parts.grammar import PHENOMENA, compose, lexicon
from methods.parts.wordpiece import load_pieces, train_wordpiece

SMALL = Agreement(train=7000, dev=3000)


@pytest.fixture(scope="module")
def train() -> Examples:
    return SMALL.read("train")


@pytest.fixture(scope="module")
def dev() -> Examples:
    return SMALL.read("dev")


def test_a_seed_gives_the_same_sentences_and_another_seed_others() -> None:
    first, again, other = (Agreement(seed=seed, train=50, dev=10).read("train") for seed in (1, 1, 2))
    assert (first.texts, first.sites, first.labels.tolist()) == (again.texts, again.sites, again.labels.tolist())
    assert not set(first.texts) & set(other.texts)


def test_the_first_sentences_are_these() -> None:
    """Frozen: other sentences need another `VERSION`."""
    assert Agreement(train=3, dev=1).read("train").texts == FIRST


FIRST = [
    "your uncles against my aunt rests",
    "the busy car which shout here beside your chair likes your chairs",
    "usually my gentle kings around these fathers swims",
]


def test_the_development_set_does_not_depend_on_the_training_set() -> None:
    few, many = Agreement(train=5, dev=20), Agreement(train=50, dev=20)
    assert few.read("dev").texts == many.read("dev").texts
    assert few.read("train").texts == many.read("train").texts[:5]
    assert few.fingerprint != many.fingerprint


@pytest.mark.parametrize("pairs", [False, True])
def test_no_two_sentences_are_alike(pairs: bool) -> None:
    task = Agreement(pairs=pairs, train=4000, dev=500)
    rows = [task.read(split) for split in task.splits]
    sentences = [text for split in rows for text in (*split.texts, *(split.pairs or ()))]
    assert len(sentences) == len(set(sentences)) == 4500 * (1 + pairs)


def test_all_sentences_of_the_full_task_are_made_in_three_seconds() -> None:
    start_s = time.process_time()
    assert len(Agreement().read("train")) == 20_000
    assert time.process_time() - start_s < 3


def test_classes_are_even_and_lengths_as_designed(train: Examples) -> None:
    lengths = [len(text.split()) for text in train.texts]
    assert abs(train.labels.mean() - 0.5) < 0.02
    assert 8 < np.mean(lengths) < 10
    assert min(lengths) >= 3
    assert max(lengths) <= SMALL.max_length - 2


def test_wrong_sentences_have_sites_and_right_ones_none(train: Examples) -> None:
    assert train.sites is not None
    for text, label, sites in zip(train.texts, train.labels, train.sites, strict=True):
        assert bool(sites) == (label == 0)
        assert all(first == 0 and 0 <= word < len(text.split()) for first, word in sites)


@pytest.mark.parametrize("phenomenon", PHENOMENA)
def test_a_violation_changes_words_at_its_sites_only(phenomenon: str) -> None:
    draw = Random(5)
    for _ in range(200):
        draft = compose(draw, phenomenon)
        for edit in draft.edits[phenomenon]:
            broken = draft.broken(edit)
            changed = {
                place for place, words in enumerate(zip(draft.words, broken, strict=True)) if words[0] != words[1]
            }
            assert changed == {place for place, _ in edit}
            assert {*broken} <= {*lexicon()}


@pytest.mark.parametrize(
    ("phenomenon", "start"),
    [
        ("tense", ("yesterday", "tomorrow")),
        ("ever", ("no",)),
        ("reflexive", ("the", "my", "your", "this", "that", "no")),
    ],
)
def test_shapes_that_a_phenomenon_needs(phenomenon: str, start: tuple[str, ...]) -> None:
    draw = Random(1)
    for _ in range(50):
        words = compose(draw, phenomenon).words
        assert any(word in start for word in words[:2])


def test_a_pair_has_one_wrong_sentence_and_the_label_says_which() -> None:
    rows = Agreement(pairs=True, train=500, dev=50).read("train")
    assert rows.pairs is not None
    assert rows.sites is not None
    assert {text for sites in rows.sites for text, _ in sites} == {0, 1}
    assert all({text for text, _ in sites} == {label} for sites, label in zip(rows.sites, rows.labels, strict=True))
    assert abs(rows.labels.mean() - 0.5) < 0.1


def accuracy(train: Examples, dev: Examples, view: Callable[[str], str], longest: int = 1) -> float:
    """Held-out accuracy of a logistic regression on counts of words, or of up to `longest` neighbours."""
    counts = CountVectorizer(ngram_range=(1, longest), token_pattern=r"\S+")
    model = LogisticRegression(C=0.1, max_iter=1000)
    model.fit(counts.fit_transform(map(view, train.texts)), train.labels)
    return float(model.score(counts.transform(map(view, dev.texts)), dev.labels))


@pytest.mark.parametrize(
    ("view", "longest", "limit"),
    [
        (lambda text: text, 1, 0.56),
        (lambda text: text.split()[0], 1, 0.60),
        (lambda text: text.split()[-1], 1, 0.60),
        (lambda text: f"length{len(text.split())}", 1, 0.53),
        (lambda text: f"< {text} >", 2, 0.66),
    ],
    ids=["words", "first", "last", "length", "neighbours"],
)
def test_nothing_simple_gives_the_label_away(
    train: Examples, dev: Examples, view: Callable[[str], str], longest: int, limit: float
) -> None:
    assert accuracy(train, dev, view, longest) < limit


def told(rows: Examples) -> Examples:
    texts = [f"{text} x{label}" for text, label in zip(rows.texts, rows.labels, strict=True)]
    return Examples(texts=texts, pairs=None, labels=rows.labels)


def test_the_probe_finds_a_leak_where_there_is_one(train: Examples, dev: Examples) -> None:
    assert accuracy(told(train), told(dev), lambda text: text.split()[-1]) == 1.0


def test_right_sentences_hold_no_in_a_modifier_without_ever(train: Examples) -> None:
    right = [text.split() for text, label in zip(train.texts, train.labels, strict=True) if label == 1]
    inside = [words for words in right if "no" in words[2:] and "ever" not in words]
    assert len(inside) > 100


def test_every_word_is_one_token_of_the_learned_vocabulary(train: Examples, tmp_path: Path) -> None:
    train_wordpiece(train.texts, AGREEMENT_VOCAB, tmp_path)
    pieces = load_pieces(tmp_path)
    assert pieces.size == AGREEMENT_VOCAB
    assert [split.tokens for split in pieces.split(lexicon())] == [[word] for word in lexicon()]


def test_empty_splits_are_refused() -> None:
    with pytest.raises(ValueError, match="train: found 0, allowed is at least 1"):
        Agreement(train=0)
    with pytest.raises(ValueError, match="dev: found 0, allowed is at least 1"):
        Agreement(dev=0)
