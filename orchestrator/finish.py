"""A sweep from start to finish: run it, write the report, pick and export the winner, say what is next."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from methods.parts.files import read_json
from orchestrator import figures
from orchestrator import records as trial_records
from orchestrator.changes import settle
from orchestrator.courier import Tracker
from orchestrator.errors import INTERRUPTED
from orchestrator.export import export
from orchestrator.findings import Findings, commands, findings
from orchestrator.folder import SweepFolder
from orchestrator.front import best_within, value
from orchestrator.ledger import Watcher
from orchestrator.plan import Plan
from orchestrator.progress import Progress
from orchestrator.records import TrialRecord
from orchestrator.report import write_report
from orchestrator.reporter import Reporter
from orchestrator.spool import Destination
from orchestrator.sweep import SweepResult, run_sweep

NO_WINNER = 3
"""Exit code of a sweep that ended without a model within its budget."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """What a run of the command left behind."""

    folder: SweepFolder
    result: SweepResult
    found: Findings
    report: Path
    winner: TrialRecord | None
    exported: Path | None

    @property
    def exit_code(self) -> int:
        """0; 3 if there is no model within the budget; 130 if the sweep is to go on."""
        if self.result.status == "stopped":
            return INTERRUPTED
        return 0 if self.winner else NO_WINNER

    def to_json(self) -> dict[str, Any]:
        """The same for machines."""
        return {
            "name": self.folder.name,
            "status": self.result.status,
            "reason": self.result.reason,
            "winner": self.winner.trial if self.winner else None,
            "front": [record.trial for record in self.found.front()],
            "report": str(self.report),
            "export": str(self.exported) if self.exported else None,
        }

    def lines(self) -> list[str]:
        """The same for people: state, teacher, trials, report, winner, what to do next."""
        result, winner = self.result, self.winner
        names = [command for command, _ in commands(self.found)]
        width = max(map(len, names))
        return [
            f"{self.folder.name}: {result.status} in {figures.duration(result.wall_s)}: {result.reason}",
            *teacher_lines(self.found.teacher),
            "",
            *trial_table(self.found),
            "",
            f"report: {self.report}",
            f"winner: {winner.trial}, exported to {self.exported}" if winner else self._no_winner(),
            *(f"  {command:{width}}  {what}" for command, what in commands(self.found)),
        ]

    def _no_winner(self) -> str:
        again = "; the same command goes on" if self.result.status == "stopped" else ""
        finished = any(record.status == "done" for record in self.found.trials)
        return f"{'no model fits the budget' if finished else 'no trial has finished'}{again}"


def teacher_lines(teacher: TrialRecord | None) -> list[str]:
    """Where the teacher is stored, what it took, how good it is."""
    if teacher is None:
        return []
    manifest = Path(teacher.notes.get("stored", "")).parent / "manifest.json"
    took = f", trained once in {figures.duration(read_json(manifest)['seconds'])}" if manifest.is_file() else ""
    return [f"teacher: {figures.scored(teacher, 'score')}{took} ({manifest.parent})"]


def trial_table(found: Findings) -> list[str]:
    """The trials in aligned columns, smallest first, those on the front with a star."""
    best = {record.trial for record in found.front()}
    head = ("", "trial", "architecture", "parameters", f"{found.metric} (2 SE)", "other half", "status")
    trials = [record for record in found.trials if record.status != "refused"]
    rows = [
        (
            "*" if record.trial in best else "",
            record.trial,
            figures.shape(record.layout),
            figures.count(value(record, "params")),
            figures.scored(record, "score"),
            figures.score(record.metrics.get("held")),
            record.status,
        )
        for record in sorted(trials, key=lambda record: value(record, "params"))
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (head, *rows)
    ]


def run_to_the_end(plan: Plan, folder: SweepFolder, *, accept_changes: bool, quiet: bool) -> Ended:
    """Runs or continues a sweep, then makes everything that is made from its records."""
    settle(folder, plan, accept=accept_changes)
    tracking = plan.spec.tracking
    tracker = Tracker(folder, Destination.of(folder, tracking.uri, tracking.experiment))
    watchers: list[Watcher] = [Reporter(folder), tracker]  # in this order: MLflow gets the report that was just written
    if not quiet:
        watchers.append(Progress(known=lambda: trial_records.read(folder)))
    result = run_sweep(plan, folder, watchers)
    found = trial_records.read(folder)
    html, _ = write_report(folder, plan.to_json(), found)
    winner = best_within(found, plan.spec.budget)
    exported = export(folder, winner).path if winner else None
    return Ended(
        folder=folder,
        result=result,
        found=findings(plan.to_json(), found),
        report=html,
        winner=winner,
        exported=exported,
    )
