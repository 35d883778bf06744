"""The numbers of one training stage, and how far it has come."""

import difflib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from methods.parts.schedule import SCHEDULES

OPTIMIZERS = ("adamw", "bert_adam", "uncorrected_adamw")
CLIPS = ("global", "tensor", "group", "none")
PRECISIONS = ("auto", "fp32", "bf16")


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """How one stage is trained; the defaults are BERT fine-tuning's."""

    epochs: float = 3.0
    """Passes over the data; with `total_steps` given, only a label."""
    batch_size: int = 32
    """Examples of one update, over all ranks and micro-batches."""
    lr: float = 2e-5
    """Peak learning rate of the groups that name none."""
    warmup: float = 0.0
    """Share of the steps in which the learning rate rises, [0, 1]."""
    schedule: str = "linear"
    """What follows the warm-up: `linear` to 0, or `constant`."""
    optimizer: str = "adamw"
    """`adamw`; `bert_adam` and `uncorrected_adamw`: no bias correction, with decay inside and after the update."""
    weight_decay: float = 0.0
    """Decay of all parameters but biases and LayerNorms."""
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float | None = None
    """Added to the root of the second moment; None is 1e-8 for adamw and 1e-6 for the two without bias correction."""
    clip_norm: float = 1.0
    """Largest gradient norm of the groups that name none."""
    clip: str = "global"
    """What a norm is taken of: all gradients (`global`), each `tensor`, each `group`, or `none`."""
    accumulation: int = 1
    """Micro-batches an update is split into, to save memory."""
    precision: str = "fp32"
    """Of the forward passes: `fp32`, `bf16` (autocast), or `auto` (bf16 where the hardware gains by it)."""
    evaluate_every: int = 0
    """Steps between evaluations; 0 is the end of each epoch. The last step is always evaluated."""
    patience: int = 0
    """Evaluations without a better main metric after which training ends; 0 is never."""
    drop_last: bool = False
    """Whether an epoch's last, short batch is skipped, as the originals do."""
    total_steps: int | None = None
    """Updates; None is epochs times the batches of an epoch, rounded down."""
    warmup_steps: int | None = None
    """Updates of the warm-up; None is the share `warmup`, not rounded."""

    def __post_init__(self) -> None:
        _choice("optimizer", self.optimizer, OPTIMIZERS)
        _choice("schedule", self.schedule, SCHEDULES)
        _choice("clip", self.clip, CLIPS)
        _choice("precision", self.precision, PRECISIONS)
        for name in ("epochs", "lr", "weight_decay", "evaluate_every", "patience", "total_steps", "warmup_steps"):
            _at_least(name, getattr(self, name), 0)
        for name in ("batch_size", "accumulation"):
            _at_least(name, getattr(self, name), 1)
        if not 0.0 <= self.warmup <= 1.0:
            raise ValueError(f"Recipe.warmup: found {self.warmup!r}, allowed is a share of the steps in [0, 1]")
        if not self.clip_norm > 0.0:
            raise ValueError(f"Recipe.clip_norm: found {self.clip_norm!r}, allowed is > 0 (clip: none switches it off)")
        if len(self.betas) != 2 or not all(0.0 <= beta < 1.0 for beta in self.betas):
            raise ValueError(f"Recipe.betas: found {self.betas!r}, allowed are two numbers in [0, 1)")

    def steps(self, steps_per_epoch: int) -> int:
        """Updates of the whole stage, when an epoch has `steps_per_epoch`."""
        return int(self.epochs * steps_per_epoch + 1e-9) if self.total_steps is None else self.total_steps

    def warm(self, total_steps: int) -> float:
        """Updates of the warm-up; need not be whole."""
        return self.warmup * total_steps if self.warmup_steps is None else self.warmup_steps


@dataclass(frozen=True, slots=True)
class Best:
    """The best value of a metric so far, when it came, and the weights of that moment."""

    value: float
    step: int
    file: Path
    """A safetensors file; `methods.parts.loop.load_best` puts it into a model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far a training has come; what a following `fit` continues from."""

    step: int = 0
    """Finished updates; also the position in the data."""
    total_steps: int
    """Updates of the whole line, cuts included: the learning rate depends on step and total_steps only."""
    steps_per_epoch: int
    bests: Mapping[str, Best] = field(default_factory=lambda: MappingProxyType({}))
    """Per selected metric."""
    since_best: int = 0
    """Evaluations since the main metric last improved."""
    stopped: bool = False
    """Whether patience ended the training."""

    @property
    def epoch(self) -> float:
        """Finished passes over the data."""
        return self.step / self.steps_per_epoch if self.steps_per_epoch else 0.0

    @property
    def files(self) -> tuple[Path, ...]:
        """The weights of all bests."""
        return tuple({best.file: None for best in self.bests.values()})

    def to_json(self) -> dict[str, Any]:
        """Plain values; the weights of a best are named by file name, for its folder may move."""
        names = ("step", "total_steps", "steps_per_epoch", "since_best", "stopped")
        bests = {name: {**asdict(best), "file": best.file.name} for name, best in self.bests.items()}
        return {**{name: getattr(self, name) for name in names}, "bests": bests}

    @classmethod
    def from_json(cls, values: Mapping[str, Any], folder: Path) -> "Progress":
        """What `to_json` wrote, with the weights of the bests in `folder`."""
        stored = values["bests"].items()
        bests = {name: Best(best["value"], best["step"], folder / best["file"]) for name, best in stored}
        return cls(**{**values, "bests": MappingProxyType(bests)})


def _choice(name: str, found: str, allowed: tuple[str, ...]) -> None:
    """Refuse a word that is not allowed, naming the nearest one that is."""
    if found in allowed:
        return
    near = difflib.get_close_matches(str(found), allowed, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"Recipe.{name}: found {found!r}, allowed are {', '.join(allowed)}{hint}")


def _at_least(name: str, found: float | None, lowest: int) -> None:
    """Refuse a number below `lowest`, NaN or infinity."""
    if found is not None and not (math.isfinite(found) and found >= lowest):
        raise ValueError(f"Recipe.{name}: found {found!r}, allowed is a finite number >= {lowest}")
