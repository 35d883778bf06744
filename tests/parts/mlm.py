"""A small language, a masked LM that learns it in seconds, and word vectors for it."""

from itertools import product
from pathlib import Path

import numpy as np

from methods.parts.bert import Bert, initialise
from methods.parts.checkpoint import save
from methods.parts.layout import Layout
from methods.parts.masked_lm import train_masked_lm
from methods.parts.recipe import Recipe
from methods.parts.run import LocalRun
from methods.parts.tokens import Encoded, encode
from methods.parts.wordpiece import train_wordpiece
from tests.parts.encoded import written, written_task

SIZES = ("big", "small", "old", "young", "fat")
ANIMALS = ("dog", "cat", "cow", "hen", "fox", "goat", "duck")
VERBS = ("sees", "hears", "likes", "chases")
PLACES = ("barn", "house", "field")
SENTENCES = tuple(
    f"the {size} {animal} {verb} the {other} in the {place} ."
    for size, animal, verb, other, place in product(SIZES, ANIMALS, VERBS, ANIMALS[:3], PLACES)
)
VOCAB = 80
RECIPE = Recipe(epochs=6.0, batch_size=32, lr=1e-2, warmup=0.1)


def mlm_layout(**changes: int) -> Layout:
    sizes = {"vocab": VOCAB, "positions": 40, "hidden": 32, "num_layers": 2, "heads": 2, "head_width": 16, "ffn": 64}
    return Layout.uniform(**{**sizes, **changes}, pooler=False, labels=0, masked_lm=True)


def tokenizer(folder: Path) -> Path:
    """Every word of the language is one piece; any other word is spelled with single letters."""
    train_wordpiece(SENTENCES, VOCAB, folder)
    return folder


def sentences(folder: Path, words: Path, count: int = len(SENTENCES)) -> Encoded:
    texts = [SENTENCES[number] for number in np.random.default_rng(0).permutation(len(SENTENCES))[:count]]
    return encode(written_task(written(texts), max_length=24), "train", words, LocalRun(folder))


def trained_checkpoint(folder: Path) -> Path:
    """A masked LM that knows the language, saved."""
    words = tokenizer(folder / "words")
    model = train_masked_lm(
        mlm_layout(),
        sentences(folder / "rows", words, 320),
        RECIPE,
        LocalRun(folder / "run"),
        tokenizer=words,
        dropout=0.0,
        init_std=0.1,
    )
    save(model, folder / "model", tokenizer=words)
    return folder / "model"


def random_checkpoint(folder: Path, **changes: int) -> Path:
    """A masked LM that knows nothing, saved."""
    model = Bert(mlm_layout(**changes), dropout=0.0)
    initialise(model, 0, 0.3)
    save(model.eval(), folder / "model", tokenizer=tokenizer(folder / "words"))
    return folder / "model"


def write_vectors(path: Path, words: tuple[str, ...], width: int = 6) -> Path:
    draw = np.random.default_rng(5)
    lines = [" ".join([word, *(f"{number:.4f}" for number in draw.normal(size=width))]) for word in words]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path
