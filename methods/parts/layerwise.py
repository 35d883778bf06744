"""Transformer distillation: which teacher layer each student layer learns from, and the losses between them.

Shape legend: `B` batch, `L` length, `D` the teacher's hidden width, `d` the student's.

References:
    Jiao et al.: TinyBERT: Distilling BERT for Natural Language Understanding, Findings of EMNLP 2020,
    https://arxiv.org/abs/1909.10351, section 3.1
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from methods.parts.attention_loss import attention_mse
from methods.parts.batches import Batch
from methods.parts.bert import Bert
from methods.parts.layout import Layout
from methods.parts.lesson import Knowledge
from methods.parts.losses import Term, hidden_mse, layer_map
from methods.parts.optim import Group, named
from methods.parts.projection import Projection
from methods.parts.selection import Selection
from methods.parts.training import Losses, Steps, Training

MAPS = ("uniform", "top", "bottom")
PROJECTIONS = ("shared", "separate")


@dataclass(frozen=True, kw_only=True, slots=True)
class Layerwise:
    """What a student learns of its teacher's layers."""

    layer_map: str = "uniform"
    """How layers are paired, one of `MAPS`."""
    attention_weight: float = 1.0
    """Weight of the attention scores; 0 leaves them out."""
    hidden_weight: float = 1.0
    """Weight of the states after the layers; 0 leaves them out."""
    embedding_weight: float = 1.0
    """Weight of the states before the first layer; 0 leaves them out."""
    projections: str = "shared"
    """Of the student's states to the teacher's width: one with bias for all (`shared`, as in the released code), or
    one for the embeddings and one for all layers, without bias (`separate`, as in the paper)."""
    padding: bool = False
    """Whether the losses are means over padding too, as in the released code."""

    def __post_init__(self) -> None:
        """Refuse words that mean nothing here, and weights below 0."""
        for name, found, allowed in (
            ("layer_map", self.layer_map, MAPS),
            ("projections", self.projections, PROJECTIONS),
        ):
            if found not in allowed:
                raise ValueError(f"{name}: found {found!r}, allowed are {', '.join(allowed)}")
        for name in ("attention_weight", "hidden_weight", "embedding_weight"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}: found {getattr(self, name)!r}, allowed is at least 0")

    def __bool__(self) -> bool:
        """Whether there is anything to learn."""
        return bool(self.attention_weight or self.hidden_weight or self.embedding_weight)

    def selection(self, student: Layout, teacher: Layout) -> Selection:
        """The teacher's outputs that the losses need.

        Raises:
            ValueError: the student is deeper than the teacher, or attention cannot be compared head by head.
        """
        if not self:
            return Selection()  # nothing is needed, but a selection cannot be empty
        states = teacher_states(self.layer_map, len(teacher.layers), len(student.layers))
        for layer, number in zip(student.layers, states[1:], strict=True):
            wanted = teacher.layers[number - 1].heads
            if self.attention_weight and layer.heads != wanted:
                raise ValueError(
                    f"heads: found {layer.heads}, layer {number} of the teacher has {wanted}; allowed are as many, or "
                    "attention_weight 0"
                )
        return Selection(
            logits=False,
            states=states[:1] * bool(self.embedding_weight) + states[1:] * bool(self.hidden_weight),
            scores=states[1:] if self.attention_weight else (),
        )

    def projection(self, student: Layout, teacher: Layout, seed: int) -> nn.Module:
        """A new projection of states, a sequence from the embeddings up, to the teacher's width."""
        if self.projections == "shared":
            return Projection(student.hidden, teacher.hidden, seed=seed)
        return SeparateProjections(student.hidden, teacher.hidden, seed=seed)

    def losses(self, student: Bert, projection: nn.Module, knowledge: Knowledge) -> Losses:
        """Attention, embedding and hidden losses of a batch; `knowledge` gives what `selection` names."""
        compat = "padding" if self.padding else None

        def losses(batch: Batch) -> Iterator[Sequence[Term]]:
            lesson, mask = knowledge(batch), batch.attention_mask
            mine = student(batch, hidden=True, scores=self.attention_weight > 0)
            states, targets = projection(mine.hidden), [state.values for state in lesson.states]
            terms = []
            if self.attention_weight:
                terms.append(self.attention_weight * attention_mse(mine.scores, lesson.scores, mask, compat=compat))
            if self.embedding_weight:
                embedding = hidden_mse(states[:1], targets[:1], mask, compat=compat)
                terms.append(self.embedding_weight * replace(embedding, name="embedding"))
            if self.hidden_weight:
                above = targets[1:] if self.embedding_weight else targets
                terms.append(self.hidden_weight * hidden_mse(states[1:], above, mask, compat=compat))
            yield terms

        return losses


class SeparateProjections(nn.Module):
    """One linear layer for the embeddings and one for the states after all layers, both without bias."""

    def __init__(self, student: int, teacher: int, *, seed: int) -> None:
        """Draw the weights from N(0, 0.02).

        Args:
            student: d, the student's hidden width.
            teacher: D, the teacher's.
            seed: of the weights.
        """
        super().__init__()
        embedding, hidden = (Projection(student, teacher, seed=seed + number) for number in range(2))
        for part in (embedding, hidden):
            part.dense.register_parameter("bias", None)
        self.embedding, self.hidden = embedding, hidden

    def forward(self, states: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Map the embeddings' state and all others, (B, L, d), to (B, L, D)."""
        return (*self.embedding(states[:1]), *self.hidden(states[1:]))


def teacher_states(rule: str, teacher_layers: int, student_layers: int) -> tuple[int, ...]:
    """Return g(0) to g(M): the teacher state for each student state, 0 the embeddings; attention is that of the layer.

    For m of M student layers and N teacher layers: `uniform` is floor(m N / M), `top` is m + N - M, `bottom` is m. The
    embeddings always learn from the embeddings. The released code has `uniform` only, and for whole N / M only.

    Raises:
        ValueError: the student is not between 1 and `teacher_layers` layers deep.
    """
    if not 1 <= student_layers <= teacher_layers:
        raise ValueError(f"layers: found {student_layers}, allowed are 1 to the teacher's {teacher_layers}")
    if rule == "uniform":
        return layer_map(teacher_layers, student_layers)
    lift = teacher_layers - student_layers if rule == "top" else 0
    return (0, *(lift + m for m in range(1, student_layers + 1)))


def weighted(losses: Losses, weight: float) -> Losses:
    """The same losses with all their weights multiplied."""

    def scaled(batch: Batch) -> Iterator[Sequence[Term]]:
        for terms in losses(batch):
            yield [weight * term for term in terms]

    return scaled


def layer_training(
    layerwise: Layerwise, student: Bert, projection: nn.Module, knowledge: Knowledge, data: Steps
) -> Training:
    """A stage in which student and projection learn the teacher's layers; it has no metric and keeps its last state."""
    return Training(
        model=student,
        data=data,
        losses=layerwise.losses(student, projection, knowledge),
        groups=(
            Group(name="model", parameters=named(student)),
            Group(name="projection", parameters=named(projection)),
        ),
        keep={"projection": projection},
    )
