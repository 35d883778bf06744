"""A method whose trials keep some of the teacher's states, at some positions or all."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from methods.parts.layout import Layout
from methods.parts.selection import Selection


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """What to keep."""

    layers: int = 2
    states: int = 1
    """How many, from the embeddings up; 0 keeps nothing at all."""
    tokens: int | None = None
    draw: bool = False
    """Whether coordinates are drawn anew in each batch, which no store can hold."""


RECIPES: Mapping[str, Mapping[str, Any]] = {}


def layout(config: Config, teacher: Layout) -> Layout:
    """The lower layers."""
    return dataclasses.replace(teacher, layers=teacher.layers[: config.layers])


def knowledge(config: Config, teacher: Layout) -> Selection | None:
    """Logits and the lower states."""
    if not config.states:
        return None
    scheme = "all" if config.tokens is None else "left_first"
    width = {"width_scheme": "random_dynamic", "width": 0.5} if config.draw else {}
    return dataclasses.replace(
        Selection(states=tuple(range(config.states)), token_scheme=scheme, tokens=config.tokens), **width
    )
