"""What the command `augment` is asked for, read and checked before anything is started."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from methods.parts.augmenting import Augmentation, Augmenter
from methods.parts.files import JsonValue
from methods.parts.masked_lm import load_masked_lm
from methods.parts.rng import derive
from methods.parts.rowfiles import Row, RowFile, open_rows
from methods.parts.teacher import checkpoint_fingerprint
from methods.parts.wordpiece import fingerprint_of_tokenizer, load_pieces
from methods.parts.wordvectors import WordVectors, read_vectors
from orchestrator.teachers import checkpoint_folder

VERSION = 1
"""Raised whenever the same inputs give another result."""
CHUNK_ROWS, SHARD_ROWS = 128, 500_000
"""Rows that are read per chunk, and rows that are written per file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """What is to be augmented, with what."""

    task: str
    data: Path
    model: str
    """A masked LM: a folder, or its name on the hub."""
    settings: Augmentation
    vectors: Path | None = None
    columns: Mapping[str, str] | None = None
    out: Path | None = None
    """None is the folder of the training file."""
    limit: int | None = None
    """Rows that are augmented, the sample that a sweep file's `limit` draws by the same seed; None is all."""
    one_file: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """An order whose files were read and found good."""

    order: Order
    out: Path
    source: RowFile
    numbers: Sequence[int]
    """Row numbers, in order."""
    model: Path
    vectors: WordVectors | None
    inputs: Mapping[str, JsonValue]
    """Everything that the result depends on."""

    @property
    def num_chunks(self) -> int:
        """Chunks of the rows."""
        return -(-len(self.numbers) // CHUNK_ROWS)

    def chunk(self, number: int) -> list[tuple[int, Row]]:
        """Row numbers and rows of a chunk."""
        chosen = self.numbers[number * CHUNK_ROWS : (number + 1) * CHUNK_ROWS]
        return [(row, self.source.rows[row]) for row in chosen]


def prepare(order: Order) -> Job:
    """Reads and checks everything that an order names.

    Raises:
        ValueError: a file is missing or wrong, or the model has no masked-LM head.
    """
    if order.limit is not None and order.limit < 1:
        raise ValueError(f"limit: found {order.limit}, allowed is at least 1")
    source = open_rows(order.task, order.data, order.columns)
    model = _checkpoint(order.model)
    vectors = None if order.vectors is None else read_vectors(order.vectors)
    Augmenter(load_masked_lm(model), load_pieces(model), order.settings, vectors)  # complains before Ray is started
    return Job(
        order=order,
        out=(order.out or source.path.parent).resolve(),
        source=source,
        numbers=_sample(len(source.rows), order.limit, order.settings.seed),
        model=model.resolve(),
        vectors=vectors,
        inputs={
            **asdict(order.settings),
            "version": VERSION,
            "task": order.task,
            "data": source.fingerprint,
            "model": checkpoint_fingerprint(model),
            "tokenizer": fingerprint_of_tokenizer(model),
            "vectors": None if vectors is None else vectors.fingerprint,
            "limit": order.limit,
            "one_file": order.one_file,
            "chunk_rows": CHUNK_ROWS,
            "shard_rows": SHARD_ROWS,
        },
    )


def _checkpoint(name: str) -> Path:
    """The folder of a checkpoint, fetched from the hub if it is a name there."""
    try:
        if Path(name).is_absolute() and not Path(name).is_dir():
            raise ValueError("there is no such folder")
        return checkpoint_folder({"model": name})
    except (ValueError, OSError) as error:  # the hub's complaints do not say what was asked for
        wanted = "expected a folder, or a name on a hub that can be reached"
        raise ValueError(f"model: found {name!r}, {wanted}: {error}") from error


def _sample(num_rows: int, limit: int | None, seed: int) -> list[int]:
    """The row numbers that a task's `limit` keeps."""
    if limit is None or limit >= num_rows:
        return list(range(num_rows))
    chosen = np.random.default_rng(derive(seed, "limit")).permutation(num_rows)[:limit]
    return sorted(chosen.tolist())
