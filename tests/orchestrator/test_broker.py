"""The broker without a cluster: a clock that is turned by hand, gangs and proxies that are function calls."""

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest

from orchestrator.broker import Broker, BrokerActor
from orchestrator.jobqueue import ABORT, GO, GONE, HALT, LOST, QUIT, STALE, STOP, Limits

LIMITS = Limits(beat_s=6, proxy_s=20, gate_s=30, max_attempts=2)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ask(clock: Clock) -> Callable[..., Any]:
    return Broker(LIMITS, clock).ask


def serve(ask: Callable[..., Any], trial: str, world: int = 1) -> str:
    """A gang on slot 0 takes the job of that trial; returns the attempt's token."""
    ask("submit", trial, {"n": trial})
    ask("hello", 0, "gang", world)
    order = ask("take", 0, "gang", 0)
    assert order["trial"] == trial
    return str(order["attempt"])


DONE = {"status": "done", "result": {"x": 1}}


def test_a_job_is_taken_reported_and_ended(ask: Callable[..., Any]) -> None:
    attempt = serve(ask, "t0")
    assert ask("recv", "t0", 0) is None
    assert ask("report", "t0", attempt, (1, 5), {"score": 0.5}) is None, "undecided until the proxy comes back"
    assert ask("recv", "t0", 0) == {"score": 0.5, "at": (1, 5), "attempts": 1}
    assert ask("report", "t0", attempt, (1, 5), {"score": 0.5}) is None, "asked again: the same report, still undecided"
    assert ask("recv", "t0", 1) is None
    assert ask("report", "t0", attempt, (1, 5), {"score": 0.5}) == GO
    assert ask("finish", "t0", attempt, 0, DONE) == GO
    end = ask("recv", "t0", 1)["end"]
    assert (end["status"], end["result"], end["attempts"]) == ("done", {"x": 1}, 1)
    ask("end", "t0")
    assert ask("recv", "t0", 2) == GONE


def test_all_ranks_get_the_same_job_and_it_ends_with_the_last_rank(ask: Callable[..., Any]) -> None:
    attempt = serve(ask, "t0", world=2)
    ask("submit", "t1", {})
    assert ask("take", 0, "gang", 0)["attempt"] == attempt, "the second rank asks later"
    ask("finish", "t0", attempt, 1, DONE)
    assert ask("take", 0, "gang", 1) is None, "rank 0 still works"
    ask("finish", "t0", attempt, 0, DONE)
    assert ask("take", 0, "gang", 1)["trial"] == "t1"


def test_the_failing_rank_is_the_cause_and_the_others_are_told(ask: Callable[..., Any]) -> None:
    attempt = serve(ask, "t0", world=2)
    assert ask("beat", 0, "gang", 0, attempt) == GO
    ask("finish", "t0", attempt, 1, {"status": "failed", "error": "ValueError: cause"})
    assert ask("beat", 0, "gang", 0, attempt) == ABORT
    ask("finish", "t0", attempt, 0, {"status": "failed", "error": "RuntimeError: connection closed by peer"})
    assert ask("recv", "t0", 0)["end"]["error"] == "ValueError: cause"


def test_what_is_built_for_all_comes_with_the_beat_of_rank_0_and_goes_with_the_gang(ask: Callable[..., Any]) -> None:
    attempt = serve(ask, "t0", world=2)
    note = {"name": "teacher", "step": 3, "metrics": {"score": 0.5}}
    ask("beat", 0, "gang", 0, attempt, note)
    ask("beat", 0, "gang", 1, attempt)
    ask("beat", 0, "gang", 0, "an earlier attempt", {**note, "step": 9})
    assert ask("status")["building"] == {"t0": note}
    assert ask("recv", "t0", 0) is None, "it is no message"
    ask("hello", 0, "another", 2)
    assert ask("status")["building"] == {}


def test_a_silent_rank_loses_the_gang_and_the_job_goes_to_the_front(ask: Callable[..., Any], clock: Clock) -> None:
    first = serve(ask, "t0", world=2)
    ask("submit", "t1", {})
    ask("report", "t0", first, (1, 3), {"score": 0.1})
    for _ in range(4):
        clock.now += 2
        ask("beat", 0, "gang", 0, first)
        ask("recv", "t0", 1)
        ask("submit", "t1", {})
    assert ask("report", "t0", first, (1, 4), {}) == STALE
    assert ask("finish", "t0", first, 0, DONE) == STALE
    assert ask("beat", 0, "gang", 0, first) == LOST
    assert ask("take", 0, "gang", 1) == LOST
    ask("hello", 1, "other", 1)
    second = ask("take", 1, "other", 0)
    assert (second["trial"], second["attempt"] != first) == ("t0", True)
    attempt = second["attempt"]
    assert ask("report", "t0", attempt, (1, 3), {"score": 0.1}) == GO, "relayed before: dropped"
    assert ask("recv", "t0", 1) is None
    assert ask("report", "t0", attempt, (1, 4), {"score": 0.2}) is None
    assert ask("recv", "t0", 1)["score"] == 0.2


def test_a_new_gang_takes_the_place_of_a_dead_one_at_once(ask: Callable[..., Any]) -> None:
    first = serve(ask, "t0")
    ask("hello", 0, "reborn", 1)
    again = ask("take", 0, "reborn", 0)
    assert again["trial"] == "t0"
    assert again["attempt"] != first
    assert ask("status")["hellos"] == {0: 2}


def test_a_job_that_kills_every_gang_fails(ask: Callable[..., Any]) -> None:
    serve(ask, "t0")
    ask("hello", 0, "second", 1)
    ask("take", 0, "second", 0)
    ask("hello", 0, "third", 1)
    end = ask("recv", "t0", 0)["end"]
    assert end["status"] == "failed"
    assert "lost 2 times: a new group took over slot 0" in end["error"]
    assert ask("take", 0, "third", 0) is None


def test_the_error_of_a_rank_whose_peer_died_is_not_the_cause(ask: Callable[..., Any]) -> None:
    attempt = serve(ask, "t0", world=2)
    ask("finish", "t0", attempt, 1, {"status": "failed", "error": "RuntimeError: connection closed by peer"})
    ask("hello", 0, "reborn", 2)
    assert ask("recv", "t0", 0) is None
    assert ask("take", 0, "reborn", 0)["trial"] == "t0"


def test_a_stop_reaches_report_and_beat(ask: Callable[..., Any]) -> None:
    attempt = serve(ask, "t0")
    ask("report", "t0", attempt, (1, 1), {})
    ask("end", "t0")
    assert ask("report", "t0", attempt, (1, 1), {}) == STOP
    assert ask("beat", 0, "gang", 0, attempt) == STOP
    assert ask("submit", "t0", {}) is None, "its former run has not left yet"
    ask("finish", "t0", attempt, 0, {"status": "stopped"})
    assert ask("submit", "t0", {}) == 0


def test_a_dead_proxy_cancels_its_job(ask: Callable[..., Any], clock: Clock) -> None:
    attempt = serve(ask, "t0")
    ask("submit", "t1", {})
    for _ in range(5):
        clock.now += 5
        ask("beat", 0, "gang", 0, attempt)
    assert ask("beat", 0, "gang", 0, attempt) == STOP
    assert ask("status")["waiting"] == []


def test_a_second_proxy_goes_on_with_the_first_unread_message(ask: Callable[..., Any]) -> None:
    attempt = serve(ask, "t0")
    ask("report", "t0", attempt, (1, 1), {"score": 1.0})
    ask("recv", "t0", 1)
    ask("report", "t0", attempt, (1, 2), {"score": 2.0})
    assert ask("submit", "t0", {}) == 1
    assert ask("recv", "t0", 1)["score"] == 2.0


def test_the_gate_waits_for_the_proxies_or_the_time(ask: Callable[..., Any], clock: Clock) -> None:
    ask("hello", 0, "gang", 1)
    ask("hold", 2)
    ask("submit", "t0", {})
    assert ask("take", 0, "gang", 0) is None
    ask("submit", "t1", {})
    assert ask("take", 0, "gang", 0)["trial"] == "t0"
    ask("hold", 9)
    ask("hello", 1, "other", 1)
    assert ask("take", 1, "other", 0) is None
    for _ in range(7):
        clock.now += 5
        [ask("submit", trial, {}) for trial in ("t0", "t1")]
        [ask("beat", slot, name, 0, "") for slot, name in ((0, "gang"), (1, "other"))]
    assert ask("take", 1, "other", 0)["trial"] == "t1"


def test_draining_lets_the_job_finish_and_then_sends_the_gang_away(ask: Callable[..., Any]) -> None:
    attempt = serve(ask, "t0")
    ask("submit", "t1", {})
    ask("drain", 0)
    assert ask("take", 0, "gang", 1) is None
    ask("finish", "t0", attempt, 0, DONE)
    assert ask("take", 0, "gang", 1) == QUIT
    ask("hello", 0, "late", 1)
    assert ask("take", 0, "late", 0) == QUIT, "a gang that starts on a drained slot gets nothing"


def test_one_rank_can_retire_its_gang(ask: Callable[..., Any]) -> None:
    attempt = serve(ask, "t0", world=2)
    ask("submit", "t1", {})
    ask("finish", "t0", attempt, 1, {**DONE, "retire": "cwd changed"})
    ask("finish", "t0", attempt, 0, DONE)
    assert ask("take", 0, "gang", 1) == QUIT
    assert "retire" not in ask("recv", "t0", 0)["end"]


def test_halt_ends_waiting_jobs_now_and_running_ones_at_their_next_step(ask: Callable[..., Any]) -> None:
    attempt = serve(ask, "t0")
    ask("submit", "t1", {})
    ask("halt")
    assert ask("recv", "t1", 0)["end"]["status"] == "halted"
    assert ask("recv", "t0", 0) is None
    assert ask("beat", 0, "gang", 0, attempt) == HALT
    assert ask("report", "t0", attempt, (1, 1), {}) is None, "its reports still count"
    assert ask("recv", "t0", 1) is None
    assert ask("report", "t0", attempt, (1, 1), {}) == GO
    ask("finish", "t0", attempt, 0, {"status": "stopped"})
    assert ask("recv", "t0", 1)["end"]["status"] == "halted"
    ask("submit", "t2", {})
    assert ask("recv", "t2", 0)["end"]["status"] == "halted"


def test_a_job_that_was_done_before_it_saw_the_halt_is_done(ask: Callable[..., Any]) -> None:
    attempt = serve(ask, "t0")
    ask("halt")
    ask("finish", "t0", attempt, 0, DONE)
    assert ask("recv", "t0", 0)["end"]["status"] == "done"


def test_an_unknown_verb_is_an_error(ask: Callable[..., Any]) -> None:
    with pytest.raises(KeyError, match="dance"):
        ask("dance")


@pytest.mark.parametrize("seed", range(20))
def test_whatever_dies_every_job_ends_once_and_every_report_is_read_once(seed: int, clock: Clock) -> None:
    """Random gangs of 1 to 3 ranks, random deaths and slow proxies, 12 jobs of 4 reports each."""
    dice = random.Random(seed)
    ask = Broker(Limits(beat_s=6, proxy_s=1e9, max_attempts=10**6), clock).ask
    read: dict[str, list[Any]] = {f"t{i}": [] for i in range(12)}
    ended: set[str] = set()
    gangs: dict[int, dict[str, Any]] = {}
    for trial in read:
        ask("submit", trial, {})
    for _ in range(20_000):
        if len(ended) == len(read):
            break
        clock.now += 0.1
        slot = dice.randrange(3)
        if slot not in gangs or dice.random() < 0.02:
            gangs[slot] = {"name": f"{slot}-{clock.now}", "world": dice.randint(1, 3), "k": 0, "order": None, "at": 0}
            ask("hello", slot, gangs[slot]["name"], gangs[slot]["world"])
        step(ask, slot, gangs[slot])
        for trial in set(read) - ended:
            message = ask("recv", trial, len(read[trial]))
            if message is not None and dice.random() < 0.5:
                read[trial].append(message.get("at"))
                if "end" in message:
                    assert message["end"]["status"] == "done"
                    ended.add(trial)
                    ask("end", trial)
    assert ended == set(read)
    assert all(got == [(1, 1), (1, 2), (1, 3), (1, 4), None] for got in read.values())


def step(ask: Callable[..., Any], slot: int, gang: dict[str, Any]) -> None:
    """One small move of a gang: beat, then take, report or finish, whichever is next."""
    for rank in range(gang["world"]):
        ask("beat", slot, gang["name"], rank, "")
    if gang["order"] is None:
        gang["order"], gang["at"] = ask("take", slot, gang["name"], gang["k"]), 1
        return
    trial, attempt = gang["order"]["trial"], gang["order"]["attempt"]
    if gang["at"] <= 4:
        gang["at"] += ask("report", trial, attempt, (1, gang["at"]), {}) == GO
        return
    for rank in range(gang["world"]):
        assert ask("finish", trial, attempt, rank, DONE) == GO
    gang["order"], gang["k"] = None, gang["k"] + 1


def test_the_actor_holds_a_question_until_something_changes() -> None:
    async def scene() -> Any:
        actor = BrokerActor(LIMITS)
        await actor.ask("hello", 0, "gang", 1)
        waiting = asyncio.create_task(actor.ask("take", 0, "gang", 0))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        await actor.ask("submit", "t0", {})
        return await asyncio.wait_for(waiting, 1)

    assert asyncio.run(scene())["trial"] == "t0"
