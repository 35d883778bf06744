"""Who builds a shared artifact: a claim file kept alive by a heartbeat, and taken over when it falls silent.

No lock server and no comparison of clocks between machines: the builder rewrites its claim every few seconds, and a
waiter calls it stale when the content has not changed for a while by the waiter's own monotonic clock. The claim only
avoids double work; that a reader never sees half an artifact, or two, is the doing of the rename in
`methods.parts.store`.
"""

import errno
import json
import os
import threading
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Self


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """Intervals of claiming and waiting; on a network folder `stale_s` should be 30 or more, for its cache lags."""

    poll_s: float = 0.1
    """Between two looks of a waiter."""
    beat_s: float = 5.0
    """Between two signs of life of a builder."""
    stale_s: float = 30.0
    """Silence after which a builder counts as dead."""


class Claim:
    """The right to build, while its heartbeat lasts; made by `Claim.take`."""

    def __init__(self, path: Path, group: str, pace: Pace) -> None:
        self.path, self._group, self._pace = path, group, pace
        self._token = uuid.uuid4().hex
        self._count = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"claim {path.name}", daemon=True)

    @classmethod
    def take(cls, path: Path, group: str, pace: Pace) -> Self | None:
        """Claim `path` and start the heartbeat; None if somebody holds it."""
        claim = cls(path, group, pace)
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            return None
        with os.fdopen(descriptor, "wb") as file:
            file.write(claim._content())
        claim._thread.start()
        return claim

    def owned(self) -> bool:
        """Whether the claim is still this one, read afresh."""
        return str(read_claim(self.path).get("token", "")) == self._token

    def release(self) -> None:
        """Stop the heartbeat and remove the claim, unless somebody took it over."""
        self._stop.set()
        self._thread.join()
        if self.owned():
            self.path.unlink(missing_ok=True)

    def _beat(self) -> None:
        """Rewrite the claim until released or taken over. A failed write is retried at the next beat."""
        aside = self.path.with_name(f"{self.path.name}.{self._token}.aside")
        while not self._stop.wait(self._pace.beat_s):
            self._count += 1
            try:
                if not self.owned():
                    return
                aside.write_bytes(self._content())
                aside.replace(self.path)
            except OSError:
                continue

    def _content(self) -> bytes:
        return json.dumps({"token": self._token, "beat": self._count, "group": self._group}).encode()


class Watch:
    """A waiter's view of somebody else's claim."""

    def __init__(self, path: Path, stale_s: float) -> None:
        self._path, self._stale_s = path, stale_s
        self._content: bytes | None = None
        self._since_s = time.monotonic()

    def take_over(self) -> bool:
        """Remove the claim if it has been silent too long; true if it is gone."""
        content = _bytes(self._path)
        if content is None:
            return True
        if content != self._content:
            self._content, self._since_s = content, time.monotonic()
        if time.monotonic() - self._since_s < self._stale_s:
            return False
        return _remove_if(self._path, content)


def read_claim(path: Path) -> dict[str, object]:
    """The content of a claim; empty if there is none, or its builder died while writing it."""
    try:
        content = json.loads(_bytes(path) or b"{}")
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _bytes(path: Path) -> bytes | None:
    """The content, None if there is no file. Asks twice where a network folder lost the file to its replacement."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno != errno.ESTALE:
            raise
    time.sleep(0.1)
    return path.read_bytes() if path.exists() else None


def _remove_if(path: Path, judged: bytes) -> bool:
    """Rename a claim away, and put it back should it turn out to have spoken since it was judged."""
    aside = path.with_name(f"{path.name}.stale-{uuid.uuid4().hex}")
    try:
        path.rename(aside)
    except FileNotFoundError:
        return True
    alive = aside.read_bytes() != judged
    if alive:
        try:
            os.link(aside, path)
        except OSError:  # claimed by a third meanwhile, or no links on this disk: the builder sees that it lost
            alive = False
    aside.unlink(missing_ok=True)
    return not alive
