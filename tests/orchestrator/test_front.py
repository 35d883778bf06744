import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import SweepError
from orchestrator.front import best_within, front, knee, smallest_within, within_noise
from orchestrator.pick import pick
from orchestrator.records import TrialRecord
from tests.orchestrator.test_records import record

OBJECTIVES = {"score": "max", "params": "min"}


def many(points: list[tuple[float, float]]) -> list[TrialRecord]:
    return [record(f"t{number:04d}", score, params) for number, (score, params) in enumerate(points)]


def names(records: list[TrialRecord]) -> list[str]:
    return [item.trial for item in records]


def test_the_front_is_what_nothing_beats_cheapest_first() -> None:
    found = front(many([(0.9, 100), (0.8, 50), (0.7, 60), (0.95, 200), (0.9, 150)]), OBJECTIVES)
    assert names(found) == ["t0001", "t0000", "t0003"]


def test_teacher_failed_stopped_and_nan_are_not_on_the_front() -> None:
    records = [
        record("teacher", 1.0, 1.0),
        record("t0000", 1.0, 1.0, status="failed"),
        record("t0001", 1.0, 1.0, status="stopped"),
        record("t0002", math.nan, 1.0),
        record("t0003", 0.1, 9.0),
    ]
    assert names(front(records, OBJECTIVES)) == ["t0003"]


@given(st.lists(st.tuples(st.sampled_from([0.1, 0.2, 0.3, 0.4]), st.sampled_from([1.0, 2.0, 3.0])), max_size=12))
def test_everything_off_the_front_is_beaten_or_equalled_by_it(points: list[tuple[float, float]]) -> None:
    records = many(points)
    best = front(records, OBJECTIVES)
    values = {(item.metrics["score"], item.costs["params"]) for item in best}
    assert len(values) == len(best)
    for score, params in points:
        assert any(s >= score and p <= params for s, p in values)
    for score, params in values:
        assert not any(s >= score and p <= params and (s, p) != (score, params) for s, p in points)


def test_choices() -> None:
    records = [record("teacher", 0.93, 1000), *many([(0.90, 400), (0.89, 200), (0.80, 100), (0.60, 50)])]
    assert smallest_within(records, 0.88) == records[2]
    assert best_within(records, {"params": 150}) == records[3]
    assert within_noise(records) == records[2]
    assert knee(front(records, OBJECTIVES)) == records[3]
    assert pick(records, "smallest", {}, 0.05).record == records[2]
    assert pick(records, "best", {"params": 300}, None).to_json()["trial"] == "t0001"


def test_a_choice_that_cannot_be_made_is_an_error() -> None:
    with pytest.raises(SweepError, match="no finished trial satisfies rule 'best' with params <= 10"):
        pick(many([(0.9, 100)]), "best", {"params": 10}, None)
    with pytest.raises(SweepError, match="needs --within"):
        pick(many([(0.9, 100)]), "smallest", {}, None)
