"""Gradient clipping over all gradients, per tensor, or per group."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


@torch.no_grad()
def clip_gradients(groups: Sequence[tuple[Sequence[Tensor], float]], rule: str, clip_norm: float) -> Tensor:
    """Scale gradients down, in place, so that no norm exceeds its limit.

    Args:
        groups: parameters (those without a gradient are passed over) and the group's own limit, which counts under
            `tensor` and `group`. Each group lies on one device; under `global`, all lie on the same.
        rule: `global`, `tensor`, `group` or `none`.
        clip_norm: the limit under `global`.

    Returns:
        The norm of all gradients before clipping, a scalar; not finite exactly if some gradient is not.

    References:
        BERT (global norm 1) and BERT-Adam of the KD codes (norm 1 for each tensor); LAD clips student and each gate
        separately.
    """
    owned = [([member.grad for member in members if member.grad is not None], limit) for members, limit in groups]
    owned = [(grads, limit) for grads, limit in owned if grads]
    if not owned:
        return torch.zeros(())
    norms = [torch.stack(list(torch._foreach_norm(grads))) for grads, _ in owned]
    whole: Tensor = torch.linalg.vector_norm(torch.cat([norm.to(norms[0].device) for norm in norms]))
    if rule == "global":
        _scale((grad for grads, _ in owned for grad in grads), whole, clip_norm)
    elif rule == "group":
        for (grads, limit), norm in zip(owned, norms, strict=True):
            _scale(grads, torch.linalg.vector_norm(norm), limit)
    elif rule == "tensor":
        for (grads, limit), norm in zip(owned, norms, strict=True):
            torch._foreach_mul_(grads, list(_share(norm, limit)))
    return whole


def _scale(grads: Iterable[Tensor], norm: Tensor, limit: float) -> None:
    """Multiply all of `grads` by the one factor that brings their common norm under `limit`."""
    torch._foreach_mul_(list(grads), _share(norm, limit))


def _share(norm: Tensor, limit: float) -> Tensor:
    """The factor, torch's own: limit / (norm + 1e-6), at most 1."""
    return (limit / (norm + 1e-6)).clamp(max=1.0)
