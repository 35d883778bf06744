"""Compressed BERTs of the literature as layouts, so that a report can mark where they stand in size.

Only shapes are claimed here, by arithmetic on the teacher's own vocabulary; the scores quoted beside them are the
papers' own, on their data, devices and splits, and are never drawn as if they had been measured in this sweep.

References: Liu et al., ROSITA: Refined BERT cOmpreSsion with InTegrAted techniques, AAAI 2021, arXiv:2103.11367;
Jiao et al., TinyBERT: Distilling BERT for Natural Language Understanding, EMNLP 2020 Findings, arXiv:1909.10351.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction

from methods.parts.layout import LayerLayout, Layout

BASE = LayerLayout(heads=12, head_width=64, ffn=3072)
"""A layer of BERT-base, the teacher of every paper below."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """An architecture from a paper, on the teacher at hand."""

    name: str
    layout: Layout
    source: str
    """Where the shape was published."""
    claims: Mapping[str, str] = field(default_factory=dict)
    """Task name -> the paper's own score there, in words."""


TINYBERT = "Jiao et al. 2020, arXiv:1909.10351"
TINYBERT4_CLAIMS = {
    "sst2": "92.6 accuracy, GLUE test",
    "cola": "44.1 Matthews, GLUE test",
    "qnli": "87.7 accuracy, GLUE test",
}
TINYBERT6_CLAIMS = {
    "sst2": "93.1 accuracy, GLUE test",
    "cola": "51.1 Matthews, GLUE test",
    "qnli": "90.4 accuracy, GLUE test",
}


def published(teacher: Layout) -> list[Published]:
    """The published architectures that make sense under this teacher, smallest first.

    A teacher of BERT-base's shape (any vocabulary) gets all of them. Another teacher gets ROSITA's proportions if they
    come out as whole numbers, since ROSITA only cuts; TinyBERT's hidden width of 312 belongs to BERT-base alone.
    """
    if teacher.layers == (BASE,) * 12 and teacher.hidden == 768:
        marks = [_rosita(teacher, "ROSITA"), _tinybert4(teacher), _tinybert6(teacher)]
    else:
        marks = [_rosita(teacher, "ROSITA, scaled")]
    return sorted((mark for mark in marks if mark is not None), key=lambda mark: mark.layout.params())


def _rosita(teacher: Layout, name: str) -> Published | None:
    """2 of 12 heads, 8 of 12 layers, FFN 512 of 3072, rank 128 of 768."""
    if not teacher.is_uniform or teacher.embedding_rank is not None:
        return None
    layer = teacher.layers[0]
    heads, ffn, rank = (Fraction(whole, 6) for whole in (layer.heads, layer.ffn, teacher.hidden))
    depth = Fraction(2 * len(teacher.layers), 3)
    if any(part.denominator > 1 or part < 1 for part in (heads, ffn, rank, depth)):
        return None
    small = LayerLayout(heads=int(heads), head_width=layer.head_width, ffn=int(ffn))
    layout = replace(teacher, layers=(small,) * int(depth), embedding_rank=int(rank))
    return Published(name=name, layout=layout, source="Liu et al. 2021, arXiv:2103.11367")


def _tinybert4(teacher: Layout) -> Published:
    layers = (LayerLayout(heads=12, head_width=26, ffn=1200),) * 4
    layout = replace(teacher, hidden=312, layers=layers)
    return Published(name="TinyBERT4", layout=layout, source=TINYBERT, claims=TINYBERT4_CLAIMS)


def _tinybert6(teacher: Layout) -> Published:
    layout = replace(teacher, layers=teacher.layers[:6])
    return Published(name="TinyBERT6", layout=layout, source=TINYBERT, claims=TINYBERT6_CLAIMS)
