"""What a trial took in drivers that did not see its end, so that its record covers all of them.

A driver that is stopped in good order writes down what its running trials took. One that is killed cannot; the next one
reads it from the status file, whose last second is the dead driver's.
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

    def take_up(self, status: Mapping[str, Any]) -> None:
        """Ends the lives of the trials that a dead driver's status file shows running, at its last second."""
        for item in status.get("running", ()):
            seconds = max(0.0, status["updated_s"] - item["since_s"])
            self.add(item["trial"], Life(began_s=item["since_s"], seconds=seconds, attempts=item["attempt"]))

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
