"""Checkpoints: the one door between `Bert` and Hugging Face's files, both ways.

Reads any Hugging Face BERT (folder or hub name, with or without the `bert.` prefix, with the names of 2018) and our
own; writes what stock transformers opens where the layout allows it. Importing this module registers the other
layouts with transformers' `AutoConfig`, `AutoModelForSequenceClassification` and `AutoModelForMaskedLM`.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.models.auto.configuration_auto import AutoConfig
from transformers.models.auto.modeling_auto import AutoModelForMaskedLM, AutoModelForSequenceClassification

from methods.parts.bert import Bert
from methods.parts.card import OWN, Card, DistilsweepBertConfig, read_card, write_card
from methods.parts.layout import Layout

WEIGHTS, SHARDS, PICKLED = "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json", "added_tokens.json")
"""The files of a tokenizer; those that exist are copied."""

DECODER = "cls.predictions.decoder"

IGNORED = ("bert.embeddings.position_ids", "cls.seq_relationship.")
"""Beginnings of keys that hold nothing `Bert` has: a constant, the next-sentence head."""


class _OnDemand(type):
    """A class that is looked up in `methods.parts.registered`, which is slow to import, when first used."""

    def __getattr__(cls, name: str) -> Any:  # noqa: ANN401
        if name.startswith("__"):
            raise AttributeError(name)
        from methods.parts import registered

        return getattr(getattr(registered, cls.__name__), name)


for _door, _name in (
    (AutoModelForSequenceClassification, "DistilsweepBertForSequenceClassification"),
    (AutoModelForMaskedLM, "DistilsweepBertForMaskedLM"),
):
    _door.register(DistilsweepBertConfig, _OnDemand(_name, (), {"config_class": DistilsweepBertConfig}), exist_ok=True)
AutoConfig.register(OWN, DistilsweepBertConfig, exist_ok=True)


def card_of(folder_or_name: str | Path, *, masked_lm: bool = False) -> Card:
    """Read layout, head kind, label names and dropout from config.json alone.

    Raises:
        ValueError: there is no such checkpoint, or it is no BERT that `Bert` computes.
    """
    path = _file(folder_or_name, "config.json")
    if path is None:
        raise ValueError(
            f"{folder_or_name}: found no config.json; allowed is a checkpoint's folder, or its name on a reachable hub"
        )
    try:
        return read_card(json.loads(path.read_text(encoding="utf-8")), masked_lm=masked_lm)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def layout_of(folder_or_name: str | Path, *, masked_lm: bool = False) -> Layout:
    """Return the layout that `load` would give, without reading weights; a stock checkpoint is taken to have a pooler.

    Raises:
        ValueError: see `card_of`.
    """
    return card_of(folder_or_name, masked_lm=masked_lm).layout


def load(
    folder_or_name: str | Path,
    *,
    labels: int | None = None,
    head: str | None = None,
    masked_lm: bool = False,
    seed: int = 0,
) -> Bert:
    """Load a BERT checkpoint, on the CPU, in fp32 and evaluation mode.

    Args:
        folder_or_name: a folder, or a name on the Hugging Face hub.
        labels: outputs of the classifier; None takes the checkpoint as it is. Only where this is given, a classifier
            (and a pooler) that the checkpoint lacks is drawn like BERT's.
        head: kind of classifier head, in place of the checkpoint's own ("plain" in a stock one).
        masked_lm: whether to keep the masked-LM head, which must then be there.
        seed: of the drawn classifier.

    Raises:
        ValueError: the checkpoint does not exist or fit; one message names every missing, unexpected and wrongly
            shaped key.
    """
    card = card_of(folder_or_name, masked_lm=masked_lm)
    state = _canonical(_read_weights(folder_or_name))
    state = {name: value for name, value in state.items() if masked_lm or not name.startswith("cls.")}
    layout = card.layout
    if not layout.tied and f"{DECODER}.weight" not in state:  # it is equal to the word table
        layout = dataclasses.replace(layout, tied=True)
    if labels is not None:
        if labels < 1 or layout.labels not in (0, labels):
            raise ValueError(f"{folder_or_name}: found a classifier of {layout.labels} outputs, asked for are {labels}")
        layout = dataclasses.replace(layout, labels=labels)
    elif not layout.labels and "bert.pooler.dense.weight" not in state:
        layout = dataclasses.replace(layout, pooler=False)
    with torch.device("meta"):
        model = Bert(layout, head=head or card.head, dropout=card.dropout, layer_norm_eps=card.layer_norm_eps)
    if labels:
        state = {**_drawn(layout, seed, state), **state}
    _check_keys(folder_or_name, model.state_dict(), state)
    # Copies, because the file's tensors are mapped from disk and lie at addresses that change sums by rounding.
    model.load_state_dict({name: value.to(torch.float32, copy=True) for name, value in state.items()}, assign=True)
    return model.eval()


def _drawn(layout: Layout, seed: int, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Draw a pooler and a classifier as BERT does; the caller lets those of the checkpoint win."""
    generator, hidden = torch.Generator().manual_seed(seed), layout.hidden
    drawn = {
        "classifier.weight": torch.empty(layout.labels, hidden).normal_(0.0, 0.02, generator=generator),
        "classifier.bias": torch.zeros(layout.labels),
    }
    if not any(name.startswith("bert.pooler.") for name in state):
        drawn["bert.pooler.dense.weight"] = torch.empty(hidden, hidden).normal_(0.0, 0.02, generator=generator)
        drawn["bert.pooler.dense.bias"] = torch.zeros(hidden)
    return {} if any(name.startswith("classifier.") for name in state) else drawn


def _check_keys(where: str | Path, wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Raise one ValueError for all keys that are missing, unexpected or of another shape."""
    shapes = [
        f"{name}: found {tuple(found[name].shape)}, allowed is {tuple(value.shape)}"
        for name, value in wanted.items()
        if name in found and found[name].shape != value.shape
    ]
    problems = {
        "missing": [name for name in wanted if name not in found],
        "unexpected": [name for name in found if name not in wanted],
        "wrong shapes": shapes,
    }
    said = [
        f"{len(names)} {what} ({'; '.join(names[:8])}{'; ...' * (len(names) > 8)})"
        for what, names in problems.items()
        if names
    ]
    if said:
        raise ValueError(f"{where}: the weights do not fit config.json: {', '.join(said)}")


def _canonical(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename parameters to today's names, with the `bert.` prefix, and leave out what `Bert` does not have."""
    renamed = {}
    for name, value in state.items():
        for old, new in ((".gamma", ".weight"), (".beta", ".bias")):
            name = name.removesuffix(old) + new if name.endswith(old) else name
        name = f"bert.{name}" if name.startswith(("embeddings.", "encoder.", "pooler.")) else name
        if not name.startswith(IGNORED):
            renamed[name] = value
    bias = renamed.pop(f"{DECODER}.bias", None)
    if bias is not None:
        renamed["cls.predictions.bias"] = bias  # the one that transformers adds, also where the two are not tied
    words, decoder = renamed.get("bert.embeddings.word_embeddings.weight"), renamed.get(f"{DECODER}.weight")
    if words is not None and decoder is not None and torch.equal(words, decoder):
        del renamed[f"{DECODER}.weight"]  # one that is not tied stays, to be refused as unexpected
    return renamed


def _read_weights(folder_or_name: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint, preferring safetensors; a pickled file is read as tensors only."""
    paths = [_file(folder_or_name, WEIGHTS)]
    index = None if paths[0] else _file(folder_or_name, SHARDS)
    if index is not None:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        paths = [_file(folder_or_name, name) for name in sorted(names)]
    state: dict[str, Tensor] = {}
    for path in paths:
        try:
            state |= load_file(path) if path else {}
        except SafetensorError as error:
            raise ValueError(f"{path}: not a safetensors file: {error}") from error
    pickled = None if state else _file(folder_or_name, PICKLED)
    if pickled is not None:
        return dict(torch.load(pickled, map_location="cpu", weights_only=True))
    if not state:
        raise ValueError(f"{folder_or_name}: found no weights, allowed are {[WEIGHTS, SHARDS, PICKLED]}")
    return state


def _file(folder_or_name: str | Path, name: str) -> Path | None:
    """Find a file of a checkpoint in its folder or on the hub; None if the checkpoint has no such file."""
    folder = Path(folder_or_name)
    if folder.is_dir():
        return folder / name if (folder / name).is_file() else None
    if folder.is_absolute() or str(folder_or_name).startswith("."):
        raise ValueError(f"{folder_or_name}: no such folder")
    from transformers.utils.hub import cached_file

    try:
        found = cached_file(str(folder_or_name), name, _raise_exceptions_for_missing_entries=False)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{folder_or_name}: found neither a folder nor a model of the hub: {reason}") from error
    return Path(found) if found else None


def save(
    model: Bert, folder: Path, *, tokenizer: Path | str | None = None, labels: Sequence[str] | None = None
) -> None:
    """Write config.json, model.safetensors and the tokenizer's files; a reader never sees half of a file.

    Args:
        model: its own head kind decides the model type, see `methods.parts.card`.
        folder: made if missing; other files in it stay.
        tokenizer: a folder or hub name to copy the tokenizer from.
        labels: names of the outputs in their order; None writes transformers' place-holders.

    Raises:
        ValueError: the number of names is not the number of outputs, or the tokenizer has no files.
    """
    card = Card(
        layout=model.layout,
        head=model.head,
        labels=tuple(labels or ()),
        dropout=model.dropout,
        layer_norm_eps=model.layer_norm_eps,
    )
    aside = folder.parent / f".{folder.name}.{os.getpid()}.new"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        _copy_tokenizer(tokenizer, aside)
        state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
        if card.is_stock and f"{DECODER}.weight" in state:  # transformers ties the two biases with the tables only
            state[f"{DECODER}.bias"] = state["cls.predictions.bias"].clone()
        save_file(state, aside / WEIGHTS, metadata={"format": "pt"})
        text = json.dumps(write_card(card), indent=2) + "\n"
        (aside / "config.json").write_text(text, encoding="utf-8")
        _publish(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _copy_tokenizer(source: Path | str | None, target: Path) -> None:
    """Copy the tokenizer files that exist."""
    if source is None:
        return
    found = [path for path in (_file(source, name) for name in TOKENIZER) if path is not None]
    if not found:
        raise ValueError(f"{source}: found no tokenizer, allowed are the files {list(TOKENIZER)}")
    for path in found:
        shutil.copyfile(path, target / path.name)


def _publish(aside: Path, folder: Path) -> None:
    """Give the finished files their names: at once in a new folder, else one by one with config.json last."""
    if not folder.exists():
        aside.rename(folder)
        return
    for path in sorted(aside.iterdir(), key=lambda path: path.name == "config.json"):
        path.replace(folder / path.name)
