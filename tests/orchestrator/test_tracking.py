import json
import logging
import math
import os
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow import MlflowClient
from mlflow.entities import Run

from orchestrator import spool
from orchestrator.courier import Tracker, deliver
from orchestrator.folder import SweepFolder
from orchestrator.plan import Plan
from orchestrator.records import TrialRecord
from orchestrator.spool import Destination, Spool
from orchestrator.tracking import comparison_path
from orchestrator.ui import serving
from tests.orchestrator.sweeps import design, small_plan, small_sweep, store

pytestmark = pytest.mark.long

STEPS = (10, 20, 30)
COMPLETE, STOPPED = SimpleNamespace(status="complete"), SimpleNamespace(status="stopped")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One root for the module, because creating MLflow's tables takes seconds; every test has its own sweep."""
    return tmp_path_factory.mktemp("root")


@pytest.fixture
def sweep(root: Path, tmp_path: Path, request: pytest.FixtureRequest) -> SweepFolder:
    name = request.node.name.removeprefix("test_").replace("_", "-")[:70]
    return SweepFolder(root, name)


@pytest.fixture
def plan(sweep: SweepFolder, tmp_path: Path) -> Plan:
    return small_plan(tmp_path, sweep.name)


def tracker(sweep: SweepFolder, destination: Destination | None = None, grace_s: float = 60.0) -> Tracker:
    return Tracker(sweep, destination or Destination.of(sweep), interval_s=0.02, grace_s=grace_s)


def run_trial(watcher: Tracker, sweep: SweepFolder, plan: Plan, record: TrialRecord) -> None:
    if record.status != "refused" and record.trial != "teacher":
        watcher.on_trial(record.trial, design(plan, record))
        for step in STEPS:
            watcher.on_report(record.trial, step, {"score": 0.5 + step / 100, "loss": 1 / step})
    store(sweep, record)
    watcher.on_record(record)


def track(sweep: SweepFolder, plan: Plan, trials: int = 8, destination: Destination | None = None) -> list[TrialRecord]:
    watcher, records = tracker(sweep, destination), small_sweep(plan, trials)
    watcher.on_start(plan)
    for record in records:
        run_trial(watcher, sweep, plan, record)
    watcher.on_end(COMPLETE)
    return records


def runs_of(sweep: SweepFolder, destination: Destination | None = None) -> tuple[MlflowClient, Run, dict[str, Run]]:
    """The client, the parent and the children by trial; fails if any of them is there twice."""
    destination = destination or Destination.of(sweep)
    client = MlflowClient(tracking_uri=destination.uri)
    experiment = client.get_experiment_by_name(destination.experiment)
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert len(parents) == 1
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parents[0].info.run_id]
    assert len(children) == len(runs) - 1
    by_trial = {run.data.tags["trial"]: run for run in children}
    assert len(by_trial) == len(children)
    return client, parents[0], by_trial


def assert_whole(
    sweep: SweepFolder,
    records: list[TrialRecord],
    destination: Destination | None = None,
    seen: tuple[int, ...] = STEPS,
) -> None:
    """Every run there once, every metric of every step there once."""
    client, _, children = runs_of(sweep, destination)
    assert set(children) == {record.trial for record in records if record.status != "refused"}
    for record in records:
        if record.status == "refused":
            continue
        run_id = children[record.trial].info.run_id
        steps = () if record.trial == "teacher" else seen
        assert [metric.step for metric in client.get_metric_history(run_id, "loss")] == list(steps)
        assert [metric.value for metric in client.get_metric_history(run_id, "wall_s")] == [record.wall_s]
        for name, number in record.metrics.items():
            assert [metric.value for metric in client.get_metric_history(run_id, f"best/{name}")] == [number]


def test_a_sweep_is_a_parent_with_a_child_for_each_trial_and_the_teacher(sweep: SweepFolder, plan: Plan) -> None:
    records = track(sweep, plan, 20)
    assert_whole(sweep, records)
    _, parent, children = runs_of(sweep)
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["task"] == "agreement"
    assert parent.data.params["budget/params"] == "250000"
    ends = {"done": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
    assert {trial: run.info.status for trial, run in children.items()} == {
        record.trial: ends[record.status] for record in records if record.status != "refused"
    }
    assert Counter(record.status for record in records)["refused"], "the sample has no refused trial to leave out"


def test_a_child_has_what_varies_its_sizes_and_tags_to_filter_by(sweep: SweepFolder, plan: Plan) -> None:
    records = track(sweep, plan)
    record = next(record for record in records if record.status == "done" and record.trial != "teacher")
    client, _, children = runs_of(sweep)
    run = children[record.trial]
    assert run.data.params["heads"] == str(record.sample["heads"])
    assert "epochs" not in run.data.params
    assert "layout/heads" not in run.data.params, "the layout repeats what the sample says"
    assert "layout/hidden" not in run.data.params, "no student has another hidden width than the teacher"
    assert children["teacher"].data.params["layout/layers"] == "6"
    assert run.data.metrics["params"] == record.costs["params"]
    assert run.data.metrics["flops"] == record.costs["flops"]
    tags = {"sweep": sweep.name, "method": "rosita", "task": "agreement", "status": "done", "feasible": "true"}
    tags |= {"seed": str(record.seed), "key": record.key, "trial": record.trial}
    assert tags.items() <= run.data.tags.items()
    assert {item.path for item in client.list_artifacts(run.info.run_id)} == {f"{record.trial}.json", "model"}
    assert [item.path for item in client.list_artifacts(run.info.run_id, "model")] == ["model/config.json"]
    filtered = f"tags.sweep = '{sweep.name}' and tags.status = 'failed'"
    failed = client.search_runs([run.info.experiment_id], filtered)
    assert {item.data.tags["trial"] for item in failed} == {item.trial for item in records if item.status == "failed"}


def test_the_front_is_tagged_and_listed_in_the_parents_note(sweep: SweepFolder, plan: Plan) -> None:
    sweep.path.mkdir(parents=True)
    sweep.file("report.html").write_text("<p>report</p>")
    track(sweep, plan)
    client, parent, children = runs_of(sweep)
    best = {trial for trial, run in children.items() if run.data.tags["pareto"] == "true"}
    assert best
    note = parent.data.tags["mlflow.note.content"]
    assert all(f"[{trial}](#/experiments/" in note for trial in best)
    assert len(best) == sum(line.startswith("| [t") for line in note.splitlines())
    assert "report.html" in {item.path for item in client.list_artifacts(parent.info.run_id)}


def test_a_continued_sweep_takes_up_its_runs_and_doubles_nothing(sweep: SweepFolder, plan: Plan) -> None:
    records = small_sweep(plan, 4)
    first = tracker(sweep)
    first.on_start(plan)
    for record in records[:3]:
        run_trial(first, sweep, plan, record)
    halfway = records[4]
    first.on_trial(halfway.trial, design(plan, halfway))
    first.on_report(halfway.trial, STEPS[0], {"score": 0.6, "loss": 1 / STEPS[0]})
    first.on_end(STOPPED)
    _, parent, children = runs_of(sweep)
    assert parent.info.status == children[halfway.trial].info.status == "KILLED"
    before = {trial: run.info.run_id for trial, run in children.items()}

    second = tracker(sweep)
    second.on_start(plan)
    for record in records[3:]:
        run_trial(second, sweep, plan, record)
    second.on_end(COMPLETE)
    assert_whole(sweep, records)
    _, again, children = runs_of(sweep)
    assert again.info.run_id == parent.info.run_id
    assert again.info.status == "FINISHED"
    assert before.items() <= {trial: run.info.run_id for trial, run in children.items()}.items()


def test_what_a_killed_driver_had_no_time_to_tell_is_told_later(sweep: SweepFolder, plan: Plan) -> None:
    """Records and histories are written before anybody is told, so a driver may die in between."""
    records = small_sweep(plan, 4)
    first = tracker(sweep)
    first.on_start(plan)
    for record in records[:2]:
        run_trial(first, sweep, plan, record)
    halfway = records[-1]
    first.on_trial(halfway.trial, design(plan, halfway))
    first.on_end(STOPPED)
    for record in records[2:]:
        path = sweep.history(record.trial)
        path.parent.mkdir(exist_ok=True)
        reports = [{"step": step, "metrics": {"loss": 1 / step}, "final": step > 10, "stage": "cut"} for step in STEPS]
        path.write_text("".join(json.dumps(report) + "\n" for report in reports))
    for record in records[2:-1]:
        store(sweep, record)

    second = tracker(sweep)
    second.on_start(plan)
    second.on_trial(halfway.trial, design(plan, halfway))
    second.on_record(halfway)
    second.on_end(COMPLETE)
    client, _, children = runs_of(sweep)
    assert set(children) == {record.trial for record in records}
    for record in records[2:]:
        run_id = children[record.trial].info.run_id
        assert [metric.step for metric in client.get_metric_history(run_id, "cut/loss")] == [10]
        assert [metric.step for metric in client.get_metric_history(run_id, "loss")] == [20, 30]
        if "score" in record.metrics:
            assert children[record.trial].data.metrics["best/score"] == record.metrics["score"]


def test_what_may_have_arrived_is_looked_up_before_it_is_sent_again(sweep: SweepFolder, plan: Plan) -> None:
    records = track(sweep, plan, 5)
    sweep.file("delivered.json").unlink()
    assert deliver(sweep, Destination.of(sweep)) > 20
    assert_whole(sweep, records)
    assert deliver(sweep, Destination.of(sweep)) == 0


def test_a_run_that_someone_deleted_is_told_again(sweep: SweepFolder, plan: Plan) -> None:
    records = track(sweep, plan, 3)
    client, _, children = runs_of(sweep)
    client.delete_run(children["t0001"].info.run_id)
    deliver(sweep, Destination.of(sweep))
    assert_whole(sweep, records)


def test_another_destination_gets_the_whole_sweep(sweep: SweepFolder, plan: Plan) -> None:
    records = track(sweep, plan, 3)
    elsewhere = Destination.of(sweep, Destination.of(sweep).uri, f"{sweep.name} elsewhere")
    deliver(sweep, elsewhere)
    assert_whole(sweep, records, elsewhere)


def test_the_sweep_does_not_notice_a_server_that_is_away(
    sweep: SweepFolder, plan: Plan, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    away = Destination(uri=f"http://user:secret@127.0.0.1:{port}", experiment=sweep.name)
    watcher, records = tracker(sweep, away, grace_s=0.5), small_sweep(plan, 3)
    watcher.on_start(plan)
    started_s = time.monotonic()
    for record in records:
        run_trial(watcher, sweep, plan, record)
    assert time.monotonic() - started_s < 2.0
    time.sleep(0.5)
    watcher.on_end(COMPLETE)
    warnings = [message.getMessage() for message in caplog.records if message.levelno >= logging.WARNING]
    ours = [text for text in warnings if text.startswith("MLflow at")]
    assert len([text for text in ours if "does not answer" in text]) <= 1
    assert len([text for text in ours if "has not taken everything" in text]) == 1
    assert not any("secret" in text for text in ours)
    deliver(sweep, Destination.of(sweep))
    assert_whole(sweep, records)


def test_what_mlflow_never_takes_is_left_out_and_the_rest_arrives(sweep: SweepFolder, plan: Plan) -> None:
    watcher = tracker(sweep)
    record = next(record for record in small_sweep(plan, 5) if record.status == "done" and record.trial != "teacher")
    watcher.on_start(plan)
    watcher.on_trial(record.trial, design(plan, record))
    watcher.on_report(record.trial, 10, {"score": math.nan, "mal\nformed!": 1.0})
    changed = {**design(plan, record).sample, "heads": 5, "note": "x" * 9000}
    watcher.on_trial(record.trial, SimpleNamespace(method="rosita", sample=changed, layout=None))  # type: ignore[arg-type]
    watcher.on_report(record.trial, 20, {"score": 0.7})
    store(sweep, record)
    watcher.on_record(record)
    watcher.on_end(COMPLETE)
    client, _, children = runs_of(sweep)
    scores = client.get_metric_history(children[record.trial].info.run_id, "score")
    assert [metric.step for metric in scores] == [10, 20]
    assert math.isnan(scores[0].value)
    assert children[record.trial].info.status == "FINISHED"


def test_a_spool_that_cannot_be_read_turns_tracking_off(
    sweep: SweepFolder, plan: Plan, caplog: pytest.LogCaptureFixture
) -> None:
    sweep.path.mkdir(parents=True)
    sweep.file("events.jsonl").write_text("this is not JSON\n")
    watcher = tracker(sweep)
    watcher.on_start(plan)
    watcher.on_report("t0000", 1, {"score": 0.5})
    watcher.on_end(COMPLETE)
    assert "tracking is off" in caplog.text


def test_comparison_opens_the_finished_students(sweep: SweepFolder, plan: Plan) -> None:
    records = track(sweep, plan)
    sweep_id = spool.sweep_id(sweep.file("events.jsonl"))
    path = comparison_path(Destination.of(sweep), sweep_id)
    _, _, children = runs_of(sweep)
    assert path.startswith("/#/compare-runs?runs=%5B%22")
    for record in records:
        wanted = record.status == "done" and record.trial != "teacher"
        assert record.status == "refused" or (children[record.trial].info.run_id in path) == wanted


def test_mlflow_loads_no_pickles_and_calls_nobody() -> None:
    assert os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_a_torn_line_is_cut_and_the_spool_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    first = Spool(path)
    first.append({"kind": "metrics", "trial": "t0", "step": 1, "metrics": {"score": 0.5}})
    first.close()
    with path.open("ab") as stream:
        stream.write(b'{"kind": "metrics", "trial": "t0", "st')
    second = Spool(path)
    assert second.unlogged("t0", 1, {"score": 0.5, "loss": 2}) == {"loss": 2.0}
    second.append({"kind": "end"})
    second.close()
    assert [event["kind"] for event in spool.read(path, 0)[0]] == ["sweep", "metrics", "end"]


@given(sizes=st.lists(st.integers(0, 30), max_size=12), limit=st.integers(1, 5))
def test_reading_in_pieces_gives_every_event_once(
    sizes: list[int], limit: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("spool") / "events.jsonl"
    writer = Spool(path)
    for number, size in enumerate(sizes):
        writer.append({"kind": "other", "number": number, "text": "ä" * size})
    writer.close()
    offset, numbers = 0, []
    while True:
        events, offset = spool.read(path, offset, limit)
        if not events:
            break
        numbers += [event["number"] for event in events if event["kind"] == "other"]
    assert numbers == list(range(len(sizes)))


def test_one_process_at_a_time_delivers(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with spool.alone(lock, wait=False), pytest.raises(BlockingIOError), spool.alone(lock, wait=False):
        pass
    with spool.alone(lock, wait=False):
        pass


@pytest.fixture
def port() -> Iterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number = probe.getsockname()[1]
    return number


@pytest.mark.slow
def test_a_server_killed_in_mid_sweep_loses_and_doubles_nothing(tmp_path: Path, port: int) -> None:
    """The server dies without a word while events come in, and comes back on its port and database."""
    backing = SweepFolder(tmp_path / "server", "backing")
    plan = small_plan(tmp_path)
    track(backing, plan, 1)  # makes the database
    sweep = SweepFolder(tmp_path / "client", "far")
    far = Destination(uri=f"http://127.0.0.1:{port}", experiment="far")
    watcher, records = tracker(sweep, far), small_sweep(plan, 18)
    with serving(backing, Destination.of(backing), port) as served:
        watcher.on_start(plan)
        for record in records[:6]:
            run_trial(watcher, sweep, plan, record)
        time.sleep(1.5)
        kill(served.process)
        for record in records[6:12]:
            run_trial(watcher, sweep, plan, record)
        time.sleep(1.0)
    with serving(backing, Destination.of(backing), port):
        for record in records[12:]:
            run_trial(watcher, sweep, plan, record)
        watcher.on_end(COMPLETE)
        assert_whole(sweep, records, far)
        assert runs_of(sweep, far)[1].info.status == "FINISHED"


def kill(process: subprocess.Popen[bytes] | None) -> None:
    assert process is not None
    os.killpg(process.pid, 9)
    process.wait()
