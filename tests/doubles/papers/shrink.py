"""A method with a field of every type that a Config may have, and a rule across two of them."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from methods.parts.layout import LayerLayout, Layout


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Every type once."""

    mode: Literal[1, "none"] = 1
    heads: int = 1
    layers: int = 2
    rank: int | None = None
    lr: float = 1e-3
    tied: bool = True
    note: str = ""
    widths: tuple[int, ...] = ()
    ends: tuple[float, float] = (0.0, 1.0)
    prune_period: float = 0.1

    def __post_init__(self) -> None:
        if self.heads < 1:
            raise ValueError(f"heads: found {self.heads!r}, allowed is at least 1")
        if self.lr <= 0:
            raise ValueError(f"lr: found {self.lr!r}, allowed is above 0")
        if self.mode == "none" and self.tied:
            raise ValueError("mode, tied: found 'none' and true, allowed is one of the two")
        if self.note and len(self.widths) > 2:
            raise ValueError(f"found a note and {len(self.widths)} widths, allowed are 2")


RECIPES: Mapping[str, Mapping[str, Any]] = {"fast": {"lr": 0.01, "layers": 1}, "slow": {"lr": 0.0001}}


def layout(config: Config, teacher: Layout) -> Layout:
    """Takes heads, layers and rank as they are."""
    if config.layers > len(teacher.layers):
        raise ValueError(f"layers: found {config.layers}, allowed are 1 to {len(teacher.layers)}")
    full = teacher.layers[0]
    layer = LayerLayout(heads=config.heads, head_width=full.head_width, ffn=full.ffn)
    return dataclasses.replace(teacher, layers=(layer,) * config.layers, embedding_rank=config.rank)
