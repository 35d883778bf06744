"""The documents of a text file, however large, and where it can be cut so that each piece is worked on alone.

Two forms are in use: a document is a line (WID), or consecutive lines, one sentence each, up to a blank one (BERT,
TinyBERT). One pass over the file finds bad bytes, tells the forms apart, and chooses the cuts, always at the beginning
of a document. They depend on the file alone, so any number of workers makes the same of it.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

from methods.parts.examples import decoded, unknown

FORMS = ("auto", "lines", "sentences")

PART_BYTES, MOST_PARTS = 2**24, 64
"""Least bytes of a part, and most parts, so that as many shards can be open at a time."""

_LINES_A_PAUSE = 2**16


@dataclass(frozen=True, slots=True)
class Part:
    """Consecutive documents of a file."""

    start: int
    """Byte at which they begin."""
    end: int
    """Byte after them."""
    line: int
    """Number of the first line, from 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Survey:
    """What one pass over a file tells."""

    form: str
    """`lines` or `sentences`."""
    documents: int
    """How many there are that are not blank."""
    parts: tuple[Part, ...]
    """The whole file, cut."""


def check_form(form: str) -> None:
    """Refuse an unknown form.

    Raises:
        ValueError: it is none of `FORMS`.
    """
    if form not in FORMS:
        raise unknown("form", form, FORMS)


def survey(path: Path, form: str = "auto", part_bytes: int | None = None) -> Generator[None, None, Survey]:
    """Read a file once, pausing now and then; returns what was found.

    Args:
        path: UTF-8 text.
        form: how documents are told apart; `auto` means `sentences` if a blank line stands between two others, else
            `lines`.
        part_bytes: bytes after which the next document begins a new part; None derives it from the size.

    Raises:
        ValueError: `FILE:LINE:` of bytes that are not UTF-8; or every line is blank.
    """
    check_form(form)
    size = path.stat().st_size
    step = part_bytes or max(PART_BYTES, -(-size // MOST_PARTS))
    cuts: dict[str, list[Part]] = {"lines": [], "sentences": []}
    counts: dict[str, int] = {"lines": 0, "sentences": 0}
    blank_before = True
    with path.open("rb") as file:
        offset = 0
        for number, raw in enumerate(file, start=1):
            if decoded(path, number, raw).strip():
                for each in ("lines", "sentences") if blank_before else ("lines",):
                    counts[each] += 1
                    if not cuts[each] or offset >= cuts[each][-1].start + step:
                        cuts[each].append(Part(offset, size, number))
                blank_before = False
            else:
                blank_before = True
            offset += len(raw)
            if number % _LINES_A_PAUSE == 0:
                yield
    if not counts["lines"]:
        raise ValueError(f"corpus: {path}: found blank lines only, expected text")
    if form == "auto":
        form = "sentences" if counts["sentences"] > 1 else "lines"
    return Survey(form=form, documents=counts[form], parts=_joined(cuts[form], size))


def _joined(cuts: list[Part], size: int) -> tuple[Part, ...]:
    """Let the first part begin with the file, blank lines and all, and each end where the next begins."""
    starts = [(0, 1), *((part.start, part.line) for part in cuts[1:])]
    ends = [*(part.start for part in cuts[1:]), size]
    return tuple(Part(start, end, line) for (start, line), end in zip(starts, ends, strict=True))


def lines_of(path: Path, part: Part) -> Iterator[str]:
    """Yield the lines of a part without their ends.

    Raises:
        ValueError: `FILE:LINE:` of bytes that are not UTF-8.
    """
    with path.open("rb") as file:
        file.seek(part.start)
        offset = part.start
        for number, raw in enumerate(file, start=part.line):
            if offset >= part.end:
                return
            offset += len(raw)
            yield decoded(path, number, raw)


def texts_of(path: Path, part: Part, form: str, *, empty: bool = False) -> Iterator[tuple[bool, str]]:
    """Yield the texts of a part's documents, each with whether it begins one.

    Args:
        path: the file.
        part: which documents.
        form: `lines` or `sentences`.
        empty: whether a blank line is a document where each is a line, as in the published code.
    """
    first = True
    for line in lines_of(path, part):
        text = line.strip()
        if text or (empty and form == "lines"):
            yield first or form == "lines", text
        first = not text
