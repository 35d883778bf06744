"""A small Ray cluster for one test module, started and stopped by it."""

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray

from orchestrator.session import NO_DASHBOARD, SETTINGS, TOKEN

ROOT = Path(__file__).resolve().parent.parent.parent


@contextmanager
def environment() -> Iterator[dict[str, str]]:
    """What a driver of the tests needs: a place of its own for Ray (its paths must be short), the doubles in reach."""
    place = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    changes = {"RAY_TMPDIR": place, "PYTHONPATH": str(ROOT), TOKEN: secrets.token_hex(32), **SETTINGS}
    changes.update([NO_DASHBOARD])
    before = {name: os.environ.get(name) for name in changes}
    if before[TOKEN] is not None:
        del changes[TOKEN]  # Ray remembers the first token of a process
    os.environ.update(changes)
    try:
        yield {**os.environ}
    finally:
        for name, value in before.items():
            if value is not None:
                os.environ[name] = value
            elif name != TOKEN:
                os.environ.pop(name, None)
        shutil.rmtree(place, ignore_errors=True)


@contextmanager
def small_cluster(num_cpus: int) -> Iterator[None]:
    """A local cluster of this process."""
    with environment():
        quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
        ray.init(address="local", num_cpus=num_cpus, **quiet)
        try:
            yield
        finally:
            ray.shutdown()
