"""One update: micro-batches, several backwards, one reduction, the hook, clipping, the optimizer's step.

The loss of an update is the sum over terms of weight * (sum over all its examples) / (their number), whatever the
number of ranks and micro-batches and however each is padded: the numbers are exchanged before the first backward.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from methods.parts.batches import Batch
from methods.parts.clip import clip_gradients
from methods.parts.losses import Term
from methods.parts.optim import Group, named, optimizer_for
from methods.parts.precision import autocast_dtype
from methods.parts.recipe import Recipe
from methods.parts.reduce import Ranked, agree_text, reduce_gradients, total
from methods.parts.schedule import factor
from methods.parts.training import Diverged, Training

SIZES = ("examples", "tokens", "positions", "masked")
"""Keys of `Batch.sizes` that a term may be divided by. A fifth, `batches`, counts micro-batches: for a term that does
not depend on the data, such as a penalty on weights."""


@dataclass(slots=True)
class Window:
    """Training losses since the last report, summed on this rank."""

    sums: dict[str, Tensor] = field(default_factory=dict)
    updates: int = 0

    def add(self, name: str, value: Tensor) -> None:
        """Add a value; nothing waits for the device."""
        value = value.detach().double()
        self.sums[name] = self.sums[name] + value if name in self.sums else value

    def fold(self, ranks: Ranked) -> dict[str, float]:
        """Move the sums of all ranks to rank 0 and return them; collective."""
        names = json.loads(agree_text(json.dumps(sorted(self.sums)), ranks))
        sums = dict(zip(names, total([float(self.sums.get(name, 0.0)) for name in names], ranks), strict=True))
        self.load(sums if ranks.rank == 0 else {}, self.updates)
        return sums

    def load(self, sums: Mapping[str, float], updates: int) -> None:
        """Set the sums."""
        self.sums = {name: torch.tensor(value, dtype=torch.float64) for name, value in sums.items()}
        self.updates = updates

    def means(self, ranks: Ranked) -> dict[str, float]:
        """Close the window: the mean of each number over its updates; collective."""
        sums, updates = self.fold(ranks), self.updates
        self.load({}, 0)
        return {name: value / updates for name, value in sums.items()} if updates else {}


class Updater:
    """Everything one update needs that does not change within a stage."""

    def __init__(self, training: Training, recipe: Recipe, ranks: Ranked) -> None:
        groups = training.groups or (Group(name="model", parameters=named(training.model)),)
        self.training, self.recipe, self.ranks = training, recipe, ranks
        self.optimizer: Optimizer = optimizer_for(groups, recipe)
        self.window = Window()
        self.parameters: list[nn.Parameter] = [parameter for group in groups for _, parameter in group.parameters]
        self._clips = [
            ([parameter for _, parameter in group.parameters], group.clip_norm or recipe.clip_norm) for group in groups
        ]
        hidden = getattr(getattr(training.model, "layout", None), "hidden", 0)
        self._dtype = autocast_dtype(recipe.precision, ranks.device, hidden)

    def update(self, step: int, total_steps: int, flag: bool) -> bool:
        """Run update `step`; returns rank 0's `flag` on every rank, which rides along for free.

        Raises:
            Diverged: loss or gradients are not finite; on every rank at the same step.
        """
        batches = [batch.to(self.ranks.device) for batch in self.training.data.step(step)]
        counts, flag = self._counts(batches, flag)
        loss = torch.zeros((), device=self.ranks.device)
        for batch in batches:
            loss += self._backward(batch, counts)
        loss = reduce_gradients(self.parameters, loss[None], self.ranks)[0]
        self._set_lr(step, total_steps)
        if self.training.before_step is not None:
            self.training.before_step(step, self.optimizer)
        norm = clip_gradients(self._clips, self.recipe.clip, self.recipe.clip_norm)
        self._check(loss, norm, step)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.training.model.zero_grad(set_to_none=True)  # also of what is in no group
        self.window.updates += 1
        return flag

    def _counts(self, batches: Sequence[Batch], flag: bool) -> tuple[dict[str, float], bool]:
        """What sums are divided by: sizes of the whole update, over all ranks and micro-batches."""
        own = [sum(batch.sizes.get(key, 0) for batch in batches) for key in SIZES]
        *sizes, flags = total([*own, len(batches), flag if self.ranks.rank == 0 else 0], self.ranks)
        return dict(zip((*SIZES, "batches"), sizes, strict=True)), flags > 0

    def _backward(self, batch: Batch, counts: Mapping[str, float]) -> Tensor:
        """Back-propagate every yield of the losses; return this rank's share of the loss."""
        whole = torch.zeros((), device=self.ranks.device)
        generator = self.training.losses(batch)
        while True:
            with torch.autocast(self.ranks.device.type, torch.bfloat16, enabled=self._dtype is not None):
                terms = next(generator, None)
            if terms is None:
                return whole
            shares = [(term, self._share(term, counts)) for term in terms]
            losses = [share for term, share in shares if not term.watched]
            if losses:
                loss = torch.stack(losses).sum()
                loss.backward()  # type: ignore[no-untyped-call]
                whole += loss.detach()

    def _share(self, term: Term, counts: Mapping[str, float]) -> Tensor:
        """A term's contribution to the loss of the update, or to the number that is watched."""
        if term.per not in counts:
            raise ValueError(f"term {term.name!r}: per: found {term.per!r}, allowed are {', '.join(counts)}")
        value = term.sum.float() * (term.weight / max(counts[term.per], 1.0))
        self.window.add(f"train/{term.name}", value)
        if not term.watched:
            self.window.add("train/loss", value)
        return value

    def _set_lr(self, step: int, total_steps: int) -> None:
        """Set every group's learning rate for update `step`."""
        share = factor(step, total_steps, self.recipe.warm(total_steps), self.recipe.schedule)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * share

    def _check(self, loss: Tensor, norm: Tensor, step: int) -> None:
        """Stop before NaN reaches the weights."""
        if self.ranks.rank == 0:
            self.window.add("grad_norm", norm)
        if math.isfinite(float(loss + norm)):
            return
        lr = self.optimizer.param_groups[0]["lr"]
        raise Diverged(
            f"update {step} (lr {lr:.3g}, {self.recipe.precision}): found loss {float(loss):g} and gradient norm "
            f"{float(norm):g}, allowed are finite ones; try a lower lr, a longer warmup or precision fp32"
        )
