"""The teacher's training of the toys."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from methods.parts.layout import Layout


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """One field."""

    epochs: float = 1.0


RECIPES: Mapping[str, Mapping[str, Any]] = {}


def layout(config: Config, teacher: Layout) -> Layout:
    """Keeps the shape."""
    return teacher
