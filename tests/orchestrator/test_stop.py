"""The stop rule as a pure function of curves, and its place between Tune and the ledger."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.folder import SweepFolder
from orchestrator.jobqueue import MESSAGE
from orchestrator.ledger import Curve, Ledger
from orchestrator.plan import Design
from orchestrator.stop import FrontStop, Rule, better
from tests.doubles.plans import toy_plan

RULE = Rule(rungs=(1, 3), grace=0)


def curve(params: float, *scores: float, se: float = 0.01, finished: bool = False, flops: float = 1.0) -> Curve:
    costs = {"params": params, "flops": flops}
    return Curve(costs, [(score, se) for score in scores], finished=finished)


def test_a_larger_trial_that_scores_less_is_stopped() -> None:
    assert better("b", {"a": curve(10, 0.9), "b": curve(20, 0.5)}, RULE) == "a"


def test_equal_costs_count_as_no_dearer() -> None:
    assert better("b", {"a": curve(10, 0.9), "b": curve(10, 0.5)}, RULE) == "a"


def test_a_smaller_trial_goes_on_however_bad_it_is() -> None:
    assert better("b", {"a": curve(20, 0.9), "b": curve(10, 0.1)}, RULE) == ""


def test_one_cost_that_is_lower_is_enough_to_go_on() -> None:
    assert better("b", {"a": curve(10, 0.9, flops=5.0), "b": curve(20, 0.1, flops=4.0)}, RULE) == ""


def test_noise_stops_nobody() -> None:
    """Two standard errors of the difference of two scores with 0.01 each are 0.0283."""
    assert better("b", {"a": curve(10, 0.528), "b": curve(20, 0.5)}, RULE) == ""
    assert better("b", {"a": curve(10, 0.529), "b": curve(20, 0.5)}, RULE) == "a"


def test_trials_are_compared_at_the_same_rung_only() -> None:
    rival = curve(10, 0.5, 0.6, 0.9)
    assert better("b", {"a": rival, "b": curve(20, 0.5)}, RULE) == "", "at report 1 they were alike"
    assert better("b", {"a": rival, "b": curve(20, 0.5, 0.5)}, RULE) == "", "2 is no rung"
    assert better("b", {"a": rival, "b": curve(20, 0.5, 0.6, 0.7)}, RULE) == "a"
    assert better("b", {"a": curve(10, 0.9, 0.9), "b": curve(20, 0.5, 0.6, 0.7)}, RULE) == "", "a is not at rung 3 yet"


def test_a_finished_trial_counts_with_its_last_report() -> None:
    assert better("b", {"a": curve(10, 0.9, finished=True), "b": curve(20, 0.5, 0.6, 0.7)}, RULE) == "a"
    assert better("b", {"a": curve(10, finished=True), "b": curve(20, 0.5)}, RULE) == ""


def test_grace_is_kept() -> None:
    curves = {"a": curve(10, 0.9, 0.9, 0.9), "b": curve(20, 0.1)}
    assert better("b", curves, Rule(rungs=(1, 3), grace=1)) == ""
    curves["b"] = curve(20, 0.1, 0.1, 0.1)
    assert better("b", curves, Rule(rungs=(1, 3), grace=1)) == "a"


def test_the_best_rival_is_named() -> None:
    assert better("c", {"a": curve(10, 0.8), "b": curve(5, 0.9), "c": curve(20, 0.5)}, RULE) == "b"


points = st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(0, 10))


@given(st.lists(points, min_size=2, max_size=8), st.integers(1, 3))
def test_no_stopped_trial_could_have_been_on_the_front_of_that_rung(
    trials: list[tuple[int, int, int]], rung: int
) -> None:
    curves = {
        str(index): Curve({"params": params, "flops": flops}, [(score / 10, 0.02)] * rung)
        for index, (params, flops, score) in enumerate(trials)
    }
    for name, (params, flops, score) in zip(curves, trials, strict=True):
        rival = better(name, curves, Rule(rungs=(rung,)))
        if rival:
            other = trials[int(rival)]
            assert other[0] <= params
            assert other[1] <= flops
            assert other[2] > score
    best = max(score for _, _, score in trials)
    leaders = [name for name, item in zip(curves, trials, strict=True) if item[2] == best]
    assert not any(better(name, curves, Rule(rungs=(rung,))) for name in leaders)


def message(step: int, score: float, *, final: bool = True, stage: str = "tune") -> dict[str, str]:
    body = {
        "at": [1, step],
        "step": step,
        "stage": stage,
        "final": final,
        "metrics": {"score": score, "score_se": 0.001},
    }
    return {MESSAGE: json.dumps(body)}


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    plan = toy_plan(tmp_path)
    ledger = Ledger(plan, SweepFolder(tmp_path, "toy"), ())
    for trial, heads in (("t0000", 1), ("t0001", 4)):
        design = plan.resolve("walker", {"heads": heads, "layers": 2})
        assert isinstance(design, Design)
        ledger.open(trial, design)
    return ledger


def test_tune_is_answered_and_the_ledger_knows_why(ledger: Ledger) -> None:
    stop = FrontStop(ledger, RULE)
    small, large = (SimpleNamespace(config={"trial": name}) for name in ("t0000", "t0001"))
    assert stop.on_trial_result(None, small, message(1, 0.9)) == FrontStop.CONTINUE
    assert stop.on_trial_result(None, large, message(1, 0.5, final=False)) == FrontStop.CONTINUE, "another stage"
    assert stop.on_trial_result(None, large, message(2, 0.5)) == FrontStop.STOP
    record = ledger.close("t0001", {"status": "failed", "error": "the proxy was told to stop"})
    assert record is not None
    assert (record.status, record.metrics["score"]) == ("stopped", 0.5)
    assert record.reason == "t0000 costs no more and was better at report 1"


def test_without_a_rule_every_trial_goes_on_and_is_written_down(ledger: Ledger) -> None:
    stop = FrontStop(ledger, None)
    large = SimpleNamespace(config={"trial": "t0001"})
    assert stop.on_trial_result(None, large, message(1, 0.0)) == FrontStop.CONTINUE
    assert stop.on_trial_result(None, large, {MESSAGE: json.dumps({"end": {"status": "done"}})}) == FrontStop.CONTINUE
    assert len(ledger.folder.history("t0001").read_text().splitlines()) == 1


def test_a_failed_trial_is_no_rival(ledger: Ledger) -> None:
    stop = FrontStop(ledger, RULE)
    small, large = (SimpleNamespace(config={"trial": name}) for name in ("t0000", "t0001"))
    stop.on_trial_result(None, small, message(1, 0.9))
    ledger.close("t0000", {"status": "failed", "error": "ValueError: diverged"})
    assert stop.on_trial_result(None, large, message(1, 0.5)) == FrontStop.CONTINUE
