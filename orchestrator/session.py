"""The driver's hold on the outside world while a sweep runs: one driver for each folder, and Ray, up and down again."""

import fcntl
import gc
import json
import logging
import os
import secrets
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import FrameType

import ray

from orchestrator.cluster import Cluster, Node
from orchestrator.errors import SweepError
from orchestrator.folder import SweepFolder

log = logging.getLogger(__name__)

ADDRESS = "RAY_ADDRESS"
SETTINGS = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # a dead rank is noticed after this, not after 2 s
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",  # a busy machine needs more than the usual 60 s to import torch
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the histories are ours
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # so is Ctrl-C
    "TUNE_MAX_PENDING_TRIALS_PG": "1000",  # proxies start beside each other; the search says how many there are
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # nothing is resumed from Tune's own state
    "TUNE_WARN_THRESHOLD_S": "60",
    "RAY_AIR_NEW_OUTPUT": "0",
}
"""Environment of the driver and of the processes that Ray starts; what a user has set is left."""
TOKEN = "RAY_AUTH_TOKEN"
"""A cluster that Ray starts here is closed to all who do not know this; a fresh one, so that none is left in ~/.ray."""


NO_DASHBOARD = ("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:1")
"""A dashboard that refuses at once. Ray Train asks it for the state of an actor when a gang ends; with no address at
all it searches for one, and every gang takes 12 s to end."""
EXPECTED = "ray.tune.analysis.experiment_analysis"
"""Misses the result files that Tune was told not to write."""


@contextmanager
def locked(folder: SweepFolder) -> Iterator[None]:
    """Keeps a second driver out; the lock of a dead one is free, because the system drops it with the process.

    Raises:
        SweepError: another driver is at work; the message says where.
    """
    path = folder.file("lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            raise SweepError(f"{folder.path}: another driver is at work ({_owner(stream.read())})") from None
        stream.truncate(0)
        stream.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
        stream.flush()
        yield


def _owner(text: str) -> str:
    try:
        owner = json.loads(text)
        return f"process {owner['pid']} on {owner['host']}"
    except (ValueError, KeyError, TypeError):
        return "its name is not known"


@contextmanager
def interrupted(stop: Callable[[str], None]) -> Iterator[None]:
    """Turns the first Ctrl-C or SIGTERM into a stop in good order; the next one is the usual interrupt."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def first(number: int, frame: FrameType | None) -> None:
        for each, handler in before.items():
            signal.signal(each, handler)
        # A handler may interrupt anything, even the code it would call; a thread of its own waits for its turn.
        threading.Thread(target=stop, args=(f"interrupted by {signal.Signals(number).name}",), daemon=True).start()

    for number in before:
        signal.signal(number, first)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def ray_up(cluster: Cluster, output: Path, in_use: Callable[[], bool] = bool) -> Iterator[None]:
    """Connects to the Ray that is there, or starts one as large as the cluster file says; stops what it started.

    Args:
        cluster: What to start.
        in_use: Whether a thread still talks to Ray at the end. Ray would take the whole process down with it, so it is
            then left to stop when the process does.
        output: Takes what is printed meanwhile: Ray announces the death of workers on standard output.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    with _diverted(output):
        if ray.is_initialized():
            yield
            return
        _start(cluster)
        try:
            yield
        finally:
            if not in_use():
                _stop()


@contextmanager
def _diverted(output: Path) -> Iterator[None]:
    """Sends what is printed to a file, and what Ray logs to where this process logs."""
    output.parent.mkdir(parents=True, exist_ok=True)
    logger = logging.getLogger("ray")
    before, propagate, level = logger.handlers[:], logger.propagate, logger.level
    logger.handlers[:] = [logging.NullHandler()]
    logger.propagate = True
    logger.setLevel(logging.WARNING)
    logging.getLogger(EXPECTED).setLevel(logging.ERROR)
    try:
        with output.open("a", encoding="utf-8") as stream, redirect_stdout(stream):
            yield
    finally:
        logger.handlers[:], logger.propagate = before, propagate
        logger.setLevel(level)


def _start(cluster: Cluster) -> None:
    if os.environ.get(ADDRESS):
        ray.init(log_to_driver=False, configure_logging=False)
        return
    os.environ.setdefault(TOKEN, secrets.token_hex(32))
    os.environ.setdefault(*NO_DASHBOARD)
    ray.init(
        address="local",
        num_cpus=int(cluster.cpus),
        num_gpus=int(cluster.gpus),
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
    )


def _stop() -> None:
    """Shuts Ray down while no thread can collect garbage.

    A reference to one of Ray's objects that dies in another thread meanwhile (garbage is collected in whichever thread
    allocates, such as the one that tells the tracking server) makes Ray end this process at once, with exit code 1 and
    without a word. What is garbage already goes first.
    """
    gc.collect()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        ray.shutdown()
    finally:
        if was_enabled:
            gc.enable()


def live_cluster() -> Cluster:
    """The nodes that are up now."""
    resources = (node["Resources"] for node in ray.nodes() if node["Alive"])
    return Cluster(
        name="ray", nodes=tuple(Node(cpus=item.get("CPU", 0.0), gpus=item.get("GPU", 0.0)) for item in resources)
    )
