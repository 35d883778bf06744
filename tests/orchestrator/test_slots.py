"""Slots on a real cluster: one gang of two gloo ranks serves all tests of this module, so most cost no start."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import ray

from orchestrator.broker import until_answered
from orchestrator.folder import SweepFolder
from orchestrator.jobqueue import START, Limits
from orchestrator.rayrun import SlotSettings
from orchestrator.sections import ResourcesSection
from orchestrator.slots import Slots, start_broker
from orchestrator.trial import patient, relay
from tests.orchestrator.clusters import small_cluster

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]

WORLD = 2
CLEAN = {"leaked": "", "threads": 1, "dtype": "torch.float32", "deterministic": False}


@dataclass(kw_only=True)
class Bench:
    """A broker with one slot, and the folder it works in."""

    folder: SweepFolder
    broker: Any
    slots: Slots
    reports: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def run(
        self, trial: str, config: Mapping[str, Any], *, body: str = "walk", each: Callable[[int], None] = lambda n: None
    ) -> dict[str, Any]:
        """Sends a job through the slot; returns its end. `each` is called with the number of each report."""
        reports = self.reports[trial] = []
        end: dict[str, Any] = {}

        def deliver(message: Mapping[str, Any]) -> None:
            if "end" in message:
                end.update(message["end"])
            else:
                reports.append(dict(message))
                each(len(reports))

        payload = {"config": config, "body": body, "folder": str(self.folder.trial(trial)), "seed": 7}
        relay(patient(self.broker), trial, payload, START, deliver)
        return end


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    root = tmp_path_factory.mktemp("slots")
    with small_cluster(num_cpus=WORLD):
        broker = start_broker(Limits(beat_s=4.0, gate_s=5.0, max_attempts=2))
        settings = SlotSettings(
            root=str(root), name="bench", body="tests.doubles.bodies:any_of_them", patience_s=3.0, beat_s=0.5
        )
        slots = Slots(broker, ResourcesSection(workers=WORLD), settings, root / "ray")
        slots.resize(1)
        yield Bench(folder=SweepFolder(root, "bench"), broker=broker, slots=slots)
        slots.close(20)
        ray.kill(broker)


def test_ranks_work_together_and_start_alike(bench: Bench) -> None:
    ends = [bench.run(f"t{number}", {"score": number / 10}) for number in range(4)]
    assert [end["status"] for end in ends] == ["done"] * 4, ends
    assert [end["result"]["metrics"]["score"] for end in ends] == [0.0, 0.1, 0.2, 0.3]
    assert all(report["metrics"]["sum"] == 3.0 for reports in bench.reports.values() for report in reports)
    assert [report["at"] for report in bench.reports["t3"]] == [(1, 1), (1, 2), (1, 3)]
    assert len({str(end["result"]["notes"]["draws"]) for end in ends}) == 1, "every trial starts from its seed"
    assert len({end["result"]["notes"]["pid"] for end in ends}) == 1, "in one process"


@pytest.mark.parametrize("how", ["raise", "exit"])
def test_a_failure_on_one_rank_ends_the_trial_on_all_and_the_gang_goes_on(how: str, bench: Bench) -> None:
    before = bench.run("before", {})["result"]["notes"]["pid"]
    began_s = time.monotonic()
    end = bench.run(f"fails-{how}", {"crash": f"{how}:1:2:always"})
    assert time.monotonic() - began_s < 5
    assert end["status"] == "failed"
    cause = "ValueError: planned failure at step 2 on rank 1" if how == "raise" else "SystemExit: 3"
    assert end["error"] == cause
    assert cause.partition(":")[0] in Path(end["log"]).read_text()
    after = bench.run("after", {})
    assert (after["status"], after["result"]["notes"]["pid"]) == ("done", before)


def test_nothing_leaks_into_the_next_trial(bench: Bench) -> None:
    first = bench.run("clean", {})["result"]["notes"]
    bench.run("leaks", {"leak": True})
    bench.run("leaks-and-fails", {"leak": True, "crash": "raise:0:1:always"})
    after = bench.run("clean-again", {})["result"]["notes"]
    assert after == first
    assert {name: after[name] for name in CLEAN} == CLEAN


def test_a_stop_ends_the_trial_at_the_very_report(bench: Bench) -> None:
    class Enough(Exception):
        pass

    def stop_at_two(number: int) -> None:
        if number == 2:
            raise Enough

    with pytest.raises(Enough):
        bench.run("stopped", {"steps": 1000}, each=stop_at_two)
    assert bench.run("next", {})["status"] == "done"
    assert len(bench.reports["stopped"]) == 2
    (kept,) = (bench.folder.trial("stopped") / "stages" / "walk").iterdir()
    assert kept.name == "step-00000001", "it left inside its second report"


def test_a_stop_reaches_ranks_that_report_nothing(bench: Bench) -> None:
    ask = patient(bench.broker)
    until_answered(ask, "submit", "silent", {"config": {}, "body": "poll"})
    while "silent" not in ask("status")["slots"].values():
        time.sleep(0.05)
    time.sleep(0.5)
    ask("end", "silent")
    began_s = time.monotonic()
    assert bench.run("next-one", {})["status"] == "done"
    assert time.monotonic() - began_s < 5


def test_a_killed_rank_is_replaced_and_the_trial_goes_on_from_its_checkpoint(bench: Bench) -> None:
    end = bench.run("killed", {"steps": 4, "crash": "kill:1:3"})
    assert (end["status"], end["attempts"]) == ("done", 2), end
    assert end["result"]["notes"]["started_at"] == 2
    assert [report["at"][1] for report in bench.reports["killed"]] == [1, 2, 3, 4]


def test_a_thread_that_stays_retires_the_gang(bench: Bench) -> None:
    end = bench.run("threads", {}, body="leave_thread")
    assert end["status"] == "done"
    after = bench.run("fresh", {})
    assert after["status"] == "done"
    assert after["result"]["notes"]["pid"] != end["result"]["notes"]["pid"]


def test_a_stuck_rank_ends_its_process_and_the_slot_serves_on(bench: Bench) -> None:
    began_s = time.monotonic()
    end = bench.run("stuck", {}, body="stick")
    assert (end["status"], end["error"]) == ("failed", "ValueError: planned failure beside a stuck rank")
    assert bench.run("unstuck", {})["status"] == "done"
    assert time.monotonic() - began_s < 90


def test_halt_lets_a_trial_leave_with_a_checkpoint(bench: Bench) -> None:
    ask = patient(bench.broker)

    def halt(number: int) -> None:
        if number == 2:
            ask("halt")

    end = bench.run("halted", {"steps": 1000, "nap_s": 0.05}, each=halt)
    assert end["status"] == "halted"
    reported = bench.reports["halted"][-1]["step"]
    (kept,) = (bench.folder.trial("halted") / "stages" / "walk").iterdir()
    assert kept.name == f"step-{reported:08d}"
