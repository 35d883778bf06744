"""Students that begin as chosen layers of the pretrained model, rather than of the fine-tuned one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from methods.parts.bert import Bert, initialise
from methods.parts.checkpoint import load
from methods.parts.layout import Layout
from methods.parts.rng import derive
from methods.parts.surgery import cut
from methods.parts.teacher import Teacher


def start_layers(init: str, pairs: Sequence[int], chosen: Sequence[int] | None) -> tuple[int, ...]:
    """The pretrained layers, from 0, that a student begins as.

    Args:
        init: `even`, the layers that the student's are paired with; or `first`, the bottom ones.
        pairs: the teacher layer, from 1, for each student layer.
        chosen: the layers themselves, from 0; None leaves it to `init`.

    Raises:
        ValueError: there are not as many as student layers.
    """
    if chosen is None:
        return tuple(range(len(pairs))) if init == "first" else tuple(number - 1 for number in pairs)
    if len(chosen) != len(pairs):
        raise ValueError(f"init_layers: found {list(chosen)}, allowed are {len(pairs)} layers, one for each of layers")
    return tuple(chosen)


def shallow_layout(teacher: Layout, layers: Sequence[int]) -> Layout:
    """The teacher's layout with only these of its layers, numbered from 0, in this order.

    Raises:
        ValueError: there is no such layer, or one is named twice.
    """
    have = len(teacher.layers)
    if not layers or len({*layers}) != len(layers) or not all(0 <= layer < have for layer in layers):
        raise ValueError(f"init_layers: found {list(layers)}, allowed are different numbers from 0 to {have - 1}")
    return replace(teacher, layers=tuple(teacher.layers[layer] for layer in layers))


def base_student(teacher: Teacher, layers: Sequence[int], *, seed: int, random_embeddings: bool = False) -> Bert:
    """A student made of layers (from 0), pooler and embeddings of the pretrained checkpoint, on the CPU.

    A classifier that the checkpoint lacks is drawn.

    Args:
        teacher: of whom only `base` and the layout are used.
        layers: as for `shallow_layout`.
        seed: of what is drawn.
        random_embeddings: draw the whole embedding block instead (the published code's defect).

    Raises:
        ValueError: the pretrained checkpoint has another shape than the fine-tuned one.
    """
    wanted = shallow_layout(teacher.layout, layers)
    base = load(teacher.base, labels=wanted.labels, seed=seed)
    if base.layout != teacher.layout:
        raise ValueError(
            f"{teacher.base}: found {base.layout.describe()}, hidden {base.layout.hidden}, vocabulary "
            f"{base.layout.vocab}; allowed is the fine-tuned teacher's shape, {teacher.layout.describe()}, hidden "
            f"{wanted.hidden}, vocabulary {wanted.vocab}"
        )
    student = cut(base, layers=layers)
    if random_embeddings:
        fresh = Bert(wanted, head=student.head, dropout=student.dropout, layer_norm_eps=student.layer_norm_eps)
        initialise(fresh, derive(seed, "embeddings"))
        student.bert.embeddings.load_state_dict(fresh.bert.embeddings.state_dict())
    return student
