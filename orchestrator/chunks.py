"""Long work over rows, in chunks that survive the process: each appears whole, and a later run makes only the others.

<out>/.parts/manifest.json       what is made, and from what; later, what was written
<out>/.parts/chunk-000012.txt    new rows of one chunk, one a line
<out>/train_aug0.tsv ...         the result, written when the last chunk is there; the chunks then go
"""

import os
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, TextIO

from methods.parts.files import JsonValue, read_json, remove, write_json
from orchestrator.errors import SpecError
from orchestrator.wording import shown

STEM = "train_aug"
_OURS = re.compile(rf"{STEM}\d*\.(tsv|jsonl)")
PARTS = ".parts"


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """The form of the result."""

    ending: str
    header: str | None = None
    """First line of every file."""
    shard_rows: int | None = None
    """Rows of a file; None writes one file, without a number in its name."""


class Chunks:
    """The chunks of one piece of work and its result; one process at a time."""

    def __init__(self, out: Path, count: int) -> None:
        self.out, self.folder = out, out / PARTS
        self._count, self._manifest = count, out / PARTS / "manifest.json"

    def begin(self, inputs: Mapping[str, JsonValue], *, restart: bool) -> dict[str, int]:
        """Continues earlier work on the same inputs, or begins.

        Returns:
            The files of the result with their rows if it is complete, else nothing.

        Raises:
            SpecError: the folder holds work on other inputs, or a result that is not ours to replace.
        """
        stored = read_json(self._manifest) if self._manifest.is_file() and not restart else None
        if stored is None:
            self._clear(restart=restart)
        elif stored["inputs"] != dict(inputs):
            raise SpecError([f"{self.out}: {_difference(stored['inputs'], inputs)}; --restart begins anew"])
        else:
            outputs: dict[str, int] = stored["outputs"]
            if outputs and all((self.out / name).is_file() for name in outputs):
                return outputs
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self._manifest, {"inputs": inputs, "outputs": {}})
        return {}

    def pending(self) -> list[int]:
        """Numbers of the chunks that are to be made, in order."""
        return [number for number in range(self._count) if not self._path(number).is_file()]

    def write(self, number: int, lines: Sequence[str]) -> None:
        """Stores a chunk; a reader sees all of it or nothing."""
        with _aside(self._path(number)) as file:
            file.writelines(f"{line}\n" for line in lines)
        _commit(file, self._path(number))

    def assemble(self, shape: Shape) -> dict[str, int]:
        """Writes the result from the chunks, and removes them; the rows of each file by its name."""
        lines = self._lines()
        outputs: dict[str, int] = {}
        for number, first in enumerate(lines):
            name = f"{STEM}{'' if shape.shard_rows is None else number}{shape.ending}"
            with _aside(self.out / name) as file:
                file.write("" if shape.header is None else f"{shape.header}\n")
                rest = islice(lines, None if shape.shard_rows is None else shape.shard_rows - 1)
                outputs[name] = 0
                for line in chain([first], rest):
                    file.write(line)
                    outputs[name] += 1
            _commit(file, self.out / name)
        write_json(self._manifest, {**read_json(self._manifest), "outputs": outputs})
        for path in (*self.folder.glob("chunk-*"), *self.folder.glob("vectors-*")):
            remove(path)
        return outputs

    def _lines(self) -> Iterator[str]:
        for number in range(self._count):
            with self._path(number).open(encoding="utf-8", newline="\n") as file:
                yield from file

    def _path(self, number: int) -> Path:
        return self.folder / f"chunk-{number:06d}.txt"

    def _clear(self, *, restart: bool) -> None:
        """Makes room for a new beginning: chunks go, and with `restart` an earlier result too."""
        old = sorted(path for path in self.out.glob(f"{STEM}*") if _OURS.fullmatch(path.name))
        if old and not restart:
            names = ", ".join(path.name for path in old[:3])
            raise SpecError([f"{self.out}: holds {names} already; --restart replaces it, --out names another folder"])
        for path in [*old, self._manifest, *self.folder.glob("chunk-*"), *self.folder.glob("vectors-*")]:
            remove(path)


def _aside(path: Path) -> TextIO:
    """A file beside `path` to write to, without translated line ends."""
    for stale in path.parent.glob(f".{path.name}.*.aside"):
        with suppress(FileNotFoundError):
            stale.unlink()
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.aside").open("w", encoding="utf-8", newline="\n")


def _commit(file: TextIO, path: Path) -> None:
    """Gives a closed file its public name."""
    with open(file.name, "rb") as written:
        os.fsync(written.fileno())
    Path(file.name).replace(path)


def _difference(stored: Mapping[str, Any], asked: Mapping[str, JsonValue]) -> str:
    """Says in what two sets of inputs differ."""
    names = [name for name in sorted({*stored, *asked}) if stored.get(name) != asked.get(name)]
    said = [f"{name} {shown(stored.get(name))}, asked is {shown(asked.get(name))}" for name in names]
    return f"holds work with {'; '.join(said)}"
