"""Text that a masked language model is trained on, and a checkpoint that is ready for it.

A checkpoint without a masked-LM head (a sentence encoder) gets a fresh one and is trained with it first, once for all
students: all of its weights, since it has never seen [MASK] either.

References:
    Devlin et al., BERT: Pre-training of Deep Bidirectional Transformers, 2019, https://arxiv.org/abs/1810.04805,
    section 3.1
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from methods.parts import weights
from methods.parts.bert import Bert, initialise
from methods.parts.blocks import corpus_blocks, hold_out
from methods.parts.checkpoint import load
from methods.parts.corpus import open_corpus
from methods.parts.files import JsonValue
from methods.parts.loop import fit
from methods.parts.masked_lm import HeadMissing, held_out_loss, load_masked_lm, masked_lm_losses
from methods.parts.masking import MaskedBatches, Masking, Unit, vocabulary
from methods.parts.recipe import Recipe
from methods.parts.run import Run
from methods.parts.splits import shard_batches
from methods.parts.teacher import Teacher, checkpoint_fingerprint
from methods.parts.tokens import Encoded
from methods.parts.training import Training
from methods.parts.wordpiece import fingerprint_of_tokenizer

HEAD_VERSION = 1
"""Raised whenever the meaning of a stored model with a trained head changes."""

HELD_BLOCKS = 2000
"""Most blocks that a loss is measured on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Text:
    """A corpus, or the sentences of a task, and how words are hidden in it."""

    tokenizer: Path
    """The folder of a BERT tokenizer."""
    corpus: Path | None = None
    """A file or the folder of its blocks; None is `rows`."""
    rows: Encoded | None = None
    """Sentences in place of a corpus; their labels are not looked at."""
    length: int = 128
    """Tokens of a block."""
    full_sentences: bool = False
    """Whether a block goes on with the next document."""
    unit: Unit = "token"
    """What is hidden: tokens, whole words or spans."""
    published: bool = False
    """Whether text is cut and hidden as in the released code."""

    def facts(self) -> dict[str, JsonValue]:
        """All that decides the blocks and what is hidden."""
        how: dict[str, JsonValue] = {
            "tokenizer": fingerprint_of_tokenizer(self.tokenizer),
            "unit": self.unit,
            "published": self.published,
        }
        if self.corpus is None:
            return {**how, "rows": "" if self.rows is None else self.rows.fingerprint}
        return {**how, "corpus": open_corpus(self.corpus), "length": self.length, "full": self.full_sentences}

    def blocks(self, run: Run) -> tuple[tuple[Encoded, ...], tuple[Encoded, ...]]:
        """Shards to train on, and blocks to measure on; collective.

        Raises:
            ValueError: there is no text, or it cannot be read.
        """
        if self.corpus is not None:
            compat, full = "published" if self.published else None, self.full_sentences
            shards = corpus_blocks(self.corpus, self.tokenizer, self.length, run, full_sentences=full, compat=compat)
        elif self.rows is not None:
            shards = (self.rows,)
        else:
            raise ValueError("corpus: found none, allowed is a text file, or `text: task` for the task's own sentences")
        train, held = hold_out(shards)
        return train, _first(held, HELD_BLOCKS)

    def batches(self, shards: Sequence[Encoded], recipe: Recipe, run: Run) -> MaskedBatches:
        """Masked batches of all shards."""
        words = vocabulary(self.tokenizer, "published" if self.published else None)
        return MaskedBatches(shard_batches(shards, recipe, run), words, run.seed, Masking(unit=self.unit))

    def loss(self, model: Bert, held: Sequence[Encoded], run: Run) -> float:
        """Mean masked-LM loss of a model on held-out blocks; the same words are hidden each time; collective."""
        words = vocabulary(self.tokenizer, "published" if self.published else None)
        return held_out_loss(model, held, words, run, masking=Masking(unit=self.unit))


def _first(shards: Sequence[Encoded], count: int) -> tuple[Encoded, ...]:
    """The first `count` rows of a set in shards, or all."""
    found: list[Encoded] = []
    for shard in shards:
        if count > 0:
            found.append(shard.subset(range(min(count, len(shard)))))
            count -= len(shard)
    return tuple(found)


def masked_lm_base(teacher: Teacher, text: Text, recipe: Recipe, run: Run) -> Bert:
    """The pretrained checkpoint with its masked-LM head, or with one that is trained first; collective.

    Args:
        teacher: its base is taken.
        text: what a head is trained on.
        recipe: with `total_steps`; 0 is to refuse a checkpoint without a head.
        run: the world.

    Raises:
        HeadMissing: there is no head, and no step to train one.
    """
    try:
        return load_masked_lm(teacher.base)
    except HeadMissing as error:
        if not recipe.steps(0):
            raise HeadMissing(f"{error}; head_steps above 0 train one first") from error
    base = checkpoint_fingerprint(teacher.base)
    inputs: dict[str, JsonValue] = {"teacher": base, "text": text.facts(), "recipe": asdict(recipe)}

    def build(folder: Path, inner: Run) -> None:
        train, _ = text.blocks(inner)
        model = with_masked_lm_head(load(teacher.base), inner.seed).to(inner.device)
        data = text.batches(train, recipe, inner)
        with inner.stage("head") as stage:
            fit(Training(model=model, data=data, losses=masked_lm_losses(model), best={}), recipe, stage, inner)
        if inner.rank == 0:
            weights.save(model, folder)

    return weights.load(run.once("masked-lm", inputs, build, version=HEAD_VERSION)).eval()


def with_masked_lm_head(model: Bert, seed: int) -> Bert:
    """A copy with a masked-LM head drawn by `seed`, tied to the word table, in place of pooler and classifier."""
    layout = replace(model.layout, labels=0, pooler=False, masked_lm=True, tied=True)
    return _completed(Bert(layout, dropout=model.dropout, layer_norm_eps=model.layer_norm_eps), model, seed)


def with_classifier(model: Bert, labels: int, seed: int) -> Bert:
    """A copy with a pooler and a classifier of `labels` outputs, drawn by `seed`, in place of a masked-LM head."""
    layout = replace(model.layout, labels=labels, pooler=True, masked_lm=False, tied=True)
    return _completed(Bert(layout, dropout=model.dropout, layer_norm_eps=model.layer_norm_eps), model, seed)


def _completed(fresh: Bert, model: Bert, seed: int) -> Bert:
    """Draw all weights, then take those that `model` has."""
    initialise(fresh, seed)
    state = fresh.state_dict()
    fresh.load_state_dict({**state, **{name: value for name, value in model.state_dict().items() if name in state}})
    return fresh
