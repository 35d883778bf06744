"""The papers, in plain PyTorch: one file per method, and the file name is the method's name.

A method is a module with `Config`, `RECIPES`, `layout(config, teacher)` and `compress(task, teacher, config, run)`; see
docs/architecture.md. Nothing here imports Ray, Optuna, MLflow or the orchestrator.
"""

import pkgutil


def available() -> tuple[str, ...]:
    """The names of all methods, found by listing files and without importing any of them."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.ispkg))
