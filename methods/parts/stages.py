"""A stage of a method on disk: its checkpoints while it runs, its result when it is done.

    <stage>/step-00000120/     the last checkpoint: one safetensors file per part, values.json
    <stage>/best-00000080.safetensors   weights of the best evaluation so far
    <stage>/done/              the result, same form; its presence is what `finished` means

Every folder is written aside and renamed. Rank 0 alone writes; the ranks' random states travel to it.
"""

import re
import time
import uuid
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from methods.parts import rng
from methods.parts.files import JsonValue, publish, read_json, read_tensors, remove, wait_for, write_json, write_tensors
from methods.parts.reduce import Ranked, agree, gather

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_RNG = "rng"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a stage stores: JSON values, and tensors by part (`model`, `optimizer`, ...) and name."""

    values: Mapping[str, JsonValue]
    tensors: Mapping[str, Mapping[str, Tensor]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Cadence:
    """How often an unfinished stage is checkpointed; 0 switches either rule off."""

    seconds: float = 60.0
    steps: int = 0


def always() -> bool:
    """Nobody else writes into the stage's folder."""
    return True


@dataclass(kw_only=True, slots=True)
class Stage:
    """A named part of a method's work that survives the process; `Run.stage` makes them.

    `finished`, `resume`, `checkpoint` and `finish` are collective: every rank calls them at the same point.
    """

    folder: Path
    name: str
    ranks: Ranked
    seed: int
    """Randomness of this stage derives from it, whatever ran before."""
    final: bool = False
    """Whether reports of this stage are comparable between trials."""
    cadence: Cadence = field(default_factory=Cadence)
    owned: Callable[[], bool] = always
    """Whether this process may still write; false for a builder whose claim was taken over."""
    fitted: bool = False
    """Whether a `fit` used this stage already."""
    _written_s: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"stage name: found {self.name!r}, allowed are letters, digits, '.', '_' and '-'")

    @property
    def done(self) -> Path:
        """The folder of the result."""
        return self.folder / "done"

    def finished(self) -> bool:
        """Whether the result is stored; all ranks get rank 0's answer."""
        return bool(agree([self.done.is_dir()], self.ranks)[0])

    def result(self) -> Snapshot:
        """The stored result of a finished stage."""
        return _read(wait_for(self.done))

    def resume(self) -> Snapshot | None:
        """The last checkpoint, with the random state restored, or None.

        A checkpoint written by another number of ranks gives everything but the random state: its continuation is
        valid, not bit-equal.
        """
        steps = sorted(int(path.name.removeprefix("step-")) for path in self.folder.glob("step-" + "[0-9]" * 8))
        (step,) = agree([steps[-1] if steps else -1], self.ranks)
        if step < 0:
            return None
        snapshot = _read(wait_for(self.folder / f"step-{int(step):08d}"))
        states = snapshot.tensors[_RNG]["ranks"]
        if len(states) == self.ranks.world_size:
            rng.restore(states[self.ranks.rank], self.ranks.device)
        return snapshot

    def due(self, step: int) -> bool:
        """Whether a checkpoint is due at `step`, by this rank's clock; ask rank 0 and agree."""
        late = self.cadence.seconds > 0 and time.monotonic() - self._written_s >= self.cadence.seconds
        return late or (self.cadence.steps > 0 and step % self.cadence.steps == 0)

    def checkpoint(self, step: int, snapshot: Snapshot, bests: Collection[Path]) -> None:
        """Store where the stage is; older checkpoints and bests that are not among `bests` are removed."""
        states = gather(rng.capture(self.ranks.device), self.ranks)
        full = Snapshot(snapshot.values, {**snapshot.tensors, _RNG: {"ranks": states}})
        self._commit(full, self.folder / f"step-{step:08d}", bests)
        self._written_s = time.monotonic()

    def finish(self, snapshot: Snapshot, bests: Collection[Path] = ()) -> None:
        """Store the result and remove the checkpoints."""
        self._commit(snapshot, self.done, bests)

    def keep_best(self, step: int, tensors: Mapping[str, Tensor]) -> Path:
        """Store the weights of an evaluation that was the best; not collective, rank 0 writes."""
        path = self.folder / f"best-{step:08d}.safetensors"
        if self.ranks.rank == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            aside = self.folder / f"{uuid.uuid4().hex}.aside"
            write_tensors(aside, tensors)
            aside.replace(path)
        return path

    def _commit(self, snapshot: Snapshot, final: Path, bests: Collection[Path]) -> None:
        """Write `snapshot` under `final` and remove what it makes superfluous."""
        if self.ranks.rank != 0 or not self.owned():
            return
        aside = self.folder / f"{uuid.uuid4().hex}.aside"
        aside.mkdir(parents=True)
        for part, tensors in snapshot.tensors.items():
            write_tensors(aside / f"{part}.safetensors", tensors)
        write_json(aside / "values.json", snapshot.values)
        if not publish(aside, final):
            remove(aside)
        keep = {final.name, *(path.name for path in bests)}
        for path in self.folder.iterdir():
            stale = path.name.startswith(("step-", "best-")) and path.name not in keep
            if stale or path.suffix in (".aside", ".gone"):
                remove(path)


def _read(folder: Path) -> Snapshot:
    """Read what `Stage._commit` wrote."""
    parts = {path.stem: read_tensors(path) for path in sorted(folder.glob("*.safetensors"))}
    return Snapshot(read_json(folder / "values.json"), parts)
