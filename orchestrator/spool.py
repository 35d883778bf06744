"""What is still to be told to a tracking server, as lines of a file: written first, delivered later, never lost.

Every event of a sweep is appended here before anything else happens to it. A reader delivers events in order and notes
how far it came; after a crash or an outage it goes on from there, and a new destination gets the whole sweep. A metric
that was already written for its trial and step is not written again, so a resumed trial that repeats its last steps
leaves no doubles.
"""

import fcntl
import hashlib
import json
import re
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator.folder import SweepFolder
from orchestrator.jsonl import mend
from orchestrator.records import write_text

Event = Mapping[str, Any]
"""`kind` is `sweep` (the first line), `start`, `trial`, `metrics`, `record` or `end`; `at` is its time in ms."""


class Spool:
    """An append-only file of JSON lines with one writing process and any number of readers."""

    def __init__(self, path: Path) -> None:
        """Opens the file for appending; a line torn by a crash is cut off."""
        self._lock = threading.Lock()
        self._logged: dict[str, set[tuple[str, int]]] = {}
        self.recorded: set[str] = set()
        """Trials whose end was written."""
        path.parent.mkdir(parents=True, exist_ok=True)
        mend(path)
        self._stream = path.open("ab")
        events, _ = read(path, 0)
        for event in events:
            self._note(event)
        if not events:
            self.append({"kind": "sweep", "id": uuid.uuid4().hex})

    def append(self, event: Event) -> None:
        """Adds one event; from here on it survives the death of this process."""
        line = json.dumps(event, separators=(",", ":")).encode() + b"\n"
        with self._lock:
            self._stream.write(line)
            self._stream.flush()
            self._note(event)

    def unlogged(self, trial: str, step: int, metrics: Mapping[str, float]) -> dict[str, float]:
        """Those of a trial's metrics that were not yet written for this step."""
        logged = self._logged.get(trial, set())
        return {name: float(number) for name, number in metrics.items() if (name, step) not in logged}

    def close(self) -> None:
        """Closes the file; further events are refused with a ValueError."""
        self._stream.close()

    def _note(self, event: Event) -> None:
        if event["kind"] == "metrics":
            names = self._logged.setdefault(event["trial"], set())
            names.update((name, event["step"]) for name in event["metrics"])
        elif event["kind"] == "record":
            self.recorded.add(event["record"]["trial"])


def read(path: Path, start: int, limit: int | None = None, end: int | None = None) -> tuple[list[Event], int]:
    """The complete events from byte `start` on, at most `limit`, none from `end` on; and the offset behind them."""
    events: list[Event] = []
    with path.open("rb") as stream:
        stream.seek(start)
        for line in stream:
            if not line.endswith(b"\n") or len(events) == limit or (end is not None and start >= end):
                break
            events.append(json.loads(line))
            start += len(line)
    return events, start


def sweep_id(path: Path) -> str:
    """What tells this sweep from another of the same name on the same server."""
    return str(read(path, 0, 1)[0][0]["id"])


@contextmanager
def alone(path: Path, *, wait: bool) -> Iterator[None]:
    """Holds a lock file, so that one process at a time delivers.

    Raises:
        BlockingIOError: another process holds it, and `wait` is false.
    """
    with path.open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield


@dataclass(frozen=True, kw_only=True, slots=True)
class Destination:
    """Where a sweep is tracked."""

    uri: str
    experiment: str
    artifacts: Path | None = None
    """Folder of the artifacts where no server decides it."""

    @classmethod
    def of(cls, folder: SweepFolder, uri: str | None = None, experiment: str | None = None) -> "Destination":
        """The given server and experiment; by default a SQLite file in the root, an experiment of the sweep's name."""
        name = experiment or folder.name
        if uri and not uri.startswith("sqlite:"):
            return cls(uri=uri, experiment=name)
        root = folder.root.resolve()
        place = hashlib.sha256(name.encode()).hexdigest()[:12]  # an experiment's name may be any text
        return cls(
            uri=uri or f"sqlite:///{root / 'mlflow.db'}", experiment=name, artifacts=root / "mlartifacts" / place
        )

    @property
    def is_server(self) -> bool:
        """Whether a server answers there, so that none has to be started to look at it."""
        return self.uri.startswith(("http://", "https://", "databricks"))

    def digest(self) -> str:
        """A hash to recognise the destination by."""
        return hashlib.sha256(f"{self.uri} {self.experiment}".encode()).hexdigest()[:16]

    def __str__(self) -> str:
        """The address without a user's name and password."""
        return redacted(self.uri)


def redacted(text: object) -> str:
    """A text without the names and passwords of the addresses in it."""
    return re.sub(r"//[^/@\s]*@", "//", str(text))


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivered:
    """How far a destination has been told."""

    destination: str
    """A hash: addresses may hold passwords."""
    offset: int
    """Bytes of the spool that have arrived."""


def load(path: Path) -> Delivered:
    """The note of the last delivery; if there is none that can be read, everything is to be delivered."""
    try:
        return Delivered(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return Delivered(destination="", offset=0)


def save(path: Path, delivered: Delivered) -> None:
    """Replaces the note."""
    write_text(path, json.dumps(asdict(delivered)))
