"""The choices behind a `Selection`: which states, which token positions, which coordinates a student learns.

Pure functions: states are chosen by arithmetic on depths, positions by the teacher's attention from [CLS], coordinates
by a fixed pattern or by magnitude. Padding is never chosen.

Shape legend: `B` batch, `L` length, `K` kept positions, `D` the teacher's hidden width, `h` heads.

References:
    Liu, Li, Lin, Zhao: Marginal Utility Diminishes: Exploring the Minimum Knowledge for BERT Knowledge Distillation,
    ACL 2021, https://arxiv.org/abs/2106.05691, section 3, and the released code
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from methods.parts.layers import MASKED
from methods.parts.selection import THRESHOLDS, TOKEN_SCHEMES, WIDTH_SCHEMES, Selection

RANKINGS = ("top12", "own")
"""Which layer's attention ranks the tokens of a state: the one its student state would have if the student's depth were
stretched over the whole teacher (the published default), or the layer that made the state."""


def state_pairs(student_layers: int, top: int, keep: int | None = None) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Pair student states with teacher states; the student's last layer learns teacher layer `top`.

    Student state i learns teacher state round(i * top / student_layers), half to even, as published; of these pairs
    the top `keep` are taken. State 0 is the embedding output.

    Args:
        student_layers: S.
        top: P, the teacher layer of the student's last.
        keep: pairs kept, 1 to S + 1; None keeps all.

    Returns:
        Teacher states and student states, both strictly ascending.

    Raises:
        ValueError: `top` is less than S, which would give a teacher state to two student states, or `keep` is out of
            range.
    """
    if student_layers < 1 or top < student_layers:
        raise ValueError(f"top: found {top}, allowed is at least the student's {student_layers} layers")
    if keep is not None and not 1 <= keep <= student_layers + 1:
        raise ValueError(f"keep_layers: found {keep}, allowed are 1 to {student_layers + 1}, the student's states")
    mine = range(student_layers + 1 - (keep or student_layers + 1), student_layers + 1)
    return tuple(round(state * top / student_layers) for state in mine), tuple(mine)


def attention_layers(
    ranking: str,
    teacher_states: Sequence[int],
    student_states: Sequence[int],
    *,
    teacher_layers: int,
    student_layers: int,
) -> tuple[int, ...]:
    """For each pair of states the teacher layer (from 1) whose [CLS] scores rank the tokens.

    With "top12" that is floor(s * teacher / student) for student state s, whatever teacher state is learnt; with "own"
    the layer that made the teacher state. The embedding output takes layer 1.

    Raises:
        ValueError: `ranking` is not one of `RANKINGS`.
    """
    if ranking not in RANKINGS:
        raise ValueError(f"ranking: found {ranking!r}, allowed are {', '.join(RANKINGS)}")
    if ranking == "own":
        return tuple(max(state, 1) for state in teacher_states)
    return tuple(max(state * teacher_layers // student_layers, 1) for state in student_states)


def separators(token_type_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Mark the last real token of each segment, which is its [SEP] in every tokeniser of BERT's: (B, L) bool.

    Args:
        token_type_ids: (B, L), ascending within the real tokens of a row.
        attention_mask: (B, L), 1 at real tokens.
    """
    real = attention_mask.bool()
    segments = torch.where(real, token_type_ids, -1)
    after = torch.nn.functional.pad(segments[:, 1:], (0, 1), value=-1)
    return real & (segments != after)


def positions(
    scheme: str, tokens: int, *, mask: Tensor, cls_scores: Tensor | None = None, types: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Choose token positions of one state, row by row.

    `left_first` and `right_first` take real tokens from that end, `cls` the first alone. `attention` ranks by the mean
    over heads of the raw scores of the [CLS] query; `attention_no_sep` does too, but puts separators behind every
    other real token. A raw score is the log of an attention probability but for a constant per head, so means of
    probabilities would rank otherwise. Equal scores go to the lower position.

    Args:
        scheme: one of `TOKEN_SCHEMES` but "all".
        tokens: K; 1 with `cls`.
        mask: (B, L), 1 at real tokens.
        cls_scores: (B, h, L), raw scores of the [CLS] query in the ranking layer.
        types: (B, L) token types.

    Returns:
        (B, K) int64 positions, best first, and (B, K) bool: false, with position 0, at slots for which a row has no
        token left.

    Raises:
        ValueError: the scheme is unknown, `tokens` out of range, or what the scheme reads was not given.
    """
    if scheme not in TOKEN_SCHEMES[1:]:
        raise ValueError(f"token_scheme: found {scheme!r}, allowed are {', '.join(TOKEN_SCHEMES[1:])}")
    if tokens < 1 or (scheme == "cls" and tokens != 1):
        raise ValueError(f"keep_tokens: found {tokens}, allowed is {'1' if scheme == 'cls' else 'at least 1'}")
    order = _preferences(scheme, mask, cls_scores, types).argsort(dim=1, descending=True, stable=True)
    chosen = torch.nn.functional.pad(order[:, :tokens], (0, max(0, tokens - order.shape[1])))
    real = torch.arange(tokens, device=mask.device) < mask.sum(1, keepdim=True)
    return torch.where(real, chosen, 0), real


def _preferences(scheme: str, mask: Tensor, cls_scores: Tensor | None, types: Tensor | None) -> Tensor:
    """Score the positions, (B, L); the higher, the sooner chosen; -inf at padding."""
    if scheme in ("left_first", "right_first", "cls"):
        places = torch.arange(mask.shape[1], device=mask.device).float().expand(mask.shape)
        return torch.where(mask.bool(), places if scheme == "right_first" else -places, -torch.inf)
    if cls_scores is None:
        raise ValueError(f"token_scheme {scheme!r}: found no cls_scores, which rank the positions")
    scores = cls_scores.float().mean(1)
    if scheme == "attention_no_sep":
        if types is None:
            raise ValueError("token_scheme 'attention_no_sep': found no token types, which tell the separators")
        scores = scores.masked_fill(separators(types, mask), MASKED)
    return scores.masked_fill(~mask.bool(), -torch.inf)


def keep(values: Tensor, real: Tensor, selection: Selection) -> Tensor:
    """Choose the coordinates that are kept of one state, by `selection.width_scheme` and the share `selection.width`.

    `uniform` keeps evenly spaced coordinates, `random` a fixed draw of each with probability `width` (so their number
    is random too), `random_dynamic` a new draw at each call from torch's global generator. `importance` keeps the
    largest magnitudes, floor(width * n) but at least 1 of the n coordinates of each example (all its kept tokens
    together), of each token, or of the whole batch as published; equal ones go to the lower coordinate.

    Args:
        values: (B, K, D), of which only real slots are looked at.
        real: (B, K) bool.
        selection: scheme, share, threshold and seed.

    Returns:
        Bool, (1, 1, D), or (B, K, D) with `importance`, then false at slots that are not real.

    Raises:
        ValueError: scheme, share or threshold is not allowed.
    """
    scheme, width = selection.width_scheme, values.shape[-1]
    if scheme not in WIDTH_SCHEMES:
        raise ValueError(f"width_scheme: found {scheme!r}, allowed are {', '.join(WIDTH_SCHEMES)}")
    if not 0.0 < selection.width <= 1.0:
        raise ValueError(f"keep_hidden: found {selection.width!r}, allowed is a share in (0, 1]")
    if scheme == "importance":
        return _largest(values.abs(), real, selection)
    kept = torch.ones(width, dtype=torch.bool)
    if scheme == "uniform":
        kept = torch.zeros(width, dtype=torch.bool)
        kept[uniform_coordinates(width, selection.width)] = True
    elif scheme != "all":  # drawn on the CPU, so that the mask does not depend on the device
        generator = torch.Generator().manual_seed(selection.seed) if scheme == "random" else None
        kept = torch.rand(width, generator=generator) > 1.0 - selection.width
    return kept.to(values.device)[None, None]


def uniform_coordinates(width: int, share: float) -> list[int]:
    """The evenly spaced coordinates round(i / share), half to even, for i below int(share * width)."""
    return [round(i / share) for i in range(int(share * width))]


def _largest(magnitudes: Tensor, real: Tensor, selection: Selection) -> Tensor:
    """Mark the largest of (B, K, D) magnitudes within each group that the threshold names."""
    if selection.threshold not in THRESHOLDS:
        raise ValueError(f"threshold: found {selection.threshold!r}, allowed are {', '.join(THRESHOLDS)}")
    rows, slots, width = magnitudes.shape
    groups = {"example": rows, "token": rows * slots, "batch": 1}[selection.threshold]
    flat = magnitudes.masked_fill(~real[..., None], -1.0).reshape(groups, -1)
    counts = real.reshape(groups, -1).sum(1, keepdim=True).double() * width
    kept = (counts * selection.width).floor().clamp(min=1.0).minimum(counts)
    best = flat.argsort(dim=1, descending=True, stable=True)
    marks = torch.arange(flat.shape[1], device=flat.device) < kept
    return torch.zeros_like(flat, dtype=torch.bool).scatter(1, best, marks).reshape(rows, slots, width)
