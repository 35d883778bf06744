"""Random state as a value: derive seeds from names, borrow the global generators, capture and restore them as bytes.

Three generators are meant throughout: Python's `random`, numpy's global one, and torch's (the CPU's and the given
CUDA device's).
"""

import hashlib
import json
import random
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

_PYTHON = struct.Struct("<i625I?d")
_NUMPY = struct.Struct("<624Iiid")


def derive(seed: int, *names: str | int) -> int:
    """A seed in [0, 2**63) that depends on `seed` and every name, and on nothing else."""
    digest = hashlib.sha256(json.dumps([seed, *names]).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def seed_all(seed: int) -> None:
    """Seed the three generators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # the global one is what third parties draw from
    torch.manual_seed(seed)


def capture(device: torch.device) -> Tensor:
    """The state of the three generators, (N,) uint8; N depends on the kind of device only."""
    version, words, gauss = random.getstate()
    python = _PYTHON.pack(version, *words, gauss is not None, gauss or 0.0)
    _, keys, position, has_gauss, cached = np.random.get_state()
    numpy = _NUMPY.pack(*(int(key) for key in keys), position, has_gauss, cached)
    parts = [torch.frombuffer(bytearray(python + numpy), dtype=torch.uint8), torch.get_rng_state()]
    if device.type == "cuda":
        parts.append(torch.cuda.get_rng_state(device))
    return torch.cat(parts)


def restore(state: Tensor, device: torch.device) -> None:
    """Put the three generators into a captured state."""
    raw = bytes(state[: _PYTHON.size + _NUMPY.size].tolist())
    version, *words, has_gauss, gauss = _PYTHON.unpack(raw[: _PYTHON.size])
    random.setstate((version, tuple(words), gauss if has_gauss else None))
    *keys, position, has_cached, cached = _NUMPY.unpack(raw[_PYTHON.size :])
    np.random.set_state(("MT19937", np.array(keys, dtype=np.uint32), position, has_cached, cached))
    rest = state[_PYTHON.size + _NUMPY.size :]
    size = torch.get_rng_state().numel()
    torch.set_rng_state(rest[:size].clone())
    if device.type == "cuda":
        torch.cuda.set_rng_state(rest[size:].clone(), device)


@contextmanager
def borrowed(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the generators for a block, and give the caller's state back after it."""
    before = capture(device)
    seed_all(seed)
    try:
        yield
    finally:
        restore(before, device)
