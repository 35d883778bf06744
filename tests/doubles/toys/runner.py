"""A second method beside `walker`, with a parameter of the same name and another meaning."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from methods.parts.layout import Layout
from tests.doubles.toys import walker


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Heads by name."""

    heads: str = "few"
    steps: int = 3
    score: float = -1.0


RECIPES: Mapping[str, Mapping[str, Any]] = {}


def layout(config: Config, teacher: Layout) -> Layout:
    """Few heads are one, many are two."""
    return walker.layout(walker.Config(heads={"few": 1, "many": 2}[config.heads]), teacher)
