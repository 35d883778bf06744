"""A trial's record covers all drivers that worked on it, and its checkpoints go when the record is there."""

import json
import time
from pathlib import Path

import pytest

from orchestrator.folder import SweepFolder
from orchestrator.jobqueue import HALTED
from orchestrator.jsonl import mend
from orchestrator.ledger import Ledger, read_history
from orchestrator.lives import Life, Lives
from orchestrator.plan import Design, Plan
from orchestrator.pulse import write_status
from orchestrator.status import describe_status, read_status
from tests.doubles.plans import toy_plan

DONE = {"status": "done", "attempts": 1, "seconds": 3.0, "result": {"metrics": {"score": 0.5}}}


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return toy_plan(tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> SweepFolder:
    return SweepFolder(tmp_path, "toy")


@pytest.fixture
def design(plan: Plan) -> Design:
    found = plan.resolve("walker", {"heads": 1, "layers": 2})
    assert isinstance(found, Design)
    return found


def report(ledger: Ledger, step: int, attempts: int) -> None:
    metrics = {"score": 0.1 * step}
    at = (1, step)
    ledger.report(
        "t0000", {"at": at, "stage": "walk", "final": True, "step": step, "metrics": metrics, "attempts": attempts}
    )


def checkpoint(folder: SweepFolder) -> Path:
    for name in ("stages/walk/step-00000001", "model"):
        (folder.trial("t0000") / name).mkdir(parents=True)
    return folder.trial("t0000") / "stages"


def test_a_trial_that_was_halted_twice_is_recorded_whole(plan: Plan, folder: SweepFolder, design: Design) -> None:
    began_s = []
    for seconds, attempts in ((10.0, 1), (20.0, 2)):
        ledger = Ledger(plan, folder, ())
        ledger.open("t0000", design)
        began_s.append(ledger.live["t0000"].started_s)
        assert ledger.close("t0000", {"status": HALTED, "attempts": attempts, "seconds": seconds}) is None
    ledger = Ledger(plan, folder, ())
    ledger.open("t0000", design)
    record = ledger.close("t0000", DONE)
    assert record is not None
    assert (record.wall_s, record.attempts, record.started_s) == (33.0, 4, began_s[0])


def test_a_killed_driver_is_counted_to_its_last_second(plan: Plan, folder: SweepFolder, design: Design) -> None:
    ledger = Ledger(plan, folder, ())
    ledger.open("t0000", design)
    ledger.live["t0000"].started_s -= 100
    broker = {"slots": {0: "t0000"}, "attempts": {"t0000": 2}}
    write_status(ledger, "running", "", broker, 1)
    for _ in range(2):  # the second driver dies before it has written a status
        again = Ledger(plan, folder, ())
    again.open("t0000", design)
    record = again.close("t0000", DONE)
    assert record is not None
    assert record.wall_s == pytest.approx(103, abs=2)
    assert record.attempts == 3


def test_a_driver_killed_between_two_beats_is_counted_to_the_last_report(
    plan: Plan, folder: SweepFolder, design: Design
) -> None:
    """The status that it left is older than the trial's first report, or than its second attempt."""
    ledger = Ledger(plan, folder, ())
    ledger.open("t0000", design)
    ledger.live["t0000"].started_s -= 100
    write_status(ledger, "running", "", {"slots": {0: ""}, "attempts": {}}, 1)
    report(ledger, 1, attempts=1)
    report(ledger, 2, attempts=2)
    for _ in range(2):  # the second driver dies at once
        again = Ledger(plan, folder, ())
        again.open("t0000", design)
    record = again.close("t0000", DONE)
    assert record is not None
    assert record.wall_s == pytest.approx(103, abs=2)
    assert record.attempts == 3


def test_a_trial_that_only_waited_took_nothing(plan: Plan, folder: SweepFolder, design: Design) -> None:
    ledger = Ledger(plan, folder, ())
    ledger.open("t0000", design)
    write_status(ledger, "running", "", {"slots": {0: ""}, "attempts": {}}, 1)
    again = Ledger(plan, folder, ())
    again.open("t0000", design)
    record = again.close("t0000", DONE)
    assert record is not None
    assert (record.wall_s, record.attempts) == (3.0, 1)


def test_a_torn_line_is_cut_and_the_next_one_starts_on_its_own(tmp_path: Path) -> None:
    path = tmp_path / "lives.jsonl"
    assert mend(path) == b""
    Lives(path).add("t0000", Life(began_s=1.0, seconds=2.0, attempts=1))
    with path.open("a") as stream:
        stream.write('{"trial": "t00')
    lives = Lives(path)
    lives.add("t0001", Life(began_s=5.0, seconds=7.0, attempts=1))
    lives.add("t0001", Life(began_s=5.0, seconds=9.0, attempts=1))
    assert [json.loads(line)["trial"] for line in path.read_text().splitlines()] == ["t0000", "t0001"]
    whole = Lives(path).whole("t0001", Life(began_s=50.0, seconds=1.0, attempts=1))
    assert whole == Life(began_s=5.0, seconds=8.0, attempts=2)


def test_checkpoints_go_with_the_record_and_stay_for_a_trial_that_goes_on(
    plan: Plan, folder: SweepFolder, design: Design
) -> None:
    stages = checkpoint(folder)
    ledger = Ledger(plan, folder, ())
    ledger.open("t0000", design)
    ledger.close("t0000", {"status": HALTED, "attempts": 1, "seconds": 1.0})
    assert stages.is_dir()
    ledger.open("t0000", design)
    ledger.close("t0000", DONE)
    assert not stages.exists()
    assert (folder.trial("t0000") / "model").is_dir()
    stages.mkdir()
    Ledger(plan, folder, ())
    assert not stages.exists(), "a driver that died after the record"


def test_the_status_tells_the_store_and_what_is_built(plan: Plan, folder: SweepFolder, design: Design) -> None:
    ledger = Ledger(plan, folder, ())
    ledger.open("t0000", design)
    ledger.building({"t0000": {"name": "teacher", "step": 400, "metrics": {"score": 0.93}}})
    folder.store.mkdir()
    (folder.store / "artifact").write_bytes(b"x" * 1500)
    write_status(ledger, "running", "", {"slots": {3: "t0000"}, "attempts": {}}, 1)
    status = read_status(folder)
    assert (status["store_bytes"], status["quota_bytes"]) == (1500, plan.quota_bytes)
    lines = describe_status(status)
    assert lines[2].startswith("store    1.50 kB on disk; knowledge may take ")
    assert lines[3] == "running  t0000 on slot 3: building teacher: step 400, score 0.9300"


class Eyes:
    """A watcher that notes what is built."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, int]] = []

    def on_building(self, trial: str, name: str, step: int, metrics: dict[str, float]) -> None:
        self.seen.append((trial, name, step))

    def on_trial(self, trial: str, design: Design) -> None:
        """Nothing."""


def test_what_is_built_for_all_is_shown_and_nowhere_kept(plan: Plan, folder: SweepFolder, design: Design) -> None:
    eyes = Eyes()
    ledger = Ledger(plan, folder, (eyes,))  # type: ignore[arg-type]  the rest is not asked
    ledger.open("t0000", design)
    first = {"name": "teacher", "step": 10, "metrics": {"score": 0.9}}
    for notes in ({}, {"t0000": first}, {"t0000": first}, {"t0000": {**first, "step": 20}}, {"other": first}):
        ledger.building(notes)
    assert eyes.seen == [("t0000", "teacher", 10), ("t0000", "teacher", 20)]
    assert ledger.curves["t0000"].scores == []
    assert list(read_history(folder.history("t0000"))) == []
    assert ledger.live["t0000"].building is None
    assert time.time() - ledger.live["t0000"].started_s < 60
