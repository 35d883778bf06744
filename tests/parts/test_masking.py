"""What is hidden: 15 % of a row, whole words, spans; what is shown instead; what never is."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tests.strategies  # noqa: F401  its hypothesis profile
from methods.parts.batches import Batch, collate
from methods.parts.masked_lm import held_out_loss
from methods.parts.masking import OPEN, MaskedBatches, Masking, Vocabulary, mask, span_length, vocabulary
from methods.parts.run import LocalRun
from methods.parts.wordpiece import SPECIAL
from tests.parts.encoded import encoded, word_tokenizer
from tests.parts.ranks import run_ranks
from tests.parts.tiny import Rows, tiny_bert, tiny_layout

PIECES = "one two three un ##used ##ly ##s [unused0] [unused1]"
UNITS = ("token", "word", "span")


def rows(tokens: list[list[int]]) -> Batch:
    """Rows of these tokens, padded with 0."""
    length = max(len(row) for row in tokens)
    ids = torch.tensor([[*row, *[0] * (length - len(row))] for row in tokens])
    real = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in tokens])
    sizes = {"examples": len(tokens), "tokens": int(real.sum()), "positions": ids.numel()}
    numbers = torch.arange(len(tokens))
    return Batch(
        input_ids=ids,
        attention_mask=real,
        token_type_ids=0 * ids,
        labels=numbers,
        ids=numbers,
        sites=None,
        sizes=sizes,
    )


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    return vocabulary(word_tokenizer(tmp_path_factory.mktemp("words"), PIECES))


def test_a_vocabulary_knows_pieces_and_what_is_never_drawn(words: Vocabulary, tmp_path: Path) -> None:
    assert words.size == 14
    assert words.special == (0, 2, 3)
    assert words.random.tolist() == [5, 6, 7, 8, 9, 10, 11]
    assert np.flatnonzero(words.goes_on).tolist() == [9, 10, 11]
    published = vocabulary(word_tokenizer(tmp_path, PIECES), "published")
    assert published.random.tolist() == [1, *range(5, 14)]


token_rows = st.lists(st.lists(st.integers(1, 13), min_size=1, max_size=40), min_size=1, max_size=5)


@given(token_rows, st.sampled_from(UNITS), st.integers(0, 9))
def test_only_words_are_hidden_and_never_none(tokens: list[list[int]], unit: str, seed: int) -> None:
    words = Vocabulary(size=14, mask=4, special=(0, 2, 3), barred=(*range(5), 12, 13), continuations=(9, 10, 11))
    before = rows(tokens)
    after = mask(before, words, (seed,), Masking(unit=unit))
    hidden = after.labels != OPEN
    assert torch.equal(after.labels[hidden], before.input_ids[hidden])
    assert torch.equal(after.input_ids[~hidden], before.input_ids[~hidden])
    assert after.sizes["masked"] == int(hidden.sum())
    changed = after.input_ids[hidden & (after.input_ids != before.input_ids)]
    assert not set(changed.tolist()) & {0, 1, 2, 3, 12, 13}
    for row, flags in zip(tokens, hidden.tolist(), strict=True):
        free = [place for place, token in enumerate(row) if token not in words.special]
        count, wanted = sum(flags), max(1, round(0.15 * len(row)))
        assert all(place in free for place in np.flatnonzero(flags))
        assert bool(count) == bool(free)
        if unit != "word":
            assert count == min(wanted, len(free))
            continue
        bounds = [place for place in free if place - 1 not in free or row[place] not in (9, 10, 11)]
        starts = [bisected(bounds, place) for place in np.flatnonzero(flags)]
        assert all(flags[place] for place in free if bisected(bounds, place) in starts), "words are hidden whole"
        assert count <= wanted or len(set(starts)) == 1


def bisected(bounds: list[int], place: int) -> int:
    return max(bound for bound in bounds if bound <= place)


def test_whole_words_keep_the_shares(words: Vocabulary) -> None:
    """Of three words two have one piece and one has three."""
    before = rows([[2, *[5, 6, 8, 9, 10] * 6, 3] for _ in range(800)])
    after = mask(before, words, (1,), Masking(unit="word"))
    hidden = after.labels != OPEN
    assert hidden.sum(1).float().mean() == pytest.approx(5, abs=0.3)
    shown, true = after.input_ids[hidden], after.labels[hidden]
    assert (shown == 4).float().mean() == pytest.approx(0.8, abs=0.02)
    assert (shown == true).float().mean() == pytest.approx(0.1 + 0.1 / 7, abs=0.02)
    pieces = before.input_ids == 9
    assert torch.equal(hidden[:, :-1][pieces[:, 1:]], hidden[pieces])


def test_spans_are_geometric_and_shown_alike() -> None:
    draw = np.random.default_rng(0)
    lengths = np.array([span_length(draw) for _ in range(20000)])
    chances = 0.2 * 0.8 ** np.arange(10) / (1 - 0.8**10)
    assert lengths.max() == 10
    assert np.bincount(lengths, minlength=11)[1:] / len(lengths) == pytest.approx(chances, abs=0.012)
    vocabulary_ = Vocabulary(size=1000, mask=999, special=(0,), barred=(0,))
    data = encoded([100] * 300)
    before = collate(data, np.arange(300))
    after = mask(before, vocabulary_, (0,), Masking(unit="span"))
    hidden = after.labels != OPEN
    assert hidden.sum(1).tolist() == [15] * 300
    together = (hidden[:, 1:] & hidden[:, :-1]).sum() / hidden.sum()
    assert together > 0.6, "tokens alone would have a neighbour in 15 of 100 cases"
    assert (after.input_ids[hidden] == 999).float().mean() == pytest.approx(0.8, abs=0.05)


@pytest.mark.parametrize("unit", UNITS)
def test_masks_change_with_epochs_and_not_with_ranks_or_micro_batches(unit: str, words: Vocabulary) -> None:
    words = Vocabulary(size=30, mask=4, special=(0, 2, 3), barred=tuple(range(5)), continuations=(7, 11, 13, 20))

    def hidden(step: int, shares: int, micro: int) -> dict[int, list[int]]:
        found = {}
        for rank in range(shares):
            data = MaskedBatches(Rows(rank=rank, world_size=shares, micro_batches=micro), words, 3, Masking(unit=unit))
            for batch in data.step(step):
                for row, labels, ids in zip(batch.ids.tolist(), batch.labels, batch.input_ids, strict=True):
                    places = torch.nonzero(labels != OPEN)[:, 0]
                    found[row] = [*places.tolist(), *ids[places].tolist()]
        return found

    assert hidden(1, 1, 1) == hidden(1, 2, 1) == hidden(1, 1, 3)
    epochs = [{row: seen for step in range(3) for row, seen in hidden(3 * n + step, 1, 1).items()} for n in (0, 1)]
    assert len(epochs[0]) == 22
    assert sum(epochs[0][row] != epochs[1][row] for row in epochs[0]) > 10


def test_an_unknown_unit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Masking\.unit: found 'words', allowed are token, word, span \(did you"):
        Masking(unit="words")  # type: ignore[arg-type]


SHARDS = [9, 3, 5, 8, 7, 2, 9, 4, 6, 5, 5], [4, 9, 2, 7]


def loss_on_ranks(rank: int, world_size: int, folder: Path) -> float:
    layout = tiny_layout()
    model = tiny_bert(layout=type(layout).uniform(**{**SIZES, "masked_lm": True}))
    run = LocalRun(folder / "run", rank=rank, world_size=world_size)
    special = Vocabulary(size=30, mask=29, special=(0,), barred=(0, 29))
    return held_out_loss(model, [encoded(part) for part in SHARDS], special, run, seed=5, batch_size=3)


SIZES = {"vocab": 30, "positions": 12, "hidden": 8, "num_layers": 2, "heads": 2, "head_width": 4, "ffn": 8, "labels": 2}


def test_a_held_out_loss_is_the_same_on_any_number_of_ranks(tmp_path: Path) -> None:
    alone = loss_on_ranks(0, 1, tmp_path)
    assert 1.0 < alone < 10.0
    assert run_ranks(loss_on_ranks, tmp_path) == [alone, alone]


def test_rows_without_words_have_no_loss(tmp_path: Path) -> None:
    model = tiny_bert(layout=tiny_layout())
    nothing = Vocabulary(size=30, mask=29, special=tuple(range(len(SPECIAL))))
    with pytest.raises(ValueError, match="without a word to hide"):
        held_out_loss(model, [], nothing, LocalRun(tmp_path))
