"""The world as a method sees it: `Run`. And `LocalRun`, the whole world in one process.

A method knows its rank, device and seed; opens stages, reports numbers, and asks for shared work. Whether that is a
notebook, a test, or a warm slot on a cluster, it cannot tell.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeAlias
from uuid import uuid4

import torch

from methods.parts import rng
from methods.parts.bert import Bert
from methods.parts.claims import Pace
from methods.parts.files import JsonValue, wait_for
from methods.parts.layout import Layout
from methods.parts.reduce import Ranked, agree_text
from methods.parts.selection import Selection
from methods.parts.stages import Cadence, Stage
from methods.parts.store import Crew, Request, Site, find, once

Accept: TypeAlias = Callable[[Mapping[str, JsonValue]], bool]
"""Whether an artifact made from these inputs will do."""


class Stopped(Exception):
    """The trial was told to end; raised on all ranks at the same step.

    With `resumable` it is to be continued later: a `fit` that meets it in `Run.poll` stores a checkpoint before it
    leaves, also in the build of a shared artifact.
    """

    def __init__(self, message: str = "", *, resumable: bool = False) -> None:
        super().__init__(message)
        self.resumable = resumable


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a method returns."""

    model: Bert
    layout: Layout
    notes: Mapping[str, JsonValue] = field(default_factory=dict)


class Run(Ranked, Protocol):
    """One rank of one trial, and all it may do to the world."""

    @property
    def seed(self) -> int:
        """The trial's seed, the same on every rank."""

    def stage(self, name: str, *, final: bool = False) -> AbstractContextManager[Stage]:
        """Open a stage; its random state derives from seed and name, and the caller's is given back at its end.

        Reports made within a final stage are comparable between trials, others are not.
        """

    def report(self, step: int, metrics: Mapping[str, float]) -> None:
        """Tell the numbers at `step` of the current stage; may raise Stopped.

        Every rank calls it, rank 0's numbers count.
        """

    def building(self, name: str, step: int, metrics: Mapping[str, float]) -> None:
        """Show how far the build of a shared artifact is; these numbers belong to no trial and decide nothing."""

    def poll(self) -> None:
        """Stay alive; every rank calls it between steps. Raises Stopped on all ranks at the same call."""

    def once(
        self,
        name: str,
        inputs: Mapping[str, JsonValue],
        build: Callable[[Path, "Run"], None],
        *,
        version: int = 1,
        check: Callable[[Path], None] | None = None,
    ) -> Path:
        """The folder of an artifact that trials share, built by whoever asks first; see `methods.parts.store.once`.

        Where `check` raises ValueError on an artifact that is there, it is put aside and built anew.
        """

    def find(self, name: str, accept: Accept) -> Path | None:
        """The folder of a published artifact whose inputs are accepted, or None; every rank gets rank 0's answer."""

    @property
    def quota_bytes(self) -> int | None:
        """How much stored knowledge may take of the disk, over all trials; None is no limit."""

    @property
    def wishes(self) -> tuple[Selection, ...]:
        """What other trials may come to ask of the teacher, so that one store is made for all."""


@contextmanager
def opened(stage: Stage) -> Iterator[Stage]:
    """A stage with random state of its own: what runs in it does not depend on what ran before, nor what runs after."""
    with rng.borrowed(rng.derive(stage.seed, stage.name), stage.ranks.device):
        yield stage


@dataclass(frozen=True, kw_only=True, slots=True)
class Sharing:
    """How a Run shares an artifact."""

    crew: Crew
    cadence: Cadence = field(default_factory=Cadence)
    check: Callable[[Path], None] | None = None


def shared(run: Run, store: Path, request: Request, build: Callable[[Path, Run], None], how: Sharing) -> Path:
    """`once` for a Run: the build gets a Run whose stages live beside the artifact and outlast a dead builder."""

    def at(site: Site) -> None:
        build(site.folder, Building(run, request.name, site, how.cadence))

    return once(store, request, at, how.crew, check=how.check)


class Building:
    """The Run that a build sees: the ranks of the trial that happens to build, but the artifact's own seed and stages.

    Its reports are shown and not kept, since a build's numbers belong to no trial.
    """

    def __init__(self, outer: Run, name: str, site: Site, cadence: Cadence) -> None:
        self._outer, self._name, self._site, self._cadence = outer, name, site, cadence
        self.rank, self.world_size, self.device = outer.rank, outer.world_size, outer.device
        self.quota_bytes, self.wishes = outer.quota_bytes, outer.wishes
        self.seed = site.seed

    def stage(self, name: str, *, final: bool = False) -> AbstractContextManager[Stage]:
        """A stage in the work folder, guarded by the claim; `final` means nothing here."""
        stage = Stage(
            folder=self._site.work / name,
            name=name,
            ranks=self,
            seed=self.seed,
            cadence=self._cadence,
            owned=self._site.owned,
        )
        return opened(stage)

    def report(self, step: int, metrics: Mapping[str, float]) -> None:
        """Have it shown which artifact is built, and how far it is."""
        self.building(self._name, step, metrics)

    def building(self, name: str, step: int, metrics: Mapping[str, float]) -> None:
        """Have the trial that builds show it."""
        self._outer.building(name, step, metrics)

    def poll(self) -> None:
        """Poll the trial that builds."""
        self._outer.poll()

    def once(
        self,
        name: str,
        inputs: Mapping[str, JsonValue],
        build: Callable[[Path, Run], None],
        *,
        version: int = 1,
        check: Callable[[Path], None] | None = None,
    ) -> Path:
        """Ask the trial that builds."""
        return self._outer.once(name, inputs, build, version=version, check=check)

    def find(self, name: str, accept: Accept) -> Path | None:
        """Ask the trial that builds."""
        return self._outer.find(name, accept)


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """One call of `LocalRun.report`."""

    stage: str
    step: int
    metrics: Mapping[str, float]
    comparable: bool


class LocalRun:
    """A Run in this process: for notebooks, debugging and tests. Reports pile up in `reports`.

    With more than one rank, torch.distributed's default group must be up.
    """

    def __init__(  # noqa: PLR0913  all that a method may ask its world for
        self,
        folder: Path,
        *,
        store: Path | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | str = "cpu",
        quota_bytes: int | None = None,
        wishes: tuple[Selection, ...] = (),
    ) -> None:
        self.folder = Path(folder)
        self.store = self.folder / "store" if store is None else Path(store)
        self.seed, self.rank, self.world_size, self.device = seed, rank, world_size, torch.device(device)
        self.quota_bytes, self.wishes = quota_bytes, wishes
        self.reports: list[Report] = []
        self.cadence, self.pace = Cadence(), Pace()
        self._group = ""
        self._stage: Stage | None = None

    @contextmanager
    def stage(self, name: str, *, final: bool = False) -> Iterator[Stage]:
        """Open `<folder>/stages/<name>`."""
        folder = self.folder / "stages" / name
        stage = Stage(folder=folder, name=name, ranks=self, seed=self.seed, final=final, cadence=self.cadence)
        outside, self._stage = self._stage, stage
        try:
            with opened(stage):
                yield stage
        finally:
            self._stage = outside

    def report(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append to `reports`."""
        name, final = (self._stage.name, self._stage.final) if self._stage else ("", False)
        self.reports.append(Report(stage=name, step=step, metrics=dict(metrics), comparable=final))

    def building(self, name: str, step: int, metrics: Mapping[str, float]) -> None:
        """Nobody looks on."""

    def poll(self) -> None:
        """Nobody stops a local run but Ctrl-C."""

    def once(
        self,
        name: str,
        inputs: Mapping[str, JsonValue],
        build: Callable[[Path, Run], None],
        *,
        version: int = 1,
        check: Callable[[Path], None] | None = None,
    ) -> Path:
        """Share work through `<folder>/store`, or the store given."""
        self._group = self._group or agree_text(uuid4().hex, self)
        crew = Crew(ranks=self, group=self._group, tick=self.poll, pace=self.pace)
        request = Request(name=name, inputs=inputs, version=version)
        return shared(self, self.store, request, build, Sharing(crew=crew, cadence=self.cadence, check=check))

    def find(self, name: str, accept: Accept) -> Path | None:
        """Look into the store."""
        found = find(self.store, name, accept) if self.rank == 0 else None
        label = agree_text(found.name if found else "", self)
        return wait_for(self.store / label / "manifest.json").parent if label else None
