"""What a plan must know of the data and the teacher, read without training anything and without any weights.

Wrong labels, a missing classifier, a text longer than the teacher's positions or a row with no label would cost a trial
each, or train every student to be wrong; here they cost a look at the files.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from methods.parts import agreement, checkpoint
from methods.parts.corpus import check_corpus
from methods.parts.layout import Layout
from methods.parts.tasks import Task, open_task
from methods.parts.teacher import check_labels
from orchestrator.configs import build, combine, config_json, load_method
from orchestrator.errors import PlanError
from orchestrator.hubcache import check_data_reachable, check_reachable
from orchestrator.sections import TeacherSection
from orchestrator.speccheck import DATA, TEACHER_METHOD
from orchestrator.teachers import checkpoint_folder, scratch_layout


def planned_task(arguments: Mapping[str, Any]) -> tuple[Task | None, list[tuple[str, str]]]:
    """Opens the task of a sweep with its augmented set and its corpus, and reads every row of the user's own files.

    Args:
        arguments: those of `open_task`; `augmented` and `corpus` where there is one.

    Returns:
        The task, and every problem as a pair of section and text; no task if there is a problem.
    """
    own = {key: value for key, value in arguments.items() if key not in DATA}
    more = {key: arguments[key] for key in DATA if key in arguments}
    problems = []
    try:
        if own["data"] is None:
            check_data_reachable(own["name"])
        _check_rows(open_task(**own), own)
    except (ValueError, OSError) as error:
        return None, [("task", str(error))]
    for key, path in more.items():
        try:
            _CHECKS[key](open_task(**own, **{key: path}))
        except (ValueError, OSError) as error:
            problems.append((key, str(error).removeprefix(f"{key}: ")))
    return None if problems else open_task(**arguments), problems


def _check_rows(task: Task, arguments: Mapping[str, Any]) -> None:
    """Reads the labelled rows of the user's own files once."""
    if arguments["data"] is None:
        return
    for split in ("train", "dev"):
        if not len(task.read(split)):
            raise ValueError(f"task {task.name}: split {split}: found no row, allowed is at least 1")


def _check_augmented(task: Task) -> None:
    """Reads the augmented rows once, as a stream."""
    assert task.augmented is not None
    if not sum(len(chunk) for chunk in task.augmented.chunks()):
        raise ValueError(f"{task.augmented.files[0]}: found no row that can be used, allowed is at least 1")


def _check_corpus(task: Task) -> None:
    """Reads the corpus once."""
    assert task.corpus is not None
    check_corpus(task.corpus)


_CHECKS = {"augmented": _check_augmented, "corpus": _check_corpus}


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
    check_reachable(source)
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
