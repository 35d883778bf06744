"""A trial that counts its steps: what it costs follows from heads and layers, what happens to it from the rest."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from methods.parts.layout import LayerLayout, Layout


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """See `tests.doubles.bodies.walk`."""

    heads: int = 1
    layers: int = 1
    lr: float = 1e-3
    steps: int = 3
    nap_s: float = 0.0
    score: float = -1.0
    crash: str = ""
    leak: bool = False


RECIPES: Mapping[str, Mapping[str, Any]] = {}


def layout(config: Config, teacher: Layout) -> Layout:
    """Heads and layers as they are."""
    full = teacher.layers[0]
    layer = LayerLayout(heads=config.heads, head_width=full.head_width, ffn=full.ffn)
    return dataclasses.replace(teacher, layers=(layer,) * config.layers)
