"""What a method's Config allows (fields, types, recipes), and Configs built from fixed values and samples.

Methods declare hyper-parameters once, as a dataclass; names and types are read from there. Unknown names are looked for
first, because libraries that coerce dicts into dataclasses drop them silently.
"""

import dataclasses
import importlib
import pkgutil
import types
from collections.abc import Callable, Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from methods.parts.layout import Layout
from methods.parts.selection import Selection
from orchestrator.parameters import is_int, is_number
from orchestrator.wording import listed

RECIPE = "recipe"
"""The key that is no field of a Config but picks a row of RECIPES."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """The public names of `methods/<name>.py`."""

    name: str
    config: type[Any]
    """The dataclass of hyper-parameters."""
    recipes: Mapping[str, Mapping[str, Any]]
    """Recipe -> the fields it sets."""
    layout: Callable[[Any, Layout], Layout]
    """Config and teacher's layout -> the layout of the model it ends with."""
    fields: Mapping[str, Any]
    """The Config's fields and their types."""
    knowledge: Callable[[Any, Layout], Selection | None] | None = None
    """Config and teacher's layout -> which of the teacher's outputs a trial stores; None if it never stores any."""


def method_names(package: str = "methods") -> tuple[str, ...]:
    """Lists a package's methods without importing any: the file name is the name."""
    path = importlib.import_module(package).__path__
    return tuple(sorted(module.name for module in pkgutil.iter_modules(path) if not module.ispkg))


def load_method(name: str, package: str = "methods") -> Method:
    """Imports one method; the name must be one of `method_names`."""
    module = importlib.import_module(f"{package}.{name}")
    hints = get_type_hints(module.Config)
    fields = {field.name: hints[field.name] for field in dataclasses.fields(module.Config)}
    return Method(
        name=name,
        config=module.Config,
        recipes=module.RECIPES,
        layout=module.layout,
        fields=fields,
        knowledge=getattr(module, "knowledge", None),
    )


def build(method: Method, values: Mapping[str, Any]) -> Any:  # noqa: ANN401  each method has a Config of its own
    """Makes a Config from JSON values: lists become tuples, whole numbers become floats where a float is due.

    Raises:
        ValueError: an unknown field, a value of the wrong type, or one that the Config itself refuses.
    """
    fields = method.fields
    for name, value in values.items():
        if name not in fields:
            raise ValueError(f"{name}: no such field in methods.{method.name}.Config; allowed: {listed(fields)}")
        if not fits(value, fields[name]):
            raise ValueError(f"{name}: found {value!r}; {due(fields[name])} is due")
    return method.config(**{name: _coerced(value, fields[name]) for name, value in values.items()})


def combine(method: Method, fixed: Mapping[str, Any], sample: Mapping[str, Any]) -> dict[str, Any]:
    """Puts the layers of a configuration together: the recipe, over it the fixed values, over these the sample."""
    recipe = sample.get(RECIPE, fixed.get(RECIPE))
    chosen = method.recipes[recipe] if recipe is not None else {}
    return {name: value for name, value in {**chosen, **fixed, **sample}.items() if name != RECIPE}


def config_json(config: Any) -> dict[str, Any]:  # noqa: ANN401  each method has a Config of its own
    """Writes a Config as JSON values, every field included; `build` reads it back to an equal one."""
    return {name: _plain(value) for name, value in dataclasses.asdict(config).items()}


def _plain(value: object) -> object:
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


def fits(value: object, annotation: Any) -> bool:  # noqa: ANN401  a type annotation can be anything
    """Whether a JSON value is of an annotated type; a whole number is a float, a truth value is no number.

    Raises:
        TypeError: the annotation is none that a Config may use.
    """
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is None or annotation is types.NoneType:
        return value is None
    if origin in (Union, types.UnionType):
        return any(fits(value, option) for option in arguments)
    if origin is Literal:
        return any(type(value) is type(option) and value == option for option in arguments)
    if origin is tuple:
        return isinstance(value, tuple | list) and _fits_tuple(list(value), arguments)
    if annotation in _SCALARS:
        return _SCALARS[annotation][0](value)
    raise TypeError(
        f"a Config field of type {annotation!r}; allowed: int, float, bool, str, Literal, tuple, None, unions"
    )


def _fits_tuple(values: list[object], arguments: tuple[Any, ...]) -> bool:
    """Whether a list fits `tuple[X, ...]` or `tuple[X, Y]`."""
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return all(fits(value, arguments[0]) for value in values)
    return len(values) == len(arguments) and all(map(fits, values, arguments))


_SCALARS: dict[Any, tuple[Callable[[object], bool], str]] = {
    int: (is_int, "a whole number"),
    float: (is_number, "a number"),
    bool: (lambda value: isinstance(value, bool), "true or false"),
    str: (lambda value: isinstance(value, str), "text"),
}


def due(annotation: Any) -> str:  # noqa: ANN401  a type annotation can be anything
    """Says in words what an annotated type allows."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is None or annotation is types.NoneType:
        return "null"
    if origin in (Union, types.UnionType):
        return " or ".join(due(option) for option in arguments)
    if origin is Literal:
        return f"one of {listed(arguments)}" if len(arguments) > 1 else listed(arguments)
    if origin is tuple:
        each = "each " if arguments[-1] is Ellipsis else ""
        return f"a list ({each}{', '.join(due(option) for option in arguments if option is not Ellipsis)})"
    return _SCALARS[annotation][1] if annotation in _SCALARS else str(annotation)


def _coerced(value: Any, annotation: Any) -> Any:  # noqa: ANN401  a value of any allowed type
    """Turns a JSON value into the Python value of its annotated type."""
    options = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    if isinstance(value, list | tuple):
        inner = next(get_args(option) for option in options if get_origin(option) is tuple and fits(value, option))
        each = [inner[0]] * len(value) if inner[-1] is Ellipsis else inner
        return tuple(map(_coerced, value, each))
    return float(value) if is_int(value) and float in options and int not in options else value
