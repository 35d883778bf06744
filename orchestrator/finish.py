"""A sweep from start to finish: run it, write the report, pick and export the winner, say what is next."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from methods.parts.checkpoint import load
from methods.parts.run import LocalRun
from methods.parts.tasks import open_task
from orchestrator import records as trial_records
from orchestrator.changes import settle, stored_plan
from orchestrator.courier import Tracker
from orchestrator.errors import SpecError
from orchestrator.export import export
from orchestrator.findings import commands, findings
from orchestrator.folder import SweepFolder
from orchestrator.front import best_within
from orchestrator.job import measure
from orchestrator.ledger import Watcher
from orchestrator.plan import Plan
from orchestrator.progress import Progress
from orchestrator.records import TrialRecord
from orchestrator.report import write_report
from orchestrator.reporter import Reporter
from orchestrator.sweep import SweepResult, run_sweep
from orchestrator.spool import Destination

NO_WINNER = 3
"""Exit code of a sweep that ended without a model within its budget."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """What a run of the command left behind."""

    name: str
    result: SweepResult
    report: Path
    winner: TrialRecord | None
    exported: Path | None
    next: tuple[tuple[str, str], ...]

    @property
    def exit_code(self) -> int:
        """0; 3 if there is no model within the budget."""
        return 0 if self.winner else NO_WINNER

    def to_json(self) -> dict[str, Any]:
        """The same for machines."""
        return {
            "name": self.name,
            "state": self.result.status,
            "winner": self.winner.trial if self.winner else None,
            "report": str(self.report),
            "export": str(self.exported) if self.exported else None,
        }

    def lines(self) -> list[str]:
        """The same for people."""
        winner = (
            f"winner: {self.winner.trial}, exported to {self.exported}" if self.winner else "no model fits the budget"
        )
        return [f"report: {self.report}", winner, "next:", *(f"  {command}    {what}" for command, what in self.next)]


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
    following = tuple(commands(findings(plan.to_json(), found)))
    return Ended(name=folder.name, result=result, report=html, winner=winner, exported=exported, next=following)


def measure_again(folder: SweepFolder, record: TrialRecord) -> dict[str, float]:
    """Evaluates a stored model in this process.

    Raises:
        SpecError: the trial has no model.
    """
    if record.model is None:
        raise SpecError([f"{record.trial}: no model is stored for it (status {record.status})"])
    task = {key: value for key, value in stored_plan(folder)["spec"]["task"].items() if value is not None}
    model = folder.path / record.model
    run = LocalRun(folder.path, store=folder.store)
    return measure(load(model), open_task(**task), model, run)
