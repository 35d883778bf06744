"""The status file of a sweep, for people: reading it needs neither torch nor Ray."""

import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

from orchestrator import figures
from orchestrator.errors import RecordError
from orchestrator.folder import SweepFolder
from orchestrator.quota import used_bytes

FILE = "status.json"
SILENT_S = 10.0
"""A driver writes every second; one that has not for this long is gone, s."""
UNDER_WAY = ("starting", "running", "stopping")
"""States in which a driver should be at work."""


def read_status(folder: SweepFolder) -> dict[str, Any]:
    """What the driver wrote last, and the size of the store; `state` is `dead` if it should be at work and is silent.

    Raises:
        RecordError: there is no status, or it is no JSON object.
    """
    status = _written(folder)
    silent_s = time.time() - status["updated_s"]
    if status["state"] in UNDER_WAY and silent_s > SILENT_S:
        told = f"its driver has been silent for {figures.duration(silent_s)}; run the sweep again to continue"
        status.update(state="dead", reason=told)
    return {**status, "store_bytes": used_bytes(folder.store)}


def last_status(folder: SweepFolder) -> dict[str, Any]:
    """What the last driver wrote, however it ended; empty if it wrote nothing that can be read."""
    try:
        return _written(folder)
    except RecordError:
        return {}


def _written(folder: SweepFolder) -> dict[str, Any]:
    path = folder.file(FILE)
    try:
        status: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return {**status, "updated_s": float(status["updated_s"])}
    except FileNotFoundError:
        raise RecordError(f"{path}: not there; the sweep has not been run yet") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecordError(f"{path}: not a readable status: {error}") from error


def describe_status(status: Mapping[str, Any]) -> list[str]:
    """A status in lines for people."""
    return list(_lines(status))


def _lines(status: Mapping[str, Any]) -> Iterator[str]:
    reason = f": {status['reason']}" if status["reason"] else ""
    left = f", about {figures.duration(status['eta_s'])} left" if status["eta_s"] else ""
    yield f"{status['state']}{reason}{left}"
    counts = [f"{status[name]} {name}" for name in ("done", "stopped", "failed", "refused") if status[name]]
    yield f"{', '.join(counts) or 'none ended'} of {status['planned']} planned; {status['to_come']} to come"
    quota = figures.cost("bytes", status["quota_bytes"])
    yield f"store    {figures.cost('bytes', status['store_bytes'])} on disk; knowledge may take {quota}"
    for item in status["running"]:
        again = f", attempt {item['attempt']}" if item["attempt"] > 1 else ""
        yield f"running  {item['trial']} on slot {item['slot']}: {_doing(item)}{again}"
    for item in status["waiting"]:
        yield f"waiting  {item['trial']}: {item['why']}"
    for item in status["failures"]:
        yield f"failed   {item['trial']}: {item['reason']}"
    for item in status["front"]:
        numbers = ", ".join(f"{name} {_number(name, item[name])}" for name in item if name != "trial")
        yield f"front    {item['trial']}: {numbers}"


def _doing(item: Mapping[str, Any]) -> str:
    if building := item["building"]:
        return figures.building(building["name"], building["step"], building["metrics"])
    score = f", score {figures.score(item['score'])}" if item["score"] is not None else ""
    return f"{item['stage']} step {item['step']}{score}"


def _number(name: str, number: float) -> str:
    return figures.score(number) if name == "score" else figures.cost(name, number)
