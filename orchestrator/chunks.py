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
PARTS = ".parts"


@dataclass(frozen=True, kw_only=True, slots=True)
class Names:
    """What belongs to one kind of work, so that nothing else is ever removed."""

    result: re.Pattern[str]
    """Names in the folder of the result."""
    part: str
    """Path of one piece there, with a place for its number."""
    scraps: tuple[str, ...] = ()
    """Patterns below `PARTS` of what is no longer needed at the end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """The form of the result."""

    ending: str
    header: str | None = None
    """First line of every file."""
    shard_rows: int | None = None
    """Rows of a file; None writes one file, without a number in its name."""


class Parts:
    """The pieces of one piece of work and its result; one process at a time."""

    def __init__(self, out: Path, names: Names) -> None:
        self.out, self.folder = out, out / PARTS
        self._names, self._manifest = names, out / PARTS / "manifest.json"

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
            if outputs and all((self.out / name).exists() for name in outputs):
                return outputs
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self._manifest, {"inputs": inputs, "outputs": {}})
        return {}

    def missing(self, count: int) -> list[int]:
        """Numbers of the pieces, of `count`, that are to be made, in order."""
        return [number for number in range(count) if not self.path(number).exists()]

    def path(self, number: int) -> Path:
        """Where a piece is once it is there, whole."""
        return self.out / self._names.part.format(number)

    def finish(self, outputs: Mapping[str, int]) -> None:
        """Notes the result, and removes what led to it."""
        write_json(self._manifest, {**read_json(self._manifest), "outputs": outputs})
        self._sweep()

    def _sweep(self) -> None:
        for path in [path for scraps in self._names.scraps for path in self.folder.glob(scraps)]:
            remove(path)

    def _clear(self, *, restart: bool) -> None:
        """Makes room for a new beginning: pieces go, and with `restart` an earlier result too."""
        old = sorted(path for path in self.out.glob("*") if self._names.result.fullmatch(path.name))
        if old and not restart:
            names = ", ".join(path.name for path in old[:3])
            raise SpecError([f"{self.out}: holds {names} already; --restart replaces it, --out names another folder"])
        for path in [*old, self._manifest]:
            remove(path)
        self._sweep()


CHUNKS = Names(
    result=re.compile(rf"{STEM}\d*\.(tsv|jsonl)"),
    part=f"{PARTS}/chunk-{{:06d}}.txt",
    scraps=("chunk-*", "vectors-*"),
)


class Chunks(Parts):
    """Pieces that are lines of text, and a result in files of many lines."""

    def __init__(self, out: Path, count: int) -> None:
        super().__init__(out, CHUNKS)
        self._count = count

    def pending(self) -> list[int]:
        """Numbers of the chunks that are to be made, in order."""
        return self.missing(self._count)

    def write(self, number: int, lines: Sequence[str]) -> None:
        """Stores a chunk; a reader sees all of it or nothing."""
        with _aside(self.path(number)) as file:
            file.writelines(f"{line}\n" for line in lines)
        _commit(file, self.path(number))

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
        self.finish(outputs)
        return outputs

    def _lines(self) -> Iterator[str]:
        for number in range(self._count):
            with self.path(number).open(encoding="utf-8", newline="\n") as file:
                yield from file


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
