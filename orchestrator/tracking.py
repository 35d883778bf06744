"""The one door to MLflow: a sweep is a parent run, each trial and the teacher a child of it, written by nobody else.

Runs are found again by their tags, so what is told twice is written once. A metric whose delivery is uncertain (the
server died after taking it, before answering) is looked up before it is sent again. Refused designs get no run, since
nothing ran; the parent's note counts them and the report lists them.
"""

import json
import logging
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from orchestrator import figures
from orchestrator.findings import fits
from orchestrator.folder import SweepFolder
from orchestrator.front import front
from orchestrator.records import TEACHER, TrialRecord
from orchestrator.spool import Destination, Event, redacted

# MLflow reads these when it is imported or connects. A sweep reports to no third party, loads no pickles and owns its
# terminal; and repeating a delivery later serves it better than a call that blocks for minutes.
for _name, _setting in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}.items():
    os.environ.setdefault(_name, _setting)

from mlflow import MlflowClient  # noqa: E402  after the settings it reads
from mlflow.entities import Metric, Param, Run, RunTag  # noqa: E402
from mlflow.exceptions import MlflowException  # noqa: E402
from requests.exceptions import RequestException  # noqa: E402

log = logging.getLogger(__name__)
for _chatty in ("mlflow.store.db.utils", "alembic.runtime.migration"):
    logging.getLogger(_chatty).setLevel(logging.WARNING)

ENDS = {"done": "FINISHED", "complete": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
"""Status of a trial or sweep -> MLflow's word; what a stop rule or a person ended was killed."""
BATCH = 1000
"""Metrics MLflow takes in one call."""
NoAnswer = MlflowException
"""What a server that is away raises."""
COMPARED = 100
"""Runs beyond which MLflow's comparison page is slow; then the filtered table of runs is opened instead."""
TRAINING = "&workflowType=machine_learning"
"""Shows MLflow's pages for training, not those for language-model applications."""
NOTE_LENGTH = 7500
"""Characters of a note that every MLflow server takes."""


class Runs:
    """The runs of one sweep at one destination; everything may be told twice without effect."""

    def __init__(self, destination: Destination, sweep_id: str, folder: SweepFolder) -> None:
        """Connects, and finds the runs that exist.

        Raises:
            MlflowException: no answer.
        """
        self._client = MlflowClient(tracking_uri=destination.uri)
        self._experiment = _experiment_id(self._client, destination)
        self._sweep = {"sweep_id": sweep_id, "mlflow.source.name": "distilsweep"}
        self._folder = folder
        self._start: Event = {}
        self._records: dict[str, TrialRecord] = {}
        self._points: list[TrialRecord] = []
        found = _find(self._client, self._experiment, sweep_id)
        self._older = {run.info.run_id for run in found}
        self.parent = next((run.info.run_id for run in found if "trial" not in run.data.tags), "")
        self._children = {run.data.tags["trial"]: run.info.run_id for run in found if "trial" in run.data.tags}
        self._front = {run.data.tags["trial"] for run in found if run.data.tags.get("pareto") == "true"}

    def recall(self, events: Iterable[Event]) -> bool:
        """Learns what was delivered before, without writing; says whether the runs of it are all still there."""
        whole = True
        for event in events:
            if event["kind"] == "start":
                self._start, whole = event, whole and bool(self.parent)
            elif event["kind"] == "trial":
                whole = whole and event["trial"] in self._children
            elif event["kind"] == "record":
                record = TrialRecord(**event["record"])
                self._records[record.trial] = record
                if fits(record, self._start["budget"]):  # what was once dominated stays so: the front grows from itself
                    self._points = front([*self._points, record], self._start["objectives"])
        return whole

    def deliver(self, events: Sequence[Event], *, uncertain: bool) -> None:
        """Writes events, each run's metrics in one batch.

        Args:
            events: What happened, in order.
            uncertain: Whether some of it may have arrived before.

        Raises:
            MlflowException: the server is away; all of `events` has to be delivered again.
        """
        self.recall(events)
        metrics: dict[str, list[Metric]] = defaultdict(list)
        for event in events:
            if event["kind"] in ("start", "trial"):
                self._open(event)
            elif event["kind"] == "metrics":
                metrics[event["trial"]] += [
                    Metric(_key(name), number, event["at"], event["step"]) for name, number in event["metrics"].items()
                ]
        for trial, values in metrics.items():
            run_id = self._children[trial]
            _send(self._client, run_id, values, uncertain and run_id in self._older)
        records = [event for event in events if event["kind"] == "record" and event["record"]["status"] != "refused"]
        for event in records:
            self._close(event)
        if records:
            self._compare()
        turns = [event for event in events if event["kind"] in ("start", "end")]
        if turns and turns[-1]["kind"] == "end":
            self._end(turns[-1])

    def _open(self, event: Event) -> None:
        """Creates the run of a sweep or trial, or takes it up again."""
        trial = event.get("trial")
        run_id = self._children.get(trial, "") if trial else self.parent
        tags = {**self._start["tags"], **event["tags"], "status": "running"}
        if run_id:
            _tag(self._client, run_id, tags)
            self._client.update_run(run_id, status="RUNNING")
        else:
            nested = {"mlflow.parentRunId": self.parent, "trial": trial, "pareto": "false"} if trial else {}
            tags = {**self._sweep, **nested, **tags}
            run_id = self._client.create_run(self._experiment, event["at"], tags, event["name"]).info.run_id
        if trial:
            self._children[trial] = run_id
        else:
            self.parent = run_id
        with _accepted(f"parameters of {event['name']}"):
            params = [Param(_key(name), str(choice)[:500]) for name, choice in event["params"].items()]
            self._client.log_batch(run_id, params=params)

    def _close(self, event: Event) -> None:
        """Ends a trial's run, with its record and its model's configuration as artifacts."""
        record = self._records[event["record"]["trial"]]
        run_id = self._children[record.trial]
        facts = {"status": record.status, "seed": record.seed, "key": record.key, "attempts": record.attempts}
        facts |= {"feasible": str(fits(record, self._start["budget"])).lower(), "reason": record.reason}
        _tag(self._client, run_id, facts)
        _attach(self._client, run_id, self._folder.record(record.trial), None)
        if record.model:
            _attach(self._client, run_id, self._folder.path / record.model / "config.json", "model")
        self._client.set_terminated(run_id, ENDS[record.status], event["at"])

    def _compare(self) -> None:
        """Marks the runs of the front, and writes the sweep's standing into the parent's note."""
        names = {record.trial for record in self._points}
        for trial in sorted(names ^ self._front):
            _tag(self._client, self._children[trial], {"pareto": str(trial in names).lower()})
        self._front = names
        links = {trial: f"#/experiments/{self._experiment}/runs/{run_id}" for trial, run_id in self._children.items()}
        _tag(self._client, self.parent, {"mlflow.note.content": _note(self._records.values(), self._points, links)})

    def _end(self, event: Event) -> None:
        """Ends the parent with its report, and whatever run has no record yet."""
        for trial, run_id in self._children.items():
            if trial not in self._records:
                _tag(self._client, run_id, {"status": "interrupted"})
                self._client.set_terminated(run_id, "KILLED", event["at"])
        for name in ("report.html", "report.md", "spec.yaml", "plan.json"):
            _attach(self._client, self.parent, self._folder.file(name), None)
        _tag(self._client, self.parent, {"status": event["status"]})
        self._client.set_terminated(self.parent, ENDS[event["status"]], event["at"])


def comparison_path(destination: Destination, sweep_id: str) -> str:
    """The part of the address, behind MLflow's own, that compares this sweep's finished trials.

    The teacher is left out: beside it all students look alike. Many trials open as a table, sorted by score.

    Raises:
        MlflowException: no answer.
    """
    client = MlflowClient(tracking_uri=destination.uri)
    experiment = _experiment_id(client, destination)
    runs = [run for run in _find(client, experiment, sweep_id) if run.data.tags.get("trial", TEACHER) != TEACHER]
    done = sorted((run.data.tags["trial"], run.info.run_id) for run in runs if run.data.tags.get("status") == "done")
    if 1 < len(done) <= COMPARED:
        ids = json.dumps([run_id for _, run_id in done], separators=(",", ":"))
        return f"/#/compare-runs?runs={quote(ids)}&experiments={quote(json.dumps([experiment]))}{TRAINING}"
    wanted = quote(f"tags.sweep_id = '{sweep_id}' and tags.trial != '{TEACHER}'")
    order = quote("metrics.`best/score`")
    return f"/#/experiments/{experiment}/runs?searchFilter={wanted}&orderByKey={order}&orderByAsc=false{TRAINING}"


def _experiment_id(client: MlflowClient, destination: Destination) -> str:
    found = client.get_experiment_by_name(destination.experiment)
    if found is not None:
        return str(found.experiment_id)
    place = destination.artifacts.as_uri() if destination.artifacts else None
    return str(client.create_experiment(destination.experiment, artifact_location=place))


def _find(client: MlflowClient, experiment: str, sweep_id: str) -> list[Run]:
    """Every run of a sweep, the parent among them."""
    found: list[Run] = []
    token: str | None = None
    while True:
        page = client.search_runs([experiment], f"tags.sweep_id = '{sweep_id}'", max_results=1000, page_token=token)
        found += page
        token = page.token
        if not token:
            return found


@contextmanager
def _accepted(what: str) -> Iterator[None]:
    """Passes over what the server will never take, with a warning: repeating it would block all that follows."""
    try:
        yield
    except MlflowException as error:
        if _passes(error):
            raise
        log.warning("MLflow does not take the %s: %s", what, redacted(error))


def _send(client: MlflowClient, run_id: str, metrics: Sequence[Metric], uncertain: bool) -> None:
    if uncertain:
        names = {metric.key for metric in metrics}
        there = {(name, old.step) for name in names for old in client.get_metric_history(run_id, name)}
        metrics = [metric for metric in metrics if (metric.key, metric.step) not in there]
    for start in range(0, len(metrics), BATCH):
        with _accepted(f"metrics of run {run_id}"):
            client.log_batch(run_id, metrics=metrics[start : start + BATCH])


def _tag(client: MlflowClient, run_id: str, facts: Mapping[str, object]) -> None:
    with _accepted(f"tags of run {run_id}"):
        client.log_batch(run_id, tags=[RunTag(name, str(fact)[:NOTE_LENGTH]) for name, fact in facts.items()])


def _attach(client: MlflowClient, run_id: str, path: Path, place: str | None) -> None:
    """Stores a file with a run; where artifacts cannot be stored at all, the sweep's folder still has it."""
    if not path.is_file():
        return
    try:
        client.log_artifact(run_id, str(path), place)
    except Exception as error:  # every artifact store raises errors of its own kind
        if _passes(error):
            raise
        log.warning("MLflow does not take %s: %s", path, redacted(error))


def _passes(error: Exception) -> bool:
    """Whether an error may be gone when the same thing is tried again."""
    if isinstance(error, MlflowException):
        return bool(error.get_http_status_code() != 400)
    answer = getattr(error, "response", None)  # of requests' errors; absent where there was no answer at all
    return isinstance(error, RequestException) and (answer is None or answer.status_code >= 500)


def _key(name: str) -> str:
    """A name MLflow takes for a metric or parameter."""
    return re.sub(r"[^\w.\-/ ]", "_", name)[:250]


def _note(records: Iterable[TrialRecord], points: Sequence[TrialRecord], links: Mapping[str, str]) -> str:
    """The sweep's standing in Markdown, cut to what a note holds."""
    tally = Counter(record.status for record in records)
    counts = ", ".join(f"{number} {status}" for status, number in sorted(tally.items()))
    lines = [
        f"**{counts}.** The front, smallest first:",
        "",
        "| trial | method | score | other half | params | shape |",
    ]
    lines += ["|---|---|---|---|---|---|"]
    for record in points:
        scores = [figures.scored(record, "score"), figures.scored(record, "held")]
        cells = [f"[{record.trial}]({links[record.trial]})", record.method, *scores]
        cells += [figures.count(record.costs.get("params", 0)), figures.shape(record.layout)]
        lines.append("| " + " | ".join(cells) + " |")
        if sum(map(len, lines)) > NOTE_LENGTH - 500:
            return "\n".join([*lines, "", "The rest is in report.md."])
    return "\n".join(lines)
