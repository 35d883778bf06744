"""The sections of a sweep file as frozen values, and their complaints in our words.

Pydantic checks names, types and ranges in strict mode: nothing is coerced, unknown keys are refused. Its messages are
rewritten, so that a complaint about a section reads like one about anything else.
"""

import re
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator, ValidationError, model_validator

from orchestrator.limits import BYTES, Note, amount_of
from orchestrator.wording import Key, found, listed, nearest, shown

STRICT = ConfigDict(frozen=True, extra="forbid", strict=True)


def _data(value: object) -> str | dict[str, str] | None:
    """Takes a path, or a path for each split."""
    if value is None or (isinstance(value, str) and value):
        return value
    if isinstance(value, dict) and value and all(isinstance(path, str) and path for path in value.values()):
        return value
    raise ValueError(found(value, "a path, or a mapping of splits to paths"))


def _slots(value: object) -> int | Literal["auto"]:
    """Takes a count or `auto`."""
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return "auto" if value == "auto" else int(str(value))
    raise ValueError(found(value, "auto or a whole number of at least 1"))


def _disk(value: object) -> int | None:
    """Takes an amount of bytes, with or without a unit."""
    given = amount_of(value, BYTES)
    if value is not None and given is None:
        raise ValueError(found(value, f"a number of at least 1, or one with a unit of {listed(BYTES)},"))
    return None if given is None else int(given)


def _share(value: float) -> float:
    """Takes a part of a unit or whole units; Ray refuses 1.5 and rounds small parts."""
    if 0 < value < 0.01 or (value > 1 and value != int(value)):
        raise ValueError(found(value, "a number from 0.01 to 1, or a whole number,"))
    return value


def _package(value: str) -> str:
    """Takes the name of a top-level Python package."""
    if not value.isidentifier():
        raise ValueError(found(value, "the name of a Python package"))
    return value


def _address(value: str) -> str:
    """Takes any address but a file store, which MLflow no longer writes."""
    if value.startswith("file:") or not value:
        raise ValueError(found(value, "an address such as sqlite:///runs.db or http://host:5000"))
    return value


Text = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=1, le=10**9)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class TaskSection(BaseModel):
    """What is to be solved, as `methods.parts.tasks.open_task` takes it."""

    model_config = STRICT
    name: Text
    data: Annotated[str | dict[str, str] | None, PlainValidator(_data)] = None
    """Folder, file or one file per split; relative to the sweep file."""
    max_length: Count | None = None
    limit: Count | None = None
    columns: dict[str, str] | None = None
    metric: Text | None = None
    seed: Seed = 0


class DataSection(BaseModel):
    """Data beside the task's own: an augmented set, or a corpus."""

    model_config = STRICT
    data: Text
    """A file, or a folder (an augmented set's files, the blocks of a corpus); relative to the sweep file."""


class Architecture(BaseModel):
    """The shape of a teacher that is trained from scratch."""

    model_config = STRICT
    layers: Annotated[int, Field(ge=1, le=1000)]
    heads: Count
    hidden: Count
    ffn_dim: Count
    vocab: Count | None = None
    """Rows of the word table; None takes the built-in task's vocabulary."""
    positions: Count = 512
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    init_std: Annotated[float, Field(gt=0)] = 0.02
    """Standard deviation of the random weights."""

    @model_validator(mode="after")
    def _heads_divide(self) -> "Architecture":
        if self.hidden % self.heads:
            raise ValueError(f"found hidden {self.hidden} and {self.heads} heads; a multiple of the heads is due")
        return self


class TeacherSection(BaseModel):
    """The model to compress: exactly one of `model`, `package` and `architecture`."""

    model_config = STRICT
    model: Text | None = None
    """A hub name, a checkpoint folder, or a finished sweep's export; a folder is relative to the sweep file."""
    package: Annotated[str, AfterValidator(_package)] | None = None
    """An installed Python package that carries a checkpoint folder."""
    architecture: Architecture | None = None
    finetune: dict[str, Any] | None = None
    """Fields of `methods.finetune.Config`; None takes the checkpoint as it is, already tuned on the task."""

    @model_validator(mode="after")
    def _one_source(self) -> "TeacherSection":
        given = [name for name in ("model", "package", "architecture") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"found {listed(given) or 'none'} of model, package and architecture; exactly one is due")
        return self


class SearchSection(BaseModel):
    """How designs are chosen."""

    model_config = STRICT
    sampler: Literal["tpe", "nsga2", "random", "grid"] = "tpe"
    trials: Count = 20
    seed: Seed = 0
    start: Annotated[tuple[dict[str, Any], ...], Field(strict=False)] = ()
    """Samples tried first; what one leaves out is chosen by the sampler."""


class StopSection(BaseModel):
    """When a trial ends early."""

    model_config = STRICT
    rule: Literal["pareto", "none"] = "pareto"
    rungs: Annotated[tuple[Count, ...], Field(strict=False)] = (1, 3, 9)
    """Reports after which a trial is compared, increasing."""
    grace: Annotated[int, Field(ge=0)] = 1
    """Reports during which no trial is ended."""

    @model_validator(mode="after")
    def _rungs_increase(self) -> "StopSection":
        if not self.rungs or any(low >= high for low, high in zip(self.rungs, self.rungs[1:], strict=False)):
            raise ValueError(f"found rungs {shown(list(self.rungs))}; whole numbers that increase are due")
        return self


class ResourcesSection(BaseModel):
    """What one trial gets."""

    model_config = STRICT
    workers: Count = 1
    """Worker processes per trial."""
    cpus: Annotated[float, Field(gt=0, le=10**6), AfterValidator(_share)] = 1.0
    """CPUs per worker."""
    gpus: Annotated[float, Field(ge=0, le=10**6), AfterValidator(_share)] = 0.0
    """GPUs per worker."""
    slots: Annotated[int | Literal["auto"], PlainValidator(_slots)] = "auto"
    """Trials at a time; `auto` takes what the cluster holds."""
    gang: Literal["warm", "fresh"] = "warm"
    """Whether trials share long-lived workers or each start their own."""
    disk: Annotated[int | None, PlainValidator(_disk)] = None
    """Bytes of stored knowledge of teachers, e.g. `20GB`; None takes half of what is free, at most 50 GB."""


class TrackingSection(BaseModel):
    """Where numbers are shown while they come in."""

    model_config = STRICT
    uri: Annotated[str, AfterValidator(_address)] | None = None
    """An MLflow tracking server; None is a local SQLite file."""
    experiment: Text | None = None
    """None takes the sweep's name."""


Section = TypeVar("Section", bound=BaseModel)


def read_section(model: type[Section], raw: object, note: Note) -> Section | None:
    """Reads a section, or notes everything that is wrong with it and returns None."""
    if not isinstance(raw, dict):
        note((), found(raw, f"a mapping with the keys {listed(model.model_fields)}"))
        return None
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        for complaint in error.errors(include_url=False):
            key = tuple(complaint["loc"])
            note(key, _reworded(complaint["type"], key, complaint, model))
        return None


_DUE = {
    "int_type": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "tuple_type": "a list",
    "model_type": "a mapping",
    "string_too_short": "text",
}
"""Pydantic's error types and what is due instead."""

_BOUNDS = {
    "greater_than_equal": ("ge", "at least"),
    "greater_than": ("gt", "more than"),
    "less_than_equal": ("le", "at most"),
    "less_than": ("lt", "less than"),
}


def _reworded(kind: str, key: Key, complaint: Any, model: type[BaseModel]) -> str:  # noqa: ANN401  pydantic's dict
    """Says one of pydantic's complaints in our words."""
    value, context = complaint["input"], complaint.get("ctx", {})
    if kind == "extra_forbidden":
        options = _keys_at(model, key[:-1])
        return f"no such key; allowed: {listed(options)}{nearest(key[-1], options)}"
    if kind == "missing":
        return "missing"
    if kind == "literal_error":
        options = re.findall(r"'([^']*)'", context["expected"])
        return f"found {shown(value)}; allowed: {listed(options)}{nearest(value, options)}"
    if kind in _BOUNDS:
        name, words = _BOUNDS[kind]
        return found(value, f"a number of {words} {context[name]:g}")
    if kind == "value_error":
        return str(context["error"])
    return found(value, _DUE.get(kind, complaint["msg"]))


def _keys_at(model: type[BaseModel], path: Key) -> list[str]:
    """Lists the keys that a section, or the section inside it, allows."""
    return list(Architecture.model_fields if path[:1] == ("architecture",) else model.model_fields)
