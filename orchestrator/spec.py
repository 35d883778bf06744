"""A sweep file as one frozen, validated value.

`load_spec` reads the file, applies overrides, checks every key against the grammar and the methods' own Configs, and
raises all problems at once, each with its line. What needs cluster, data or teacher is checked by the plan.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from orchestrator.limits import DEFAULT_OBJECTIVES, read_budget, read_objectives
from orchestrator.methodspec import MethodSpec
from orchestrator.sections import (
    DataSection,
    ResourcesSection,
    SearchSection,
    StopSection,
    TaskSection,
    TeacherSection,
    TrackingSection,
)
from orchestrator.space import Sample
from orchestrator.speccheck import (
    DATA,
    METHOD,
    check_finetune,
    check_keys,
    check_name,
    check_search,
    note,
    read_methods,
    section,
    with_vocabulary,
)
from orchestrator.yamlfile import Document, dump, override, read

SHORT = {"task": "name", "teacher": "model", "augmented": "data", "corpus": "data"}
"""Sections that may be written as one name, and the key this name stands for."""

SECTIONS: Mapping[str, type[BaseModel]] = {
    "task": TaskSection,
    "augmented": DataSection,
    "corpus": DataSection,
    "teacher": TeacherSection,
    "search": SearchSection,
    "stop": StopSection,
    "resources": ResourcesSection,
    "tracking": TrackingSection,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepSpec:
    """What a sweep file asks for; equal values give equal sweeps."""

    name: str
    task: TaskSection
    augmented: DataSection | None = None
    """Further training rows that students are distilled on."""
    corpus: DataSection | None = None
    """Text without labels."""
    teacher: TeacherSection
    methods: tuple[MethodSpec, ...]
    """One study over all of them."""
    objectives: Mapping[str, str]
    """Name -> `max` or `min`; the score is always among them."""
    budget: Mapping[str, float]
    """Cost -> hard upper limit, in single parameters, floating-point operations, bytes, milliseconds."""
    search: SearchSection
    stop: StopSection
    resources: ResourcesSection
    tracking: TrackingSection
    source: Document = field(repr=False, compare=False)
    """Where each value was written, for complaints."""

    def __hash__(self) -> int:
        """Hashes the content."""
        return hash(self.hash())

    def starts(self) -> list[tuple[str, Sample]]:
        """The start points as pairs of a method and a sample, which may be partial."""
        first = self.methods[0].name
        pairs = ((start.get(METHOD, first), start) for start in self.search.start)
        return [(method, {name: value for name, value in start.items() if name != METHOD}) for method, start in pairs]

    def task_arguments(self) -> dict[str, Any]:
        """Returns the arguments of `methods.parts.tasks.open_task`: the task with its augmented set and its corpus."""
        return {**self.task.model_dump(mode="json"), **{key: part.data for key, part in self._data().items()}}

    def _data(self) -> dict[str, DataSection]:
        """The data sections that are written."""
        return {key: part for key, part in (("augmented", self.augmented), ("corpus", self.corpus)) if part}

    def to_json(self) -> dict[str, Any]:
        """Writes the sweep file with every default spelled out; `load_spec` reads it back to an equal value."""
        methods: dict[str, Any] = {"method": {method.name: method.to_json() for method in self.methods}}
        if len(self.methods) == 1:
            methods = {"method": self.methods[0].name, **self.methods[0].to_json()}
        named = {"search": self.search, "stop": self.stop, "resources": self.resources, "tracking": self.tracking}
        return {
            "name": self.name,
            "task": self.task.model_dump(mode="json", exclude_none=True),
            **{key: part.model_dump(mode="json") for key, part in self._data().items()},
            "teacher": self.teacher.model_dump(mode="json", exclude_none=True),
            **methods,
            "objectives": dict(self.objectives),
            "budget": dict(self.budget),
            **{key: section.model_dump(mode="json", exclude_none=True) for key, section in named.items()},
        }

    def to_yaml(self) -> str:
        """Writes the resolved sweep file as text."""
        return dump(self.to_json())

    def hash(self) -> str:
        """Returns the SHA-256 of the content, as hexadecimal digits."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()


def load_spec(path: Path, overrides: Sequence[str] = (), *, package: str = "methods") -> SweepSpec:
    """Reads a sweep file.

    Args:
        path: the file. Relative paths in it are relative to its folder.
        overrides: `key=value` pairs that replace values of the file, e.g. `search.trials=8`.
        package: where methods are looked up.

    Raises:
        SpecError: the file or an override is wrong; carries every problem found.
    """
    document, spec = read(path), None
    if document.data or not document.problems:
        _spell_out(document)
        override(document, overrides)
        _spell_out(document)
        spec = _read_spec(document, package)
    document.check()
    assert spec is not None, "what could not be read has problems"
    return spec


def _spell_out(document: Document) -> None:
    """Turns `task: sst2` into `task: {name: sst2}`, and the like."""
    for outer, inner in SHORT.items():
        value = document.data.get(outer)
        if isinstance(value, str):
            document.data[outer] = {inner: value}
            document.marks[(outer, inner)] = document.where((outer,))


def _read_spec(document: Document, package: str) -> SweepSpec | None:
    """Checks everything; returns None when something is wrong."""
    check_keys(document)
    check_name(document)
    before = len(document.problems)
    methods = read_methods(document, package)
    methods_are_right = len(document.problems) == before
    parts = {key: section(document, key, model) for key, model in SECTIONS.items()}
    data = document.data
    objectives = read_objectives(data.get("objectives", DEFAULT_OBJECTIVES), note(document, "objectives"))
    budget = read_budget(data.get("budget", {}), note(document, "budget"))
    if parts["teacher"] is not None:
        check_finetune(document, parts["teacher"], package)
    if parts["teacher"] is not None and parts["task"] is not None:
        parts["teacher"] = with_vocabulary(parts["teacher"], parts["task"])
    if parts["search"] is not None and methods_are_right:
        check_search(document, parts["search"], methods)
    if document.problems:
        return None
    folder = os.path.dirname(os.path.abspath(document.file))
    parts["task"] = _task_paths(parts["task"], folder)
    for key in DATA:
        if parts[key] is not None:
            parts[key] = parts[key].model_copy(update={"data": _absolute(parts[key].data, folder)})
    parts["teacher"] = _teacher_paths(parts["teacher"], folder)
    return SweepSpec(name=data["name"], methods=methods, objectives=objectives, budget=budget, source=document, **parts)


def _task_paths(task: TaskSection, folder: str) -> TaskSection:
    """Makes the paths of the data absolute."""
    if isinstance(task.data, dict):
        return task.model_copy(update={"data": {split: _absolute(path, folder) for split, path in task.data.items()}})
    return task.model_copy(update={"data": _absolute(task.data, folder)}) if task.data else task


def _teacher_paths(teacher: TeacherSection, folder: str) -> TeacherSection:
    """Makes the path of a model folder absolute; what is no folder and does not look like a path is a hub name."""
    model = teacher.model
    if model is None or not (model.startswith((".", "~", "/")) or os.path.isdir(_absolute(model, folder))):
        return teacher
    return teacher.model_copy(update={"model": _absolute(model, folder)})


def _absolute(path: str, folder: str) -> str:
    return os.path.abspath(os.path.join(folder, os.path.expanduser(path)))
