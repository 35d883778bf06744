"""Checkpoints of the published programs as folders of ours: read as tensors only, converted, stored with what was said.

A pickled checkpoint can run code when it is opened, so it is opened as a dictionary of tensors or not at all.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors import SafetensorError
from torch import Tensor

from methods.parts import glue
from methods.parts.bert import HEADS
from methods.parts.checkpoint import TOKENIZER, save
from methods.parts.elastic import Keep
from methods.parts.examples import contents
from methods.parts.files import read_json, read_tensors, write_json, write_tensors
from methods.parts.foreign import Part
from methods.parts.originals import KINDS, Converted, convert, label_order
from methods.parts.teacher import permute_classifier
from methods.parts.wordpiece import load_pieces
from orchestrator.errors import SpecError
from orchestrator.wording import listed, nearest

AUTO = "auto"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
PROJECTION, GATES, ABOUT = "projection.safetensors", "gates.safetensors", "imported.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """What to import, as the user asked for it."""

    path: Path
    """A folder with weights and config.json, or the file of the weights beside its config.json."""
    kind: str = AUTO
    """One of `originals.KINDS`, or `auto`."""
    head: str | None = None
    """One of `bert.HEADS`; None is the programs' own."""
    task: str | None = None
    """A GLUE task whose classes the outputs are; their order is changed to Hugging Face's."""
    tokenizer: Path | None = None
    """Folder of the tokenizer; None is the checkpoint's own."""
    width: float | None = None
    """DynaBERT: the share of heads and neurons to keep; None keeps all."""
    depth: float | None = None
    """DynaBERT: the share of layers to keep; None keeps all."""
    keep: str = "first"
    """DynaBERT: which layer of a group survives a smaller depth."""

    def __post_init__(self) -> None:
        """Refuse names that do not exist, all at once."""
        names = [("kind", self.kind, (AUTO, *KINDS)), ("task", self.task, tuple(glue.CATALOGUE))]
        names += [("keep", self.keep, get_args(Keep))]
        problems = [
            f"import: --{what}: found {name!r}; allowed: {listed(allowed)}{nearest(name, allowed)}"
            for what, name, allowed in [*names, ("head", self.head, HEADS)]
            if name is not None and name not in allowed and not (what == "task" and glue.find(name))
        ]
        if problems:
            raise SpecError(problems)


@dataclass(frozen=True, kw_only=True, slots=True)
class Imported:
    """A finished import."""

    path: Path
    kind: str
    shape: str
    params: int
    labels: tuple[str, ...]
    """Class names in order of the outputs; empty if no task was named."""
    projection: Path | None
    notes: tuple[str, ...]

    def lines(self) -> list[str]:
        """The import for people."""
        named = f"; classes {', '.join(self.labels)}" if self.labels else ""
        return [
            f"imported: {self.path} ({self.kind}; {self.shape}{named})",
            *(f"  {note}" for note in self.notes),
            f"measure it: distilsweep evaluate {self.path} --task TASK --data PATH",
        ]


def import_checkpoint(source: Source, target: Path) -> Imported:
    """Converts a published checkpoint and stores it in a new folder.

    Raises:
        ValueError: the files are missing, need more than tensors to be read, or are no such checkpoint.
        SpecError: the target holds something already.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise SpecError([f"{target}: exists already; name another folder"])
    weights, config = _files(source.path)
    try:
        found = convert(
            read_state(weights),
            config,
            kind=None if source.kind == AUTO else source.kind,
            head=source.head,
            part=Part(width=source.width, depth=source.depth, keep="last" if source.keep == "last" else "first"),
        )
        labels, notes = _in_task_order(found, source.task or _said_task(found.kind, config))
        tokenizer, said = _tokenizer(source, weights.parent, found.model.layout.vocab)
    except ValueError as error:
        raise ValueError(f"{weights}: {error}") from error
    notes = [*found.notes, *notes, *said]
    target.parent.mkdir(parents=True, exist_ok=True)
    save(found.model, target, tokenizer=tokenizer, labels=labels or None)
    if tokenizer is not None:
        _complete_tokenizer(target)
    if found.projection:
        write_tensors(target / PROJECTION, found.projection)
        notes.append(f"the projection is stored as {PROJECTION}")
    if found.kind == "lad":
        notes += _gates(weights, target)
    done = Imported(
        path=target,
        kind=found.kind,
        shape=found.model.layout.describe(),
        params=found.model.layout.params(),
        labels=labels,
        projection=target / PROJECTION if found.projection else None,
        notes=tuple(notes),
    )
    with weights.open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    about = {key: value for key, value in asdict(done).items() if key not in ("path", "projection")}
    write_json(target / ABOUT, {**about, "file": weights.name, "sha256": content, "head": found.model.head})
    return done


def read_state(path: Path) -> dict[str, Tensor]:
    """Reads a dictionary of tensors without running anything that the file asks for.

    Raises:
        ValueError: the file is broken, or holds other objects than tensors by name.
    """
    if path.suffix == ".safetensors":
        try:
            return read_tensors(path)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"not a safetensors file: {error}") from error
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch names each way in which a file is broken or unsafe by another class
        raise ValueError(
            f"refused: found a broken file, or one that holds other objects than tensors ({type(error).__name__}); "
            "allowed is a dictionary of tensors, because anything else could run code"
        ) from error
    if not isinstance(found, Mapping) or not found:
        raise ValueError(f"found {type(found).__name__}, allowed is a dictionary of tensors by name")
    wrong = [name for name, value in found.items() if not isinstance(value, Tensor) or not isinstance(name, str)]
    if wrong:
        raise ValueError(f"{wrong[0]}: found {type(found[wrong[0]]).__name__}, allowed is a tensor")
    return dict(found)


def _files(path: Path) -> tuple[Path, dict[str, Any]]:
    """The file of the weights, and the parsed config.json beside it."""
    steps = sorted(path.glob("model-*.pt"), key=_step) if path.is_dir() else []  # LAD's; the last is the latest
    candidates = [path] if path.is_file() else [*(path / name for name in WEIGHTS), *reversed(steps)]
    weights = next((file for file in candidates if file.is_file()), None)
    if weights is None:
        raise ValueError(f"import: looked for {' or '.join(WEIGHTS)} or model-STEP.pt; {contents(path)}")
    described = weights.parent / "config.json"
    if not described.is_file():
        raise ValueError(f"import: looked for config.json beside {weights.name}; {contents(weights.parent)}")
    config = read_json(described)
    if not isinstance(config, dict):
        raise ValueError(f"{described}: found {type(config).__name__}, allowed is a mapping")
    return weights, config


def _step(path: Path) -> int:
    """The number of updates in a file's name, `model-4000.pt`."""
    number = path.stem.rsplit("-", 1)[-1]
    return int(number) if number.isdecimal() else -1


def _said_task(kind: str, config: Mapping[str, Any]) -> str | None:
    """The task that LAD's configuration names, if it is one of GLUE's."""
    entry = glue.find(str(config.get("task", ""))) if kind == "lad" else None
    return entry.name if entry else None


def _gates(weights: Path, target: Path) -> list[str]:
    """Stores the gates that lie beside a LAD checkpoint of the same step; what was done."""
    found = sorted(weights.parent.glob(f"gate-*-{_step(weights)}.pt"), key=lambda path: int(path.name.split("-")[1]))
    tensors = {
        f"{number}.{name}": value for number, path in enumerate(found) for name, value in read_state(path).items()
    }
    if not tensors:
        return []
    write_tensors(target / GATES, tensors)
    return [f"the {len(found)} gates of this step are stored as {GATES}; they serve the distillation only"]


def _in_task_order(found: Converted, task: str | None) -> tuple[tuple[str, ...], list[str]]:
    """Puts the outputs into the order of our classes; their names, and what was done."""
    outputs = found.model.layout.labels
    if not outputs:
        return (), ["it has no classifier; fine-tune or distil it before it is measured"]
    entry = glue.find(task) if task else None
    if entry is None:
        return (), ["its classes have no names; --task names them, and puts MNLI's into our order"]
    if outputs != (len(entry.labels) or 1):
        wanted = ", ".join(entry.labels) or "a single number (regression)"
        raise ValueError(f"found a classifier of {outputs} outputs; the task {entry.name} has {wanted}")
    if not entry.labels:
        return (), []
    order = label_order(entry.name, entry.labels, found.kind)
    if order == tuple(range(outputs)):
        return entry.labels, []
    permute_classifier(found.model, order)
    theirs = ", ".join(entry.labels[order.index(number)] for number in range(outputs))
    return entry.labels, [f"classes: {theirs} in the published order, now {', '.join(entry.labels)}"]


def _tokenizer(source: Source, beside: Path, vocab: int) -> tuple[Path | None, list[str]]:
    """The folder to copy the tokenizer from."""
    folder = source.tokenizer or beside
    if source.tokenizer is None and not any((beside / name).is_file() for name in TOKENIZER):
        return None, ["no tokenizer lies beside it; it cannot be measured until --tokenizer names one"]
    size = load_pieces(folder).size
    if size > vocab:
        raise ValueError(f"{folder}: found a tokenizer of {size} pieces, the word table has {vocab} rows")
    return folder, []


def _complete_tokenizer(folder: Path) -> None:
    """Adds what `AutoTokenizer` needs where there is only the vocabulary, as the published programs leave it."""
    if (folder / "tokenizer_config.json").is_file() or not (folder / "vocab.txt").is_file():
        return
    from transformers import BertTokenizer  # slow to import

    BertTokenizer.from_pretrained(str(folder)).save_pretrained(str(folder))
