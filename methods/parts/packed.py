"""A corpus as sequences on disk: tokenised once, and packed once for every epoch, for all trials.

Both steps stream: memory holds a few thousand lines or one shard of sequences, and 8 bytes a document. Nothing is
masked, for distillation reads no masked-word labels; the TinyBERT code masks one token of each sequence even at a
masking rate of 0, and so shows its models a [MASK] that no task has.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np

from methods.parts.corpus import open_text
from methods.parts.examples import CHUNK, stream_lines
from methods.parts.files import JsonValue, write_json
from methods.parts.led import led
from methods.parts.npyfile import GrowingArray, digest_arrays
from methods.parts.run import Run
from methods.parts.sequences import Corpus, Packed, Packing, pack
from methods.parts.tokens import Encoded
from methods.parts.wordpiece import Pieces, fingerprint_of_tokenizer, load_pieces

PACK_VERSION = 1
"""Raised whenever the meaning of the stored arrays changes."""

SHARD_ROWS = 2**17
"""Sequences of a shard: what is in memory while packing, and within which a training shuffles."""

T = TypeVar("T")


def tokenised(path: Path, tokenizer: Path, run: Run) -> Corpus:
    """Tokenise a corpus once for all trials and map the arrays; collective.

    Raises:
        ValueError: no such file, bytes that are not UTF-8 (with their line), no sentence, or no BERT tokenizer.
    """
    inputs: dict[str, JsonValue] = {"corpus": open_text(path), "tokenizer": fingerprint_of_tokenizer(tokenizer)}

    def build(folder: Path, inner: Run) -> None:
        led(_tokenise(path, load_pieces(tokenizer), folder), inner)

    folder = run.once("corpus", inputs, build, version=PACK_VERSION)
    names = ("tokens", "sentences", "documents", "full_stop")
    # As plain arrays, for slicing a `memmap` costs more than what is sliced.
    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in names}
    return Corpus(**{name: array.view(np.ndarray) for name, array in arrays.items()})


def packed(
    path: Path, tokenizer: Path, run: Run, packing: Packing, epoch: int, *, shard_rows: int = SHARD_ROWS
) -> tuple[Encoded, ...]:
    """The sequences of one epoch, packed once for all trials: shards in order; collective.

    Which sequences they are depends on corpus, tokenizer, packing and epoch alone, whatever the number of ranks. A
    row's label is 1 if its second part is from another document.

    Args:
        path: text, one sentence a line, a blank line between documents.
        tokenizer: the folder of a BERT tokenizer.
        run: the world.
        packing: how sequences are made.
        epoch: its number.
        shard_rows: most sequences of a shard.

    Raises:
        ValueError: see `tokenised`; or the corpus is a single document.
    """
    inputs: dict[str, JsonValue] = {
        "corpus": open_text(path),
        "tokenizer": fingerprint_of_tokenizer(tokenizer),
        "packing": asdict(packing),
        "epoch": epoch,
        "shard_rows": shard_rows,
    }

    def build(folder: Path, inner: Run) -> None:
        corpus = tokenised(path, tokenizer, inner)
        sequences = pack(corpus, packing, np.random.default_rng(inner.seed))
        led(_write_shards(sequences, shard_rows, load_pieces(tokenizer), folder), inner)

    folder = run.once("packed", inputs, build, version=PACK_VERSION)
    return tuple(Encoded.open(shard) for shard in sorted(folder.iterdir()) if shard.is_dir())


def _tokenise(path: Path, pieces: Pieces, folder: Path) -> Iterator[None]:
    """Write the arrays of a `Corpus`, a chunk of sentences at a time."""
    ids_type = np.uint16 if pieces.size <= 2**16 else np.uint32
    tokens = GrowingArray(folder / "tokens.npy", ids_type)
    sentences, documents = (GrowingArray(folder / f"{name}.npy", np.int64) for name in ("sentences", "documents"))
    last = -1
    for chunk in _chunks(_numbered(path), CHUNK):
        ids: list[int] = []
        starts: list[int] = []
        firsts: list[int] = []
        for (document, _), encoding in zip(chunk, pieces.split([text for _, text in chunk]), strict=True):
            if not encoding.ids:  # nothing but control characters
                continue
            if document != last:
                firsts.append(sentences.size + len(starts))
            starts.append(tokens.size + len(ids))
            ids += encoding.ids
            last = document
        for array, values in ((tokens, ids), (sentences, starts), (documents, firsts)):
            array.append(values)
        yield
    if not sentences.size:
        raise ValueError(f"corpus: {path}: found no words, expected one sentence a line")
    documents.append([sentences.size])
    sentences.append([tokens.size])
    for array in (tokens, sentences, documents):
        array.close()
    np.save(folder / "full_stop.npy", np.array(pieces.split(["."])[0].ids, ids_type), allow_pickle=False)


def _numbered(path: Path) -> Iterator[tuple[int, str]]:
    """The sentences of a corpus, each with the number of its document."""
    document = 0
    for line in stream_lines(path):
        sentence = line.strip()
        document += not sentence
        if sentence:
            yield document, sentence


def _write_shards(sequences: Iterable[Packed], shard_rows: int, pieces: Pieces, folder: Path) -> Iterator[None]:
    """Write packed sequences as encoded shards, pausing after each."""
    for number, rows in enumerate(_chunks(sequences, shard_rows)):
        shard = folder / f"{number:05d}"
        shard.mkdir()
        _write_shard(rows, pieces, shard, number * shard_rows)
        yield


def _write_shard(rows: Sequence[Packed], pieces: Pieces, folder: Path, start: int) -> None:
    """Put the special tokens in and write what `Encoded.open` reads."""
    ids_type = np.uint16 if pieces.size <= 2**16 else np.uint32
    cls, sep = np.array([pieces.cls], ids_type), np.array([pieces.sep], ids_type)
    sizes = [len(row.first) + len(row.second) + 3 for row in rows]
    arrays = {
        "tokens": np.concatenate([part for row in rows for part in (cls, row.first, sep, row.second, sep)]),
        "offsets": np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        "seconds": np.array([len(row.first) + 2 for row in rows], dtype=np.int32),
        "labels": np.array([row.random_next for row in rows], dtype=np.int64),
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)
    content = digest_arrays(folder / f"{name}.npy" for name in arrays)
    about: dict[str, JsonValue] = {"pad_id": pieces.pad, "fingerprint": content, "rows": len(rows), "start": start}
    write_json(folder / "about.json", about)


def _chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Cut a stream into lists of `size`, the last possibly shorter."""
    stream = iter(items)
    while chunk := list(islice(stream, size)):
        yield chunk
