"""What a method gives to the loop: a model, data, a generator of losses, and the few places where it takes part."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol, TypeAlias

from torch import nn
from torch.optim import Optimizer

from methods.parts.batches import Batch
from methods.parts.losses import Term
from methods.parts.optim import Group

Losses: TypeAlias = Callable[[Batch], Iterator[Sequence[Term]]]
"""Terms of a micro-batch, one yield for each autograd graph: what is yielded together is back-propagated together, and
freed, before the generator goes on."""

DIRECTIONS = ("max", "min")


class Diverged(ValueError):
    """The loss or a gradient became NaN or infinite."""


class Steps(Protocol):
    """Training data by number of the update; `methods.parts.batches.Batches` is one."""

    @property
    def num_steps(self) -> int:
        """Updates of an epoch."""

    def step(self, step: int, /) -> Sequence[Batch]:
        """This rank's micro-batches of update `step`, counted over all epochs; may be empty on some ranks."""


class Stateful(Protocol):
    """Something whose tensors are checkpointed with a stage: modules that train beside the model, sums of scores."""

    def state_dict(self) -> dict[str, Any]:
        """The tensors by name."""

    def load_state_dict(self, state: dict[str, Any], /) -> object:
        """Continue from what `state_dict` gave."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """What is trained, on what, towards what."""

    model: nn.Module
    data: Steps
    losses: Losses
    groups: Sequence[Group] = ()
    """Everything that is trained; none given means all trainable parameters of the model as one group."""
    before_step: Callable[[int, Optimizer], None] | None = None
    """Called with the update's number (from 0) after the gradients were summed over the ranks, before they are clipped;
    may read and edit gradients and the optimizer's state. Every rank calls it and must do the same."""
    evaluate: Callable[[nn.Module], Mapping[str, float]] | None = None
    """Metrics of the model; every rank calls it, rank 0's numbers count. None keeps the last state."""
    best: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({"score": "max"}))
    """Metrics whose best weights are kept, each with `max` or `min`. The first is the main one: patience watches it and
    the result has its weights. Empty keeps the last state."""
    keep: Mapping[str, Stateful] = field(default_factory=lambda: MappingProxyType({}))
    """Checkpointed beside the model, by name; modules among them are put into training mode with it."""
    report_every: int = 0
    """Steps between reports of the training loss, beside those at evaluations; 0 is none."""

    def __post_init__(self) -> None:
        for metric, direction in self.best.items():
            if direction not in DIRECTIONS:
                raise ValueError(f"Training.best[{metric!r}]: found {direction!r}, allowed are {', '.join(DIRECTIONS)}")

    def train_mode(self) -> None:
        """Switch dropout on, in the model and in the kept modules."""
        for part in (self.model, *self.keep.values()):
            if isinstance(part, nn.Module):
                part.train()
