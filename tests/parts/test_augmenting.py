"""Replacing words: the published algorithm word by word, its randomness, its order of rows."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.parts.augmenting import OTHER_VARIANTS, VARIANTS, Augmentation, Augmenter, combine
from methods.parts.bert import Bert
from methods.parts.layers import Tokens
from methods.parts.masked_lm import load_masked_lm
from methods.parts.stopwords import STOP_WORDS, replaceable
from methods.parts.wordpiece import load_pieces
from methods.parts.wordvectors import WordVectors, read_vectors
from tests.parts.mlm import ANIMALS, SENTENCES, mlm_layout, trained_checkpoint, write_vectors
from tests.parts.tiny import tiny_bert

FAR = ("lighthouse", "barn", "tower", "house", "mill", "dog")
LONG = " ".join(["the big dog sees the cat in the barn"] * 3) + " and the lighthouse barn ."


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_checkpoint(tmp_path_factory.mktemp("augmenting"))


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> WordVectors:
    return read_vectors(write_vectors(tmp_path_factory.mktemp("vectors") / "glove.txt", FAR))


Make = Callable[..., Augmenter]


@pytest.fixture(scope="module")
def make(checkpoint: Path, vectors: WordVectors) -> Make:
    model, pieces = load_masked_lm(checkpoint), load_pieces(checkpoint)

    def made(*, batch_tokens: int = 8192, near: WordVectors | None = vectors, **numbers: float) -> Augmenter:
        return Augmenter(model, pieces, Augmentation(**numbers), near, batch_tokens=batch_tokens)

    return made


class One:
    """One sequence, as the model wants it."""

    def __init__(self, ids: list[int], types: list[int]) -> None:
        self.input_ids, self.token_type_ids = torch.tensor([ids]), torch.tensor([types])
        self.attention_mask = torch.ones_like(self.input_ids)


def published(augmenter: Augmenter, vectors: WordVectors, text: str, room: int) -> dict[int, set[str]]:
    """The candidates as the published code finds them: one word at a time, by walking over the pieces."""
    tokenizer, model = augmenter.pieces.tokenizer, augmenter.model
    size, names = augmenter.settings.candidates, augmenter.words(text)
    pieces = ["[CLS]", *tokenizer.encode(text, add_special_tokens=False).tokens]
    starts = [place for place, piece in enumerate(pieces) if place and not piece.startswith("##")]
    assert len(starts) == len(names)
    found = {}
    for word in (number for number, name in enumerate(names) if replaceable(name)):
        end = starts[word + 1] if word + 1 < len(starts) else len(pieces)
        if end - starts[word] == 1 and starts[word] < room:
            shown = [*pieces[: starts[word]], "[MASK]", *pieces[end:]]
            tokens = [*shown, "[SEP]", *pieces[1:], "[SEP]"][:room]
            types = ([0] * (len(pieces) + 1) + [1] * len(tokens))[: len(tokens)]
            batch: Tokens = One([tokenizer.token_to_id(token) for token in tokens], types)
            place = torch.zeros(1, len(tokens), dtype=torch.bool)
            place[0, starts[word]] = True
            order = model.mlm_logits(batch, place)[0].argsort(descending=True)[:size].tolist()
            best = {tokenizer.id_to_token(number) for number in order}
            found[word] = {name for name in best if not name.startswith(("##", "[")) or len(name) == 1}
        else:
            found[word] = set(vectors.nearest(names[word], size))
        found[word] = found[word] or {names[word]}
    return found


@torch.no_grad()
@pytest.mark.parametrize("text", [*SENTENCES[:3], "The BIG lighthouse, sees (old) dogs in a barn!", LONG, "the ."])
@pytest.mark.parametrize("candidates", [4, 15])
def test_candidates_are_those_of_the_published_code(
    make: Make, vectors: WordVectors, text: str, candidates: int
) -> None:
    augmenter = make(candidates=candidates)
    words = augmenter.words(text)
    (found,) = augmenter.candidates([words])
    expected = published(augmenter, vectors, text, mlm_layout().positions)
    assert {word: set(names) for word, names in found.items()} == expected
    assert list(found) == sorted(found)
    assert all(len(set(names)) == len(names) for names in found.values())


def test_where_candidates_come_from(make: Make, vectors: WordVectors) -> None:
    (found,) = make().candidates([["a", "lighthouse", "dogs", "dog", "café", "x2", "Dog"]])
    assert set(found) == {1, 2, 3}, "a stop word, and what is not only a to z, stay"
    assert found[1] == tuple(sorted(set(FAR) - {"lighthouse"})), "several pieces: word vectors, itself left out"
    assert found[2] == ("dogs",), "several pieces and no vector: the word itself"
    assert len(found[3]) > 1
    assert not any(name.startswith(("##", "[")) for name in found[3])
    (alone,) = make(near=None).candidates([["lighthouse"]])
    assert alone == {0: ("lighthouse",)}
    words = make().words(LONG)
    (late,) = make(candidates=2).candidates([words])
    last = len(words) - 2
    assert set(late[last]) == set(vectors.nearest("barn", 2)), "one piece, but the mask would stand beyond the cut"


def test_a_masked_lm_that_knows_the_language_proposes_what_fits(make: Make) -> None:
    (found,) = make(candidates=5).candidates([["the", "old", "hen", "likes", "the", "cat", "in", "the", "barn", "."]])
    assert len(set(found[2]) & set(ANIMALS)) >= 3


def test_the_numbers_are_the_published_ones() -> None:
    assert (len(STOP_WORDS), sum(word.isalpha() for word in STOP_WORDS)) == (173, 145)
    assert not STOP_WORDS & {"what", "which", "who", "whom", "when", "where", "why", "how"}
    published = {"cola": 30, "sst2": 20, "qnli": 20, "qqp": 10, "mnli": 10, "mrpc": 30, "stsb": 30, "rte": 30}
    assert (dict(VARIANTS), OTHER_VARIANTS) == (published, 30)
    numbers = Augmentation()
    assert (numbers.candidates, numbers.probability) == (15, 0.4)


def test_words_are_split_as_bert_does(make: Make) -> None:
    assert make().words("  Don't: the\tCafé's\u00a0dog-house…") == [
        *("don", "'", "t", ":", "the", "cafe", "'", "s", "dog", "-", "house", "…")
    ]


texts = st.lists(st.sampled_from([*ANIMALS, "the", "of", "big", "Lighthouse", "dogs", ",", "10"]), max_size=9)


@settings(max_examples=25, deadline=None)
@given(words=texts, seed=st.integers(0, 99), rounds=st.integers(1, 12), chance=st.sampled_from([0.0, 0.4, 1.0]))
def test_a_variant_differs_only_where_it_may(
    make: Make, words: list[str], seed: int, rounds: int, chance: float
) -> None:
    augmenter = make(variants=rounds, probability=chance, seed=seed)
    text = " ".join(words)
    (found,) = augmenter.variants([text], [(0, 0)])
    names = augmenter.words(text)
    (candidates,) = augmenter.candidates([names])
    assert text not in found
    assert len(set(found)) == len(found) <= rounds
    for variant in found:
        new = variant.split(" ") if variant else []
        assert len(new) == len(names)
        for place, (before, after) in enumerate(zip(names, new, strict=True)):
            allowed = set(candidates.get(place, ()))
            assert after in (allowed if chance == 1.0 and allowed else allowed | {before})
    if chance == 0.0:
        assert found == ([] if text == " ".join(names) else [" ".join(names)])


def test_words_are_replaced_as_often_as_asked(make: Make) -> None:
    augmenter = make(variants=400, probability=0.4)
    words = augmenter.words("big fox hears duck small barn old goat likes hen young cow field")
    (candidates,) = augmenter.candidates([words])
    found = augmenter.variants([" ".join(words)] * 3, [(number, 0) for number in range(3)])
    other = {place: [name for name in names if name != words[place]] for place, names in candidates.items()}
    assert [len(each) > 390 for each in found] == [True] * 3, "hardly any two are alike"
    new = np.array([variant.split(" ") for each in found for variant in each])
    for place, names in other.items():
        if len(names) > 5:
            expected = 0.4 * len(names) / len(candidates[place])
            assert (new[:, place] != words[place]).mean() == pytest.approx(expected, abs=0.05)
            counts = [(new[:, place] == name).sum() for name in names]
            assert min(counts) > 0.4 * max(counts), "drawn uniformly"


def test_any_split_of_the_work_gives_the_same_rows(make: Make) -> None:
    rows = [(SENTENCES[number], SENTENCES[7 * number % 31]) for number in range(24)]
    rows[5] = rows[4]
    whole = make(variants=6, seed=1).rows(rows, range(24))
    assert whole[4] != whole[5], "equal rows get variants of their own"
    for size, batch_tokens in ((1, 40), (7, 200), (24, 64)):
        augmenter = make(variants=6, seed=1, batch_tokens=batch_tokens)
        parts = [
            made
            for start in range(0, 24, size)
            for made in augmenter.rows(rows[start : start + size], range(start, min(24, start + size)))
        ]
        assert parts == whole
    assert make(variants=6, seed=2).rows(rows, range(24)) != whole


def test_each_text_of_a_pair_varies_beside_the_original_of_the_other() -> None:
    assert combine(("A", "B"), [["a1", "a2"], ["b1"]]) == [("A", "B"), ("a1", "B"), ("a2", "B"), ("A", "b1")]
    assert combine(("A",), [["a1"]]) == [("A",), ("a1",)]
    assert combine(("A", "B"), [[], []]) == [("A", "B")]


def test_in_place_the_second_text_varies_beside_the_last_of_the_first(make: Make) -> None:
    """As published: the row is edited in place, so that one pair is there twice."""
    expected = [("A", "B"), ("a1", "B"), ("a2", "B"), ("a2", "B"), ("a2", "b1")]
    assert combine(("A", "B"), [["a1", "a2"], ["b1"]], in_place=True) == expected
    row = (SENTENCES[0], SENTENCES[50])
    (fixed,) = make(variants=3).rows([row], [9])
    (old,) = make(variants=3, compat="in-place").rows([row], [9])
    count = sum(second == row[1] for _, second in fixed)
    assert old[:count] == fixed[:count]
    last = fixed[count - 1][0]
    assert old[count:] == [(last, row[1]), *((last, second) for _, second in fixed[count:])]


@pytest.mark.parametrize(
    ("numbers", "complaint"),
    [
        ({"variants": 0}, "variants: found 0, allowed is at least 1"),
        ({"candidates": 0}, "candidates: found 0"),
        ({"probability": 1.5}, "probability: found 1.5, allowed is 0 to 1"),
        ({"compat": "original"}, "compat: found 'original', allowed is 'in-place'"),
    ],
)
def test_impossible_numbers_are_refused(numbers: dict[str, float], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Augmentation(**numbers)


def test_models_that_cannot_fill_in_words_are_refused(checkpoint: Path) -> None:
    pieces = load_pieces(checkpoint)
    wrong = {
        "one without a masked-LM head": tiny_bert().eval(),
        "one in training mode": Bert(mlm_layout()),
        "1 token type, allowed are 2": Bert(mlm_layout(types=1)).eval(),
        "found 80 entries, allowed are at most 79": Bert(mlm_layout(vocab=79)).eval(),
    }
    for complaint, model in wrong.items():
        with pytest.raises(ValueError, match=complaint):
            Augmenter(model, pieces, Augmentation())
