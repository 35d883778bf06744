"""Students that become teachers: BERT(student), and its copy with fewer layers (BERT-8layer).

    BERT(student)   the pretrained BERT with a fresh classifier, learns the tuned teacher's predictions
    BERT-8layer     BERT(student), learns BERT(student)'s predictions while its top layers go one by one

Both are trained once for all trials: their shapes, seeds and numbers depend on nothing that a trial's widths decide.

References:
    Liu, Lin, Yuan: ROSITA: Refined BERT cOmpreSsion with InTegrAted techniques, AAAI 2021,
    https://arxiv.org/abs/2103.11367
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

from methods.parts.bert import Bert
from methods.parts.checkpoint import card_of, save
from methods.parts.course import Course
from methods.parts.files import JsonValue, read_json
from methods.parts.importance import Importance
from methods.parts.iterative import fit_pruning
from methods.parts.prune_schedule import depth_layouts
from methods.parts.pruning import Scoring, distilled_importance
from methods.parts.recipe import Recipe
from methods.parts.run import Run
from methods.parts.selection import Selection
from methods.parts.surgery import cut
from methods.parts.teacher import Teacher, checkpoint_fingerprint
from methods.parts.training import Losses

SELFTEACH_VERSION = 1
"""Raised whenever the meaning of the stored students changes."""


def pretrained_student(course: Course, teacher: Teacher, recipe: Recipe, run: Run) -> Teacher:
    """BERT(student): the pretrained checkpoint, distilled from the tuned one, as a teacher of its own.

    Raises:
        ValueError: the pretrained checkpoint has another shape than the tuned one, beyond its top layers.
    """

    def train(inner: Run) -> Bert:
        student = _cut_to(course.student(teacher.base, inner), teacher)
        return fit_pruning(student, course.line(teacher, recipe, inner), inner)

    inputs: dict[str, JsonValue] = {"base": checkpoint_fingerprint(teacher.base), "recipe": dataclasses.asdict(recipe)}
    return _stored(course, teacher, ("bert-student", inputs, train), run)


def shallow_student(course: Course, mentor: Teacher, layers: int, recipe: Recipe, period: float, run: Run) -> Teacher:
    """BERT-8layer: a teacher's own copy that loses its top layers in training, as a teacher of its own.

    Args:
        course: what the stages share.
        mentor: BERT(student); returned as it is where there is no layer to lose.
        layers: bottom layers kept.
        recipe: the numbers.
        period: share of the training in which layers go, (0, 1].
        run: the world.
    """
    layouts = depth_layouts(mentor.layout, layers)
    if not layouts:
        return mentor

    def train(inner: Run) -> Bert:
        line = course.line(mentor, recipe, inner)
        prunes = course.prunes(layouts, period, recipe, inner)
        return fit_pruning(
            course.student(mentor.tuned, inner), dataclasses.replace(line, name="depth", prunes=prunes), inner
        )

    inputs: dict[str, JsonValue] = {"layers": layers, "period": period, "recipe": dataclasses.asdict(recipe)}
    return _stored(course, mentor, ("shallow-student", inputs, train), run)


def taught_importance(
    course: Course, mentor: Teacher, teacher: Teacher, recipe: Recipe, run: Run, *, limit: int | None = None
) -> Importance:
    """Scores of BERT(student) under the tuned teacher's predictions, on the training rows (variant B).

    Args:
        course: what the stages share.
        mentor: BERT(student), whose heads and neurons are scored.
        teacher: the tuned teacher.
        recipe: how the scored model is trained meanwhile; a learning rate of 0 freezes it.
        run: the world.
        limit: training rows to use, from the beginning of the run's order; None uses all.
    """
    train = course.splits.train

    def losses(model: Bert, inner: Run) -> Losses:
        return course.losses(model, course.knowledge_of(teacher, inner, Selection(), [train]))

    def model(inner: Run) -> Bert:
        return course.student(mentor.tuned, inner)

    scoring = Scoring(model=model, losses=losses, recipe=recipe, weights="final")
    inputs = {**course.facts(), "student": mentor.fingerprint, "teacher": teacher.fingerprint}
    return distilled_importance(scoring, inputs, train, run, limit=limit)


def _cut_to(model: Bert, teacher: Teacher) -> Bert:
    """The pretrained model with the tuned one's number of layers."""
    wanted = teacher.layout
    model = cut(model, layers=range(min(len(wanted.layers), len(model.layers))))
    if model.layout != wanted:
        raise ValueError(
            f"{teacher.base}: found a pretrained BERT of {model.layout.describe()}, allowed is the tuned teacher's "
            f"shape {wanted.describe()}, where the student starts from the pretrained weights (settings 2 to 4)"
        )
    return model


_Stage = tuple[str, Mapping[str, JsonValue], Callable[[Run], Bert]]
"""Name and inputs of a stage, and what trains it."""


def _stored(course: Course, teacher: Teacher, stage: _Stage, run: Run) -> Teacher:
    """Train a stage once for all trials, and present its student as a teacher."""
    name, inputs, train = stage

    def build(folder: Path, inner: Run) -> None:
        student = train(inner)
        if inner.rank == 0:
            save(student, folder, labels=course.task.labels or None)

    splits = course.splits
    whole: dict[str, JsonValue] = {
        **course.facts(),
        **inputs,
        "teacher": teacher.fingerprint,
        "rows": [data.fingerprint for data in splits.distil],
        "dev": splits.search.fingerprint,
    }
    folder = run.once(name, whole, build, version=SELFTEACH_VERSION)
    card = card_of(folder)
    return dataclasses.replace(
        teacher,
        tuned=folder,
        layout=card.layout,
        labels=course.task.labels,
        head=card.head,
        fingerprint=str(read_json(folder / "manifest.json")["key"]),  # the same whichever ranks built it
    )
