"""How removed dimensions are driven to zero while a compacted BERT learns masked words.

The loss is the masked-LM loss alone. Every `mask_every` updates the masks are chosen anew from the compactors; then,
before each step of the optimizer, the removed rows of C_out and columns of C_in forget their gradient and decay:

    decoupled   p <- p (1 - lr * penalty) and a first moment of 0; what is kept is left to Adam
    faithful    the released code, with l = penalty, p a value, g its gradient, m Adam's first moment; C is a compactor
                up to `mask_every`    g <- g + p everywhere in C
                then, where removed   g <- min(l, 1) p
                and, if l > 1         m <- 0.9 m + 0.1 (l - 1) p where removed, m <- 0.9 m where kept
                in C, and from then on in biases and LayerNorms too, but for the decoder's bias

The faithful edit also multiplies the moment of what is kept by 0.9 once more, which halves its learning rate; biases
lie before C_out, its masks behind it. Neither is needed for a student that equals the model it is cut from.

References:
    Wu et al.: Weight-Inherited Distillation for Task-Agnostic BERT Compression, Findings of NAACL 2024,
    https://arxiv.org/abs/2305.09098, and its released code; the edit of gradients is that of Ding et al.: ResRep,
    ICCV 2021, https://arxiv.org/abs/2007.03260
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from methods.parts.compactors import CompactedBert
from methods.parts.mask_groups import Narrowing
from methods.parts.optim import Group, named
from methods.parts.recipe import Recipe
from methods.parts.schedule import factor

MODES = ("decoupled", "faithful")

MOMENT = 0.9
"""Kept of the first moment at each faithful edit, whatever Adam's own number is."""


class Compaction:
    """The masks' schedule and the edit of gradients; `before_step` is for `Training.before_step`.

    Everything it changes is the model's and the optimizer's, so a resumed run needs nothing of it.
    """

    def __init__(
        self, model: CompactedBert, narrowing: Narrowing, *, mask_every: int, penalty: float, mode: str = "decoupled"
    ) -> None:
        """Describe it.

        Args:
            model: is changed in place.
            narrowing: what is to be kept, and when.
            mask_every: updates from one choice of masks to the next; nothing is removed before the first.
            penalty: how fast what is removed decays.
            mode: one of `MODES`.

        Raises:
            ValueError: a number is out of range, or the mode is unknown.
        """
        if mode not in MODES:
            raise ValueError(f"mode: found {mode!r}, allowed are {', '.join(MODES)}")
        if mask_every < 1:
            raise ValueError(f"mask_every: found {mask_every}, allowed is at least 1")
        if not penalty > 0:
            raise ValueError(f"penalty: found {penalty!r}, allowed is above 0")
        self.model, self.narrowing = model, narrowing
        self.mask_every, self.penalty, self.mode = mask_every, penalty, mode

    @torch.no_grad()
    def before_step(self, step: int, optimizer: Optimizer) -> None:
        """Choose masks if it is time, then edit gradients, moments and values.

        Args:
            step: the update's number, from 0.
            optimizer: holds the learning rates and moments.
        """
        count = step + 1
        if count % self.mask_every == 0:
            self.model.set_masks(self.narrowing.select(dict(self.model.named_compactors()), count // self.mask_every))
        if self.mode == "decoupled":
            if count >= self.mask_every:
                self._decay(optimizer)
        elif count > self.mask_every:
            self._forget(optimizer)
        else:
            for _, parameter in self.model.named_compactors():
                if parameter.grad is not None:
                    parameter.grad += parameter

    def _decay(self, optimizer: Optimizer) -> None:
        """The decoupled edit."""
        rates = {id(parameter): group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
        for parameter, kept in masked_compactors(self.model):
            if parameter.grad is None:
                continue
            parameter.grad *= kept
            if "exp_avg" in optimizer.state[parameter]:
                optimizer.state[parameter]["exp_avg"] *= kept
            left = max(1.0 - rates[id(parameter)] * self.penalty, 0.0)
            parameter.mul_(torch.where(kept, 1.0, left))

    def _forget(self, optimizer: Optimizer) -> None:
        """The faithful edit."""
        for parameter, kept in (*masked_compactors(self.model), *_masked_vectors(self.model)):
            if parameter.grad is None:  # frozen
                continue
            parameter.grad.copy_(torch.where(kept, parameter.grad, min(self.penalty, 1.0) * parameter))
            if self.penalty > 1 and "exp_avg" in optimizer.state[parameter]:
                push = torch.where(kept, 0.0, (self.penalty - 1) * parameter)
                optimizer.state[parameter]["exp_avg"].mul_(MOMENT).add_(push, alpha=1 - MOMENT)


def masked_compactors(model: CompactedBert) -> Iterator[tuple[nn.Parameter, Tensor]]:
    """Every compactor with its group's mask: over rows of C_out as (N, 1), over columns of C_in as (1, N)."""
    for group in model.groups:
        mask = model.mask(group.name)
        for name in group.outputs:
            yield model.compactor(f"{name}.out"), mask[:, None]
        for name in group.inputs:
            yield model.compactor(f"{name}.in"), mask[None]


def _masked_vectors(model: CompactedBert) -> Iterator[tuple[nn.Parameter, Tensor]]:
    """Biases and LayerNorm parameters with their groups' masks."""
    for group in model.groups:
        for name in group.vectors:
            yield model.get_parameter(name), model.mask(group.name)


def compaction_groups(
    model: CompactedBert, *, lr: float, base_lr: float, compactors_only: bool = False
) -> tuple[Group, ...]:
    """The parameter groups: compactors at `lr`, all that was inherited at `base_lr`, or frozen."""
    compactors = tuple(model.named_compactors())
    own = Group(name="compactors", parameters=compactors, lr=lr)
    inherited = named(model, without=[parameter for _, parameter in compactors])
    for _, parameter in inherited:
        parameter.requires_grad_(not compactors_only)
    return (own,) if compactors_only else (Group(name="base", parameters=inherited, lr=base_lr), own)


def left_over(recipe: Recipe, lr: float, penalty: float, first: int) -> float:
    """What a decoupled decay leaves of a value 1 that is removed from update `first` (counted from 0) on.

    Args:
        recipe: with `total_steps`.
        lr: the compactors' peak learning rate.
        penalty: the rate of the decay, per learning rate.
        first: the update at which the last dimension goes.
    """
    steps = recipe.steps(0)
    left = 1.0
    for step in range(first, steps):
        left *= max(1.0 - lr * penalty * factor(step, steps, recipe.warm(steps), recipe.schedule), 0.0)
        if left < 1e-12:
            break
    return left
