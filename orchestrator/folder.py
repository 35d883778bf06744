"""The one place that knows the file names of a sweep.

<root>/                        ./sweeps, or DISTILSWEEP_HOME, or --folder
  store/                       what trials share, by content (the teacher, importance scores, tokenised data)
  mlflow.db, mlartifacts/      the default tracking store
  <name>/
    spec.yaml, plan.json       what was asked for, resolved
    study.db                   the Optuna study
    records/<trial>.json       one record per finished trial: the truth
    history/<trial>.jsonl      every report of a trial, one a line
    lives.jsonl                what trials took in drivers that did not see their end
    trials/<trial>/            model/ is the trained student; until it is, the checkpoints of its stages
    logs/                      the driver's and the trials' logs
    status.json                what is happening now, rewritten every second
    report.html, report.md, export/
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import SpecError

SLUG = re.compile(r"[a-z0-9][a-z0-9._-]{0,79}")


def default_root() -> Path:
    """The folder of all sweeps: `$DISTILSWEEP_HOME`, else `sweeps` in the working directory."""
    return Path(os.environ.get("DISTILSWEEP_HOME", "sweeps"))


def existing(path: Path) -> Path:
    """Returns the path, or the nearest folder above it that exists."""
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.exists())


@dataclass(frozen=True, slots=True)
class SweepFolder:
    """The paths of one sweep. Nothing is created by asking for a path.

    Raises:
        SpecError: the name could leave the root (only lower-case letters, digits, `.`, `_`, `-`; no leading dot).
    """

    root: Path
    name: str

    def __post_init__(self) -> None:
        """Refuses a name that is not a plain folder name."""
        if not SLUG.fullmatch(self.name):
            allowed = "1 to 80 of a-z, 0-9, '.', '_', '-', starting with a letter or digit"
            raise SpecError([f"name: {self.name!r} is not a sweep's name; allowed: {allowed}"])

    @property
    def path(self) -> Path:
        """The folder of this sweep."""
        return self.root / self.name

    @property
    def store(self) -> Path:
        """What trials share, by content; common to all sweeps of one root."""
        return self.root / "store"

    def file(self, name: str) -> Path:
        """A file of fixed name in the sweep folder, e.g. `spec.yaml`, `study.db`, `status.json`, `report.html`."""
        return self.path / name

    def record(self, trial: str) -> Path:
        """The record of one finished trial."""
        return self.path / "records" / f"{trial}.json"

    def history(self, trial: str) -> Path:
        """Every report of one trial, one JSON object a line."""
        return self.path / "history" / f"{trial}.jsonl"

    def trial(self, trial: str) -> Path:
        """One trial's final model in `model/`, and as long as it may go on the checkpoints in `stages/`."""
        return self.path / "trials" / trial

    def log(self, name: str) -> Path:
        """A log file."""
        return self.path / "logs" / f"{name}.log"
