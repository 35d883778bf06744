"""Work that several trials need is done once: a content-addressed store on a plain folder.

    <store>/teacher-0f3a.../           the artifact with its manifest.json; appears by one rename, whole
    <store>/teacher-0f3a....claim      who builds it now (methods.parts.claims)
    <store>/teacher-0f3a....work/      the build's own stages, kept for whoever takes over a dead builder
    <store>/teacher-0f3a....tmp-.../   what a builder writes before the rename

The key is a hash of name, version and inputs, and the build's random state comes from the key: whoever builds gets
the same content, and builder and reader trials give the same numbers.
"""

import errno
import hashlib
import logging
import os
import shutil
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from methods.parts import rng
from methods.parts.claims import Claim, Watch, read_claim
from methods.parts.files import JsonValue, publish, read_json, remove, wait_for, write_json
from methods.parts.reduce import agree, total
from methods.parts.request import Crew, Request, Site, Solo

__all__ = ["Crew", "Request", "Site", "Solo", "find", "once", "sweep"]

log = logging.getLogger(__name__)

_READY, _MINE, _WAIT, _LOOP = range(4)


def once(
    store: Path,
    request: Request,
    build: Callable[[Site], None],
    crew: Crew | None = None,
    *,
    check: Callable[[Path], None] | None = None,
) -> Path:
    """The folder of an artifact; built by exactly one crew, while the others wait.

    Collective over the ranks of the crew: rank 0 looks at the folder and all follow its verdict step by step, so that
    no rank is ever left waiting; every rank runs `build`, rank 0 publishes. A builder that falls silent is replaced;
    one that raises releases its claim, and the error leaves through all its ranks.

    Args:
        store: the shared folder.
        request: what is wanted.
        build: writes the artifact into `Site.folder`; runs under random state derived from the key.
        crew: who asks; None is one process.
        check: called by rank 0 with an artifact that is there already; where it raises ValueError the artifact is put
            aside and built anew.

    Raises:
        ValueError: the inputs are not JSON, or the build asks for itself.
    """
    crew = Crew() if crew is None else crew
    final = store / request.label
    desk = _Desk(final, crew, check)
    while True:
        verdict = _led(desk.look, crew)
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

    def __init__(self, final: Path, crew: Crew, check: Callable[[Path], None] | None) -> None:
        self.final, self.crew, self._check = final, crew, check
        self._judged: tuple[int, bool] = (0, False)
        self.path = final.with_name(f"{final.name}.claim")
        self.claim: Claim | None = None
        self._watch = Watch(self.path, crew.pace.stale_s)
        final.parent.mkdir(parents=True, exist_ok=True)

    def look(self) -> int:
        """Say whether the artifact is there, ours to build, or being built."""
        if self._sound():
            return _READY
        if read_claim(self.path).get("group") == self.crew.group:
            return _LOOP
        if not self._watch.take_over():
            return _WAIT
        try:
            self.claim = Claim.take(self.path, self.crew.group, self.crew.pace)
        except OSError:  # no room for its content: an empty claim would keep others waiting
            self.path.unlink(missing_ok=True)
            raise
        if self.claim is None:
            return _WAIT
        if self._sound():  # published between the first look and the claim
            self.close()
            return _READY
        if self.final.is_dir():  # whoever has it open keeps what is there; sweep() removes it in time
            self.final.rename(self.final.with_name(f"{self.final.name}.{uuid.uuid4().hex}.aside"))
        return _MINE

    def _sound(self) -> bool:
        """Whether the artifact is there and stands the check, which each artifact is put to once."""
        if not self.final.is_dir():
            return False
        if self._check is None:
            return True
        if self._judged[0] != (number := self.final.stat().st_ino):
            try:
                self._check(self.final)
                self._judged = number, True
            except ValueError as error:
                log.warning("%s: put aside and built anew: %s", self.final.name, error)
                self._judged = number, False
        return self._judged[1]

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
        _led(lambda: _prepare(site), crew)
        wait_for(site.folder)
        total([1.0], crew.ranks)  # a build that fails at once removes the folder: not before every rank has seen it
        started_s = time.monotonic()
        with rng.borrowed(request.seed, crew.ranks.device):
            build(site)
        total([1.0], crew.ranks)  # every rank has written its share
        _led(lambda: _publish(final, request, site, time.monotonic() - started_s), crew)
    finally:
        if crew.ranks.rank == 0:
            remove(site.folder)
            desk.close()
    return _checked(final, request)


def _led(work: Callable[[], int], crew: Crew) -> int:
    """What `work` gives on rank 0, on every rank; an OSError there (a full disk) is raised on every rank too."""
    found, code, caught = 0, 0, None
    if crew.ranks.rank == 0:
        try:
            found = work()
        except OSError as error:
            caught, code = error, error.errno or errno.EIO
    found, code = (int(value) for value in agree([found, code], crew.ranks))
    if code:
        raise caught or OSError(code, f"rank 0: {os.strerror(code)}")
    return found


def _prepare(site: Site) -> int:
    """Make the build's folders."""
    remove(site.folder)
    site.folder.mkdir()
    site.work.mkdir(exist_ok=True)
    return _MINE


def _publish(final: Path, request: Request, site: Site, seconds: float) -> int:
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
    return _READY


def _checked(final: Path, request: Request) -> Path:
    """The artifact's folder, its manifest compared with the request.

    Raises:
        ValueError: it is another artifact with the same 16 digits, or no artifact.
    """
    found = read_json(wait_for(final / "manifest.json")).get("key")
    if found != request.key:
        raise ValueError(f"{final}: holds the artifact with key {found!r}, wanted is {request.key!r}")
    return final


def find(store: Path, name: str, accept: Callable[[Mapping[str, JsonValue]], bool]) -> Path | None:
    """The first published artifact of that name, by label, whose inputs are accepted; for one process."""
    for manifest in sorted(store.glob(f"{name}-*/manifest.json")):
        if "." in manifest.parent.name:  # still being built, or put aside
            continue
        with suppress(OSError, ValueError):  # put aside just now, or not ours
            found = read_json(manifest)
            if found["name"] == name and accept(found["inputs"]):
                return manifest.parent
    return None


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
