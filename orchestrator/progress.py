"""What a sweep is doing now: a live table in a terminal, one line per event anywhere else.

Nothing here can end a sweep: an error of the display is logged once and the display goes quiet.
"""

import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from orchestrator import figures
from orchestrator.findings import fits
from orchestrator.front import front
from orchestrator.plan import Design, Plan
from orchestrator.records import TEACHER, TrialRecord

log = logging.getLogger(__name__)

LINES_EVERY_S = 10.0
"""Without a terminal, pause between two lines about the reports of one trial."""
FAILURES = 3
"""Failures shown with their reasons, the latest."""
POINTS = 8
"""Models of the front shown, the largest."""


@dataclass(slots=True)
class Running:
    """A trial that runs."""

    shape: str
    params: float
    since_s: float
    step: str = "-"
    """The newest report's, after the name of a stage before the last."""
    score: float | None = None
    told_s: float = 0.0


class Board:
    """The state of a sweep as far as it is shown."""

    def __init__(self, plan: Plan, known: Iterable[TrialRecord] = ()) -> None:
        """Begins with nothing running, and with what an earlier run of the sweep left."""
        self.plan = plan
        self.since_s = time.monotonic()
        self.running: dict[str, Running] = {}
        self.records: dict[str, TrialRecord] = {}
        self.points: list[TrialRecord] = []
        """The front so far, smallest first."""
        self.over = False
        """Whether the sweep has ended, finished or not."""
        for record in known:
            self.end(record)

    def end(self, record: TrialRecord) -> None:
        """Takes a record in; what one record once dominated stays dominated, so the front grows from itself."""
        self.running.pop(record.trial, None)
        self.records[record.trial] = record
        if fits(record, self.plan.spec.budget):
            self.points = front([*self.points, record], self.plan.spec.objectives)

    def to_come(self) -> int:
        """Planned trials that have neither run nor started."""
        counted = [trial for trial, record in self.records.items() if record.status != "refused"]
        started = {*counted, *self.running} - {TEACHER}
        return max(0, self.plan.spec.search.trials - len(started))

    def counts(self) -> str:
        """How many trials are in which state, and why some wait."""
        tally = Counter(record.status for trial, record in self.records.items() if trial != TEACHER)
        parts = [f"{tally[status]} {status}" for status in ("done", "stopped", "failed", "refused") if tally[status]]
        running = len(self.running.keys() - {TEACHER})
        parts += [f"{running} running"] if running else []
        if waiting := self.to_come():
            parts.append(f"{waiting} not run" if self.over else f"{waiting} waiting ({self._why()})")
        return ", ".join(parts)

    def left_s(self) -> float | None:
        """Seconds until the end, guessed from the trials that ended; None before the first."""
        walls = [r.wall_s for r in self.records.values() if r.trial != TEACHER and r.status != "refused" and r.wall_s]
        if not walls:
            return None
        mean = sum(walls) / len(walls)
        now = time.monotonic()
        open_s = sum(max(0.0, mean - (now - trial.since_s)) for trial in self.running.values())
        return (open_s + mean * self.to_come()) / max(1, self.plan.slots)

    def _why(self) -> str:
        if TEACHER not in self.records and not self.running.keys() - {TEACHER}:
            return "for the teacher"
        if len(self.running) >= self.plan.slots:
            return f"all {self.plan.slots} slots busy" if self.plan.slots > 1 else "the one slot is busy"
        return "for the search"


class Progress:
    """Shows a sweep while it runs."""

    def __init__(
        self,
        console: Console | None = None,
        *,
        plain: bool | None = None,
        known: Callable[[], Iterable[TrialRecord]] = tuple,
    ) -> None:
        """Prepares; nothing is shown before the sweep starts.

        Args:
            console: Where to write; standard error by default, which leaves standard output to the results.
            plain: One line per event instead of a table; by default without a terminal, or with `NO_COLOR` or `CI`.
            known: Gives the records of earlier runs of the sweep.
        """
        self._console = console or Console(stderr=True)
        forced = "NO_COLOR" in os.environ or "CI" in os.environ
        self._plain = plain if plain is not None else forced or not self._console.is_terminal
        self._board: Board | None = None
        self._live: Live | None = None
        self._failed = False
        self._known = known

    def on_start(self, plan: Plan) -> None:
        """Starts the display."""
        with self._harmless():
            self._board = Board(plan, self._known())
            if self._plain:
                self._say(f"{plan.spec.name}: {plan.spec.search.trials} trials on {plan.slots} slots")
            else:
                self._live = Live(self, console=self._console, refresh_per_second=2, vertical_overflow="ellipsis")
                self._live.start()

    def on_trial(self, trial: str, design: Design) -> None:
        """Shows a trial that starts."""
        with self._harmless():
            shape = figures.shape(design.layout.to_json())
            params = design.costs.get("params", 0.0)
            assert self._board is not None, "a sweep starts before its trials"
            self._board.running[trial] = Running(shape, params, time.monotonic())
            self._say(f"{trial} started: {design.method}, {shape}, {figures.count(params)} parameters")

    def on_report(self, trial: str, step: int, metrics: Mapping[str, float]) -> None:
        """Shows the newest numbers of a running trial."""
        with self._harmless():
            running = self._board.running.get(trial) if self._board else None
            if running is None:
                return
            stage = next((name.rpartition("/")[0] + " " for name in metrics if "/" in name), "")
            running.step, running.score = f"{stage}{step}", metrics.get("score", running.score)
            if time.monotonic() - running.told_s > LINES_EVERY_S:
                running.told_s = time.monotonic()
                self._say(f"{trial} step {running.step}: score {figures.score(running.score)}")

    def on_building(self, trial: str, name: str, step: int, metrics: Mapping[str, float]) -> None:
        """Shows how far the build is that a running trial does for all."""
        with self._harmless():
            running = self._board.running.get(trial) if self._board else None
            if running is None:
                return
            running.step, running.score = f"building {name} {step}", metrics.get("score")
            if time.monotonic() - running.told_s > LINES_EVERY_S:
                running.told_s = time.monotonic()
                self._say(f"{trial} {figures.building(name, step, metrics)}")

    def on_record(self, record: TrialRecord) -> None:
        """Shows how a trial ended."""
        with self._harmless():
            assert self._board is not None, "a sweep starts before its trials"
            self._board.end(record)
            self._say(_ended(record, on_front=record in self._board.points))

    def on_end(self, result: object) -> None:
        """Leaves the last state on the screen."""
        with self._harmless():
            if self._board:
                self._board.over = True
                self._board.running.clear()
            if self._live:
                self._live.stop()
            elif self._board:
                self._say(f"ended: {self._board.counts()}")

    def __rich__(self) -> RenderableType:
        """The table, as of now; the terminal's thread asks for it twice a second."""
        try:
            return _screen(self._board) if self._board else Text()
        except Exception as error:  # a mistake here must not end a sweep of days
            return Text(f"the display failed: {error}")

    @contextmanager
    def _harmless(self) -> Iterator[None]:
        """Keeps what goes wrong in a display away from the sweep, and tells it once."""
        try:
            yield
        except Exception as error:
            if not self._failed:
                log.warning("the progress display failed: %s", error)
            self._failed = True

    def _say(self, line: str) -> None:
        if self._plain:
            clock = time.strftime("%H:%M:%S")
            self._console.print(f"{clock} {line}", markup=False, highlight=False, soft_wrap=True)


def _ended(record: TrialRecord, *, on_front: bool) -> str:
    """A trial's end in one line."""
    facts = [figures.scored(record, "score")] if "score" in record.metrics else []
    facts += [f"{figures.count(record.costs['params'])} parameters"] if "params" in record.costs else []
    facts += [figures.duration(record.wall_s)] if record.wall_s else []
    facts += ["on the front"] if on_front else []
    facts += [" ".join(record.reason.split())] if record.reason else []
    return f"{record.trial} {record.status}: {', '.join(facts)}"


def _screen(board: Board) -> RenderableType:
    parts: list[RenderableType] = [_headline(board)]
    if board.running:
        parts.append(_running(board))
    failed = [record for record in list(board.records.values()) if record.status == "failed"]
    parts += [
        Text(_ended(record, on_front=False), style="red", no_wrap=True, overflow="ellipsis")
        for record in failed[-FAILURES:]
    ]
    if board.points:
        parts.append(_front(board))
    return Group(*parts)


def _headline(board: Board) -> Text:
    spent = figures.duration(time.monotonic() - board.since_s)
    left = None if board.over else board.left_s()
    clock = f"{spent}, about {figures.duration(left)} left" if left else spent
    return Text.assemble((board.plan.spec.name, "bold"), f"  {board.counts()}  ", (clock, "dim"))


def _running(board: Board) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("running", "architecture"):
        table.add_column(name, no_wrap=True, overflow="ellipsis")
    for name, width in (("params", 8), ("step", 5), ("score", 6), ("for", 11)):
        table.add_column(name, justify="right", no_wrap=True, min_width=width)
    now = time.monotonic()
    for trial, run in sorted(board.running.items()):
        cells = (trial, run.shape, figures.count(run.params), run.step, figures.score(run.score))
        table.add_row(*map(Text, cells), Text(figures.duration(now - run.since_s)))
    return table


def _front(board: Board) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("front", no_wrap=True)
    table.add_column("architecture", no_wrap=True, overflow="ellipsis")
    for name in ("params", "score"):
        table.add_column(name, justify="right", no_wrap=True)
    for record in board.points[-POINTS:]:
        cells = (record.trial, figures.shape(record.layout), figures.count(record.costs.get("params", 0)))
        table.add_row(*map(Text, cells), Text(figures.scored(record, "score")))
    return table
