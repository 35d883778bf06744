"""Reads a YAML file of plain values and remembers the line of each, so that every complaint can say where.

PyYAML composes nodes; this module turns them into dicts, lists, text, numbers, truth values and null, and into nothing
else: anchors, aliases, tags, merge keys, dates and non-finite numbers are refused, because a sweep file holds values
and never code. YAML 1.1 also reads `on` as true, `010` as 8 and `1:30` as 90; such spellings are refused.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from orchestrator.errors import SpecError
from orchestrator.wording import LONGEST, Key, dotted, shown

MAX_BYTES = 256 * 1024
MAX_DEPTH = 16
MAX_DIGITS = 40
"""Longest number, in characters; longer ones overflow sooner or later."""

_TAG = "tag:yaml.org,2002:"
_INT = re.compile(r"[-+]?(0|[1-9][0-9_]*)")
_FLOAT = re.compile(r"[-+]?(\d[\d_]*\.?\d*|\.\d+)([eE][-+]?\d+)?")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_VALUES_ONLY = "values only: no anchors, aliases or tags"


class Problem(NamedTuple):
    """One complaint about a file."""

    mark: str
    """`FILE:LINE`, or the override it came from."""
    key: Key
    text: str


@dataclass(slots=True)
class Document:
    """The values of one file, where each stands, and every problem found so far."""

    file: str
    data: dict[str, Any] = field(default_factory=dict)
    marks: dict[Key, str] = field(default_factory=dict)
    """Key path -> `FILE:LINE`, or the command-line override that set it."""
    problems: list[Problem] = field(default_factory=list)
    unread: set[Key] = field(default_factory=set)
    """Values that could not be read; nothing more is said about these."""

    def where(self, key: Key) -> str:
        """Returns where a value, or the nearest value around it, was written."""
        while key and key not in self.marks:
            key = key[:-1]
        return self.marks.get(key, self.file)

    def say(self, key: Key, text: str, mark: str = "") -> str:
        """Writes one line about a value: file, line, key path, text."""
        path = dotted(key)
        return f"{mark or self.where(key)}: {path}: {text}" if path else f"{mark or self.where(key)}: {text}"

    def problem(self, key: Key, text: str, mark: str = "") -> None:
        """Notes a problem; nothing is raised until `check`."""
        if key not in self.unread and not any(other[:-1] == key for other in self.unread if isinstance(other[-1], int)):
            self.problems.append(Problem(mark or self.where(key), key, text))

    def check(self) -> None:
        """Raises what has been noted, in the order of the file.

        Raises:
            SpecError: at least one problem was noted.
        """
        if self.problems:
            ordered = sorted(self.problems, key=lambda problem: _line(problem.mark))
            raise SpecError(list(dict.fromkeys(self.say(found.key, found.text, found.mark) for found in ordered)))


def _line(mark: str) -> float:
    """Returns the line number a mark ends with; overrides come after the file."""
    tail = mark.rpartition(":")[2]
    return int(tail) if tail.isdigit() else (math.inf if mark.startswith("override ") else 0)


def read(path: Path) -> Document:
    """Reads a file of values.

    A file that cannot be read or parsed, or is no mapping, gives a document that holds this problem and no values; so
    do anchors, aliases and tags. Smaller problems (a key given twice, `on` for true) are noted beside the values.
    """
    document = Document(str(path))
    text = _text(path, document)
    if text is None:
        return document
    value = _parse(text, document)
    if isinstance(value, dict):
        document.data = value
    elif not document.problems:
        what = "the file is empty" if value is None else f"found {shown(value)}"
        document.problem((), f"{what}; a mapping (lines of `key: value`) is due", document.file)
    return document


def _text(path: Path, document: Document) -> str | None:
    """Reads the file as UTF-8, or notes why that is impossible."""
    try:
        if path.exists() and not path.is_file():
            document.problem((), f"found {'a folder' if path.is_dir() else 'a special file'}; a YAML file is due")
            return None
        with path.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
        if len(raw) <= MAX_BYTES:
            return raw.decode("utf-8-sig")
        document.problem((), f"the file is larger than {MAX_BYTES // 1024} kB; no file of values is")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        text = f"found byte 0x{error.object[error.start]:02x}, which is not UTF-8; save the file as UTF-8"
        document.problem((), text, f"{path}:{line}")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        document.problem((), f"cannot be read: {reason}")
    return None


def _parse(text: str, document: Document) -> object:
    """Turns the text into values, or notes why that is impossible and returns None."""
    try:
        if _is_plain(text, document):
            node = yaml.compose(text, Loader=yaml.SafeLoader)
            return None if node is None else _value(node, (), document)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line if mark else text[: getattr(error, "position", 0)].count("\n")
        document.problem((), f"not YAML: {_reason(error)}", f"{document.file}:{line + 1}")
    return None


def _reason(error: yaml.YAMLError) -> str:
    """Says in one line why PyYAML gave up."""
    reason = str(getattr(error, "problem", None) or getattr(error, "reason", None) or error)
    context = getattr(error, "context", None)
    if "'\\t'" in reason:
        return "found a tab; indent with spaces"
    return " ".join(f"{context + ': ' if context else ''}{reason}".split())


def _is_plain(text: str, document: Document) -> bool:
    """Whether the text is free of anchors, aliases, tags and endless nesting; notes what it has of them."""
    depth, before = 0, len(document.problems)
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        mark = f"{document.file}:{_at(event)}"
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            document.problem((), f"nested more than {MAX_DEPTH} deep", mark)
            break
        if what := _more_than_a_value(event):
            document.problem((), f"found the {what}; {_VALUES_ONLY}", mark)
    return len(document.problems) == before


def _at(piece: yaml.Event | yaml.Node) -> int:
    """Returns the line of an event or a node, counted from 1."""
    return piece.start_mark.line + 1 if piece.start_mark else 1


def _more_than_a_value(event: yaml.Event) -> str:
    """Names the alias, anchor or tag of a parsing event, or nothing."""
    if isinstance(event, yaml.AliasEvent):
        return f"alias *{event.anchor}"
    if getattr(event, "anchor", None) is not None:
        return f"anchor &{getattr(event, 'anchor', '')}"
    tag = getattr(event, "tag", None)
    return f"tag {tag}" if tag is not None else ""


def _value(node: yaml.Node, key: Key, document: Document) -> object:
    """Turns a node into a Python value and notes its line."""
    document.marks.setdefault(key, f"{document.file}:{_at(node)}")
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, key, document)
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, (*key, index), document) for index, item in enumerate(node.value)]
    return _scalar(node, key, document)


def _mapping(node: yaml.MappingNode, key: Key, document: Document) -> dict[str, Any]:
    """Turns a mapping node into a dict; notes a key that is given twice or is no name."""
    result: dict[str, Any] = {}
    for name, value in node.value:
        here = (*key, str(name.value) if isinstance(name, yaml.ScalarNode) else "?")
        mark = f"{document.file}:{_at(name)}"
        if name.tag != f"{_TAG}str":
            document.problem(here, "this key is not a name in YAML; quote it or use letters", mark)
        elif name.value in result:
            document.problem(here, f"the key is given twice, first at {document.where(here)}; keep one", mark)
        else:
            document.marks[here] = mark
            result[name.value] = _value(value, here, document)
    return result


def _scalar(node: yaml.Node, key: Key, document: Document) -> object:
    """Turns a scalar node into text, a number, a truth value or None; notes any other spelling, and gives None."""
    text, kind = str(node.value), node.tag.removeprefix(_TAG)
    if kind == "str" and not _CONTROL.search(text):
        return text
    if kind == "null":
        return None
    if kind == "bool" and text.lower() in ("true", "false"):
        return text.lower() == "true"
    number = _number(text, kind)
    if number is None:
        document.problem(key, _odd(text, kind))
        document.unread.add(key)
    return number


def _number(text: str, kind: str) -> int | float | None:
    """Reads a finite decimal number, or gives None."""
    if len(text) > MAX_DIGITS:
        return None
    if kind == "int" and _INT.fullmatch(text):
        return int(text.replace("_", ""))
    if kind == "float" and _FLOAT.fullmatch(text):
        number = float(text.replace("_", ""))
        return number if math.isfinite(number) else None
    return None


def _odd(text: str, kind: str) -> str:
    """Says what YAML makes of a spelling that few would expect."""
    if kind == "bool":
        return f"'{text}' is a truth value in YAML; write true or false, or for a name quote it: '{text}'"
    if kind == "str":
        return f"{shown(text)} holds a control character; remove it"
    if kind in ("int", "float"):
        return f"{shown(text)} is no plain finite decimal number; write one, or for a name quote it"
    return f"{shown(text)} is a {kind} in YAML; quote it"


def override(document: Document, pairs: Sequence[str]) -> None:
    """Replaces values by `key=value` pairs of the command line: dotted keys, values in YAML.

    A pair creates the mappings on its way; a number steps into a list. Problems name the pair.
    """
    for pair in pairs:
        path, equals, text = pair.partition("=")
        parts = path.strip().split(".")
        source = f"override '{pair if len(pair) <= LONGEST else pair[: LONGEST - 3] + '...'}'"
        if not equals or not all(parts):
            document.problem((), "a dotted key, '=' and a value are due, for example search.trials=20", source)
            continue
        key: Key = tuple(int(part) if part.isdecimal() else part for part in parts)
        part = Document(source)
        value = _parse(text, part)
        document.problems += [Problem(source, (*key, *problem.key), problem.text) for problem in part.problems]
        if not part.problems and (obstacle := _put(document.data, key, value)):
            document.problem(key, obstacle, source)
        for known in [known for known in document.marks if known[: len(key)] == key]:
            del document.marks[known]
        document.marks[key] = source


def _put(data: dict[str, Any], key: Key, value: object) -> str:
    """Stores a value at a key path, or says what stands in the way."""
    here: Any = data
    for depth, part in enumerate(key):
        if obstacle := _obstacle(here, part):
            return f"{dotted(key[:depth])} is {obstacle}"
        if depth == len(key) - 1:
            here[part] = value
        else:
            here = here[part] if isinstance(part, int) else here.setdefault(part, {})
    return ""


def _obstacle(here: object, part: str | int) -> str:
    """Says why a value has no place for a key, or nothing."""
    if isinstance(here, list):
        fits = isinstance(part, int) and part < len(here)
        return "" if fits else f"a list of {len(here)}; a position below {len(here)} is due"
    fits = isinstance(here, dict) and isinstance(part, str)
    return "" if fits else f"{shown(here)}, which has no key {part!r}"


def dump(data: Mapping[str, Any]) -> str:
    """Writes values as YAML that `read` reads back to equal values."""
    plain = json.loads(json.dumps(data))  # distinct objects, so that nothing is written as an alias
    return str(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=120))
