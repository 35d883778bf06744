"""What a sweep was asked for, kept beside its results: written once, compared later, never silently replaced."""

import difflib
import json
from collections.abc import Mapping
from typing import Any

from orchestrator.errors import RecordError, SpecError
from orchestrator.folder import SweepFolder
from orchestrator.plan import Plan
from orchestrator.records import write_text


def stored_plan(folder: SweepFolder) -> Mapping[str, Any]:
    """The plan as the sweep's folder keeps it.

    Raises:
        RecordError: there is no readable plan.
    """
    path = folder.file("plan.json")
    try:
        plan = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecordError(f"{path}: not a readable plan: {error}") from error
    if not isinstance(plan, dict) or "hash" not in plan or "spec" not in plan:
        raise RecordError(f"{path}: not a readable plan: it has no hash or no spec")
    return plan


def settle(folder: SweepFolder, plan: Plan, *, accept: bool) -> None:
    """Writes the resolved sweep file and the plan; where they differ from those of an earlier run, asks for a yes.

    Data that changed behind an unchanged file counts as a change; resources and tracking do not.

    Args:
        folder: The sweep's folder.
        plan: What is to run now.
        accept: Whether a change is wanted.

    Raises:
        SpecError: the sweep was begun with something else; the lines are the difference.
        RecordError: the stored plan cannot be read.
    """
    if folder.file("plan.json").exists() and not accept and (lines := _difference(folder, plan)):
        says = f"{folder.path}: was begun with another sweep file or other data; name it anew, or give --accept-changes"
        raise SpecError([says, *lines])
    write_text(folder.file("spec.yaml"), plan.spec.to_yaml())
    write_text(folder.file("plan.json"), json.dumps(plan.to_json(), indent=1) + "\n")


def _difference(folder: SweepFolder, plan: Plan) -> list[str]:
    """What has changed, line by line; nothing if results may be compared."""
    before = stored_plan(folder)
    if before["hash"] == plan.hash():
        return []
    old, new = folder.file("spec.yaml"), plan.spec.to_yaml().splitlines()
    stored = old.read_text(encoding="utf-8").splitlines() if old.exists() else []
    changed = [
        line for line in difflib.unified_diff(stored, new, "before", "now", n=0, lineterm="") if line[:2] != "@@"
    ]
    return changed or [f"the task's data has changed: {before.get('task_fingerprint')} is now {plan.task.fingerprint}"]
