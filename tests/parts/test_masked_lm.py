"""Masked-LM training: what is hidden, what the loss is, that a small model learns a small language."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from methods.parts.batches import Batches, collate
from methods.parts.bert import Bert
from methods.parts.checkpoint import load, save
from methods.parts.masked_lm import (
    OPEN,
    MaskedBatches,
    Vocabulary,
    load_masked_lm,
    mask,
    masked_lm_loss,
    train_masked_lm,
    vocabulary,
)
from methods.parts.recipe import Recipe
from methods.parts.run import LocalRun
from methods.parts.tokens import Encoded
from tests.parts.encoded import encoded
from tests.parts.mlm import mlm_layout, sentences, tokenizer, trained_checkpoint
from tests.parts.tiny import flat, tiny_bert

WORDS = Vocabulary(size=1000, mask=999, special=(0, 1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mlm")


@pytest.fixture(scope="module")
def checkpoint(folder: Path) -> Path:
    return trained_checkpoint(folder)


def test_what_is_hidden_and_what_is_shown_instead() -> None:
    data = encoded([2, 7, 20, 100] * 200)
    before = collate(data, np.arange(4, len(data)))
    after = mask(before, WORDS, (0, 0, 0))
    hidden = after.labels != OPEN
    assert torch.equal(after.labels[hidden], before.input_ids[hidden])
    assert torch.equal(after.input_ids[~hidden], before.input_ids[~hidden])
    lengths = before.attention_mask.sum(1)
    assert torch.equal(hidden.sum(1), (0.15 * lengths).round().clamp(min=1).long())
    assert after.sizes == {**before.sizes, "masked": int(hidden.sum())}
    shown, true = after.input_ids[hidden], after.labels[hidden]
    assert (shown == WORDS.mask).float().mean() == pytest.approx(0.8, abs=0.02)
    assert (shown == true).float().mean() == pytest.approx(0.1, abs=0.02)
    places = hidden[lengths == 100].float().mean(0)
    assert places.min() > 0.05
    assert places.max() < 0.3


def test_special_tokens_and_padding_are_never_hidden() -> None:
    batch = collate(encoded([3, 3, 9]), np.arange(3))  # the rows hold the tokens 1, 2 and 3
    words = Vocabulary(size=10, mask=9, special=(0, 1, 2))
    hidden = mask(batch, words, (0,)).labels != OPEN
    assert hidden.sum(1).tolist() == [0, 0, 1]


def test_equal_rows_hide_equal_words_on_any_number_of_ranks() -> None:
    data = encoded([5, 9, 14, 20, 30, 41] * 4)

    def targets(step: int, seed: int = 3, shares: int = 1) -> dict[int, list[int]]:
        found = {}
        for rank in range(shares):
            steps = Batches(data, batch_size=8, seed=3, rank=rank, world_size=shares, micro_batches=shares)
            for batch in MaskedBatches(steps, WORDS, seed).step(step):
                for row, labels, ids in zip(batch.ids.tolist(), batch.labels, batch.input_ids, strict=True):
                    places = torch.nonzero(labels != OPEN)[:, 0]
                    found[row] = [*places.tolist(), *ids[places].tolist()]
        return found

    one = targets(1)
    assert targets(1, shares=2) == one
    assert targets(1) == one
    assert targets(1, seed=4) != one
    again = [targets(step)[5] for step in range(9) if 5 in targets(step)]
    assert len({tuple(each) for each in again}) > 1


def test_the_loss_is_a_sum_over_hidden_words(folder: Path, checkpoint: Path) -> None:
    words = vocabulary(folder / "words")
    model = load_masked_lm(checkpoint)
    batch = mask(collate(sentences(folder / "few", folder / "words", 6), np.arange(6)), words, (1,))
    term = masked_lm_loss(model, batch)
    everywhere = model.mlm_logits(batch, torch.ones_like(batch.labels, dtype=torch.bool))
    expected = F.cross_entropy(everywhere, batch.labels.reshape(-1), ignore_index=OPEN, reduction="sum")
    assert term.per == "masked"
    assert torch.allclose(term.sum, expected)


@pytest.fixture
def few(folder: Path) -> Iterator[Encoded]:
    tokenizer(folder / "words")
    return iter([sentences(folder / "twelve", folder / "words", 12)])


def test_micro_batches_change_nothing_and_a_finished_stage_answers(
    folder: Path, few: Iterator[Encoded], tmp_path: Path
) -> None:
    data = next(few)

    def weights(name: str, accumulation: int) -> torch.Tensor:
        recipe = Recipe(epochs=2.0, batch_size=5, lr=1e-3, accumulation=accumulation)
        run = LocalRun(tmp_path / name)
        model = train_masked_lm(mlm_layout(), data, recipe, run, tokenizer=folder / "words", dropout=0.0)
        return flat(model)

    whole = weights("whole", 1)
    assert torch.allclose(whole, weights("parts", 3), atol=2e-5)
    assert torch.equal(whole, weights("whole", 1))


def test_a_small_model_learns_a_small_language(checkpoint: Path, folder: Path) -> None:
    words = vocabulary(folder / "words")
    model = load_masked_lm(checkpoint)
    data = sentences(folder / "all", folder / "words")
    batch = mask(collate(data, np.arange(len(data) - 300, len(data))), words, (7,))
    hidden = batch.labels != OPEN
    with torch.no_grad():
        guesses = model.mlm_logits(batch, hidden).argmax(1)
    right = (guesses == batch.labels[hidden]).float().mean()
    assert right > 0.5, "fixed words and half of the chance for the others"


def test_a_checkpoint_keeps_its_masked_lm_head(checkpoint: Path, tmp_path: Path) -> None:
    model = load_masked_lm(checkpoint)
    save(model, tmp_path / "copy")
    again = load(tmp_path / "copy", masked_lm=True)
    assert torch.equal(flat(model), flat(again))
    assert not load(checkpoint).layout.masked_lm


def test_models_without_a_masked_lm_head_are_refused(folder: Path, few: Iterator[Encoded], tmp_path: Path) -> None:
    save(tiny_bert().eval(), tmp_path / "classifier")
    with pytest.raises(ValueError, match="classifier: found no masked-LM head"):
        load_masked_lm(tmp_path / "classifier")
    layout = Bert(mlm_layout(vocab=20)).layout
    with pytest.raises(ValueError, match="found vocab 20, allowed is at least 80"):
        train_masked_lm(layout, next(few), Recipe(), LocalRun(tmp_path), tokenizer=folder / "words")
    with pytest.raises(ValueError, match="found masked_lm = False"):
        train_masked_lm(
            tiny_bert().layout,
            sentences(folder / "one", folder / "words", 4),
            Recipe(),
            LocalRun(tmp_path),
            tokenizer=folder / "words",
        )
