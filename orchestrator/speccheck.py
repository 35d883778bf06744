"""The checks of a sweep file that need more than one section: its keys, methods, teacher's training and search.

Each function notes its complaints in the document and raises nothing, so that all of them come at once.
"""

import math
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from methods.parts import agreement
from orchestrator.configs import combine, load_method, method_names
from orchestrator.folder import SLUG
from orchestrator.limits import Note
from orchestrator.methodspec import MethodSpec, check_values, read_method, refusal
from orchestrator.sections import SearchSection, TaskSection, TeacherSection, read_section
from orchestrator.wording import found, listed, nearest, shown
from orchestrator.yamlfile import Document

REQUIRED = ("name", "task", "teacher", "method")
DATA = ("augmented", "corpus")
"""Sections that are not there unless they are written."""
OPTIONAL = (*DATA, "fixed", "space", "objectives", "budget", "search", "stop", "resources", "tracking")
RESERVED = ("store", "mlflow.db", "mlartifacts")
"""Names that the folder of all sweeps uses itself."""
TEACHER_METHOD = "finetune"
"""The method that trains the teacher."""
METHOD = "method"
"""The key of a start point that names its method where a sweep has several."""


def note(document: Document, *prefix: str) -> Note:
    """Returns a taker of complaints about what stands below a key."""
    return lambda key, text: document.problem((*prefix, *key), text)


def section(document: Document, key: str, model: type[BaseModel]) -> Any:  # noqa: ANN401  one of the sections' models
    """Reads one section; a missing required one is complained about elsewhere."""
    if key in (*REQUIRED, *DATA) and key not in document.data:
        return None
    return read_section(model, document.data.get(key, {}), note(document, key))


def check_keys(document: Document) -> None:
    """Complains about unknown and missing keys of the top level."""
    allowed = (*REQUIRED, *OPTIONAL)
    for key in document.data:
        if key not in allowed:
            document.problem((key,), f"no such key; allowed: {listed(allowed)}{nearest(key, allowed)}")
    for key in REQUIRED:
        if key not in document.data and (key,) not in document.unread:
            document.problem((), f"the key '{key}' is missing; required: {listed(REQUIRED)}", document.file)


def check_name(document: Document) -> None:
    """Complains about a name that is no plain folder name."""
    name = document.data.get("name", "")
    if not isinstance(name, str) or ("name" in document.data and not SLUG.fullmatch(name)):
        document.problem(("name",), found(name, "a name of 1 to 80 of a-z, 0-9, '.', '_', '-', no dot or dash first,"))
    elif name in RESERVED:
        document.problem(("name",), f"the name '{name}' is taken by the folder of all sweeps; choose another")


def read_methods(document: Document, package: str) -> tuple[MethodSpec, ...]:
    """Reads one method with the top level's fixed and space, or several with their own."""
    raw, data = document.data.get("method"), document.data
    if isinstance(raw, str):
        entry = {key: data[key] for key in ("fixed", "space") if key in data}
        if "space" not in entry:
            document.problem((), "the key 'space' is missing; nothing would vary", document.file)
        return _read_entries(document, {raw: entry}, (), package)
    if "method" not in data:
        return ()
    if not isinstance(raw, dict) or not raw:
        document.problem(
            ("method",), found(raw, "the name of a method, or a mapping of methods to their fixed and space")
        )
        return ()
    for key in ("fixed", "space"):
        if key in data:
            document.problem((key,), f"with a mapping of methods it belongs below one: method.<name>.{key}")
    return _read_entries(document, raw, ("method",), package)


def _read_entries(
    document: Document, entries: Mapping[str, Any], prefix: tuple[str, ...], package: str
) -> tuple[MethodSpec, ...]:
    """Reads methods and what varies in them."""
    specs, known = [], method_names(package)
    for name, entry in entries.items():
        below = (*prefix, name) if prefix else ()
        if name not in known:
            text = f"no such method; allowed: {listed(known)}{nearest(name, known)}"
            document.problem(below or ("method",), text if below else f"found {shown(name)}; {text}")
        elif not isinstance(entry, dict):
            document.problem(below, found(entry, "a mapping with the keys fixed and space"))
        else:
            for key in set(entry) - {"fixed", "space"}:
                document.problem((*below, key), f"no such key; allowed: fixed, space{nearest(key, ('fixed', 'space'))}")
            specs.append(read_method(load_method(name, package), entry, note(document, *below)))
    return tuple(specs)


def check_finetune(document: Document, teacher: TeacherSection, package: str) -> None:
    """Compares the teacher's training with the fields of `methods.finetune.Config`."""
    if teacher.finetune is None:
        return
    method, say = load_method(TEACHER_METHOD, package), note(document, "teacher", "finetune")
    wrong = list(check_values(method, teacher.finetune))
    for key, text in wrong:
        say(key, text)
    if not wrong and (reason := refusal(method, combine(method, teacher.finetune, {}))):
        name, _, rest = reason.partition(": ")
        say((name,), rest) if name in teacher.finetune else say((), reason)


def with_vocabulary(teacher: TeacherSection, task: TaskSection) -> TeacherSection:
    """Gives a teacher that is trained from scratch on a built-in task the vocabulary of this task."""
    shape = teacher.architecture
    if shape is None or shape.vocab is not None or task.name not in agreement.NAMES:
        return teacher
    shape = shape.model_copy(update={"vocab": agreement.AGREEMENT_VOCAB})
    return teacher.model_copy(update={"architecture": shape})


def check_search(document: Document, search: SearchSection, methods: tuple[MethodSpec, ...]) -> None:
    """Compares start points and sampler with the spaces."""
    spaces = {method.name: method.space for method in methods}
    if len(search.start) > search.trials:
        text = f"found {len(search.start)} start points for {search.trials} trials; at most one a trial is due"
        document.problem(("search", "start"), text)
    if search.sampler == "grid" and (endless := [n for n, space in spaces.items() if math.isinf(space.size())]):
        text = f"the space of {listed(endless)} has a range of real numbers, which has no grid; use choices"
        document.problem(("search", "sampler"), text)
    for index, start in enumerate(search.start):
        name = start.get(METHOD, methods[0].name if len(methods) == 1 else None)
        if name not in spaces:
            text = f"found {shown(name)}; allowed: {listed(spaces)}{nearest(name, spaces)}"
            document.problem(("search", "start", index, METHOD), text)
            continue
        sample = {key: value for key, value in start.items() if key != METHOD}
        for key, text in spaces[name].faults(sample, partial=True):
            document.problem(("search", "start", index, key), text)
