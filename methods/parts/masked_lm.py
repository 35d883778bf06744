"""Masked-language-model training: hide some words of a sentence, learn to name them.

How words are hidden is `methods.parts.masking`'s affair. There is no next-sentence prediction.

References:
    Devlin et al., BERT: Pre-training of Deep Bidirectional Transformers, 2019, https://arxiv.org/abs/1810.04805,
    section 3.1 and appendix A.1
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch.nn import functional as F

from methods.parts.batches import Batch, collate, evaluation_rows
from methods.parts.bert import Bert, initialise
from methods.parts.checkpoint import load
from methods.parts.layout import Layout
from methods.parts.loop import fit
from methods.parts.losses import Term
from methods.parts.masking import OPEN, MaskedBatches, Masking, Vocabulary, mask, vocabulary
from methods.parts.recipe import Recipe
from methods.parts.reduce import Ranked, total
from methods.parts.rng import derive
from methods.parts.run import Run
from methods.parts.splits import training_batches
from methods.parts.tokens import Encoded
from methods.parts.training import Losses, Training

__all__ = [
    "OPEN",
    "HeadMissing",
    "MaskedBatches",
    "Masking",
    "Vocabulary",
    "held_out_loss",
    "load_masked_lm",
    "mask",
    "masked_lm_loss",
    "masked_lm_losses",
    "train_masked_lm",
    "vocabulary",
]


class HeadMissing(ValueError):
    """A checkpoint has no masked-LM head."""


def load_masked_lm(folder: Path | str) -> Bert:
    """Load a checkpoint with its masked-LM head, on the CPU, in evaluation mode.

    Raises:
        HeadMissing: the checkpoint has no such head (a classifier, a bare encoder). One drawn at random, as the
            published download script silently leads to, would name random words.
        ValueError: the checkpoint cannot be read at all.
    """
    try:
        return load(folder, masked_lm=True)
    except ValueError as error:
        if "missing (" in str(error) and "cls.predictions." in str(error):
            wanted = "expected a model trained on masked words"
            raise HeadMissing(f"{folder}: found no masked-LM head (cls.predictions.*), {wanted}") from error
        raise


def masked_lm_loss(model: Bert, batch: Batch) -> Term:
    """Cross-entropy of the hidden words of a masked batch, summed over them.

    Raises:
        ValueError: the model has no masked-LM head.
    """
    places = batch.labels != OPEN
    logits = model.mlm_logits(batch, places).float()
    return Term("masked_lm", F.cross_entropy(logits, batch.labels[places], reduction="sum"), "masked")


def masked_lm_losses(model: Bert) -> Losses:
    """The losses of masked-LM training, for `Training.losses`."""

    def losses(batch: Batch) -> Iterator[Sequence[Term]]:
        yield [masked_lm_loss(model, batch)]

    return losses


def held_out_loss(  # noqa: PLR0913  the facts that decide a number
    model: Bert,
    blocks: Sequence[Encoded],
    words: Vocabulary,
    run: Ranked,
    *,
    seed: int = 0,
    masking: Masking | None = None,
    batch_size: int = 64,
) -> float:
    """Mean cross-entropy of hidden words in text that a model was not trained on; collective.

    The same words are hidden whenever the seed is the same, so that models and epochs compare. The number is bit for
    bit the same on any number of ranks: whole batches are dealt out, and their sums added in one order.

    Args:
        model: with a masked-LM head, on the run's device; its training mode is restored afterwards.
        blocks: rows, in shards; `methods.parts.blocks.hold_out` gives such.
        words: the vocabulary of the tokenizer that they were made with.
        run: this rank and its peers.
        seed: decides what is hidden.
        masking: how it is chosen; None is single tokens.
        batch_size: rows of one forward pass; changes nothing beyond rounding.

    Raises:
        ValueError: no row has a word to hide, or the model has no masked-LM head.
    """
    batches = [(shard, picks) for shard in blocks for picks in evaluation_rows(shard, batch_size)]
    sums, counts = [0.0] * len(batches), [0.0] * len(batches)
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for number in range(run.rank, len(batches), run.world_size):
                batch = mask(collate(*batches[number]), words, (seed,), masking)
                counts[number] = float(batch.sizes["masked"])
                sums[number] = float(masked_lm_loss(model, batch.to(run.device)).sum)
    finally:
        model.train(training)
    count = sum(total(counts, run)) if batches else 0.0
    if not count:
        raise ValueError(f"held_out_loss(blocks): found {len(batches)} batches without a word to hide, expected words")
    return sum(total(sums, run)) / count


def train_masked_lm(  # noqa: PLR0913  the facts that decide a training
    layout: Layout,
    encoded: Encoded,
    recipe: Recipe,
    run: Run,
    *,
    tokenizer: Path,
    dropout: float = 0.1,
    init_std: float = 0.02,
    stage: str = "masked-lm",
) -> Bert:
    """Train a masked language model from random weights; the last state counts.

    Args:
        layout: its shape, with `masked_lm`.
        encoded: the sentences; their labels are not looked at.
        recipe: the numbers.
        run: the world.
        tokenizer: the folder of the tokenizer that `encoded` was made with.
        dropout: of the whole model, in [0, 1).
        init_std: standard deviation of the random weights.
        stage: under which name it is kept.

    Raises:
        ValueError: the layout has no masked-LM head, or its word table is smaller than the vocabulary.
    """
    words = vocabulary(tokenizer)
    if not layout.masked_lm:
        raise ValueError("train_masked_lm(layout): found masked_lm = False, allowed is a layout with a masked-LM head")
    if layout.vocab < words.size:
        raise ValueError(f"train_masked_lm(layout): found vocab {layout.vocab}, allowed is at least {words.size}")
    model = Bert(layout, dropout=dropout).to(run.device)
    initialise(model, derive(run.seed, stage, "weights"), init_std)
    data = MaskedBatches(training_batches(encoded, recipe, run), words, run.seed)
    with run.stage(stage) as opened:
        fit(Training(model=model, data=data, losses=masked_lm_losses(model), best={}), recipe, opened, run)
    return model.eval()
