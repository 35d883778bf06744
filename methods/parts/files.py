"""Files that are never seen half-written: JSON and safetensors, written aside, flushed and renamed.

Everything this package stores is JSON or safetensors, so that reading a file runs no code.
"""

import json
import os
import shutil
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

JsonValue: TypeAlias = "bool | int | float | str | Sequence[JsonValue] | Mapping[str, JsonValue] | None"
"""What JSON can hold."""


def canonical(value: JsonValue) -> str:
    """Spell `value` as JSON in the one way that equal values share.

    Raises:
        ValueError: something in it is not JSON, or is NaN or infinite.
    """
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"found {value!r}, allowed are JSON values with finite numbers: {error}") from None


def write_json(path: Path, value: JsonValue) -> None:
    """Write `value` so that a reader sees the old file or the whole new one."""
    text = json.dumps(value, indent=1, sort_keys=True, allow_nan=False)
    aside = path.with_name(f"{path.name}.{uuid.uuid4().hex}.aside")
    with aside.open("w", encoding="utf-8") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def read_json(path: Path) -> Any:  # noqa: ANN401 - JSON has any shape; callers know theirs
    """Read a JSON file.

    Raises:
        ValueError: the file is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not a JSON file: {error}") from None


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write named tensors; tensors that share memory (tied weights) are written twice, which safetensors needs."""
    seen: set[int] = set()
    plain = {}
    for name, tensor in tensors.items():
        value = tensor.detach().to("cpu").contiguous()
        address = value.untyped_storage().data_ptr()
        plain[name] = value.clone() if address in seen else value
        seen.add(address)
    save_file(plain, path)


def read_tensors(path: Path, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """Read named tensors, as copies that outlive the file."""
    with safe_open(path, framework="pt", device=str(device)) as file:
        return {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - the file is no mapping


def publish(aside: Path, final: Path) -> bool:
    """Rename a finished folder to its public name, flushed to disk first; false if that name was taken already.

    The rename is the one moment at which the content appears, so no reader ever meets half of it.
    """
    for path in aside.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    try:
        aside.rename(final)
    except OSError:
        if not final.is_dir():
            raise
        return False
    return True


def remove(path: Path) -> None:
    """Remove a folder or file if it is there; a folder disappears under its name at once."""
    doomed = path.with_name(f"{path.name}.{uuid.uuid4().hex}.gone")
    try:
        path.rename(doomed)
    except FileNotFoundError:
        return
    if doomed.is_dir():
        shutil.rmtree(doomed, ignore_errors=True)
    else:
        doomed.unlink(missing_ok=True)


def wait_for(path: Path, limit_s: float = 60.0) -> Path:
    """Wait until another process's file is visible here; network folders may lag by seconds.

    Raises:
        ValueError: it did not appear.
    """
    deadline = time.monotonic() + limit_s
    while not path.exists():
        if time.monotonic() > deadline:
            raise ValueError(f"{path}: written by another process, but not visible here after {limit_s:g} s")
        time.sleep(0.05)
    return path
