"""What happened to each trial, success or failure, as one JSON file each: the truth everything else is made from."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from orchestrator.errors import RecordError
from orchestrator.folder import SweepFolder

STATUSES = ("done", "stopped", "failed", "refused")
TEACHER = "teacher"


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialRecord:
    """One finished trial.

    `status` is one of: `done`; `stopped` (by the stop rule; its numbers are of a part of the training and never enter
    the front); `failed` (`reason` says why, `log` where); `refused` (over budget or impossible: never started).
    """

    trial: str
    """`t0007`, or `teacher`."""
    method: str
    sample: Mapping[str, Any]
    """What the search chose, without the method's name."""
    config: Mapping[str, Any]
    """The method's full configuration."""
    key: str
    """Canonical hash of method, configuration, task and teacher: equal keys are equal designs."""
    seed: int
    status: str
    reason: str = ""
    layout: Mapping[str, Any] | None = None
    costs: Mapping[str, float] = field(default_factory=dict)
    """`params`, `bytes`, `flops` of one forward pass at the task's length."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Final numbers: `score`, `score_se` on the half of dev the search sees, `held`, `held_se` on the other, ..."""
    attempts: int = 1
    started_s: float = 0.0
    """Unix time, s."""
    wall_s: float = 0.0
    model: str | None = None
    """The trained model's folder, relative to the sweep's."""
    log: str | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuses a status that is none of STATUSES."""
        if self.status not in STATUSES:
            raise RecordError(f"record of {self.trial}: status {self.status!r}; allowed: {', '.join(STATUSES)}")


def write_text(path: Path, text: str) -> None:
    """Writes a file aside and renames it, so that no reader and no crash ever sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with aside.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    aside.replace(path)


def write(folder: SweepFolder, record: TrialRecord) -> None:
    """Stores a record; a record of the same trial is replaced."""
    write_text(folder.record(record.trial), json.dumps(asdict(record), indent=1, sort_keys=True) + "\n")


def read_one(path: Path) -> TrialRecord:
    """Reads one record.

    Raises:
        RecordError: the file is not a record; the message names it and says what is wrong.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise RecordError(f"{path}: not a readable record: {error}") from error
    if not isinstance(values, dict):
        raise RecordError(f"{path}: a record is a JSON object, found {type(values).__name__}")
    names = {item.name for item in fields(TrialRecord)}
    required = {"trial", "method", "sample", "config", "key", "seed", "status"}
    if unknown := sorted(set(values) - names):
        raise RecordError(f"{path}: unknown key {unknown[0]!r}; allowed: {', '.join(sorted(names))}")
    if missing := sorted(required - set(values)):
        raise RecordError(f"{path}: key {missing[0]!r} is missing")
    return TrialRecord(**values)


def read(folder: SweepFolder) -> list[TrialRecord]:
    """All records of a sweep, by trial name, the teacher's first."""
    paths = (folder.path / "records").glob("*.json")
    records = [read_one(path) for path in sorted(paths) if not path.name.startswith(".")]
    return sorted(records, key=lambda record: (record.trial != TEACHER, record.trial))
