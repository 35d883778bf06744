"""What is asked of the store, by whom, and where it is built."""

import hashlib
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from methods.parts.claims import Pace
from methods.parts.files import JsonValue, canonical
from methods.parts.reduce import Ranked

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """An artifact by what it is made from. Raise `version` when the same inputs come to mean something else."""

    name: str
    inputs: Mapping[str, JsonValue]
    version: int = 1

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"once: name: found {self.name!r}, allowed are letters, digits, '_' and '-'")

    @property
    def key(self) -> str:
        """Sha256 over the canonical JSON of name, version and inputs, 64 hex digits."""
        try:
            text = canonical({"name": self.name, "version": self.version, "inputs": self.inputs})
        except ValueError as error:
            raise ValueError(f"once({self.name!r}): inputs: {error}") from None
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def label(self) -> str:
        """The folder's name."""
        return f"{self.name}-{self.key[:16]}"

    @property
    def seed(self) -> int:
        """The seed of the build."""
        return int(self.key[:15], 16)


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """Where a build takes place."""

    folder: Path
    """What is written here becomes the artifact."""
    work: Path
    """Kept until the artifact is published: checkpoints that a later builder continues from."""
    seed: int
    owned: Callable[[], bool]
    """Whether this builder's claim still stands; ask before writing into `work`."""


@dataclass(frozen=True, slots=True)
class Solo:
    """One rank without peers."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Crew:
    """Who asks: the ranks of one trial attempt."""

    ranks: Ranked = field(default_factory=Solo)
    group: str = field(default_factory=lambda: uuid.uuid4().hex)
    """The same on all ranks, different for every attempt of every trial."""
    tick: Callable[[], None] = lambda: None
    """Called on every rank between looks at the folder; may raise on all of them, which ends the waiting."""
    pace: Pace = field(default_factory=Pace)
