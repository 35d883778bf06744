"""What a student learns from a teacher through gates: labels, predictions, and an aggregate for each of its layers.

References:
    Lin, Chen, Kao: LAD: Layer-Wise Adaptive Distillation for BERT Model Compression, Sensors 2023, 23(3):1483,
    https://doi.org/10.3390/s23031483, section 3, and the released code
    Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, 2015, https://arxiv.org/abs/1503.02531
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from methods.parts.batches import Batch
from methods.parts.bert import Bert
from methods.parts.checkpoint import load
from methods.parts.devices import Device, open_device
from methods.parts.gates import Gates
from methods.parts.knowledge import live, open_knowledge
from methods.parts.lesson import Knowledge, Lesson
from methods.parts.losses import Term, hidden_mse, kl_divergence, label_loss, layer_map, regression_mse
from methods.parts.run import Run
from methods.parts.selection import Selection
from methods.parts.splits import Splits
from methods.parts.teacher import Teacher
from methods.parts.training import Losses


@dataclass(frozen=True, kw_only=True, slots=True)
class Gated:
    """The losses, and the layers they pair."""

    teacher_layers: int
    student_layers: int
    hard: float = 0.5
    """Weight of the labels' cross-entropy; of a regression, its squared error."""
    soft: float = 0.5
    """Weight of the predictions' divergence, times temperature**2; of a regression, their squared distance."""
    temperature: float = 1.0
    hidden: float = 1.0
    """Weight of the mean over the student's layers of their squared distances to the aggregates."""
    reverse: bool = False
    """Whether aggregates hold the layers above instead of those below."""
    detached: bool = False
    """Whether gates stay as drawn: no loss reaches them, and the targets stand still."""
    padding: bool = False
    """Whether the hidden loss is a mean over padding too."""
    dtype: str = "float32"
    """Of the teacher's states."""

    def __post_init__(self) -> None:
        """Refuse a student that is deeper than its teacher."""
        if not 1 <= self.student_layers <= self.teacher_layers:
            raise ValueError(
                f"layers: found {self.student_layers}, allowed are 1 to the teacher's {self.teacher_layers}"
            )

    @property
    def pairs(self) -> tuple[int, ...]:
        """The teacher layer (from 1) whose aggregate each student layer learns: every k-th, the last from the last.

        Where the student's depth does not divide the teacher's, they are spread evenly and rounded; the published
        code then leaves the teacher's last layers out, or pairs the bottom ones.
        """
        return layer_map(self.teacher_layers, self.student_layers, "round")[1:]

    @property
    def selection(self) -> Selection:
        """The teacher's outputs that are needed: in reverse none below the lowest layer that is paired."""
        lowest = self.pairs[0] if self.reverse else 1
        states = tuple(range(lowest, self.teacher_layers + 1)) if self.hidden else ()
        return Selection(logits=self.soft > 0, states=states, dtype=self.dtype)

    def open(
        self,
        teacher: Teacher,
        splits: Splits,
        run: Run,
        *,
        mode: Literal["auto", "stored", "live"],
        device: Device = None,
    ) -> Knowledge:
        """What the fine-tuned teacher says of the batches, from a store, or live on a device of its own; collective.

        Raises:
            ValueError: the device is not there; and see `methods.parts.knowledge.open_knowledge`.
        """
        place = open_device("teacher_device", device, run)
        if place == open_device("teacher_device", None, run):
            return open_knowledge(teacher, splits.distil, self.selection, run, mode=mode)
        taught = live(load(teacher.tuned).to(place), self.selection)

        def teach(batch: Batch) -> Lesson:
            return taught(batch.to(place))

        return teach

    def losses(self, student: Bert, gates: Gates, knowledge: Knowledge) -> Losses:
        """All terms in one graph, whose gradients are the sum of those of separate passes.

        Args:
            student: as wide as the teacher.
            gates: as many as `selection` has states.
            knowledge: gives what `selection` names, on whatever device.

        Raises:
            ValueError: in training, shapes differ.
        """

        def losses(batch: Batch) -> Iterator[Sequence[Term]]:
            lesson, mask = knowledge(batch), batch.attention_mask
            output = student(batch, hidden=self.hidden > 0)
            terms = [*self.predictions(output.logits, lesson.logits, batch.labels)]
            if self.hidden:
                targets = self.targets([state.values for state in lesson.states], gates, mask)
                terms += self.distances(output.hidden[1:], targets, mask)
            yield terms

        return losses

    def targets(self, states: Sequence[Tensor], gates: Gates, mask: Tensor) -> tuple[Tensor, ...]:
        """The aggregates (B, L, D) that the student's layers learn, from the selected states of the teacher."""
        with torch.set_grad_enabled(not self.detached):
            aggregates = gates(states, mask)
        return tuple(aggregates[number - self.selection.states[0]].to(mask.device) for number in self.pairs)

    def predictions(self, student: Tensor, teacher: Tensor | None, labels: Tensor) -> tuple[Term, ...]:
        """The losses of logits (B, C) whose weight is not 0: against the labels (B,), and against the teacher's."""
        terms = [self.hard * label_loss(student, labels)] if self.hard else []
        if teacher is None:
            return tuple(terms)
        teacher = teacher.to(student.device)
        if labels.is_floating_point():
            soft = self.soft * replace(regression_mse(student, teacher[:, 0]), name="prediction")
        else:
            divergence = kl_divergence(student, teacher, temperature=self.temperature)
            soft = self.soft * self.temperature**2 * divergence
        return (*terms, soft)

    def distances(self, student: Sequence[Tensor], targets: Sequence[Tensor], mask: Tensor) -> tuple[Term, Term]:
        """The loss between states (B, L, D), and, only to be reported, the targets' root mean square.

        The latter is a mean over real tokens: gates that shrink their targets instead of informing them are seen.
        """
        share, real = 1.0 / len(targets), mask.bool()
        loss = hidden_mse(student, targets, mask, compat="padding" if self.padding else None, moving=True)
        with torch.no_grad():
            sizes = torch.stack([target.float().square().mean(-1).sqrt() for target in targets]).sum(0)
        size = Term("aggregate_rms", torch.where(real, sizes, 0.0).sum(), "tokens", share, watched=True)
        return self.hidden * share * loss, size
