"""What can go wrong, as a small tree that callers catch at the width they mean.

SweepError                     anything distilsweep reports in words
  SpecError                    a sweep, cluster or data file is wrong; carries every problem found
  PlanError                    the files are right, but what they ask for cannot be run
  RecordError                  a stored record or folder cannot be read
  TrialError                   a trial failed; carries the trial and the path of its log
"""

from collections.abc import Sequence
from pathlib import Path

INTERRUPTED = 130
"""Exit code of what was interrupted and is to go on later; a shell's for Ctrl-C."""


class SweepError(Exception):
    """A failure that is told in one clear line; the command line shows no traceback for it."""

    exit_code = 1

    def lines(self) -> list[str]:
        """What to print, one problem a line."""
        return [str(self)]


class SpecError(SweepError):
    """A file is wrong: every problem found in it, each one line with file, line, key, value and what is allowed."""

    exit_code = 2

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)

    def lines(self) -> list[str]:
        """The problems, in the order of the file."""
        return list(self.problems)


class PlanError(SweepError):
    """What the files ask for cannot be run here: too large, contradictory, or without any feasible design."""

    exit_code = 2


class RecordError(SweepError):
    """A record, plan or folder of an earlier run cannot be read."""


class TrialError(SweepError):
    """A trial failed for a reason that concerns the whole sweep."""

    def __init__(self, trial: str, reason: str, log: Path | None = None) -> None:
        super().__init__(f"{trial}: {reason}" + (f" (log: {log})" if log else ""))
        self.trial = trial
        self.log = log
