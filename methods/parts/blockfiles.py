"""Documents as blocks of tokens on disk: one shard for each part of a corpus, and what says that all are there.

    <folder>/00000/      the blocks of the first part, as `tokens.Encoded` opens them
    <folder>/blocks.json written last: how they were made of what, and rows, tokens and hash of every shard

A document becomes [CLS] pieces [SEP], cut into consecutive blocks of one length; only its first block has [CLS], only
its last [SEP]. Short blocks are stored short.

References:
    Liu et al., RoBERTa, 2019, https://arxiv.org/abs/1907.11692, section 4.2 (FULL-SENTENCES, DOC-SENTENCES); cut as in
    UER, Zhao et al., 2019, https://github.com/dbiir/UER-py
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from methods.parts.documents import Part, Survey, check_form, texts_of
from methods.parts.encoding import RowArrays
from methods.parts.examples import unknown
from methods.parts.files import JsonValue, publish, read_json, remove, write_json
from methods.parts.npyfile import digest_arrays
from methods.parts.wordpiece import Pieces

BLOCKS = "blocks.json"
BLOCKS_VERSION = 1
"""Raised whenever the meaning of the stored blocks changes."""

_BATCH_CHARACTERS, _BATCH_TEXTS = 2**20, 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class Cutting:
    """How documents are cut into blocks."""

    length: int = 128
    """Tokens of a block, special tokens included."""
    full_sentences: bool = False
    """Whether a block goes on with the next document where one ends, within a part."""
    form: str = "auto"
    """How documents are told apart; see `documents.survey`."""
    compat: str | None = None
    """With `published` blocks without any word are kept: one of padding (here a single [PAD]) after a document that
    fills its last block, a lone [SEP], and [CLS] [SEP] for an empty line. Nothing can be learnt of them; the number of
    blocks is then the original's."""

    def __post_init__(self) -> None:
        """Refuse what leaves no room, and unknown names."""
        if self.length < 4:
            raise ValueError(f"length: found {self.length}, allowed is at least 4")
        check_form(self.form)
        if self.compat not in (None, "published"):
            raise unknown("compat", self.compat, ["published"])


class _Saw:
    """Cuts a stream of documents; what is ready waits in `blocks`, each with its document's label."""

    def __init__(self, cutting: Cutting, pieces: Pieces) -> None:
        self._length, self._keep = cutting.length, cutting.compat == "published"
        self._full, self._cls, self._sep, self._pad = cutting.full_sentences, pieces.cls, pieces.sep, pieces.pad
        self._rest: list[int] = []
        self._open = False
        self._label, self._rest_label = 0, 0
        self.blocks: list[tuple[list[int], int]] = []

    def begin(self, label: int) -> None:
        """End the document before, if any, and begin another."""
        self.end()
        self._label, self._open = label, True
        if not self._rest:
            self._rest_label = label
        self._rest.append(self._cls)

    def feed(self, ids: Sequence[int]) -> None:
        """Go on with the document."""
        tokens = [*self._rest, *ids]
        count = len(tokens) // self._length
        for first in range(0, count * self._length, self._length):
            self._give(tokens[first : first + self._length])
        self._rest = tokens[count * self._length :]

    def end(self) -> None:
        """End the document."""
        if not self._open:
            return
        self.feed([self._sep])
        self._open = False
        if not self._full:
            self.flush()

    def flush(self) -> None:
        """Give what is left."""
        self._give(self._rest or [self._pad])
        self._rest = []

    def _give(self, block: list[int]) -> None:
        """Keep a block unless it has no word."""
        if self._keep or any(token not in (self._cls, self._sep, self._pad) for token in block):
            self.blocks.append((block, self._rest_label))
        self._rest_label = self._label


def shard_name(number: int) -> str:
    """The name of a part's folder."""
    return f"{number:05d}"


def write_part(path: Path, part: Part, cutting: Cutting, pieces: Pieces, shard: Path) -> Iterator[None]:
    """Write the blocks of a part as a shard, which appears whole; pauses after each batch of texts.

    A row's label is a hash of the first text of the document that it begins in: blocks of a document, and of its
    copies, can be kept together by it.

    Args:
        path: the corpus.
        part: which documents.
        cutting: how they are cut; its form is `lines` or `sentences`.
        pieces: the tokenizer.
        shard: becomes the shard.

    Raises:
        ValueError: `FILE:LINE:` of bytes that are not UTF-8.
    """
    for stale in shard.parent.glob(f"{shard.name}.*.aside"):
        remove(stale)
    aside = shard.with_name(f"{shard.name}.{uuid.uuid4().hex}.aside")
    aside.mkdir()
    saw, arrays, documents = _Saw(cutting, pieces), RowArrays(aside, pieces), 0
    keep = cutting.compat == "published"
    label: int | None = None  # of a document of which no word was met yet
    for batch in _batches(texts_of(path, part, cutting.form, empty=keep)):
        for (begins, text), encoding in zip(batch, pieces.split([text for _, text in batch]), strict=True):
            label = _label(text) if begins else label
            if label is not None and (encoding.ids or keep):
                saw.begin(label)
                label, documents = None, documents + 1
            if encoding.ids:
                saw.feed(encoding.ids)
        _write(saw, arrays)
        yield
    saw.end()
    if cutting.full_sentences and documents:
        saw.flush()
    _write(saw, arrays)
    arrays.close({"tokens": arrays.num_tokens, "documents": documents})
    publish(aside, shard)


def _label(text: str) -> int:
    """A number of 63 bits that a document's first text decides."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def _batches(texts: Iterator[tuple[bool, str]]) -> Iterator[list[tuple[bool, str]]]:
    """Cut a stream of texts where enough characters are together: pieces take far more memory than their text."""
    batch: list[tuple[bool, str]] = []
    size = 0
    for begins, text in texts:
        batch.append((begins, text))
        size += len(text)
        if size >= _BATCH_CHARACTERS or len(batch) >= _BATCH_TEXTS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _write(saw: _Saw, arrays: RowArrays) -> None:
    """Write the blocks that are ready."""
    if saw.blocks:
        rows = [block for block, _ in saw.blocks]
        labels = np.array([label for _, label in saw.blocks], dtype=np.int64)
        arrays.add(rows, [len(row) for row in rows], labels)
        saw.blocks = []


def write_blocks(folder: Path, found: Survey, cutting: Cutting, made_of: Mapping[str, JsonValue]) -> dict[str, Any]:
    """Write and return what says that all shards are there.

    Args:
        folder: holds a shard for every part.
        found: the corpus.
        cutting: how it was cut.
        made_of: hashes of corpus and tokenizer.

    Raises:
        ValueError: no shard has a block.
    """
    shards: dict[str, JsonValue] = {}
    start, documents = 0, 0
    for number in range(len(found.parts)):
        about = read_json(folder / shard_name(number) / "about.json")
        documents += about["documents"]
        if about["rows"]:
            facts = {key: about[key] for key in ("rows", "tokens", "fingerprint")}
            shards[shard_name(number)] = {**facts, "start": start}
            start += about["rows"]
    if not start:
        raise ValueError("corpus: found no words, expected text")
    written: dict[str, JsonValue] = {
        "version": BLOCKS_VERSION,
        **made_of,
        **asdict(cutting),
        "form": found.form,
        "documents": documents,
        "blocks": start,
        "shards": shards,
    }
    write_json(folder / BLOCKS, written)
    return dict(written)


def read_blocks(folder: Path) -> dict[str, Any]:
    """What a folder of blocks says of itself.

    Raises:
        ValueError: it is of another version, or no JSON.
    """
    found: dict[str, Any] = read_json(folder / BLOCKS)
    if found.get("version") != BLOCKS_VERSION:
        raise ValueError(f"{folder / BLOCKS}: found version {found.get('version')}, allowed is {BLOCKS_VERSION}")
    return found


def check_blocks(folder: Path) -> Iterator[None]:
    """Compare every shard with its hash, pausing after each.

    Raises:
        ValueError: a shard is not there, or another one than was written.
    """
    for name, about in read_blocks(folder)["shards"].items():
        arrays = sorted((folder / name).glob("*.npy"))
        if not arrays:
            raise ValueError(f"{folder / name}: found no arrays, expected {about['rows']} blocks; preprocess anew")
        try:
            content = digest_arrays(arrays)
        except (ValueError, OSError) as error:
            raise ValueError(f"{folder / name}: cannot be read, preprocess anew: {error}") from None
        if content != about["fingerprint"]:
            wanted = f"expected {about['fingerprint']}: the files have changed; preprocess anew"
            raise ValueError(f"{folder / name}: found content {content}, {wanted}")
        yield
