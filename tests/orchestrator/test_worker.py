"""The slot loop without a cluster: one rank in a thread, with the broker a method call away."""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.broker import Broker
from orchestrator.guard import Guard
from orchestrator.jobqueue import GONE, START, Limits
from orchestrator.rayrun import Abandoned, Beats, Seat, SlotSettings, describe
from orchestrator.slots import Slot
from orchestrator.trial import relay
from orchestrator.worker import resolve, serve
from tests.doubles import bodies


class Slow:
    """A broker whose unanswered questions take a moment, as those of the actor do; one caller at a time."""

    def __init__(self) -> None:
        self._broker = Broker(Limits())
        self._lock = threading.Lock()

    def __call__(self, verb: str, *arguments: Any) -> Any:
        with self._lock:
            answer = self._broker.ask(verb, *arguments)
        if answer is None:
            time.sleep(0.002)
        return answer


@pytest.fixture
def ask() -> Slow:
    return Slow()


@pytest.fixture
def slot(ask: Slow, tmp_path: Path) -> Iterator[list[BaseException]]:
    """A slot at work; the list receives what its loop raises."""
    ask("hello", 0, "gang", 1)
    raised: list[BaseException] = []
    thread = threading.Thread(target=work, args=(ask, tmp_path, raised), daemon=True)
    thread.start()
    yield raised
    ask("drain", 0)
    thread.join(10)
    assert not thread.is_alive()


def work(ask: Slow, root: Path, raised: list[BaseException]) -> None:
    settings = SlotSettings(root=str(root), name="bench", jobs_per_gang=50, beat_s=0.02)
    seat = Seat(slot=0, gang="gang", rank=0, world=1, device=torch.device("cpu"), store=None)
    beats = Beats(ask, seat, settings)
    beats.start()
    try:
        serve(ask, seat, beats, bodies.any_of_them, settings)
    except Abandoned as error:
        raised.append(error)
    finally:
        beats.close()


def run(ask: Slow, trial: str, root: Path, **config: Any) -> tuple[list[Mapping[str, Any]], Mapping[str, Any]]:
    messages: list[Mapping[str, Any]] = []
    folder = str(root / "bench" / "trials" / trial)
    relay(ask, trial, {"config": config, "folder": folder, "seed": 3}, START, messages.append)
    return messages[:-1], messages[-1]["end"]


@pytest.mark.usefixtures("slot")
def test_jobs_are_done_in_order_and_told_in_full(ask: Slow, tmp_path: Path) -> None:
    for number in range(10):
        reports, end = run(ask, f"t{number}", tmp_path, score=number / 10, steps=2)
        assert end["result"]["metrics"]["score"] == number / 10
        assert [report["at"] for report in reports] == [(1, 1), (1, 2)]
        assert [(report["stage"], report["final"]) for report in reports] == [("walk", True)] * 2
        assert end["attempts"] == 1


@pytest.mark.usefixtures("slot")
def test_a_build_for_all_is_seen_while_it_lasts_and_reported_nowhere(ask: Slow, tmp_path: Path) -> None:
    payload = {"config": {}, "folder": str(tmp_path / "bench" / "trials" / "t0"), "seed": 3, "body": "build"}
    messages: list[Mapping[str, Any]] = []
    job = threading.Thread(target=relay, args=(ask, "t0", payload, START, messages.append))
    job.start()
    seen: list[Mapping[str, Any]] = []
    while job.is_alive():
        seen += ask("status")["building"].values()
        time.sleep(0.01)
    job.join()
    steps = [note["step"] for note in seen]
    assert steps == sorted(steps)
    assert steps[0] < steps[-1]
    assert {note["name"] for note in seen} == {"pyramid"}
    assert all(note["metrics"] == {"score": note["step"] / 100} for note in seen)
    assert [message.get("stage") for message in messages] == ["walk"] * 3 + [None], "no report of the build among them"
    assert messages[-1]["end"]["status"] == "done"


@pytest.mark.usefixtures("slot")
def test_a_failure_is_told_in_one_line_and_logged_in_full(ask: Slow, tmp_path: Path) -> None:
    _, end = run(ask, "t0", tmp_path, crash="raise:0:1:always")
    assert (end["status"], end["error"]) == ("failed", "ValueError: planned failure at step 1 on rank 0")
    text = Path(end["log"]).read_text()
    assert "Traceback" in text
    assert "rank 0" in text
    assert run(ask, "t1", tmp_path)[1]["status"] == "done"


def test_a_rank_whose_gang_was_given_up_leaves(ask: Slow, slot: list[BaseException]) -> None:
    ask("hello", 0, "another", 1)
    until_s = time.monotonic() + 5
    while not slot and time.monotonic() < until_s:
        time.sleep(0.01)
    assert "given up" in str(slot[0])


def test_the_body_is_found_by_name() -> None:
    assert resolve("tests.doubles.bodies:walk") is bodies.walk
    with pytest.raises(AttributeError):
        resolve("tests.doubles.bodies:there_is_none")


def test_an_error_is_one_line() -> None:
    assert describe(ValueError("two\n  lines")) == "ValueError: two lines"


CHANGES: dict[str, Callable[[], object]] = {
    "working directory": lambda: os.chdir("/"),
    "environment": lambda: os.environ.update(LEAKED="1"),
    "torch threads": lambda: torch.set_num_threads(torch.get_num_threads() + 1),
    "torch dtype": lambda: torch.set_default_dtype(torch.float64),
    "torch device": lambda: torch.set_default_device("meta"),
    "torch gradients": lambda: torch.set_grad_enabled(False),
    "torch determinism": lambda: torch.use_deterministic_algorithms(True),
    "cudnn": lambda: setattr(torch.backends.cudnn, "benchmark", not torch.backends.cudnn.benchmark),
    "matmul precision": lambda: torch.set_float32_matmul_precision("medium"),
    "anomaly detection": lambda: torch.autograd.set_detect_anomaly(True),
    "log level": lambda: logging.getLogger().setLevel(1),
}


@pytest.mark.filterwarnings("ignore:Anomaly Detection:UserWarning")
@pytest.mark.parametrize("name", CHANGES)
def test_each_change_of_global_state_is_seen_and_put_back(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path.cwd())
    guard = Guard(max_jobs=5, rss_growth_bytes=2**40)
    CHANGES[name]()
    assert name in guard.restore()  # determinism changes the environment as well
    assert guard.restore() == []
    assert guard.retire() == ""


def test_a_guard_retires_its_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    guard = Guard(max_jobs=3, rss_growth_bytes=2**40)
    assert [guard.retire() for _ in range(3)] == ["", "", "it has run 3 trials"]
    greedy = Guard(max_jobs=9, rss_growth_bytes=-1)
    assert "its memory grew" in [greedy.retire() for _ in range(2)][-1]
    gate = threading.Event()
    guard = Guard(max_jobs=9, rss_growth_bytes=2**40)
    guard.retire()
    thread = threading.Thread(target=gate.wait, name="left behind")
    thread.start()
    assert guard.retire() == "a trial left the thread 'left behind' running"
    gate.set()
    thread.join()


def test_a_proxy_hands_its_job_in_again_where_it_was_when_the_broker_has_forgotten_it() -> None:
    script = [
        (("submit", "t0", {"n": 1}, START), 0),
        (("recv", "t0", 0), {"at": (1, 1), "step": 1}),
        (("recv", "t0", 1), GONE),
        (("submit", "t0", {"n": 1}, (1, 1)), None),
        (("submit", "t0", {"n": 1}, (1, 1)), 0),
        (("recv", "t0", 0), {"at": (1, 2), "step": 2}),
        (("recv", "t0", 1), {"end": {"status": "done"}}),
        (("end", "t0"), "go"),
    ]
    lines = iter(script)

    def ask(*question: Any) -> Any:
        expected, answer = next(lines)
        assert question == expected
        return answer

    delivered: list[Any] = []
    relay(ask, "t0", {"n": 1}, START, delivered.append)
    assert [message.get("step") for message in delivered] == [1, 2, None]
    assert next(lines, None) is None


def slot_with(outcomes: list[tuple[int, Exception | None]]) -> Slot:
    """A slot whose gangs say hello so often and then end like that; it is closed when there are no more of them."""
    hellos, lines = [0], iter(outcomes)

    def launch(number: int) -> None:
        assert number == 7
        said, error = next(lines)
        hellos[0] += said
        if outcomes[-1] == (said, error):
            slot.close()
        if error:
            raise error

    slot = Slot(7, launch, lambda number: hellos[0])
    slot.start()
    slot.join(5)
    assert not slot.is_alive()
    return slot


def test_a_slot_starts_gang_after_gang_until_none_of_a_series_says_hello() -> None:
    died = RuntimeError("a rank died")
    assert slot_with([(1, None), (1, died), (2, died), (1, None)]).error == ""
    hopeless = RuntimeError("Traceback ...\n  ImportError: no module named nowhere\n")
    assert slot_with([(1, died), (0, hopeless), (1, None)]).error == "ImportError: no module named nowhere"
    assert slot_with([(1, None), (0, hopeless)]).error == "", "it was told to close meanwhile"
