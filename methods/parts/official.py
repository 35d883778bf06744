"""GLUE's official files, made from the hub's rows: every reader of these files can then be used without the hub.

Texts and labels stand in the columns where the official files have them; columns that the hub does not carry (parses,
genres, numbers of sources) are empty. A tab or a line break within a text becomes a space, since the format has no
quoting.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from uuid import uuid4

from methods.parts.examples import Examples, unknown
from methods.parts.files import publish, remove
from methods.parts.glue import CATALOGUE, Entry, find
from methods.parts.hub import HubData, open_hub

ALL = "all"
"""Stands for every task of the catalogue."""

LIMIT_S = 5.0
"""Seconds in which the hub has to answer."""

_PARSES = "sentence1_binary_parse sentence2_binary_parse sentence1_parse sentence2_parse"
_MNLI = f"index promptID pairID genre {_PARSES} sentence1 sentence2"
_STSB = "index genre filename year old_index source1 source2 sentence1 sentence2"
_HEADERS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "cola": ("source label star sentence", "index sentence"),
        "sst2": ("sentence label", "index sentence"),
        "mrpc": ("Quality #1_ID #2_ID #1_String #2_String", "index #1_ID #2_ID #1_String #2_String"),
        "qqp": ("id qid1 qid2 question1 question2 is_duplicate", "id question1 question2"),
        "stsb": (f"{_STSB} score", _STSB),
        "mnli": (f"{_MNLI} label1 gold_label", _MNLI),
        "qnli": ("index question sentence label", "index question sentence"),
        "rte": ("index sentence1 sentence2 label", "index sentence1 sentence2"),
        "wnli": ("index sentence1 sentence2 label", "index sentence1 sentence2"),
    }
)
"""Names of the columns of train and dev, and of test; `_` within a name is a space in the file."""


class RequestError(ValueError):
    """What is asked for cannot be done, whether or not a hub answers."""


def fetch(name: str, target: Path, local: Path | None = None) -> Iterator[str]:
    """Write the official files of a task, or of all, below `target`; tell what was done, a line a task.

    Args:
        name: a task of `glue.CATALOGUE` however it is spelled, or `all`.
        target: gets a folder for each task, named as in the official layout.
        local: a local copy in the hub's layout, which is then read instead of the hub.

    Raises:
        RequestError: no such task, or its folder is there already.
        ValueError: the hub does not answer, or its rows do not fit.
    """
    entries = list(CATALOGUE.values()) if name == ALL else [_entry(name)]
    missing = [entry for entry in entries if not (target / entry.folder).exists()]
    if name != ALL and not missing:
        raise RequestError(f"{target / entries[0].folder}: exists already; name another folder")
    if missing and local is None and (reason := unreachable()):
        raise ValueError(_advice(missing[0], target, reason))
    for entry in entries:
        if entry in missing:
            rows = write_official(entry, _source(entry, target, local), target / entry.folder)
            counts = ", ".join(f"{count:,} rows of {split}" for split, count in rows.items())
            yield f"{target / entry.folder}: {counts}; use it with `task: {{name: {entry.name}, data: {target}}}`"
        else:
            yield f"{target / entry.folder}: is there already"


def unreachable(limit_s: float = LIMIT_S) -> str:
    """Say why the hub cannot be reached, or nothing if it can or if only the local cache is to be asked.

    The question is put in a thread of its own, because a name server that does not answer knows no time limit.
    """
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return ""
    found: list[str] = []

    def ask() -> None:
        try:
            status = get_session().head(constants.ENDPOINT, timeout=limit_s).status_code
            found.append(f"it answers with status {status}" if status >= 400 else "")
        except Exception as error:  # whatever kind the client of the day raises, its text is the reason
            found.append(str(error) or type(error).__name__)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(limit_s + 1)
    return found[0] if found else f"no answer within {limit_s:g} s"


def write_official(entry: Entry, source: HubData, folder: Path) -> dict[str, int]:
    """Write every split of a task; the folder appears whole, or not at all.

    Returns:
        Rows by split.

    Raises:
        ValueError: the classes or their order are not the task's.
    """
    if source.labels != entry.labels:
        found, wanted = (", ".join(labels) or "numbers" for labels in (source.labels, entry.labels))
        raise ValueError(f"{source.name}: found the classes {found}, expected {wanted}")
    aside = folder.with_name(f"{folder.name}.{uuid4().hex}.aside")
    aside.mkdir(parents=True)
    rows = {}
    try:
        for split in source.splits:
            examples = source.read(split)
            lines = _json_lines if entry.files[split].endswith(".jsonl") else _tsv_lines
            with (aside / entry.files[split]).open("w", encoding="utf-8", newline="\n") as file:
                file.writelines(f"{line}\n" for line in lines(entry, examples, test=split.startswith("test")))
            rows[split] = len(examples)
        publish(aside, folder)
    finally:
        remove(aside)
    return rows


def _tsv_lines(entry: Entry, examples: Examples, *, test: bool) -> Iterator[str]:
    """The header where the file has one, and a line for each row."""
    names = _HEADERS[entry.name][test].split()
    if test or entry.header:
        yield "\t".join(name.replace("_", " ") if name.startswith("#") else name for name in names)
    for index, (row, label) in enumerate(zip(_texts(examples), examples.labels.tolist(), strict=True)):
        cells = [str(index) if name in ("index", "id") else "" for name in names]
        for column, text in zip(entry.test_text if test else entry.text, row, strict=True):
            cells[column] = re.sub(r"[\t\r\n]+", " ", text)
        if not test:
            cells[entry.label] = entry.spelled[label] if entry.spelled else f"{label:.3f}"
        yield "\t".join(cells)


def _json_lines(entry: Entry, examples: Examples, *, test: bool) -> Iterator[str]:
    """A JSON object for each row, as BoolQ has them."""
    for index, (row, label) in enumerate(zip(_texts(examples), examples.labels.tolist(), strict=True)):
        texts = dict(zip(entry.hub, row, strict=True))
        yield json.dumps({**texts, "idx": index} | ({} if test else {"label": bool(label)}), ensure_ascii=False)


def _texts(examples: Examples) -> Iterator[tuple[str, ...]]:
    """The texts of each row, one or two."""
    columns = [examples.texts] if examples.pairs is None else [examples.texts, examples.pairs]
    return zip(*columns, strict=True)


def _entry(name: str) -> Entry:
    """The task of that name."""
    entry = find(name)
    if entry is None:
        raise RequestError(str(unknown("task", name, [*CATALOGUE, ALL])))
    return entry


def _source(entry: Entry, target: Path, local: Path | None) -> HubData:
    """The rows of a task, from a local copy, the hub or its cache."""
    try:
        return open_hub(entry.name, local)
    except ValueError as error:
        if local is not None:
            raise
        raise ValueError(_advice(entry, target, str(error))) from error


def _advice(entry: Entry, target: Path, reason: str) -> str:
    """What was tried and what helps."""
    from huggingface_hub import constants

    return (
        f"{entry.name}: tried {constants.ENDPOINT} for {entry.hub_path}: {' '.join(reason.split())}; "
        "set HF_ENDPOINT to a mirror, or HF_HUB_OFFLINE=1 if it is in the cache, or put the official files "
        f"({', '.join(entry.files.values())}) into {target / entry.folder}"
    )
