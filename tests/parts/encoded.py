"""Data written in tests, and what ranks do with it; a rank imports this module, so it imports nothing slow."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from methods.parts.agreement import AGREEMENT_VOCAB, Agreement
from methods.parts.examples import Examples, digest
from methods.parts.run import LocalRun
from methods.parts.tasks import Task
from methods.parts.tokens import Encoded, encode
from methods.parts.wordpiece import fingerprint_of_tokenizer, train_wordpiece


def encoded(lengths: Sequence[int], *, labels: Sequence[float] | None = None, sites: bool = False) -> Encoded:
    """Row i holds the token i + 1, `lengths[i]` times; its second text begins midway; its last token is a site."""
    sizes = np.array(lengths, dtype=np.int64)
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    flags = np.zeros(int(sizes.sum()), dtype=np.uint8)
    flags[offsets[1:] - 1] = 1
    classes = np.arange(len(lengths), dtype=np.int64) % 2
    return Encoded(
        rows=np.arange(len(lengths), dtype=np.int64),
        flat=np.repeat(np.arange(1, len(lengths) + 1, dtype=np.uint16), sizes),
        offsets=offsets,
        seconds=(sizes // 2).astype(np.int32),
        all_labels=classes if labels is None else np.array(labels, dtype=np.float32),
        flat_sites=flags if sites else None,
        pad_id=0,
        fingerprint=digest([sizes.tobytes()]),
    )


class Written:
    """A source whose rows are written in a test; everything is the training set and the development set."""

    metric = "accuracy"
    max_length = 16
    splits = ("train", "dev")

    def __init__(self, examples: Examples, labels: tuple[str, ...] = ("no", "yes")) -> None:
        self.examples, self.labels, self.fingerprint, self.pair = examples, labels, "written", False
        self.num_reads = 0

    def read(self, split: str) -> Examples:
        self.num_reads += 1
        return self.examples


def written_task(source: Written, *, max_length: int = 16, limit: int | None = None) -> Task:
    return Task(
        name="written",
        labels=source.labels,
        metric=source.metric,
        max_length=max_length,
        pair=source.pair,
        fingerprint=source.fingerprint,
        splits=source.splits,
        limit=limit,
        source=source,
    )


def word_tokenizer(folder: Path, words: str = "a b c d e f g h") -> Path:
    """A tokenizer folder in the old form, `vocab.txt` only."""
    folder.mkdir(parents=True, exist_ok=True)
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words.split()]
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    return folder


def written(
    texts: list[str], pairs: list[str] | None = None, sites: list[list[tuple[int, int]]] | None = None
) -> Written:
    labels = np.arange(len(texts), dtype=np.int64) % 2
    source = Written(Examples(texts=texts, pairs=pairs, labels=labels, sites=sites))
    source.pair = pairs is not None
    return source


def rows_of(data: Encoded) -> list[list[int]]:
    return [data.flat[data.offsets[row] : data.offsets[row + 1]].tolist() for row in data.rows]


def encoded_on_ranks(rank: int, world_size: int, folder: Path, texts: list[str]) -> list[list[int]]:
    run = LocalRun(folder, rank=rank, world_size=world_size)
    source = written(texts)
    return rows_of(encode(written_task(source), "train", folder / "words", run))


def learned(_rank: int, _size: int, folder: Path) -> str:
    mine = folder / f"vocabulary-{_rank}"
    train_wordpiece(Agreement(train=400, dev=1).read("train").texts, AGREEMENT_VOCAB, mine)
    return fingerprint_of_tokenizer(mine)
