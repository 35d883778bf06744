"""The teacher of a sweep: made by the first trial that asks, opened by the others; never trained twice.

    base     a checkpoint folder, a hub name, a package that carries one, or random weights of a given architecture
    tuned    the same fine-tuned on the task (`methods.finetune`), or `base` itself if it is tuned already

A checkpoint whose classes are in another order than the task's is permuted into a copy; one with other classes is
refused.
"""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from methods import finetune
from methods.parts.bert import Bert, initialise
from methods.parts.card import Card
from methods.parts.checkpoint import card_of, load, save
from methods.parts.files import JsonValue
from methods.parts.layout import Layout
from methods.parts.run import Run
from methods.parts.tasks import Task
from methods.parts.teacher import Teacher, check_labels, checkpoint_fingerprint, permute_classifier
from methods.parts.wordpiece import train_wordpiece
from orchestrator.configs import build, combine, config_json, load_method

SCRATCH_VERSION, TEACHER_VERSION, PERMUTED_VERSION = 1, 1, 1
"""Raised whenever the meaning of the stored checkpoints changes."""

Json = Mapping[str, Any]


def prepare_teacher(task: Task, spec: Json, run: Run) -> Teacher:
    """The teacher that a sweep file's `teacher` section describes; collective over the ranks.

    Raises:
        ValueError: the checkpoint is not there, is no BERT, or is a teacher of another task.
    """
    base = _from_scratch(task, spec["architecture"], run) if spec.get("architecture") else checkpoint_folder(spec)
    if spec.get("finetune") is None:
        tuned = _in_task_order(task, base, run)
        return _opened(base, tuned, card_of(tuned))
    tuned = _fine_tuned(task, base, spec["finetune"], run)
    return _opened(base, tuned, card_of(tuned))


def checkpoint_folder(spec: Json) -> Path:
    """The local folder of a checkpoint named by `model` (a folder or hub name) or `package`.

    Raises:
        ValueError: there is no such folder, package or model.
    """
    if spec.get("package"):
        found = importlib.util.find_spec(spec["package"])
        places = list(found.submodule_search_locations or ()) if found else []
        folders = [path.parent for place in places for path in sorted(Path(place).rglob("config.json"))]
        folders = [folder for folder in folders if (folder / "model.safetensors").is_file()]
        if not folders:
            raise ValueError(f"teacher.package: found no checkpoint in {spec['package']!r}; is it installed?")
        return folders[0]
    folder = Path(spec["model"])
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download  # slow to import, and most sweeps need no hub

    return Path(snapshot_download(spec["model"], allow_patterns=["*.json", "*.safetensors", "vocab.txt"]))


def scratch_layout(architecture: Json, labels: int) -> Layout:
    """The layout of a teacher that is trained from scratch."""
    return Layout.uniform(
        vocab=architecture["vocab"],
        positions=architecture["positions"],
        hidden=architecture["hidden"],
        num_layers=architecture["layers"],
        heads=architecture["heads"],
        head_width=architecture["hidden"] // architecture["heads"],
        ffn=architecture["ffn_dim"],
        labels=labels,
    )


def _opened(base: Path, tuned: Path, card: Card) -> Teacher:
    return Teacher(
        base=base,
        tuned=tuned,
        layout=card.layout,
        labels=card.labels,
        tokenizer=tuned,
        head=card.head,
        fingerprint=checkpoint_fingerprint(tuned),
    )


def _from_scratch(task: Task, architecture: Json, run: Run) -> Path:
    """A BERT with random weights and a vocabulary learned from the task's training texts."""

    def write(folder: Path, inner: Run) -> None:
        if inner.rank != 0:
            return
        examples = task.source.read("train")  # all rows: a limit on them must not leave words out of the vocabulary
        train_wordpiece([*examples.texts, *(examples.pairs or ())], architecture["vocab"], folder / "tokenizer")
        model = Bert(scratch_layout(architecture, task.num_outputs), dropout=architecture["dropout"])
        initialise(model, inner.seed, architecture["init_std"])
        save(model, folder / "model", tokenizer=folder / "tokenizer", labels=task.labels or None)

    inputs: dict[str, JsonValue] = {"task": task.labelled, "architecture": dict(architecture)}
    return run.once("scratch", inputs, write, version=SCRATCH_VERSION) / "model"


def _fine_tuned(task: Task, base: Path, numbers: Json, run: Run) -> Path:
    """The base, fine-tuned on the task's labels."""
    method = load_method("finetune")
    config = build(method, combine(method, numbers, {}))

    def train(folder: Path, inner: Run) -> None:
        start = _opened(base, base, card_of(base))
        outcome = finetune.compress(task, start, config, inner)
        if inner.rank == 0:
            save(outcome.model, folder / "model", tokenizer=base, labels=task.labels or None)

    inputs: dict[str, JsonValue] = {
        "task": task.labelled,
        "base": checkpoint_fingerprint(base),
        "finetune": config_json(config),
    }
    return run.once("teacher", inputs, train, version=TEACHER_VERSION) / "model"


def _in_task_order(task: Task, folder: Path, run: Run) -> Path:
    """The checkpoint itself, or a copy with its classes in the task's order."""
    card = card_of(folder)
    if card.layout.labels == 0:
        raise ValueError(f"{folder}: has no classifier; give teacher.finetune, so that it is trained on {task.name}")
    names = card.labels or tuple(f"LABEL_{number}" for number in range(card.layout.labels))
    order = check_labels(task.labels, {name: number for number, name in enumerate(names)})
    if order.permutation is None:
        return folder
    permutation = list(order.permutation)

    def permute(target: Path, inner: Run) -> None:
        if inner.rank == 0:
            model = load(folder)
            permute_classifier(model, permutation)
            save(model, target / "model", tokenizer=folder, labels=task.labels)

    inputs: dict[str, JsonValue] = {"checkpoint": checkpoint_fingerprint(folder), "permutation": list(permutation)}
    return run.once("permuted", inputs, permute, version=PERMUTED_VERSION) / "model"
