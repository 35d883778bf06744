"""Opens MLflow on this machine at the comparison of one sweep's trials."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from orchestrator import spool
from orchestrator.courier import EVENTS, deliver
from orchestrator.errors import RecordError, SweepError
from orchestrator.folder import SweepFolder
from orchestrator.spool import Destination
from orchestrator.tracking import NoAnswer, comparison_path

HOST = "127.0.0.1"
"""Nobody else sees the page: MLflow asks nobody for a password."""
START_S = 90.0
"""Longest wait for MLflow's first answer."""
STOP_S = 10.0
"""Longest wait for its end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Served:
    """An address that answers, and the server started for it; none for a sweep on a server of its own."""

    url: str
    process: subprocess.Popen[bytes] | None


def tracked_at(folder: SweepFolder) -> Destination:
    """Where a sweep was tracked, by its stored plan.

    Raises:
        RecordError: there is no readable plan.
    """
    path = folder.file("plan.json")
    try:
        tracking = json.loads(path.read_text(encoding="utf-8"))["spec"]["tracking"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecordError(f"{path}: not a readable plan: {error}") from error
    return Destination.of(folder, tracking.get("uri"), tracking.get("experiment"))


def show(folder: SweepFolder, port: int | None = None, say: Callable[[str], None] = print) -> None:
    """Says the address and keeps it alive until Ctrl-C or a termination signal; the server ends with it.

    Raises:
        SweepError: the sweep was not tracked, the port is taken, or MLflow does not start.
    """
    for number in (signal.SIGINT, signal.SIGTERM):  # also where a shell's background job was told to ignore Ctrl-C
        signal.signal(number, signal.default_int_handler)
    with serving(folder, tracked_at(folder), port) as served:
        say(served.url)
        if served.process is None:
            return
        say("Ctrl-C stops it.")
        try:
            served.process.wait()
        except KeyboardInterrupt:
            say("stopped")


@contextmanager
def serving(folder: SweepFolder, destination: Destination, port: int | None = None) -> Iterator[Served]:
    """Serves a sweep's runs for the length of a `with`.

    Args:
        folder: The sweep's folder.
        destination: Where it was tracked.
        port: A port of this machine; by default a free one.

    Raises:
        SweepError: the sweep was not tracked, the port is taken, or MLflow does not start.
    """
    if not folder.file(EVENTS).exists():
        raise SweepError(f"{folder.path}: nothing was tracked yet; run the sweep first")
    path = _comparison(folder, destination)
    if destination.is_server:
        yield Served(url=str(destination).rstrip("/") + path, process=None)
        return
    port = _free_port(port)
    process = _start(folder, destination, port)
    try:
        _wait(process, port, folder.log("mlflow"))
        yield Served(url=f"http://{HOST}:{port}{path}", process=process)
    finally:
        _stop(process)


def _comparison(folder: SweepFolder, destination: Destination) -> str:
    try:
        with suppress(BlockingIOError):  # a sweep that runs delivers itself
            deliver(folder, destination)
        return comparison_path(destination, spool.sweep_id(folder.file(EVENTS)))
    except NoAnswer as error:
        raise SweepError(f"MLflow at {destination} does not answer: {spool.redacted(error)}") from error


def _free_port(wanted: int | None) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, wanted or 0))
        except OSError as error:
            raise SweepError(f"--port {wanted}: {error.strerror}; leave it out for a free one") from error
        return int(probe.getsockname()[1])


def _start(folder: SweepFolder, destination: Destination, port: int) -> subprocess.Popen[bytes]:
    """MLflow's server with its workers, in a process group of its own, logging to a file."""
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", destination.uri]
    command += ["--host", HOST, "--port", str(port), "--workers", "1"]
    path = folder.log("mlflow")
    path.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with path.open("wb") as stream:
        return subprocess.Popen(
            command,
            cwd=folder.root,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _wait(process: subprocess.Popen[bytes], port: int, path: Path) -> None:
    """Returns once the server answers."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy is not asked for this machine
    deadline_s = time.monotonic() + START_S
    while time.monotonic() < deadline_s and process.poll() is None:
        try:
            direct.open(f"http://{HOST}:{port}/health", timeout=5).close()
            return
        except OSError:
            time.sleep(0.2)
    raise SweepError(f"MLflow does not start on {HOST}:{port}; its log: {path}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ends the server and its workers."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(STOP_S)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue
