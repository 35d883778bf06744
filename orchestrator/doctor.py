"""Checks that this machine can run sweeps, and says what to do where it cannot.

Versions are read from package metadata and only PyTorch is imported, so a broken package is a row, not a traceback.
"""

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import psutil

from orchestrator.folder import existing

PYTHON = (3, 11)
FLOORS: Mapping[str, str] = {
    "torch": "2.6",
    "ray": "2.60",
    "optuna": "5.0",
    "mlflow": "3.11",
    "transformers": "5.0",
}
"""Oldest version that works; of MLflow without known security holes, of Ray with local clusters that are closed."""
GIB = 2**30
MIN_MEMORY = 4 * GIB
MIN_DISK = 5 * GIB
MIN_SHARED = GIB // 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    found: str
    ok: bool
    cure: str = ""
    """What to do when it is not well; empty when it is."""


def check(root: Path) -> list[Check]:
    """Looks at Python, packages, processors, memory, disk, graphics processors, and the folder of all sweeps.

    Args:
        root: the folder that sweeps are kept in; it may not exist yet, and is not made.
    """
    return [
        _python(sys.version_info[:3]),
        *(_package(name, floor) for name, floor in FLOORS.items()),
        _processors(),
        _memory(psutil.virtual_memory().available),
        _shared(Path("/dev/shm")),
        _gpus(),
        _writable(root),
        _disk(root),
    ]


def _row(name: str, found: str, ok: bool, cure: str) -> Check:
    """Makes a row that carries its cure only where one is needed."""
    return Check(name=name, found=found, ok=ok, cure="" if ok else cure)


def _python(version: tuple[int, ...]) -> Check:
    """Compares the interpreter with the oldest that works."""
    wanted = ".".join(map(str, PYTHON))
    return _row("python", ".".join(map(str, version)), version >= PYTHON, f"use Python {wanted} or newer")


def _package(name: str, floor: str) -> Check:
    """Compares an installed package with the oldest that works."""
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return _row(name, "not installed", False, f"pip install '{name}>={floor}'")
    return _row(name, version, numbers(version) >= numbers(floor), f"pip install --upgrade '{name}>={floor}'")


def numbers(version: str) -> tuple[int, ...]:
    """Reads the leading numbers of a version: `2.13.0+cpu` is (2, 13, 0), `5.0rc1` is (5, 0)."""
    parts: list[int] = []
    for part in version.partition("+")[0].split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        parts.append(int(digits))
    return tuple(parts)


def _processors() -> Check:
    """Counts the processors this process may use."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return _row(
        "cpu", f"{count} of {platform.machine()}", count >= 2, "a sweep needs a second processor for its driver"
    )


def _memory(available: int) -> Check:
    """Looks at the free memory; Ray, its workers and one small BERT take about 4 GiB."""
    cure = f"free some memory: at least {MIN_MEMORY / GIB:.0f} GiB are needed"
    return _row("memory", f"{available / GIB:.1f} GiB free", available >= MIN_MEMORY, cure)


def _shared(folder: Path) -> Check:
    """Looks at the shared memory, where Ray keeps its objects; containers give 64 MB by default."""
    if not folder.is_dir():
        return _row("shared memory", "none on this system", True, "")
    total = shutil.disk_usage(folder).total
    cure = "start the container with --shm-size=2g, else Ray uses slow files in /tmp"
    return _row("shared memory", f"{total / GIB:.1f} GiB", total >= MIN_SHARED, cure)


def _gpus() -> Check:
    """Counts the graphics processors that PyTorch sees; none is fine, a present one that PyTorch misses is not."""
    devices = sorted(Path("/dev").glob("nvidia[0-9]*"))
    try:
        import torch

        usable = torch.cuda.device_count()
    except (ImportError, OSError) as error:
        return _row("gpu", f"PyTorch cannot be loaded: {error}", False, "reinstall torch")
    cure = "install a CUDA build of torch that fits the driver (nvidia-smi shows it)"
    return _row("gpu", f"{usable} usable, {len(devices)} present", usable > 0 or not devices, cure)


def _writable(root: Path) -> Check:
    """Tries to write where sweeps are kept, or where that folder would be made."""
    folder = existing(root)
    cure = "choose another folder: --folder, or the variable DISTILSWEEP_HOME"
    try:
        with tempfile.TemporaryFile(dir=folder):
            return _row("sweeps folder", str(root.absolute()), True, "")
    except OSError as error:
        return _row("sweeps folder", f"{folder}: {error.strerror}", False, cure)


def _disk(root: Path) -> Check:
    """Looks at the free disk space where sweeps are kept."""
    free = shutil.disk_usage(existing(root)).free
    cure = f"free some space: at least {MIN_DISK / GIB:.0f} GiB are needed, or choose another --folder"
    return _row("disk", f"{free / GIB:.1f} GiB free", free >= MIN_DISK, cure)
