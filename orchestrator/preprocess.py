"""A corpus cut into blocks of tokens on all processors, for masked-LM training; run again, it goes on where it was.

The corpus is cut into parts of its own, whatever the number of workers; each worker writes the shard of a part, which
appears whole. A sweep file's `corpus.data` names the folder.
"""

import os
import re
import time
from collections import deque
from collections.abc import Generator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from methods.parts.blockfiles import (
    BLOCKS,
    BLOCKS_VERSION,
    Cutting,
    check_blocks,
    read_blocks,
    shard_name,
    write_blocks,
    write_part,
)
from methods.parts.corpus import open_text
from methods.parts.documents import Part, Survey, survey
from methods.parts.files import JsonValue
from methods.parts.wordpiece import fingerprint_of_tokenizer, load_pieces
from orchestrator.chunks import Names, Parts
from orchestrator.cluster import Cluster
from orchestrator.errors import SweepError
from orchestrator.figures import duration
from orchestrator.gang import Labour, Say, driver_folder, work_off
from orchestrator.session import locked

SHARDS = Names(result=re.compile(rf"\d{{5}}|{re.escape(BLOCKS)}"), part="{:05d}")

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Blocks:
    """What was written."""

    out: Path
    documents: int
    blocks: int
    tokens: int
    shards: int
    length: int
    form: str
    """How documents were told apart: `lines` or `sentences`."""
    wall_s: float

    def to_json(self) -> dict[str, Any]:
        """The same for machines."""
        return {**asdict(self), "out": str(self.out)}

    def lines(self) -> list[str]:
        """The same for people."""
        told = {"lines": "one a line", "sentences": "blank lines between"}[self.form]
        full = self.tokens / (self.blocks * self.length)
        return [
            f"preprocessed: {self.blocks:,} blocks of {self.documents:,} documents ({told}) in {duration(self.wall_s)}",
            f"  {self.out}  {self.shards:,} shards, {self.tokens:,} tokens, {full:.0%} of {self.length} a block",
        ]


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """What is to be cut, and how."""

    corpus: Path
    tokenizer: Path
    """The folder of a BERT tokenizer."""
    cutting: Cutting
    out: Path
    part_bytes: int | None = None
    """Bytes of text of a shard; None derives it from the size."""


def tokenizer_folder(name: str) -> Path:
    """The folder of a tokenizer, fetched from the hub if it is a name there.

    Raises:
        ValueError: it is neither a folder nor a name on a hub that can be reached.
    """
    folder = Path(name)
    if folder.is_dir():
        return folder
    try:
        if folder.is_absolute() or name.startswith("."):
            raise ValueError("there is no such folder")
        from huggingface_hub import snapshot_download  # slow to import, and a folder needs no hub

        return Path(snapshot_download(name, allow_patterns=["tokenizer*.json", "vocab.txt"]))
    except (ValueError, OSError) as error:  # the hub's complaints do not say what was asked for
        wanted = "expected a folder, or a name on a hub that can be reached"
        raise ValueError(f"tokenizer: found {name!r}, {wanted}: {error}") from error


def preprocess(order: Order, cluster: Cluster, *, workers: int | None, restart: bool, say: Say) -> Blocks:
    """Cuts a corpus, or goes on with it; a finished one is checked and left alone.

    Args:
        order: what to do.
        cluster: what to start, where no Ray is running.
        workers: processes; None is one for each CPU.
        restart: whether earlier work and its result are thrown away.
        say: takes lines about the progress.

    Raises:
        ValueError: a file is missing, empty or not UTF-8, or there is no BERT tokenizer.
        SweepError: another process is at work in the folder, it holds other work or damaged shards, a worker failed.
        Interrupted: it was asked to end; finished shards are kept.
    """
    began_s = time.monotonic()
    load_pieces(order.tokenizer)  # complains before anything is read
    made_of: dict[str, JsonValue] = {
        "corpus": open_text(order.corpus),
        "tokenizer": fingerprint_of_tokenizer(order.tokenizer),
    }
    inputs = {**made_of, **asdict(order.cutting), "part_bytes": order.part_bytes, "version": BLOCKS_VERSION}
    folder = driver_folder(order.out)
    with locked(folder):
        parts = Parts(order.out, SHARDS)
        if parts.begin(inputs, restart=restart):
            _check(order.out)
        else:
            say(f"{order.corpus}: looking for documents")
            found = _last(survey(order.corpus, order.cutting.form, order.part_bytes))
            labour = _labour(order, found)
            work_off(labour, parts.missing(labour.count), cluster, folder, workers=workers, say=say)
            written = write_blocks(order.out, found, order.cutting, made_of)
            parts.finish({name: about["rows"] for name, about in written["shards"].items()} | {BLOCKS: 1})
    return _summary(order.out, time.monotonic() - began_s)


class Worker:
    """A process that cuts parts of a corpus."""

    def __init__(self, corpus: str, tokenizer: str, cutting: Cutting, out: str, num_threads: int) -> None:
        os.environ["RAYON_NUM_THREADS"] = str(num_threads)  # of the tokenizer, read when it is first used
        self._corpus, self._pieces, self._cutting, self._out = corpus, load_pieces(Path(tokenizer)), cutting, out

    def make(self, number: int, part: Part) -> tuple[int, None]:
        """Writes the shard of a part."""
        shard = Path(self._out) / shard_name(number)
        deque(write_part(Path(self._corpus), part, self._cutting, self._pieces, shard), maxlen=0)
        return number, None


def _labour(order: Order, found: Survey) -> Labour:
    """The work part by part."""
    places = str(order.corpus.resolve()), str(order.tokenizer.resolve())
    cutting = replace(order.cutting, form=found.form)
    return Labour(
        name="preprocess",
        worker=Worker,
        arguments=lambda threads: (*places, cutting, str(order.out), threads),
        count=len(found.parts),
        piece=lambda number: found.parts[number],
        keep=lambda number, nothing: None,
    )


def _last(work: Generator[None, None, T]) -> T:
    """Works to the end; what was returned there."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            found: T = end.value
            return found


def _check(out: Path) -> None:
    """Makes sure that a finished result is still what was written.

    Raises:
        SweepError: a shard is damaged.
    """
    try:
        deque(check_blocks(out), maxlen=0)
    except ValueError as error:
        raise SweepError(f"preprocess: {error}, with --restart") from None


def _summary(out: Path, wall_s: float) -> Blocks:
    """What a folder of blocks says of itself."""
    found: Mapping[str, Any] = read_blocks(out)
    return Blocks(
        out=out,
        documents=found["documents"],
        blocks=found["blocks"],
        tokens=sum(about["tokens"] for about in found["shards"].values()),
        shards=len(found["shards"]),
        length=found["length"],
        form=found["form"],
        wall_s=wall_s,
    )
