"""Masked-language-model training: hide some words of a sentence, learn to name them.

What is hidden depends on seed, epoch, step and row only, so equal runs hide equal words whatever the number of ranks
and micro-batches. There is no next-sentence prediction.

References:
    Devlin et al., BERT: Pre-training of Deep Bidirectional Transformers, 2019, https://arxiv.org/abs/1810.04805,
    section 3.1 and appendix A.1
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from methods.parts.batches import Batch
from methods.parts.bert import Bert, initialise
from methods.parts.checkpoint import load
from methods.parts.layout import Layout
from methods.parts.loop import fit
from methods.parts.losses import Term
from methods.parts.recipe import Recipe
from methods.parts.rng import derive
from methods.parts.run import Run
from methods.parts.splits import training_batches
from methods.parts.tokens import Encoded
from methods.parts.training import Losses, Steps, Training
from methods.parts.wordpiece import SPECIAL, load_pieces

HIDDEN_SHARE, MASK_SHARE, RANDOM_SHARE = 0.15, 0.8, 0.1
"""Share of a row's tokens that is hidden; of these, the share shown as [MASK] and as a random word; the rest is shown
as it is."""

OPEN = -100
"""Class of a token that is not hidden."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Vocabulary:
    """What masking needs to know of a tokenizer."""

    size: int
    """Number of token ids; a random word is any of them, as in the original."""
    mask: int
    """Id of [MASK]."""
    special: tuple[int, ...]
    """Ids that are never hidden."""


def vocabulary(tokenizer: Path) -> Vocabulary:
    """Read the vocabulary of a tokenizer's folder.

    Raises:
        ValueError: there is no BERT tokenizer, or it has no [MASK].
    """
    pieces = load_pieces(tokenizer)
    ids = pieces.tokenizer.get_vocab()
    if "[MASK]" not in ids:
        raise ValueError(f"{tokenizer}: found no [MASK] in the vocabulary, expected the tokenizer of a masked LM")
    return Vocabulary(size=pieces.size, mask=ids["[MASK]"], special=tuple(ids[name] for name in SPECIAL if name in ids))


def load_masked_lm(folder: Path | str) -> Bert:
    """Load a checkpoint with its masked-LM head, on the CPU, in evaluation mode.

    Raises:
        ValueError: the checkpoint has no such head (a classifier, a bare encoder), or cannot be read at all. A head
            drawn at random, as the published download script silently leads to, would name random words.
    """
    try:
        return load(folder, masked_lm=True)
    except ValueError as error:
        if "missing (" in str(error) and "cls.predictions." in str(error):
            wanted = "expected a model trained on masked words"
            raise ValueError(f"{folder}: found no masked-LM head (cls.predictions.*), {wanted}") from error
        raise


class MaskedBatches:
    """Training batches with hidden words; a `Steps`.

    `Batch.labels` become (B, L) int64, the true ids of hidden tokens and `OPEN` elsewhere; `Batch.sizes` gains
    `masked`, the number of hidden tokens.
    """

    def __init__(self, data: Steps, words: Vocabulary, seed: int) -> None:
        self._data, self._words, self._seed = data, words, seed

    @property
    def num_steps(self) -> int:
        """Updates of an epoch."""
        return self._data.num_steps

    def step(self, step: int, /) -> Sequence[Batch]:
        """This rank's micro-batches of update `step`."""
        epoch, within = divmod(step, self.num_steps)
        return [mask(batch, self._words, (self._seed, epoch, within)) for batch in self._data.step(step)]


def mask(batch: Batch, words: Vocabulary, key: tuple[int, ...]) -> Batch:
    """Hide words of each row: 15 % of its tokens (special ones counted, never hidden), at least one.

    Args:
        batch: on the CPU.
        words: the tokenizer's vocabulary.
        key: what the draws depend on, beside the row's number.
    """
    shown = batch.input_ids.numpy().copy()
    hidden = np.full_like(shown, OPEN)
    ordinary = ~np.isin(shown, words.special) & batch.attention_mask.numpy().astype(bool)
    for place, row in enumerate(batch.ids.tolist()):
        draw = np.random.default_rng([*key, row])
        candidates = np.flatnonzero(ordinary[place])
        wanted = max(1, round(HIDDEN_SHARE * int(batch.attention_mask[place].sum())))
        chosen = draw.permutation(candidates)[:wanted]
        fate, others = draw.random(len(chosen)), draw.integers(words.size, size=len(chosen))
        hidden[place, chosen] = shown[place, chosen]
        random = np.where(fate < MASK_SHARE + RANDOM_SHARE, others, shown[place, chosen])
        shown[place, chosen] = np.where(fate < MASK_SHARE, words.mask, random)
    return replace(
        batch,
        input_ids=torch.from_numpy(shown),
        labels=torch.from_numpy(hidden),
        sizes={**batch.sizes, "masked": int((hidden != OPEN).sum())},
    )


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
