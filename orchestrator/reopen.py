"""Opens an exported model as its user would and prints its logits: run in a fresh process to prove that it loads.

`python -P reopen.py WAY FOLDER < batches.json` reads a list of batches, each `input_ids`, `attention_mask` and
`token_type_ids` as lists of rows, and prints a list of logits. Every way but `compact` hides this package from the
process first, because the user of such an export need not have it; so this file imports nothing of it.
"""

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

Rows = dict[str, list[list[int]]]
Answer = Callable[[Rows], list[list[float]]]

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
CODE, PROGRAM, ONNX, INT8 = "modeling_distilsweep.py", "model.pt2", "model.onnx", "model.int8.onnx"
"""Names of files in an exported folder."""


def hide_this_package() -> None:
    """Makes this process fail where it imports distilsweep's packages."""
    for name in ("methods", "orchestrator"):
        sys.modules[name] = None  # type: ignore[assignment]  # Python's own sign for "must not be imported"


def _module(model: Callable[..., Any]) -> Answer:
    """What a PyTorch model answers; it returns logits, or something that has them."""

    def answer(rows: Rows) -> list[list[float]]:
        with torch.no_grad():
            found = model(**{name: torch.tensor(rows[name]) for name in INPUTS})
        return list(getattr(found, "logits", found).double().tolist())

    return answer


def _automatic(folder: Path) -> Answer:
    """What `AutoModelForSequenceClassification` makes of a folder."""
    from transformers import AutoModelForSequenceClassification

    return _module(AutoModelForSequenceClassification.from_pretrained(folder).eval())


def compact(folder: Path) -> Answer:
    """Opens a folder whose class this package registers."""
    import methods.parts.checkpoint  # noqa: F401  importing it registers the class

    return _automatic(folder)


def stock(folder: Path) -> Answer:
    """Opens a folder that transformers can open alone."""
    return _automatic(folder)


def code(folder: Path) -> Answer:
    """Opens a folder by the code that lies in it."""
    spec = importlib.util.spec_from_file_location(Path(CODE).stem, folder / CODE)
    if spec is None or spec.loader is None:
        raise ImportError(f"{folder / CODE}: cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return _module(module.DistilsweepBertForSequenceClassification.from_pretrained(folder).eval())


def program(folder: Path) -> Answer:
    """Opens a program of `torch.export`."""
    return _module(torch.export.load(folder / PROGRAM).module())


def onnx(folder: Path, name: str = ONNX) -> Answer:
    """Opens an ONNX graph."""
    import numpy as np
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / name, providers=["CPUExecutionProvider"])

    def answer(rows: Rows) -> list[list[float]]:
        given = {name: np.asarray(rows[name], dtype=np.int64) for name in INPUTS}
        return list(session.run(["logits"], given)[0].astype(np.float64).tolist())

    return answer


def int8(folder: Path) -> Answer:
    """Opens a quantised ONNX graph."""
    return onnx(folder, INT8)


WAYS: dict[str, Callable[[Path], Answer]] = {
    "compact": compact,
    "stock": stock,
    "code": code,
    "torch-export": program,
    "onnx": onnx,
    "int8": int8,
}


def main() -> None:
    """Prints the logits of the model in the folder named on the command line."""
    way, folder = sys.argv[1], Path(sys.argv[2])
    if way != "compact":
        hide_this_package()
    answer = WAYS[way](folder)
    json.dump([answer(rows) for rows in json.load(sys.stdin)], sys.stdout)


if __name__ == "__main__":
    main()
