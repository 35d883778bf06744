"""A corpus as blocks of tokens for masked-LM training: cut once for all trials, or opened where a command has cut it.

Whoever cuts it, and with however many workers, the blocks are the same, in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from methods.parts.blockfiles import (
    BLOCKS_VERSION,
    Cutting,
    check_blocks,
    read_blocks,
    shard_name,
    write_blocks,
    write_part,
)
from methods.parts.corpus import open_corpus
from methods.parts.documents import survey
from methods.parts.files import JsonValue
from methods.parts.led import led
from methods.parts.run import Run
from methods.parts.tokens import Encoded, mixed
from methods.parts.wordpiece import fingerprint_of_tokenizer, load_pieces

HELD_SHARE = 0.01
"""Share of a corpus that is kept for evaluation."""


def corpus_blocks(  # noqa: PLR0913  the facts that decide the blocks
    path: Path,
    tokenizer: Path,
    length: int,
    run: Run,
    *,
    full_sentences: bool = False,
    form: str = "auto",
    compat: str | None = None,
    part_bytes: int | None = None,
) -> tuple[Encoded, ...]:
    """The blocks of a corpus, cut once for all trials: shards in order; collective.

    Args:
        path: UTF-8 text, or the folder that the command `preprocess` wrote, which must have been told the same.
        tokenizer: the folder of a BERT tokenizer.
        length: tokens of a block.
        run: the world.
        full_sentences: whether a block goes on with the next document.
        form: how documents are told apart; `lines`, `sentences` (blank lines between) or `auto`.
        compat: see `Cutting`.
        part_bytes: bytes of a shard's text; None derives it from the size.

    Raises:
        ValueError: no such file, bytes that are not UTF-8 (with their line), no word, no BERT tokenizer; or blocks of
            another tokenizer or length, or damaged ones.
    """
    cutting = Cutting(length=length, full_sentences=full_sentences, form=form, compat=compat)
    words, content = fingerprint_of_tokenizer(tokenizer), open_corpus(path)
    if path.is_dir():
        _check_fit(path, cutting, words)

        def check(folder: Path, inner: Run) -> None:
            led(check_blocks(path), inner)

        run.once("checked", {"blocks": content, "folder": str(path.resolve())}, check)
        return open_blocks(path)
    made_of: dict[str, JsonValue] = {"corpus": content, "tokenizer": words}

    def build(folder: Path, inner: Run) -> None:
        led(_cut(path, tokenizer, cutting, part_bytes, folder, made_of), inner)

    inputs = {**made_of, "cutting": asdict(cutting), "part_bytes": part_bytes}
    return open_blocks(run.once("blocks", inputs, build, version=BLOCKS_VERSION, check=_check_sizes))


def _cut(
    path: Path,
    tokenizer: Path,
    cutting: Cutting,
    part_bytes: int | None,
    folder: Path,
    made_of: Mapping[str, JsonValue],
) -> Iterator[None]:
    """Cut part after part, with pauses."""
    found = yield from survey(path, cutting.form, part_bytes)
    pieces, known = load_pieces(tokenizer), replace(cutting, form=found.form)
    for number, part in enumerate(found.parts):
        yield from write_part(path, part, known, pieces, folder / shard_name(number))
    write_blocks(folder, found, cutting, made_of)


def open_blocks(folder: Path) -> tuple[Encoded, ...]:
    """Map the shards of a folder of blocks, in order.

    Raises:
        ValueError: a shard is not there, or its size is not what was written.
    """
    found = read_blocks(folder)["shards"]
    shards = tuple(replace(Encoded.open(folder / name), start=about["start"]) for name, about in found.items())
    for shard, (name, about) in zip(shards, found.items(), strict=True):
        if (len(shard), len(shard.flat)) != (about["rows"], about["tokens"]):
            wanted = f"expected {about['rows']} and {about['tokens']}"
            raise ValueError(f"{folder / name}: found {len(shard)} blocks of {len(shard.flat)} tokens, {wanted}")
    return shards


def _check_sizes(folder: Path) -> None:
    """Make sure that the shards are there and of the right size; cheap, since every trial does it."""
    open_blocks(folder)


def _check_fit(folder: Path, cutting: Cutting, words: str) -> None:
    """Compare what a folder of blocks holds with what is asked.

    Raises:
        ValueError: the tokenizer, the length or another option differ.
    """
    found = read_blocks(folder)
    if found["tokenizer"] != words:
        raise ValueError(
            f"corpus: {folder}: found blocks of another tokenizer, expected the teacher's; preprocess anew"
        )
    for name in ("length", "full_sentences", "compat", *(["form"] if cutting.form != "auto" else [])):
        if found[name] != (asked := getattr(cutting, name)):
            raise ValueError(f"corpus: {folder}: found blocks with {name} {found[name]}, asked is {asked}")


def hold_out(blocks: Sequence[Encoded], share: float = HELD_SHARE) -> tuple[tuple[Encoded, ...], tuple[Encoded, ...]]:
    """Part a corpus in blocks to train on and blocks to evaluate on.

    Whole documents are held out, by a hash of their first text, so that a document's copies stay together and the
    parting does not change when text is added. If that leaves one side empty, as in a small corpus, single blocks are
    held out by a hash of their number; so are rows whose labels are no hashes. Row numbers stay what they are.

    Args:
        blocks: shards from `corpus_blocks`.
        share: of the documents, in (0, 1).

    Returns:
        The shards to train on and those to evaluate on, without empty ones.

    Raises:
        ValueError: the share is out of range, or there is a single block.
    """
    if not 0.0 < share < 1.0:
        raise ValueError(f"hold_out(share): found {share!r}, allowed is a share in (0, 1)")
    flags = [np.asarray(shard.labels, dtype=np.int64) < int(share * 2**63) for shard in blocks]
    if all(flag.all() for flag in flags) or not any(flag.any() for flag in flags):
        flags = _by_block(blocks, share)
    train = (shard.subset(np.flatnonzero(~flag)) for shard, flag in zip(blocks, flags, strict=True) if not flag.all())
    held = (shard.subset(np.flatnonzero(flag)) for shard, flag in zip(blocks, flags, strict=True) if flag.any())
    return tuple(train), tuple(held)


def _by_block(blocks: Sequence[Encoded], share: float) -> list[np.ndarray[tuple[int, ...], np.dtype[np.bool_]]]:
    """Which blocks to hold out, at least one, and not all."""
    ids = np.concatenate([shard.rows + shard.start for shard in blocks])
    if len(ids) < 2:
        raise ValueError(f"hold_out(blocks): found {len(ids)} blocks, expected at least 2")
    flags = np.zeros(len(ids), dtype=bool)
    count = min(max(1, round(share * len(ids))), len(ids) - 1)
    flags[np.argsort(mixed(ids), kind="stable")[:count]] = True
    return np.split(flags, np.cumsum([len(shard) for shard in blocks])[:-1])
