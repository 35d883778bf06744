"""The model's code as one file, for machines without this package: this package's own modules, joined.

The file is written beside a checkpoint and named in its config.json, where transformers finds it if its user allows
code from the checkpoint to run. Nothing in this package ever allows that.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Sequence
from types import ModuleType

from methods.parts import bert, card, layers, layout, registered

NAME = "modeling_distilsweep"
"""The file's name without its ending."""

AUTO_MAP = {
    "AutoConfig": f"{NAME}.DistilsweepBertConfig",
    "AutoModelForSequenceClassification": f"{NAME}.DistilsweepBertForSequenceClassification",
    "AutoModelForMaskedLM": f"{NAME}.DistilsweepBertForMaskedLM",
}
"""What config.json says of it, under the key `auto_map`."""

PARTS: Sequence[ModuleType] = (layout, layers, bert, card, registered)
"""The modules that are joined, each after those that it imports."""

_HEAD = '''"""A BERT of any layout as plain torch modules and transformers classes, in one file that needs nothing else.

Written by distilsweep (Apache License 2.0) from its own modules, so that a checkpoint opens where it is not installed:

    AutoModelForSequenceClassification.from_pretrained(FOLDER, trust_remote_code=...)
"""

from __future__ import annotations
'''


def source() -> str:
    """The text of the file.

    Raises:
        ValueError: two of the modules define the same name, or one needs a module that is not among them.
    """
    imports: dict[str, set[str]] = {}
    defined: set[str] = set()
    bodies = [_without_imports(module, imports, defined) for module in PARTS]
    lines = sorted(f"from {name} import {', '.join(sorted(parts))}" for name, parts in imports.items() if name)
    whole = [f"import {name}" for name in sorted(imports.get("", ()))]
    return "\n".join([_HEAD, *whole, *lines, "", "", "\n\n\n".join(bodies), ""])


def _without_imports(module: ModuleType, imports: dict[str, set[str]], defined: set[str]) -> str:
    """The statements of a module without its docstring; its imports and its names are added to those given."""
    text = inspect.getsource(module)
    lines, kept = text.splitlines(), list[str]()
    for node in ast.parse(text).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            _import(node, imports)
            continue
        names = _names(node)
        if clashes := defined & names:
            raise ValueError(f"{module.__name__}: found {min(clashes)} defined before, allowed is once")
        defined |= names
        first = min([node.lineno, *(mark.lineno for mark in getattr(node, "decorator_list", ()))])
        statement = "\n".join(lines[first - 1 : node.end_lineno])
        if not isinstance(node, ast.Expr):
            kept.append(statement)
        elif kept:  # what a constant means, below it
            kept[-1] += f"\n{statement}"
    return "\n\n\n".join(kept)


def _import(node: ast.Import | ast.ImportFrom, imports: dict[str, set[str]]) -> None:
    """Notes what a statement imports, by module ("" of whole ones), unless it becomes a part of the same file."""
    if isinstance(node, ast.Import):
        imports.setdefault("", set()).update(ast.unparse(alias) for alias in node.names)
        return
    name = node.module or ""
    if name == "__future__" or name in {module.__name__ for module in PARTS}:
        return
    if name.split(".")[0] == __name__.split(".")[0]:
        raise ValueError(f"{name}: found an import of it, allowed are {[part.__name__ for part in PARTS]}")
    imports.setdefault(name, set()).update(ast.unparse(alias) for alias in node.names)


def _names(node: ast.stmt) -> set[str]:
    """The names that a statement of a module defines."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
