"""What is said of the gates in a configuration, and the gates, their groups and their device that follow from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from methods.parts.devices import check_device, open_device
from methods.parts.gates import Gates
from methods.parts.optim import Group
from methods.parts.ranges import check_least
from methods.parts.recipe import Recipe
from methods.parts.reduce import Ranked


@dataclass(frozen=True, kw_only=True, slots=True)
class Gating:
    """Hyper-parameters of the gates; the defaults are LAD's on SST-2."""

    aggregation: Literal["forward", "reverse"] = "forward"
    """Whether an aggregate holds the teacher's layers up to its own, or those from its own to the top."""
    norm: Literal["sequence", "token"] = "sequence"
    """Of the gates: over a sentence's real tokens, or over each token alone; see `methods.parts.gates`."""
    detach_gates: bool = False
    """Whether gates stay as drawn, so that targets do not move towards the student."""
    gate_lr: float = 1e-6
    """Peak learning rate of the gates."""
    gate_weight_decay: float = 0.01
    """Of the gates' matrices."""
    gate_clip_norm: float = 1.0
    """Largest gradient norm of each gate by itself."""
    gate_betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's, for the gates."""
    gate_eps: float = 1e-8
    """AdamW's, for the gates."""
    gate_device: str | int | None = None
    """Where the gates are: `cpu` (or -1), `cuda:1` (or 1); null is where the student is. For one worker."""

    def check_gates(self) -> None:
        """Refuse values out of range.

        Raises:
            ValueError: the first of them.
        """
        check_least(self, 0, "gate_lr", "gate_weight_decay", "gate_eps")
        if not self.gate_clip_norm > 0:
            raise ValueError(f"gate_clip_norm: found {self.gate_clip_norm!r}, allowed is > 0")
        check_device("gate_device", self.gate_device)
        try:
            Recipe(betas=self.gate_betas)
        except ValueError as error:
            raise ValueError(f"gate_betas: {error}") from None

    def gates(self, layers: int, hidden: int, ranks: Ranked, *, length: int | None, seed: int) -> Gates:
        """New gates on their device.

        Args:
            layers: teacher layers that are folded.
            hidden: D, the teacher's width.
            ranks: the world.
            length: L, which ties the gates to this padded length (norm `position`); None takes `norm`.
            seed: of the weights.

        Raises:
            ValueError: the device is not there, or not the student's where several workers add up gradients.
        """
        device = open_device("gate_device", self.gate_device, ranks)
        if ranks.world_size > 1 and device != open_device("gate_device", None, ranks):
            raise ValueError(
                f"gate_device: found {self.gate_device!r} with {ranks.world_size} workers, allowed is null: their "
                "gates lie where their students are"
            )
        norm = self.norm if length is None else "position"
        reverse = self.aggregation == "reverse"
        return Gates(layers, hidden, norm=norm, length=length, reverse=reverse, seed=seed).to(device)

    def groups(self, gates: Gates) -> tuple[Group, ...]:
        """A parameter group for each gate, so that each is clipped by itself; none where they stay as drawn."""
        rates = {"lr": self.gate_lr, "weight_decay": self.gate_weight_decay, "clip_norm": self.gate_clip_norm}
        like = Group(name="gate", parameters=(), betas=self.gate_betas, eps=self.gate_eps, **rates)
        return () if self.detach_gates else gates.groups(like)
