"""What a trial took in drivers that did not see its end, so that its record covers all of them.

A driver that is stopped in good order writes down what its running trials took. One that is killed cannot; the next one
reads it from the status file, whose last second is the dead driver's, and from the last report in a trial's history,
which is newer where the driver died between two beats.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator.jsonl import mend


@dataclass(frozen=True, kw_only=True, slots=True)
class Life:
    """A trial in one driver, or in several together."""

    began_s: float
    """Unix time, s."""
    seconds: float
    attempts: int


class Lives:
    """The lives of trials that are to go on, one JSON line each."""

    def __init__(self, path: Path) -> None:
        """Reads what earlier drivers left."""
        self._path = path
        self._lives: dict[str, dict[float, Life]] = {}
        for line in mend(path).splitlines():
            values = json.loads(line)
            trial = values.pop("trial")
            self._lives.setdefault(trial, {})[values["began_s"]] = Life(**values)

    def take_up(self, status: Mapping[str, Any], reports: Mapping[str, Mapping[str, Any]]) -> None:
        """Ends the lives of the trials that a dead driver left, at the last second that is known of each.

        Args:
            status: Its status file: which trials run.
            reports: The last report of each trial that has no record; newer where the driver died between two beats.
        """
        ends = [
            (item["trial"], item["since_s"], status["updated_s"], item["attempt"]) for item in status.get("running", ())
        ]
        ends += [(trial, last["began_s"], last["time_s"], last["attempts"]) for trial, last in reports.items()]
        for trial, began_s, ended_s, attempts in sorted(ends, key=lambda end: end[2], reverse=True):
            self.add(trial, Life(began_s=began_s, seconds=max(0.0, ended_s - began_s), attempts=attempts))

    def add(self, trial: str, life: Life) -> None:
        """Writes a life down, once."""
        known = self._lives.setdefault(trial, {})
        if life.began_s in known:
            return
        known[life.began_s] = life
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"trial": trial, **asdict(life)}) + "\n")

    def whole(self, trial: str, last: Life) -> Life:
        """All lives of a trial as one, from its first start; the time between two drivers counts for nothing."""
        lives = [*self._lives.get(trial, {}).values(), last]
        return Life(
            began_s=min(life.began_s for life in lives),
            seconds=sum(life.seconds for life in lives),
            attempts=sum(life.attempts for life in lives),
        )
