"""The teacher: a pretrained checkpoint, the same fine-tuned, and the proof that its outputs mean the task's classes.

Code bases disagree on the order of classes (RTE and MNLI exist in three orders), and a teacher whose rows are swapped
trains every student to be wrong without any error. So names are compared before anything runs, and a known other order
is permuted.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from methods.parts.bert import Bert
from methods.parts.examples import contents, digest
from methods.parts.layout import Layout

_GENERIC = re.compile(r"(label_?)?\d+", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Teacher:
    """What a method may start from and learn from."""

    base: Path
    """Folder of the pretrained checkpoint."""
    tuned: Path
    """Folder of the checkpoint fine-tuned on the task."""
    layout: Layout
    """Shape of the tuned model."""
    labels: tuple[str, ...]
    """The tuned model's class names in order of its outputs; empty for regression."""
    tokenizer: Path
    """Folder of the tokenizer of both."""
    head: str
    """Kind of its classifier head, one of `bert.HEADS`."""
    fingerprint: str
    """Hash of the tuned weights and configuration."""


@dataclass(frozen=True, slots=True)
class LabelOrder:
    """How a checkpoint's outputs map to the task's classes."""

    permutation: tuple[int, ...] | None
    """Which output of the checkpoint is the task's class 0, 1, ...; None if the order is the task's already."""
    note: str = ""
    """What could not be checked."""


def checkpoint_fingerprint(folder: Path) -> str:
    """Hash the bytes of `model.safetensors` (or its parts) and `config.json`.

    Raises:
        ValueError: one of them is missing.
    """
    weights = sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("pytorch_model.bin"))
    if not weights or not (folder / "config.json").is_file():
        raise ValueError(f"{folder}: looked for config.json and model.safetensors; {contents(folder)}")
    parts: list[str] = []
    for path in (folder / "config.json", *weights):
        with path.open("rb") as file:
            parts += [path.name, hashlib.file_digest(file, "sha256").hexdigest()]
    return digest(parts)


def check_labels(task_labels: Sequence[str], label2id: Mapping[str, int]) -> LabelOrder:
    """Compare a checkpoint's classes with the task's, whatever their case.

    Args:
        task_labels: the task's class names in order; empty for regression.
        label2id: from the checkpoint's `config.json`.

    Returns:
        The order; generic names (`LABEL_0`, `0`) are believed to be in the task's order, and the note says so.

    Raises:
        ValueError: another number of outputs, or other names; the message holds both lists.
    """
    theirs = [name for name, _ in sorted(label2id.items(), key=lambda item: item[1])]
    outputs = len(task_labels) or 1
    if len(theirs) != outputs:
        raise _mismatch(theirs, task_labels, f"{len(theirs)} outputs, expected {outputs}")
    if not task_labels:
        return LabelOrder(None)
    folded = [name.lower() for name in theirs]
    wanted = [name.lower() for name in task_labels]
    if folded == wanted:
        return LabelOrder(None)
    if sorted(folded) == sorted(wanted):
        return LabelOrder(tuple(folded.index(name) for name in wanted))
    if all(_GENERIC.fullmatch(name) for name in theirs):
        note = (
            f"the checkpoint names its classes {', '.join(theirs)}; taken to be {', '.join(task_labels)} in this order"
        )
        return LabelOrder(None, note)
    raise _mismatch(theirs, task_labels, "other names")


def permute_classifier(model: Bert, permutation: Sequence[int]) -> None:
    """Reorder the classifier's outputs in place, so that output `i` is what output `permutation[i]` was.

    Raises:
        ValueError: the model has no classifier, or the numbers are no permutation of its outputs.
    """
    classifier = model.classifier
    outputs = 0 if classifier is None else classifier.weight.shape[0]
    if classifier is None or sorted(permutation) != list(range(outputs)):
        raise ValueError(
            f"permutation: found {tuple(permutation)}, allowed is an order of the model's {outputs} outputs"
        )
    order = torch.tensor(list(permutation), device=classifier.weight.device)
    with torch.no_grad():
        for parameter in (classifier.weight, classifier.bias):
            parameter.copy_(parameter[order].clone())


def _mismatch(theirs: Sequence[str], ours: Sequence[str], what: str) -> ValueError:
    """Spell that a checkpoint is not a teacher of this task."""
    wanted = ", ".join(ours) if ours else "a single number (regression)"
    return ValueError(f"teacher: found {what}: the checkpoint has {', '.join(theirs)}; the task has {wanted}")
