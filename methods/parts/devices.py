"""Devices by name, for parts of a method that need not lie where the student does."""

from __future__ import annotations

import re

import torch

from methods.parts.reduce import Ranked

Device = str | int | None
"""As a configuration names it: `cpu` or -1, `cuda:0` or 0; None is the student's."""

_NAMES = re.compile(r"cpu|-1|(cuda:)?\d+")


def check_device(field: str, value: Device) -> None:
    """Refuse what names no device, whether or not this machine has it.

    Raises:
        ValueError: no such name.
    """
    if value is not None and not _NAMES.fullmatch(str(value)):
        raise ValueError(f"{field}: found {value!r}, allowed are cpu (or -1), cuda:0 (or 0), cuda:1, ..., or null")


def open_device(field: str, value: Device, ranks: Ranked) -> torch.device:
    """The device of a checked name; for None that of this rank.

    Raises:
        ValueError: this machine does not have it.
    """
    if value is None:
        bare = str(ranks.device) == "cuda"
        return torch.device("cuda", torch.cuda.current_device()) if bare else ranks.device
    name = str(value)
    if name in ("cpu", "-1"):
        return torch.device("cpu")
    number, have = int(name.removeprefix("cuda:")), torch.cuda.device_count()
    if number >= have:
        raise ValueError(f"{field}: found {value!r}, allowed are cpu and the {have} GPUs seen here")
    return torch.device("cuda", number)
