"""How many rows a student will be distilled on, and how long they are: predicted from a sample.

Where the teacher's tokenizer is at hand it cuts the sample; else words and punctuation marks are counted, which come
to a little fewer than pieces.
"""

import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from methods.parts.tasks import Task
from methods.parts.wordpiece import load_pieces

PIECES_PER_WORD = 1.1
"""Of BERT's uncased vocabulary, on training rows: measured 1.12 on SST-2, 1.04 on CoLA."""
NUM_SAMPLED = 4000
"""Training rows that are looked at."""

_WORD = re.compile(r"\w+|[^\w\s]")
_BLOCK = 2**24


@dataclass(frozen=True, kw_only=True, slots=True)
class RowLengths:
    """Lengths of the rows of a set, as far as they can be told beforehand."""

    sample: NDArray[np.int64]
    """Tokens of some rows, special tokens included, cut to the task's length."""
    rows: int
    """Rows of the whole set."""
    source: str
    """What the lengths were told from, in words."""

    def scaled(self, amount: float) -> int:
        """An amount that was found for the sample, for the whole set."""
        return round(amount * self.rows / max(1, len(self.sample)))

    def describe(self) -> str:
        """Rows and lengths in words."""
        mean = float(self.sample.mean()) if len(self.sample) else 0.0
        return f"{self.rows:,} rows of about {mean:.1f} tokens, {self.source}"


def predict_lengths(task: Task, tokenizer: Path | None = None) -> RowLengths:
    """Predicts the rows that a student is distilled on: the augmented set, which is as long as its origin, or `train`.

    Args:
        task: the data; its training rows are read.
        tokenizer: folder of the teacher's tokenizer, if it is on this machine.

    Raises:
        ValueError: a bad row, or the folder holds no BERT tokenizer.
    """
    train = task.read("train")
    chosen = train.take(np.sort(np.random.default_rng(0).permutation(len(train))[:NUM_SAMPLED]))
    columns = [chosen.texts] if chosen.pairs is None else [chosen.texts, chosen.pairs]
    if tokenizer is None:
        pieces = [[PIECES_PER_WORD * len(_WORD.findall(text)) for text in column] for column in columns]
    else:
        split = load_pieces(tokenizer).split
        pieces = [[float(len(row.ids)) for row in split(column)] for column in columns]
    special = 1 + len(columns)  # [CLS], and a [SEP] after each text
    lengths = np.minimum(np.rint(np.sum(pieces, axis=0)) + special, task.max_length)
    return RowLengths(
        sample=lengths.astype(np.int64),
        rows=_num_lines(task.augmented.files) if task.augmented else len(train),
        source="counted in words" if tokenizer is None else "cut by the teacher's tokenizer",
    )


def _num_lines(files: tuple[Path, ...]) -> int:
    """Counts the lines of files that may be too large to be parsed now; a header more or less does not matter."""
    total = 0
    for path in files:
        with path.open("rb") as stream:
            total += sum(block.count(b"\n") for block in iter(partial(stream.read, _BLOCK), b""))
    return total
