"""A course of study: what the stages of a chain of teachers and students have in common, and one stage of it.

References:
    Liu, Lin, Yuan: ROSITA: Refined BERT cOmpreSsion with InTegrAted techniques, AAAI 2021,
    https://arxiv.org/abs/2103.11367
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from methods.parts.batches import Batch
from methods.parts.bert import Bert, set_dropout
from methods.parts.checkpoint import load
from methods.parts.files import JsonValue
from methods.parts.iterative import Line
from methods.parts.knowledge import Knowledge, open_knowledge
from methods.parts.layout import Layout
from methods.parts.losses import Term, label_loss, layer_map, soft_cross_entropy, state_mse
from methods.parts.prune_schedule import Prune, prunes_of
from methods.parts.recipe import Recipe
from methods.parts.run import Run
from methods.parts.selection import Selection
from methods.parts.splits import Splits, distil_batches, scorer, training_batches
from methods.parts.tasks import Task
from methods.parts.teacher import Teacher
from methods.parts.tokens import Encoded
from methods.parts.training import Losses, Steps, Training

COMPAT = ("relu-head", "padding", "teacher-dropout")
"""Published behaviours: a ReLU before the classifier while distilling; batches padded to the task's length, padding
counting in the hidden loss; teachers with dropout."""

UNSTORED = {"padding", "teacher-dropout"}
"""Those that need a live teacher: a store knows neither states of padding nor dropout."""

ALONE = (0.0, 1.0)
"""Weights of hidden states and predictions, for predictions alone."""


def check_knowledge(knowledge: str, compat: Sequence[str]) -> None:
    """Refuse a store where the teacher must be live.

    Raises:
        ValueError: it is asked for beside one of `UNSTORED`.
    """
    for name in compat:
        if knowledge == "stored" and name in UNSTORED:
            raise ValueError(f"knowledge: found 'stored' with compat {name!r}, allowed are 'auto' and 'live'")


def selected(teacher_layers: int, student_layers: int, *, hidden: bool) -> Selection:
    """What a student learns from its teacher: logits, and a state for each of its own by the map of layers."""
    return Selection(states=layer_map(teacher_layers, student_layers) if hidden else ())


def chain_losses(
    student: Bert,
    known: Knowledge | None,
    weights: tuple[float, float] = ALONE,
    *,
    temperature: float = 1.0,
    compat: str | None = None,
) -> Losses:
    """Hidden states and predictions, both at once; without a teacher, and in a regression, labels as predictions.

    Args:
        student: the model that is trained.
        known: gives logits, and one teacher state for each of the student's, the embedding output included.
        weights: of the hidden states and of the predictions; 0 leaves a loss out.
        temperature: of the predictions.
        compat: see `methods.parts.losses.state_mse`.
    """
    hidden, prediction = weights

    def losses(batch: Batch) -> Iterator[Sequence[Term]]:
        lesson = None if known is None else known(batch)
        mine, terms = student(batch, hidden=hidden > 0), list[Term]()
        if lesson is not None and hidden:
            terms.append(hidden * state_mse(mine.hidden, lesson, batch.attention_mask, compat=compat))
        if lesson is None or batch.labels.is_floating_point():
            terms.append(prediction * label_loss(mine.logits, batch.labels))
        elif lesson.logits is not None:
            soft = soft_cross_entropy(mine.logits, lesson.logits, temperature=temperature, mean_over_classes=True)
            terms.append(prediction * soft)
        yield [term for term in terms if term.weight]

    return losses


@dataclass(frozen=True, kw_only=True, slots=True)
class Course:
    """What all stages share."""

    task: Task
    splits: Splits
    temperature: float = 1.0
    """Of predictions."""
    dropout: float | None = None
    """Of every student; None is the checkpoint's."""
    knowledge: Literal["auto", "stored", "live"] = "auto"
    """See `methods.parts.knowledge.open_knowledge`."""
    labelled: bool = False
    """Whether students learn the labels of the training rows instead of a teacher."""
    compat: tuple[str, ...] = ()
    """Published behaviours, of `COMPAT`."""

    @property
    def head(self) -> str | None:
        """Kind of classifier head of all models; None is each checkpoint's own."""
        return "relu" if "relu-head" in self.compat and not self.labelled else None

    def facts(self) -> dict[str, JsonValue]:
        """All that decides the numbers of a stage, but for its rows, its models and its recipe."""
        return {
            "metric": self.task.metric,
            "temperature": self.temperature,
            "dropout": self.dropout,
            "compat": sorted({*self.compat}),
        }

    def batches(self, recipe: Recipe, run: Run) -> Steps:
        """The batches that students learn on."""
        pad_to = self.task.max_length if "padding" in self.compat else None
        if self.labelled:
            return training_batches(self.splits.train, recipe, run, pad_to=pad_to)
        return distil_batches(self.splits, recipe, run, pad_to=pad_to)

    def student(self, folder: Path, run: Run) -> Bert:
        """A model that starts from a checkpoint, on the run's device."""
        model = load(folder, labels=self.task.num_outputs, head=self.head, seed=run.seed).to(run.device)
        set_dropout(model, self.dropout)
        return model

    def knowledge_of(
        self, teacher: Teacher, run: Run, selection: Selection, data: Sequence[Encoded] | None = None
    ) -> Knowledge | None:
        """What a teacher says of the rows that students are distilled on, or of `data`; None where nobody listens.

        A regression learns its gold values in place of predictions.
        """
        if self.labelled or not (self.task.labels or selection.states):
            return None
        rows = self.splits.distil if data is None else data
        mode = "live" if {*self.compat} & UNSTORED else self.knowledge
        dropout = "teacher-dropout" in self.compat
        return open_knowledge(teacher, rows, selection, run, mode=mode, head=self.head, dropout=dropout)

    def losses(self, student: Bert, known: Knowledge | None, weights: tuple[float, float] = ALONE) -> Losses:
        """See `chain_losses`; without a teacher, predictions alone."""
        compat = "padding" if "padding" in self.compat else None
        weights = ALONE if self.labelled else weights
        return chain_losses(student, known, weights, temperature=self.temperature, compat=compat)

    def line(
        self, teacher: Teacher, recipe: Recipe, run: Run, *, layers: int = 0, weights: tuple[float, float] = ALONE
    ) -> Line:
        """A stage, `distil`, that learns from a teacher and keeps its best evaluation; without prunes as yet.

        Args:
            teacher: from whom.
            recipe: the numbers.
            run: the world.
            layers: the student's at all times, where it learns hidden states.
            weights: of the hidden states and of the predictions; 0 leaves a loss out.
        """
        selection = selected(len(teacher.layout.layers), layers, hidden=weights[0] > 0)
        known, data = self.knowledge_of(teacher, run, selection), self.batches(recipe, run)
        evaluate = scorer(self.task, self.splits.search, run)

        def training(model: Bert) -> Training:
            return Training(model=model, data=data, losses=self.losses(model, known, weights), evaluate=evaluate)

        return Line(name="distil", training=training, recipe=recipe)

    def prunes(self, layouts: Sequence[Layout], period: float, recipe: Recipe, run: Run) -> tuple[Prune, ...]:
        """The prunes of a stage; see `methods.parts.prune_schedule.prunes_of`."""
        per_epoch = self.batches(recipe, run).num_steps
        rows = sum(len(data) for data in self.splits.distil)
        return prunes_of(layouts, period, recipe, num_rows=rows, steps_per_epoch=per_epoch)
