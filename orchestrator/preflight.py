"""What a plan must know of the data and the teacher, read without training anything and without any weights.

Wrong labels, a missing classifier, a text longer than the teacher's positions or a row with no label would cost a trial
each, or train every student to be wrong; here they cost a look at the files.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from methods.parts import agreement, checkpoint
from methods.parts.layout import Layout
from methods.parts.tasks import Task, open_task
from methods.parts.teacher import check_labels
from orchestrator.configs import build, combine, config_json, load_method
from orchestrator.errors import PlanError
from orchestrator.sections import TaskSection, TeacherSection
from orchestrator.speccheck import TEACHER_METHOD
from orchestrator.teachers import checkpoint_folder, scratch_layout


def planned_task(section: TaskSection) -> Task:
    """Opens the task of a sweep.

    Raises:
        ValueError: no such task or file, or a bad value.
    """
    return open_task(
        section.name,
        section.data,
        max_length=section.max_length,
        limit=section.limit,
        columns=section.columns,
        metric=section.metric,
        seed=section.seed,
    )


def check_rows(task: Task, section: TaskSection) -> None:
    """Reads every row of the user's own files once.

    Raises:
        ValueError: a bad row, with file and line, or a split without rows.
    """
    if section.data is None:
        return
    for split in ("train", "dev"):
        if not len(task.read(split)):
            raise ValueError(f"task {task.name}: split {split}: found no row, allowed is at least 1")


def teacher_source(section: TeacherSection) -> str:
    """Returns the folder or hub name of the teacher's checkpoint; nothing for a teacher trained from scratch.

    Raises:
        ValueError: the package is not installed or carries no checkpoint.
    """
    if section.package:
        return str(checkpoint_folder({"package": section.package}))
    return section.model or ""


def teacher_layout(section: TeacherSection, task: Task, package: str = "methods") -> Layout:
    """Works out the layout of the teacher once it is tuned on the task.

    Raises:
        ValueError: no such checkpoint, one of another task, one without classifier that nobody tunes, or one too short.
    """
    if section.architecture and section.architecture.vocab is None:
        raise ValueError(
            f"architecture.vocab: missing; only {', '.join(agreement.NAMES)} have a vocabulary of their own"
        )
    if section.architecture:
        base = scratch_layout(section.architecture.model_dump(), task.num_outputs)
    else:
        base = _from_checkpoint(section, task)
    if task.max_length > base.positions:
        raise ValueError(
            f"the teacher reads {base.positions} tokens at most, the task's max_length is {task.max_length}"
        )
    layout = dataclasses.replace(base, labels=task.num_outputs, pooler=True)
    if section.finetune is None:
        return layout
    tuned: Layout = load_method(TEACHER_METHOD, package).layout(_training(section.finetune, package), layout)
    return tuned


def _from_checkpoint(section: TeacherSection, task: Task) -> Layout:
    """Reads a checkpoint's layout and makes sure that its classes are the task's."""
    source = teacher_source(section)
    card = checkpoint.card_of(source)
    num_outputs = card.layout.labels
    if num_outputs == 0 and section.finetune is None:
        raise ValueError(f"{source}: found no classifier; add `finetune: {{}}` to tune it on {task.name}")
    if num_outputs not in (0, task.num_outputs):
        wanted = ", ".join(task.labels) or "a single number (regression)"
        raise ValueError(f"{source}: found a classifier of {num_outputs} outputs; the task {task.name} has {wanted}")
    if card.labels:
        check_labels(task.labels, {name: index for index, name in enumerate(card.labels)})
    return card.layout


def _training(finetune: Mapping[str, Any], package: str) -> Any:  # noqa: ANN401  the Config of methods.finetune
    """Makes the Config of the teacher's training."""
    method = load_method(TEACHER_METHOD, package)
    return build(method, combine(method, finetune, {}))


def teacher_section(section: TeacherSection, package: str = "methods") -> dict[str, Any]:
    """Spells the teacher out for those who make it: its source, and every field of its training."""
    written = section.model_dump(mode="json", exclude_none=True)
    if section.finetune is not None:
        written["finetune"] = config_json(_training(section.finetune, package))
    return written


def raise_all(problems: list[str]) -> None:
    """Raises what was found, if anything was.

    Raises:
        PlanError: there is at least one problem.
    """
    if problems:
        raise PlanError("\n".join(problems))
