import io
import logging
import time
from dataclasses import replace

import pytest
from rich.console import Console

from orchestrator import figures
from orchestrator.front import front
from orchestrator.plan import Plan
from orchestrator.progress import Board, Progress, Running
from orchestrator.records import TrialRecord
from tests.orchestrator.sweeps import design, ended, small_plan, small_sweep, teacher

TRIALS = 12


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return replace(small_plan(tmp_path_factory.mktemp("plan"), trials=TRIALS), slots=2)


@pytest.fixture
def sweep(plan: Plan) -> list[TrialRecord]:
    return small_sweep(plan, TRIALS)


def watch(progress: Progress, plan: Plan, records: list[TrialRecord]) -> None:
    progress.on_start(plan)
    for record in records:
        if record.trial != "teacher" and record.status != "refused":
            progress.on_trial(record.trial, design(plan, record))
            for step in (1, 2, 3):
                progress.on_report(record.trial, step, {"score": 0.5 + step / 10})
        progress.on_record(record)
    progress.on_end(None)


def test_without_a_terminal_every_event_is_a_line(plan: Plan, sweep: list[TrialRecord]) -> None:
    stream = io.StringIO()
    watch(Progress(Console(file=stream, width=40)), plan, sweep)
    text = stream.getvalue()
    assert "\x1b" not in text
    lines = [line.partition(" ")[2] for line in text.splitlines()]
    assert lines[0] == f"small: {TRIALS} trials on 2 slots"
    for record in sweep:
        assert sum(line.startswith(f"{record.trial} {record.status}: ") for line in lines) == 1
    ran = [record for record in sweep[1:] if record.status != "refused"]
    assert sum(" started: rosita, " in line for line in lines) == len(ran)
    assert sum(" step 1: score 0.6000" in line for line in lines) == len(ran), "reports of a trial come now and then"
    assert not any(" step 2: " in line for line in lines)
    assert lines[-1].startswith("ended: ")


def test_a_terminal_shows_running_waiting_failed_and_the_front(plan: Plan, sweep: list[TrialRecord]) -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=110, height=50, no_color=True)
    progress = Progress(console, plain=False)
    progress.on_start(plan)
    for record in sweep[:9]:
        progress.on_record(record)
    for record in [record for record in sweep[9:] if record.status != "refused"][:2]:
        progress.on_trial(record.trial, design(plan, record))
        progress.on_report(record.trial, 120, {"score": 0.71})
    with console.capture() as captured:
        console.print(progress)
    progress.on_end(None)
    text = captured.get()
    assert "2 running" in text
    assert "waiting (all 2 slots busy)" in text
    assert "left" in text
    assert "t0005 failed" in text
    assert "loss is not finite" in text
    assert "0.7100" in text
    assert "± 0.0240" in text, "the front has its errors"
    assert "heads x" in text


@pytest.mark.parametrize("name", ["NO_COLOR", "CI"])
def test_the_environment_asks_for_plain_lines(
    name: str, plan: Plan, sweep: list[TrialRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv(name, "1")
    stream = io.StringIO()
    watch(Progress(Console(file=stream, force_terminal=True, width=100)), plan, sweep)
    assert "\x1b[2K" not in stream.getvalue()


def test_text_from_users_is_no_markup(plan: Plan) -> None:
    stream = io.StringIO()
    progress = Progress(Console(file=stream, width=100), plain=True)
    progress.on_start(plan)
    failed = replace(ended(plan, 5), reason="[red]loss[/red]\nis [bold]nan", status="failed")
    progress.on_record(failed)
    assert "[red]loss[/red] is [bold]nan" in stream.getvalue()
    live = io.StringIO()
    console = Console(file=live, force_terminal=True, width=100, height=30)
    shown = Progress(console, plain=False)
    shown.on_start(plan)
    shown.on_record(failed)
    with console.capture() as captured:
        console.print(shown)
    shown.on_end(None)
    assert "[red]loss[/red] is [bold]nan" in captured.get()


class Broken(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("plain", [True, False])
def test_a_broken_display_never_ends_the_sweep(
    plain: bool, plan: Plan, sweep: list[TrialRecord], caplog: pytest.LogCaptureFixture
) -> None:
    console = Console(file=Broken(), force_terminal=not plain, width=100)
    with caplog.at_level(logging.WARNING):
        watch(Progress(console, plain=plain), plan, sweep)
    assert caplog.text.count("the progress display failed") == 1


def test_the_board_says_why_trials_wait_and_how_long_it_takes(plan: Plan) -> None:
    board = Board(plan)
    assert board.counts() == "12 waiting (for the teacher)"
    assert board.left_s() is None
    board.end(teacher(plan))
    assert board.counts() == "12 waiting (for the search)"
    board.end(replace(ended(plan, 0), wall_s=100.0))
    board.end(ended(plan, 11))
    assert board.counts() == "1 done, 1 refused, 11 waiting (for the search)"
    now = time.monotonic()
    board.running = {name: Running("", 1.0, now - 50) for name in ("t0001", "t0002")}
    assert board.counts() == "1 done, 1 refused, 2 running, 9 waiting (all 2 slots busy)"
    assert board.left_s() == pytest.approx((50 + 50 + 9 * 100) / 2, abs=1)


def test_a_sweep_that_goes_on_counts_what_it_had(plan: Plan, sweep: list[TrialRecord]) -> None:
    stream = io.StringIO()
    progress = Progress(Console(file=stream), plain=True, known=lambda: sweep[:5])
    progress.on_start(plan)
    progress.on_end(None)
    assert "ended: 3 done, 1 stopped, 8 not run" in stream.getvalue()


def test_a_stage_before_the_last_is_named(plan: Plan, sweep: list[TrialRecord]) -> None:
    stream = io.StringIO()
    progress = Progress(Console(file=stream), plain=True)
    progress.on_start(plan)
    progress.on_trial("t0001", design(plan, sweep[2]))
    progress.on_report("t0001", 40, {"depth/score": 0.7, "depth/loss": 0.2})
    assert "t0001 step depth 40: score -" in stream.getvalue()


def test_a_build_for_all_is_shown_until_the_trial_itself_reports(plan: Plan, sweep: list[TrialRecord]) -> None:
    stream = io.StringIO()
    progress = Progress(Console(file=stream, width=200), plain=True)
    progress.on_start(plan)
    progress.on_trial("t0001", design(plan, sweep[2]))
    progress.on_building("t0001", "teacher", 400, {"score": 0.93, "loss": 0.2})
    progress.on_building("t0009", "teacher", 500, {})
    assert "t0001 building teacher: step 400, score 0.9300\n" in stream.getvalue()
    assert "t0009" not in stream.getvalue()
    table = io.StringIO()
    Console(file=table, width=200).print(progress)
    assert "building teacher 400" in table.getvalue()
    assert "0.9300" in table.getvalue()
    progress.on_report("t0001", 1, {"score": 0.5})
    table = io.StringIO()
    Console(file=table, width=200).print(progress)
    assert "building" not in table.getvalue()


@pytest.mark.parametrize(
    ("metrics", "told"),
    [({}, ""), ({"loss": 0.25}, ", loss 0.2500"), ({"progress": 0.256}, ", progress 26 %")],
)
def test_a_build_says_the_number_it_has(metrics: dict[str, float], told: str) -> None:
    assert figures.building("knowledge", 7, metrics) == f"building knowledge: step 7{told}"


def test_the_front_grows_as_if_made_at_once(plan: Plan, sweep: list[TrialRecord]) -> None:
    board = Board(plan)
    for record in sweep:
        board.end(record)
    assert board.points == front(sweep, plan.spec.objectives)
