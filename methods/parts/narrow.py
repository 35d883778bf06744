"""Students of their own hidden width, as in TinyBERT: vocabulary and positions are the teacher's, no weights are.

References:
    Jiao et al.: TinyBERT: Distilling BERT for Natural Language Understanding, Findings of EMNLP 2020,
    https://arxiv.org/abs/1909.10351, section 4.1
"""

from __future__ import annotations

from pathlib import Path

from methods.parts.bert import Bert, initialise
from methods.parts.checkpoint import load
from methods.parts.layout import Layout


def narrow_layout(teacher: Layout, *, hidden: int, layers: int, heads: int, ffn: int) -> Layout:
    """The layout of a student with vocabulary, positions, token types and labels of the teacher.

    Args:
        teacher: the teacher's layout.
        hidden: d, width of the residual stream; the heads share it.
        layers: depth.
        heads: heads of each layer.
        ffn: FFN neurons of each layer.

    Raises:
        ValueError: a number is out of range, or the heads do not divide the hidden width.
    """
    if heads < 1 or hidden % heads:
        raise ValueError(f"hidden: found {hidden} with {heads} heads, allowed is a multiple of the heads")
    return Layout.uniform(
        vocab=teacher.vocab,
        positions=teacher.positions,
        types=teacher.types,
        hidden=hidden,
        num_layers=layers,
        heads=heads,
        head_width=hidden // heads,
        ffn=ffn,
        labels=teacher.labels,
    )


def narrow_student(layout: Layout, *, like: Bert, checkpoint: str | Path | None, seed: int) -> Bert:
    """A student of this layout from a checkpoint, or with random weights, on the CPU and in training mode.

    Args:
        layout: what `narrow_layout` gave.
        like: gives head kind, and to a student with random weights dropout and LayerNorm's epsilon.
        checkpoint: a folder or hub name; a classifier that it lacks is drawn. None draws all weights.
        seed: of what is drawn.

    Raises:
        ValueError: the checkpoint is not there, or of another layout.
    """
    if checkpoint is None:
        model = Bert(layout, head=like.head, dropout=like.dropout, layer_norm_eps=like.layer_norm_eps)
        initialise(model, seed)
        return model
    model = load(checkpoint, labels=layout.labels or None, head=like.head, seed=seed)
    if model.layout != layout:
        found, wanted = model.layout, layout
        raise ValueError(
            f"checkpoint {checkpoint}: found hidden {found.hidden}, vocabulary {found.vocab}, positions "
            f"{found.positions}, {found.describe()}; allowed is hidden {wanted.hidden}, vocabulary {wanted.vocab}, "
            f"positions {wanted.positions}, {wanted.describe()}"
        )
    return model.train()
