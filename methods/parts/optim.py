"""Parameter groups and the three optimizers of the six methods.

One optimizer holds all groups of a stage: gates, projections and compactors are groups with their own learning rate,
decay and clipping, not further optimizers.

References:
    Loshchilov, Hutter: Decoupled Weight Decay Regularization, 2019, https://arxiv.org/abs/1711.05101
    Devlin et al.: BERT, 2019, https://arxiv.org/abs/1810.04805, released code (`AdamWeightDecayOptimizer`: no bias
    correction)
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from methods.parts.recipe import Recipe

UNCORRECTED_EPS = 1e-6
CORRECTED_EPS = 1e-8


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Parameters that are trained alike; None means the recipe's value. Biases and LayerNorms never decay."""

    name: str
    parameters: tuple[tuple[str, nn.Parameter], ...]
    """With their names, see `named`."""
    lr: float | None = None
    weight_decay: float | None = None
    clip_norm: float | None = None
    """Counts where the recipe clips per group or per tensor."""
    betas: tuple[float, float] | None = None
    eps: float | None = None


def named(module: nn.Module, *, without: Iterable[Tensor] = ()) -> tuple[tuple[str, nn.Parameter], ...]:
    """The trainable parameters of `module`, less those in `without`."""
    left_out = {id(tensor) for tensor in without}
    return tuple(
        (name, parameter)
        for name, parameter in module.named_parameters()
        if parameter.requires_grad and id(parameter) not in left_out
    )


def decays(name: str) -> bool:
    """Whether a parameter of this name takes part in weight decay: everything but biases and LayerNorms."""
    lower = name.lower()
    return not ("bias" in lower or "layernorm" in lower or "layer_norm" in lower)


class BertAdam(Optimizer):
    """Adam without bias correction, decay inside the update: w -= lr * (m / (sqrt(v) + eps) + wd * w).

    Without the correction the first updates are about three times as long as Adam's; ROSITA, TinyBERT and HSK train
    with it.
    """

    def __init__(
        self, params: Iterable[Any], lr: float, eps: float = UNCORRECTED_EPS, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": (0.9, 0.999), "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient; a closure is not called, for the loop ran the backward passes."""
        for group in self.param_groups:
            weights, updates = _directions(group, self.state)
            if not weights:
                continue
            if group["weight_decay"]:
                torch._foreach_add_(updates, weights, alpha=group["weight_decay"])
            torch._foreach_add_(weights, updates, alpha=-group["lr"])


class UncorrectedAdamW(Optimizer):
    """Adam without bias correction, decay after the update: w -= lr * m / (sqrt(v) + eps), then w -= lr * wd * w.

    WID's optimizer; it differs from `BertAdam` by the decay seeing the updated weight.
    """

    def __init__(
        self, params: Iterable[Any], lr: float, eps: float = UNCORRECTED_EPS, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": (0.9, 0.999), "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient; a closure is not called, for the loop ran the backward passes."""
        for group in self.param_groups:
            weights, updates = _directions(group, self.state)
            if not weights:
                continue
            torch._foreach_add_(weights, updates, alpha=-group["lr"])
            if group["weight_decay"]:
                torch._foreach_mul_(weights, 1.0 - group["lr"] * group["weight_decay"])


def _directions(group: Mapping[str, Any], state: Mapping[Tensor, dict[str, Any]]) -> tuple[list[Tensor], list[Tensor]]:
    """Advance both moments of a group; give its weights that have gradients, and m / (sqrt(v) + eps) of each."""
    weights = [parameter for parameter in group["params"] if parameter.grad is not None]
    if not weights:
        return [], []
    for weight in weights:
        if not state[weight]:
            state[weight].update(exp_avg=torch.zeros_like(weight), exp_avg_sq=torch.zeros_like(weight))
    grads = [weight.grad for weight in weights]
    means = [state[weight]["exp_avg"] for weight in weights]
    squares = [state[weight]["exp_avg_sq"] for weight in weights]
    beta1, beta2 = group["betas"]
    torch._foreach_mul_(means, beta1)
    torch._foreach_add_(means, grads, alpha=1.0 - beta1)
    torch._foreach_mul_(squares, beta2)
    torch._foreach_addcmul_(squares, grads, grads, value=1.0 - beta2)
    roots = torch._foreach_sqrt(squares)
    torch._foreach_add_(roots, group["eps"])
    return weights, list(torch._foreach_div(means, roots))


def optimizer_for(groups: Sequence[Group], recipe: Recipe) -> Optimizer:
    """Build the recipe's optimizer over `groups`, each split into what decays and what does not.

    Every parameter group carries `name`, and `base_lr`, which the schedule multiplies.

    Raises:
        ValueError: a parameter is in two groups, or a group or all of them are empty.
    """
    _check(groups)
    split = [half for group in groups for half in _halves(group, recipe)]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(split, lr=recipe.lr, fused=True)
    return (BertAdam if recipe.optimizer == "bert_adam" else UncorrectedAdamW)(split, lr=recipe.lr)


def _halves(group: Group, recipe: Recipe) -> list[dict[str, Any]]:
    """A group as torch's parameter groups: with decay, without."""
    lr = recipe.lr if group.lr is None else group.lr
    default_eps = CORRECTED_EPS if recipe.optimizer == "adamw" else UNCORRECTED_EPS
    eps = next(value for value in (group.eps, recipe.eps, default_eps) if value is not None)
    decay = recipe.weight_decay if group.weight_decay is None else group.weight_decay
    shared = {"lr": lr, "base_lr": lr, "betas": tuple(group.betas or recipe.betas), "eps": eps}
    decayed = [parameter for name, parameter in group.parameters if decays(name)]
    others = [parameter for name, parameter in group.parameters if not decays(name)]
    halves = ((f"{group.name}/decay", decayed, decay), (f"{group.name}/no_decay", others, 0.0))
    return [{"name": name, "params": params, "weight_decay": wd, **shared} for name, params, wd in halves if params]


def _check(groups: Sequence[Group]) -> None:
    """Refuse empty and overlapping groups."""
    owners: dict[int, str] = {}
    for group in groups:
        if not group.parameters:
            raise ValueError(f"group {group.name!r}: no trainable parameter in it")
        for name, parameter in group.parameters:
            owner = owners.get(id(parameter))
            if owner is not None:
                raise ValueError(f"group {group.name!r}: parameter {name!r} is already in group {owner!r}")
            owners[id(parameter)] = group.name
    if not owners:
        raise ValueError("no parameter group to train")


def pack(optimizer: Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as named tensors, `<number of the parameter>.<what>`; learning rates are not in it."""
    state: Mapping[int, Mapping[str, Tensor]] = optimizer.state_dict()["state"]
    return {f"{number}.{name}": value for number, entry in state.items() for name, value in entry.items()}


def unpack(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put packed state into an optimizer built over the same groups."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, name = key.split(".", 1)
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
