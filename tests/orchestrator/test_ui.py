import json
import socket
import urllib.parse
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator import spool, tracking
from orchestrator.courier import Tracker
from orchestrator.errors import RecordError, SweepError
from orchestrator.folder import SweepFolder
from orchestrator.spool import Destination
from orchestrator.tracking import comparison_path
from orchestrator.ui import serving, show, tracked_at
from tests.orchestrator.sweeps import small_plan, small_sweep, store


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> SweepFolder:
    """A sweep in MLflow."""
    root = tmp_path_factory.mktemp("root")
    folder, plan = SweepFolder(root, "small"), small_plan(root)
    watcher = Tracker(folder, Destination.of(folder), interval_s=0.05, grace_s=120.0)
    watcher.on_start(plan)
    for record in small_sweep(plan, 5):
        store(folder, record)
        watcher.on_record(record)
    watcher.on_end(SimpleNamespace(status="complete"))
    folder.file("plan.json").write_text(json.dumps(plan.to_json()))
    return folder


def test_the_plan_says_where_a_sweep_was_tracked(tracked: SweepFolder) -> None:
    assert tracked_at(tracked) == Destination.of(tracked)
    assert tracked_at(tracked).uri.endswith("/mlflow.db")
    with pytest.raises(RecordError, match=r"plan\.json: not a readable plan"):
        tracked_at(SweepFolder(tracked.root, "other"))


def test_a_sweep_that_was_not_tracked_is_told_so(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path, "none")
    with pytest.raises(SweepError, match="nothing was tracked yet"), serving(folder, Destination.of(folder)):
        pass


def test_a_taken_port_is_told_so(tracked: SweepFolder) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SweepError, match=f"--port {port}"), serving(tracked, tracked_at(tracked), port):
            pass


def test_many_trials_open_as_a_table_sorted_by_score(tracked: SweepFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "COMPARED", 3)
    sweep_id = spool.sweep_id(tracked.file("events.jsonl"))
    path = comparison_path(Destination.of(tracked), sweep_id)
    assert path.startswith("/#/experiments/")
    query = urllib.parse.parse_qs(path.partition("?")[2])
    assert query["searchFilter"] == [f"tags.sweep_id = '{sweep_id}' and tags.trial != 'teacher'"]
    assert query["orderByKey"] == ["metrics.`best/score`"]


@pytest.mark.slow
def test_the_server_answers_on_this_machine_only_and_ends(tracked: SweepFolder) -> None:
    with serving(tracked, tracked_at(tracked)) as served:
        assert served.process is not None
        assert served.url.startswith("http://127.0.0.1:")
        base = served.url.partition("/#/")[0]
        with urllib.request.urlopen(base) as page:
            assert b"MLflow" in page.read()
        ids = json.loads(urllib.parse.parse_qs(served.url.partition("?")[2])["runs"][0])
        with urllib.request.urlopen(f"{base}/api/2.0/mlflow/runs/get?run_id={ids[0]}") as answer:
            assert json.load(answer)["run"]["data"]["tags"]
        far = Destination(uri=base, experiment=tracked.name)
        with serving(tracked, far) as elsewhere:
            assert elsewhere.process is None
            assert elsewhere.url.startswith(base)
    assert served.process.poll() is not None
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(base)


@pytest.mark.slow
def test_show_says_the_address_first(tracked: SweepFolder) -> None:
    said: list[str] = []

    def interrupt(line: str) -> None:
        said.append(line)
        if len(said) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        show(tracked, say=interrupt)
    assert said[0].startswith("http://127.0.0.1:")
