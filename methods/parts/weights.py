"""A Bert as two small files: config.json (layout, head kind, dropout) and model.safetensors.

This is how stages and shared artifacts hold models; `methods.parts.checkpoint` is the door to and from other
software.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from methods.parts.bert import Bert
from methods.parts.files import JsonValue, read_json, read_tensors, wait_for, write_json, write_tensors
from methods.parts.layout import Layout


def describe(model: Bert) -> dict[str, JsonValue]:
    """Everything about `model` but its weights."""
    return {
        "layout": model.layout.to_json(),
        "head": model.head,
        "dropout": model.dropout,
        "layer_norm_eps": model.layer_norm_eps,
    }


def build(description: Mapping[str, Any]) -> Bert:
    """A Bert of that description, with fresh weights."""
    return Bert(
        Layout.from_json(description["layout"]),
        head=description["head"],
        dropout=description["dropout"],
        layer_norm_eps=description["layer_norm_eps"],
    )


def save(model: Bert, folder: Path) -> None:
    """Write `model` into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / "model.safetensors", model.state_dict())
    write_json(folder / "config.json", describe(model))


def load(folder: Path) -> Bert:
    """Read what `save` wrote; also the `done` folder of a finished stage.

    Raises:
        ValueError: the folder holds no Bert.
    """
    config = wait_for(folder) / "config.json"
    values = folder / "values.json"
    description = read_json(config) if config.exists() else read_json(values).get("bert")
    if description is None:
        raise ValueError(f"{folder}: holds no Bert, only the weights of another model")
    model = build(description)
    model.load_state_dict(read_tensors(folder / "model.safetensors"))
    return model
