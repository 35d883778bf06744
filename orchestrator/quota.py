"""How much disk a sweep may fill with what its teachers know, and how much its store holds now.

A sweep that goes on keeps the quota it began with, so that the same designs read a store before and after.
"""

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path

from orchestrator.folder import SweepFolder, existing

MOST_BYTES = 50 * 10**9
"""Of a quota that nobody chose."""
STEP_BYTES = 10**8
"""Such a quota is a multiple of this."""


def resolve_quota(disk: int | None, folder: SweepFolder) -> int:
    """The quota of a sweep in bytes: as asked for, else as it was, else half of what is free, at most `MOST_BYTES`.

    Args:
        disk: the sweep file's `resources.disk`.
        folder: the sweep's folder; it may not exist yet.
    """
    if disk is not None:
        return disk
    with suppress(OSError, ValueError, KeyError, TypeError):  # a plan that cannot be read is told by who needs it
        return int(json.loads(folder.file("plan.json").read_text(encoding="utf-8"))["quota_bytes"])
    half = shutil.disk_usage(existing(folder.root)).free // 2
    return min(half // STEP_BYTES * STEP_BYTES, MOST_BYTES)


def used_bytes(store: Path) -> int:
    """Bytes of all files in a store; what disappears meanwhile does not count."""
    total = 0
    for place, _, names in os.walk(store):
        for name in names:
            with suppress(FileNotFoundError):
                total += os.stat(os.path.join(place, name)).st_size
    return total
