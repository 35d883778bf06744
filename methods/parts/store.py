"""Work that several trials need is done once: a content-addressed store on a plain folder.

    <store>/teacher-0f3a.../           the artifact with its manifest.json; appears by one rename, whole
    <store>/teacher-0f3a....claim      who builds it now (methods.parts.claims)
    <store>/teacher-0f3a....work/      the build's own stages, kept for whoever takes over a dead builder
    <store>/teacher-0f3a....tmp-.../   what a builder writes before the rename

The key is a hash of name, version and inputs, and the build's random state comes from the key: whoever builds gets
the same content, and builder and reader trials give the same numbers.
"""

import hashlib
import re
import shutil
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import torch

from methods.parts import rng
from methods.parts.claims import Claim, Pace, Watch, read_claim
from methods.parts.files import JsonValue, canonical, publish, read_json, remove, wait_for, write_json
from methods.parts.reduce import Ranked, agree, total

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_READY, _MINE, _WAIT, _LOOP = range(4)


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """An artifact by what it is made from. Raise `version` when the same inputs come to mean something else."""

    name: str
    inputs: Mapping[str, JsonValue]
    version: int = 1

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"once: name: found {self.name!r}, allowed are letters, digits, '_' and '-'")

    @property
    def key(self) -> str:
        """Sha256 over the canonical JSON of name, version and inputs, 64 hex digits."""
        try:
            text = canonical({"name": self.name, "version": self.version, "inputs": self.inputs})
        except ValueError as error:
            raise ValueError(f"once({self.name!r}): inputs: {error}") from None
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def label(self) -> str:
        """The folder's name."""
        return f"{self.name}-{self.key[:16]}"

    @property
    def seed(self) -> int:
        """The seed of the build."""
        return int(self.key[:15], 16)


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """Where a build takes place."""

    folder: Path
    """What is written here becomes the artifact."""
    work: Path
    """Kept until the artifact is published: checkpoints that a later builder continues from."""
    seed: int
    owned: Callable[[], bool]
    """Whether this builder's claim still stands; ask before writing into `work`."""


@dataclass(frozen=True, slots=True)
class Solo:
    """One rank without peers."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Crew:
    """Who asks: the ranks of one trial attempt."""

    ranks: Ranked = field(default_factory=Solo)
    group: str = field(default_factory=lambda: uuid.uuid4().hex)
    """The same on all ranks, different for every attempt of every trial."""
    tick: Callable[[], None] = lambda: None
    """Called on every rank between looks at the folder; may raise on all of them, which ends the waiting."""
    pace: Pace = field(default_factory=Pace)


def once(store: Path, request: Request, build: Callable[[Site], None], crew: Crew | None = None) -> Path:
    """The folder of an artifact; built by exactly one crew, while the others wait.

    Collective over the ranks of the crew: rank 0 looks at the folder and all follow its verdict step by step, so that
    no rank is ever left waiting; every rank runs `build`, rank 0 publishes. A builder that falls silent is replaced;
    one that raises releases its claim, and the error leaves through all its ranks.

    Args:
        store: the shared folder.
        request: what is wanted.
        build: writes the artifact into `Site.folder`; runs under random state derived from the key.
        crew: who asks; None is one process.

    Raises:
        ValueError: the inputs are not JSON, or the build asks for itself.
    """
    crew = Crew() if crew is None else crew
    final = store / request.label
    desk = _Desk(final, crew)
    while True:
        verdict = int(agree([desk.look() if crew.ranks.rank == 0 else _WAIT], crew.ranks)[0])
        if verdict == _READY:
            return _checked(final, request)
        if verdict == _LOOP:
            raise ValueError(f"once({request.name!r}): its build asks for itself")
        if verdict == _MINE:
            return _built(final, request, build, desk)
        crew.tick()
        time.sleep(crew.pace.poll_s)


class _Desk:
    """Rank 0's dealings with the folder for one artifact."""

    def __init__(self, final: Path, crew: Crew) -> None:
        self.final, self.crew = final, crew
        self.path = final.with_name(f"{final.name}.claim")
        self.claim: Claim | None = None
        self._watch = Watch(self.path, crew.pace.stale_s)
        final.parent.mkdir(parents=True, exist_ok=True)

    def look(self) -> int:
        """Say whether the artifact is there, ours to build, or being built."""
        if self.final.is_dir():
            return _READY
        if read_claim(self.path).get("group") == self.crew.group:
            return _LOOP
        if not self._watch.take_over():
            return _WAIT
        self.claim = Claim.take(self.path, self.crew.group, self.crew.pace)
        if self.claim is None:
            return _WAIT
        if self.final.is_dir():  # published between the first look and the claim
            self.close()
            return _READY
        return _MINE

    def owned(self) -> bool:
        """Whether this process is the builder."""
        return self.claim is not None and self.claim.owned()

    def close(self) -> None:
        """Give the claim up."""
        if self.claim is not None:
            self.claim.release()
            self.claim = None


def _built(final: Path, request: Request, build: Callable[[Site], None], desk: _Desk) -> Path:
    """Build on all ranks, publish on rank 0."""
    crew = desk.crew
    tag = hashlib.sha256(crew.group.encode()).hexdigest()[:12]
    site = Site(
        folder=final.with_name(f"{final.name}.tmp-{tag}"),
        work=final.with_name(f"{final.name}.work"),
        seed=request.seed,
        owned=desk.owned,
    )
    try:
        _prepare(site, crew)
        started_s = time.monotonic()
        with rng.borrowed(request.seed, crew.ranks.device):
            build(site)
        total([1.0], crew.ranks)  # every rank has written its share
        if crew.ranks.rank == 0:
            _publish(final, request, site, time.monotonic() - started_s)
        agree([1.0], crew.ranks)
    finally:
        if crew.ranks.rank == 0:
            remove(site.folder)
            desk.close()
    return _checked(final, request)


def _prepare(site: Site, crew: Crew) -> None:
    """Make the build's folders, visible to every rank."""
    if crew.ranks.rank == 0:
        remove(site.folder)
        site.folder.mkdir()
        site.work.mkdir(exist_ok=True)
    agree([1.0], crew.ranks)
    wait_for(site.folder)


def _publish(final: Path, request: Request, site: Site, seconds: float) -> None:
    """Write the manifest and rename the folder; a twin that was faster had the same content, so ours is dropped."""
    manifest: dict[str, JsonValue] = {
        "name": request.name,
        "version": request.version,
        "inputs": request.inputs,
        "key": request.key,
        "seconds": round(seconds, 3),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_json(site.folder / "manifest.json", manifest)
    publish(site.folder, final)
    if site.owned():
        remove(site.work)


def _checked(final: Path, request: Request) -> Path:
    """The artifact's folder, its manifest compared with the request.

    Raises:
        ValueError: it is another artifact with the same 16 digits, or no artifact.
    """
    found = read_json(wait_for(final / "manifest.json")).get("key")
    if found != request.key:
        raise ValueError(f"{final}: holds the artifact with key {found!r}, wanted is {request.key!r}")
    return final


def sweep(store: Path, older_s: float = 86400.0) -> list[Path]:
    """Remove what killed builders left: files untouched for `older_s`, and work folders of published artifacts.

    Call it when a sweep starts. What belongs to a claim that was alive within `older_s` stays, and so do the work
    folders of unfinished artifacts, for they hold checkpoints.
    """
    removed = []
    horizon_s = time.time() - older_s
    for path in sorted(store.glob("*")):
        stem, _, ending = path.name.rpartition(".")
        leftover = ending in ("aside", "gone", "claim") or ending.startswith(("tmp-", "stale-"))
        superfluous = ending == "work" and (store / stem).is_dir()
        claimed = (store / f"{stem}.claim").exists() and _touched_s(store / f"{stem}.claim") > horizon_s
        if superfluous or (leftover and not claimed and _touched_s(path) < horizon_s):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
            removed.append(path)
    return removed


def _touched_s(path: Path) -> float:
    """When anything in `path` last changed, seconds since 1970."""
    times = [0.0]
    for entry in (path, *path.rglob("*")):
        with suppress(FileNotFoundError):  # its owner is alive and has just removed it
            times.append(entry.stat().st_mtime)
    return max(times)
