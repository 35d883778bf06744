"""The search without a cluster: a plan, a study in a file, records in a folder, and a driver that is this test."""

import json
import sqlite3
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from orchestrator import records
from orchestrator.folder import SweepFolder
from orchestrator.jobqueue import MESSAGE
from orchestrator.ledger import Ledger
from orchestrator.plan import Design, Plan
from orchestrator.records import TrialRecord
from orchestrator.search import Explorer, FrontSearch, Launch
from orchestrator.space import grid
from orchestrator.study import Study
from tests.doubles.plans import toy_plan

pytestmark = pytest.mark.long


def explore(plan: Plan, root: Path) -> Explorer:
    """A driver's start: everything is read from the folder."""
    folder = SweepFolder(root, plan.spec.name)
    search = plan.spec.search
    spaces = {method.name: method.space for method in plan.methods}
    study = Study(folder.file("study.db"), spaces, plan.spec.objectives, sampler=search.sampler, seed=search.seed)
    return Explorer(plan, study, Ledger(plan, folder, ()))


def score(design: Design) -> float:
    return 0.5 + 0.1 * float(design.costs["params"] / 50_000)


def run(explorer: Explorer, launch: Launch, end: Mapping[str, Any] | None = None) -> TrialRecord | None:
    """Lets a trial happen."""
    explorer.ledger.open(launch.trial, launch.design)
    done = {"status": "done", "result": {"metrics": {"score": score(launch.design), "score_se": 0.01}}}
    record = explorer.ledger.close(launch.trial, end or done)
    explorer.finish(launch.trial, record)
    return record


def run_all(explorer: Explorer, limit: int = 1000) -> list[Launch]:
    """Runs one trial after another until there is none."""
    launched = []
    while len(launched) < limit and isinstance(launch := explorer.next(), Launch):
        launched.append(launch)
        run(explorer, launch)
    return launched


def optuna_trials(root: Path) -> list[optuna.trial.FrozenTrial]:
    storage = f"sqlite:///{root / 'toy' / 'study.db'}"
    (name,) = optuna.get_all_study_names(storage)
    return optuna.load_study(study_name=name, storage=storage).get_trials()


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random", "grid"])
def test_every_sampler_runs_the_planned_number_of_distinct_designs(sampler: str, tmp_path: Path) -> None:
    plan = toy_plan(tmp_path, search={"sampler": sampler, "trials": 9})
    explorer = explore(plan, tmp_path)
    launched = run_all(explorer)
    assert [launch.trial for launch in launched] == [f"t{number:04d}" for number in range(9)]
    assert len({launch.design.key for launch in launched}) == 9
    assert explorer.closed == "all 9 trials have been run"
    told = [trial for trial in optuna_trials(tmp_path) if "trial" in trial.user_attrs]
    assert [trial.values for trial in told] == [[score(one.design), one.design.costs["params"]] for one in launched]


def test_over_budget_designs_are_refused_with_numbers_and_told_as_violations(tmp_path: Path) -> None:
    plan = toy_plan(tmp_path, budget={"params": 20_000}, search={"trials": 3})
    launched = run_all(explore(plan, tmp_path))
    assert all(launch.design.costs["params"] <= 20_000 for launch in launched)
    refused = [record for record in records.read(SweepFolder(tmp_path, "toy")) if record.status == "refused"]
    assert refused
    assert [record.trial for record in refused] == [f"r{number:04d}" for number in range(len(refused))]
    assert all("exceed the budget of 20,000" in record.reason for record in refused)
    told = {t.user_attrs["trial"]: t for t in optuna_trials(tmp_path) if t.state == TrialState.PRUNED if t.user_attrs}
    for record in refused:
        assert told[record.trial].constraints["budget"] == pytest.approx(record.costs["params"] / 20_000 - 1)


@pytest.mark.parametrize("sampler", ["tpe", "grid"])
def test_a_small_space_is_used_up_and_said_to_be(sampler: str, tmp_path: Path) -> None:
    plan = toy_plan(tmp_path, budget={"params": 20_000}, search={"sampler": sampler, "trials": 16})
    feasible = [s for s in grid(plan.methods[0].space) if isinstance(plan.resolve("walker", s), Design)]
    explorer = explore(plan, tmp_path)
    launched = run_all(explorer)
    assert 0 < len(feasible) < 16
    assert sorted(str(dict(launch.design.sample)) for launch in launched) == sorted(map(str, feasible))
    assert explorer.closed == "every feasible design of the space has been tried"
    again = explore(plan, tmp_path)
    assert again.peek() == "every feasible design of the space has been tried"


def test_a_continuous_space_without_new_designs_ends_too(tmp_path: Path) -> None:
    plan = toy_plan(
        tmp_path,
        space={"heads": {"int": [1, 4]}, "layers": {"choice": [4, 1]}, "lr": {"float": [0.1, 0.1]}},
        budget={"params": 25_000},
        search={"trials": 50},
    )
    explorer = explore(plan, tmp_path)
    assert len(run_all(explorer)) == 4
    assert explorer.closed == "no new feasible design among 16 proposals and 2000 draws"


def test_a_design_that_was_tried_is_answered_from_its_record(tmp_path: Path) -> None:
    start = {"heads": 2, "layers": 2}
    plan = toy_plan(tmp_path, search={"trials": 3, "start": [start, start, {"heads": 3, "layers": 1}]})
    launched = run_all(explore(plan, tmp_path))
    assert [dict(launch.design.sample) for launch in launched[:2]] == [start, {"heads": 3, "layers": 1}]
    first, twin = optuna_trials(tmp_path)[:2]
    assert first.values == twin.values
    assert "trial" not in twin.user_attrs


def test_a_twin_of_a_running_trial_waits_for_its_numbers(tmp_path: Path) -> None:
    start = {"heads": 2, "layers": 2}
    plan = toy_plan(tmp_path, search={"trials": 3, "start": [start, start]})
    explorer = explore(plan, tmp_path)
    first, second = explorer.next(), explorer.next()
    assert isinstance(first, Launch)
    assert isinstance(second, Launch)
    assert first.design.key != second.design.key
    assert optuna_trials(tmp_path)[1].state == TrialState.RUNNING
    run(explorer, first)
    assert [trial.values for trial in optuna_trials(tmp_path)[:2]] == [
        [score(first.design), first.design.costs["params"]]
    ] * 2


def test_start_points_come_first_and_gaps_are_filled(tmp_path: Path) -> None:
    plan = toy_plan(tmp_path, search={"trials": 3, "start": [{"heads": 4}, {"heads": 1, "layers": 4}]})
    first, second, _ = run_all(explore(plan, tmp_path))
    assert first.design.sample["heads"] == 4
    assert dict(second.design.sample) == {"heads": 1, "layers": 4}


def test_two_methods_share_one_study_and_keep_their_parameters_apart(tmp_path: Path) -> None:
    plan = toy_plan(
        tmp_path,
        space=None,
        method={
            "walker": {"space": {"heads": {"int": [1, 2]}, "layers": {"int": [1, 2]}}},
            "runner": {"space": {"heads": {"choice": ["few", "many"]}}},
        },
        search={"trials": 30},
    )
    launched = run_all(explore(plan, tmp_path))
    assert Counter(launch.design.method for launch in launched) == {"walker": 4, "runner": 2}


def test_conditions_are_kept(tmp_path: Path) -> None:
    space = {
        "layers": {"int": [1, 2]},
        "heads": {"int": [1, 4], "when": {"layers": [2]}},
        "lr": {"float": [1e-4, 1e-2], "log": True, "when": {"layers": [1]}},
    }
    plan = toy_plan(tmp_path, space=space, search={"trials": 12})
    for launch in run_all(explore(plan, tmp_path)):
        assert set(launch.design.sample) == (
            {"layers", "heads"} if launch.design.sample["layers"] == 2 else {"layers", "lr"}
        )


def test_a_dead_drivers_trial_is_proposed_again_under_its_name(tmp_path: Path) -> None:
    start = [{"heads": heads, "layers": 1} for heads in (1, 2, 3, 4)]
    plan = toy_plan(tmp_path, search={"trials": 4, "start": start})
    dead = explore(plan, tmp_path)
    run_all(dead, limit=2)
    lost = dead.next()
    assert isinstance(lost, Launch)
    dead.ledger.open(lost.trial, lost.design)

    explorer = explore(plan, tmp_path)
    again = explorer.next()
    assert again == lost, "before the start points that are left"
    run(explorer, lost)
    rest = run_all(explorer)
    assert [launch.trial for launch in rest] == ["t0003"]
    assert {trial.state for trial in optuna_trials(tmp_path)} == {TrialState.COMPLETE}


def test_dying_again_and_again_loses_and_doubles_nothing(tmp_path: Path) -> None:
    plan = toy_plan(tmp_path, search={"trials": 4})
    for _ in range(3):
        launch = explore(plan, tmp_path).next()
        assert isinstance(launch, Launch)
        assert launch.trial == "t0000"
    launched = run_all(explore(plan, tmp_path))
    assert [launch.trial for launch in launched] == ["t0000", "t0001", "t0002", "t0003"]


def test_a_record_that_the_study_never_heard_of_is_told(tmp_path: Path) -> None:
    """The driver died between the record and the study."""
    plan = toy_plan(tmp_path, search={"trials": 4})
    dead = explore(plan, tmp_path)
    launch = dead.next()
    assert isinstance(launch, Launch)
    dead.ledger.open(launch.trial, launch.design)
    dead.ledger.close(launch.trial, {"status": "done", "result": {"metrics": {"score": 0.75}}})

    launched = run_all(explore(plan, tmp_path))
    assert [item.trial for item in launched] == ["t0001", "t0002", "t0003"]
    told = [trial.values for trial in optuna_trials(tmp_path) if trial.user_attrs.get("trial") == "t0000"]
    assert [0.75, launch.design.costs["params"]] in told


def test_a_lost_study_is_rebuilt_from_the_records(tmp_path: Path) -> None:
    plan = toy_plan(tmp_path, budget={"params": 30_000}, search={"trials": 4})
    run_all(explore(plan, tmp_path), limit=3)
    before = {record.trial for record in records.read(SweepFolder(tmp_path, "toy"))}
    (tmp_path / "toy" / "study.db").unlink()
    launched = run_all(explore(plan, tmp_path))
    assert [launch.trial for launch in launched] == ["t0003"]
    assert before <= {trial.user_attrs.get("trial") for trial in optuna_trials(tmp_path)}


def test_more_trials_go_on_where_the_sweep_ended(tmp_path: Path) -> None:
    run_all(explore(toy_plan(tmp_path, search={"trials": 2}), tmp_path))
    assert explore(toy_plan(tmp_path, search={"trials": 2}), tmp_path).peek() == "all 2 trials have been run"
    more = run_all(explore(toy_plan(tmp_path, search={"trials": 4}), tmp_path))
    assert [launch.trial for launch in more] == ["t0002", "t0003"]


def test_the_same_seed_makes_the_same_choices_even_after_a_break(tmp_path: Path) -> None:
    def samples(root: Path, parts: list[int]) -> list[Mapping[str, Any]]:
        plan = toy_plan(root, search={"trials": 4, "seed": 5})
        return [launch.design.sample for limit in parts for launch in run_all(explore(plan, root), limit)]

    assert samples(tmp_path / "a", [4]) == samples(tmp_path / "b", [4])
    assert samples(tmp_path / "c", [2, 2]) == samples(tmp_path / "d", [2, 2])


def test_failures_count_are_told_as_such_and_end_a_hopeless_sweep(tmp_path: Path) -> None:
    explorer = explore(toy_plan(tmp_path, search={"trials": 12}), tmp_path)
    for _ in range(5):
        launch = explorer.next()
        assert isinstance(launch, Launch)
        record = run(explorer, launch, {"status": "failed", "error": "OSError: no data"})
        assert record is not None
        assert (record.status, record.reason) == ("failed", "OSError: no data")
    assert explorer.next() == "the first 5 trials all failed; the last: OSError: no data"
    assert {trial.state for trial in optuna_trials(tmp_path)} == {TrialState.FAIL}
    assert isinstance(explore(toy_plan(tmp_path, search={"trials": 12}), tmp_path).next(), Launch), (
        "run again: try again"
    )


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_is_a_failure(number: float, tmp_path: Path) -> None:
    explorer = explore(toy_plan(tmp_path), tmp_path)
    launch = explorer.next()
    assert isinstance(launch, Launch)
    record = run(explorer, launch, {"status": "done", "result": {"metrics": {"score": number, "loss": 1.0}}})
    assert record is not None
    assert record.status == "failed"
    assert record.metrics == {"loss": 1.0}
    assert records.read(SweepFolder(tmp_path, "toy")) == [record]


def test_an_interrupted_trial_gets_no_record_and_its_history_counts_on(tmp_path: Path) -> None:
    plan = toy_plan(tmp_path)
    explorer = explore(plan, tmp_path)
    launch = explorer.next()
    assert isinstance(launch, Launch)
    explorer.ledger.open(launch.trial, launch.design)
    body = {
        "stage": "walk",
        "final": True,
        "step": 1,
        "at": [1, 1],
        "attempts": 1,
        "metrics": {"score": 0.5, "loss": float("nan")},
    }
    explorer.ledger.report(launch.trial, body)
    explorer.ledger.report(launch.trial, body)
    assert explorer.ledger.close(launch.trial, {"status": "halted"}) is None
    path = SweepFolder(tmp_path, "toy").history(launch.trial)
    path.write_text(path.read_text() + '{"torn": ')

    later = explore(plan, tmp_path)
    assert later.next() == launch
    job = later.ledger.open(launch.trial, launch.design)
    assert job["at"] == (1, 1)
    assert later.ledger.curves[launch.trial].scores == [(0.5, 0.0)]
    (line,) = path.read_text().splitlines()
    assert json.loads(line)["metrics"] == {"score": 0.5}


def test_tune_is_told_to_wait_while_all_slots_are_busy(tmp_path: Path) -> None:
    explorer = explore(toy_plan(tmp_path, search={"trials": 3}), tmp_path)
    search = FrontSearch(explorer, lambda: 2)
    first, second, third = (search.suggest(name) for name in "abc")
    assert (first["trial"], second["trial"], third) == ("t0000", "t0001", None)
    job = json.loads(first["job"])
    assert set(job["payload"]) >= {"kind", "task", "teacher", "folder", "method", "config", "seed"}
    end = {"end": {"status": "done", "result": {"metrics": {"score": 0.5}}}}
    search.on_trial_complete("a", {MESSAGE: json.dumps(end)})
    assert search.suggest("c")["trial"] == "t0002"
    search.on_trial_complete("b", None, error=True)
    search.on_trial_complete("c", {MESSAGE: json.dumps(end)})
    assert search.suggest("d") == FrontSearch.FINISHED
    assert [record.status for record in records.read(SweepFolder(tmp_path, "toy"))] == ["done", "failed", "done"]


def test_a_trial_that_tune_drops_is_not_over(tmp_path: Path) -> None:
    explorer = explore(toy_plan(tmp_path), tmp_path)
    search = FrontSearch(explorer, lambda: 1)
    search.suggest("a")
    search.on_trial_complete("a", None)
    assert records.read(SweepFolder(tmp_path, "toy")) == []
    launch = explore(toy_plan(tmp_path), tmp_path).next()
    assert isinstance(launch, Launch)
    assert launch.trial == "t0000"


def test_an_unreadable_study_is_made_again(tmp_path: Path) -> None:
    run_all(explore(toy_plan(tmp_path, search={"trials": 2}), tmp_path))
    (tmp_path / "toy" / "study.db").write_bytes(b"not a database, " * 100)
    more = run_all(explore(toy_plan(tmp_path, search={"trials": 3}), tmp_path))
    assert [launch.trial for launch in more] == ["t0002"]
    names = [trial.user_attrs["trial"] for trial in optuna_trials(tmp_path) if trial.user_attrs]
    assert names == ["t0000", "t0001", "t0002"]
    assert (tmp_path / "toy" / "study.broken").exists()


def test_a_study_in_use_by_two_sweeps_of_one_file_stays_apart(tmp_path: Path) -> None:
    """Another space under the same name (a changed sweep file) starts a study of its own."""
    run_all(explore(toy_plan(tmp_path, search={"trials": 2}), tmp_path))
    changed = toy_plan(tmp_path, space={"heads": {"choice": [1, 2]}, "layers": {"int": [1, 4]}}, search={"trials": 4})
    assert [launch.trial for launch in run_all(explore(changed, tmp_path))] == ["t0002", "t0003"]
    with sqlite3.connect(tmp_path / "toy" / "study.db") as connection:
        assert connection.execute("select count(*) from studies").fetchone() == (2,)
