"""Nothing leaks from one trial to the next: what a trial changed in its process is put back, or the process is retired.

A warm worker runs many trials in one process. What they all see is noted before the first (working directory,
environment, import path, logging, torch's global switches) and restored after each; random generators need no
restoring, since every trial seeds them. What cannot be put back (a thread that still runs, memory that was not given
back) ends the worker group.
"""

import gc
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import psutil
import torch

from methods.parts import rng


@dataclass(frozen=True, slots=True)
class Setting:
    """One piece of global state: how it is read and how it is put back."""

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], object]


def _environment(wanted: dict[str, str]) -> None:
    for name in set(os.environ) - set(wanted):
        del os.environ[name]
    os.environ.update(wanted)


def _handlers(wanted: list[logging.Handler]) -> None:
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if handler not in wanted]:
        root.removeHandler(handler)
        handler.close()
    root.handlers[:] = wanted


def _path(wanted: list[str]) -> None:
    sys.path[:] = wanted


def _cwd() -> str:
    """The working directory; an empty name if a trial removed it."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return ""


def _deterministic(wanted: tuple[bool, bool]) -> None:
    torch.use_deterministic_algorithms(wanted[0], warn_only=wanted[1])


def _cudnn(wanted: tuple[bool, bool]) -> None:
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = wanted


SETTINGS = (
    Setting("working directory", _cwd, os.chdir),
    Setting("environment", lambda: dict(os.environ), _environment),
    Setting("import path", lambda: list(sys.path), _path),
    Setting("log handlers", lambda: list(logging.getLogger().handlers), _handlers),
    Setting("log level", lambda: logging.getLogger().level, lambda level: logging.getLogger().setLevel(level)),
    Setting("torch threads", torch.get_num_threads, torch.set_num_threads),
    Setting("torch dtype", torch.get_default_dtype, torch.set_default_dtype),
    Setting("torch device", torch.get_default_device, lambda device: torch.set_default_device(_unset(device))),
    Setting("torch gradients", torch.is_grad_enabled, torch.set_grad_enabled),
    Setting(
        "torch determinism",
        lambda: (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()),
        _deterministic,
    ),
    Setting("cudnn", lambda: (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark), _cudnn),
    Setting("matmul precision", torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    Setting("anomaly detection", torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
)


def _unset(device: torch.device) -> torch.device | None:
    """None takes torch's function mode off again, which a set default device leaves behind."""
    return None if device.type == "cpu" else device


def _threads() -> set[threading.Thread]:
    """The threads of this process; whether one is a daemon says nothing, since Ray Train's own thread hands that on."""
    return set(threading.enumerate())


def _rss_bytes() -> int:
    return int(psutil.Process().memory_info().rss)


def _settle() -> None:
    """Takes what lives now out of garbage collection, which makes the one after each trial take ms instead of 0.4 s."""
    gc.collect()
    gc.freeze()


class Guard:
    """The state of a worker before its first trial, and what becomes of it after each."""

    def __init__(self, max_jobs: int, rss_growth_bytes: int) -> None:
        self._max_jobs = max_jobs
        self._rss_growth_bytes = rss_growth_bytes
        self._before = {setting.name: setting.read() for setting in SETTINGS}
        self._threads = _threads()
        self._num_jobs = 0
        self._rss_bytes = 0
        _settle()

    def begin(self, seed: int) -> None:
        """Seeds every generator, the same on all ranks."""
        rng.seed_all(seed)

    def restore(self) -> list[str]:
        """Puts everything back; names what the trial had changed."""
        changed = [setting for setting in SETTINGS if setting.read() != self._before[setting.name]]
        for setting in changed:
            setting.write(self._before[setting.name])
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return [setting.name for setting in changed]

    def retire(self) -> str:
        """Why this worker should take no further trial, or nothing. Called once after each trial."""
        self._num_jobs += 1
        if self._num_jobs == 1:  # what libraries set up at their first use stays as well
            self._threads = _threads()
            self._rss_bytes = _rss_bytes()
            _settle()
        return next(self._reasons(), "")

    def _reasons(self) -> Iterator[str]:
        for setting in SETTINGS:
            if setting.read() != self._before[setting.name]:
                yield f"a trial changed its {setting.name} for good"
        if left := _threads() - self._threads:
            yield f"a trial left the thread {min(thread.name for thread in left)!r} running"
        now_bytes = _rss_bytes()
        if now_bytes - self._rss_bytes > self._rss_growth_bytes:
            yield f"its memory grew from {self._rss_bytes} to {now_bytes} bytes"
        if self._num_jobs >= self._max_jobs:
            yield f"it has run {self._num_jobs} trials"
