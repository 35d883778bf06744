"""A small teacher on disk and rows to ask it about; ranks import this module."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from methods.parts.bert import Bert, initialise
from methods.parts.checkpoint import save
from methods.parts.layout import Layout
from methods.parts.selection import Selection
from methods.parts.teacher import Teacher, checkpoint_fingerprint
from methods.parts.tokens import Encoded
from tests.parts.encoded import encoded

LAYOUT = Layout.uniform(vocab=50, positions=16, hidden=16, num_layers=4, heads=2, head_width=8, ffn=24, labels=3)
ATTENTIVE = Selection(
    states=(1, 2, 4),
    token_scheme="attention_no_sep",
    tokens=5,
    attention=(1, 4, 4),
    width_scheme="importance",
    width=0.3,
)
FULL = Selection(states=(0, 2, 4))


def taught(folder: Path) -> Teacher:
    """The teacher in `folder`, written if it is not there."""
    if not (folder / "teacher").is_dir():
        model = Bert(LAYOUT, dropout=0.1)
        initialise(model, 0, 0.4)
        save(model, folder / "teacher")
    return Teacher(
        base=folder / "teacher",
        tuned=folder / "teacher",
        layout=LAYOUT,
        labels=("a", "b", "c"),
        tokenizer=folder / "teacher",
        head="plain",
        fingerprint=checkpoint_fingerprint(folder / "teacher"),
    )


def sentences(count: int = 300, *, seed: int = 0, start: int = 0) -> Encoded:
    """Rows of 2 to 12 random tokens."""
    draw = np.random.default_rng(seed)
    data = encoded(draw.integers(2, 13, count).tolist())
    tokens = draw.integers(1, LAYOUT.vocab, len(data.flat)).astype(np.uint16)
    return replace(data, flat=tokens, fingerprint=f"{seed} {count} {start}", start=start)
