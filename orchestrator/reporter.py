"""Keeps the report of a running sweep up to date."""

import time
from collections.abc import Mapping
from typing import Any

from orchestrator.folder import SweepFolder
from orchestrator.plan import Design, Plan
from orchestrator.records import TEACHER, TrialRecord, read
from orchestrator.report import write_report


class Reporter:
    """Watches a sweep and writes its report, now and then while it runs and once at its end.

    It stands before whoever keeps the report, such as the tracker.
    """

    def __init__(self, folder: SweepFolder, *, every_s: float = 30.0) -> None:
        """Prepares; the first report is written when the first trial has ended."""
        self._folder = folder
        self._every_s = every_s
        self._plan: Mapping[str, Any] = {}
        self._records: dict[str, TrialRecord] = {}
        self._next_s = 0.0

    def on_start(self, plan: Plan) -> None:
        """Takes up what an earlier run left."""
        self._plan = plan.to_json()
        self._records = {record.trial: record for record in read(self._folder)}

    def on_trial(self, trial: str, design: Design) -> None:
        """Nothing: the report is about trials that ended."""

    def on_report(self, trial: str, step: int, metrics: Mapping[str, float]) -> None:
        """Nothing: the report is about trials that ended."""

    def on_building(self, trial: str, name: str, step: int, metrics: Mapping[str, float]) -> None:
        """Nothing: the report is about trials that ended."""

    def on_record(self, record: TrialRecord) -> None:
        """Writes the report again, but spends on it no more than a fiftieth of the time."""
        self._records[record.trial] = record
        if time.monotonic() >= self._next_s:
            began_s = time.monotonic()
            self._write()
            self._next_s = time.monotonic() + max(self._every_s, 50 * (time.monotonic() - began_s))

    def on_end(self, result: object) -> None:
        """Writes the report for good."""
        self._write()

    def _write(self) -> None:
        records = sorted(self._records.values(), key=lambda record: (record.trial != TEACHER, record.trial))
        write_report(self._folder, self._plan, records)
