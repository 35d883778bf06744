"""A model as a graph without its Python code: a program of `torch.export`, or ONNX, any batch and any length.

Inputs are `input_ids`, `attention_mask` and `token_type_ids`, (B, L) int64; the output is `logits`, (B, C) float32.
"""

import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from methods.parts.bert import Bert
from methods.parts.registered import Inputs
from orchestrator.errors import SpecError
from orchestrator.proof import SHAPES, batch
from orchestrator.reopen import INPUTS, INT8, ONNX, PROGRAM

NEEDED = ("onnx", "onnxscript", "onnxruntime")
"""What ONNX takes; the optional dependencies `onnx` of this package."""


class Logits(nn.Module):
    """A model that returns nothing but its logits."""

    def __init__(self, model: Bert) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        """Map three (B, L) to (B, C)."""
        logits: Tensor = self.model(Inputs(input_ids, attention_mask, token_type_ids)).logits
        return logits


def check_onnx() -> None:
    """Sees whether ONNX can be written and run here.

    Raises:
        SpecError: a package is missing.
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise SpecError(
            [f"export: --format onnx needs {', '.join(missing)}, not installed: pip install 'distilsweep[onnx]'"]
        )


def write_program(model: Bert, folder: Path) -> None:
    """Writes model.pt2, which `torch.export.load` opens."""
    wrapped, given, shapes = _asked(model)
    program = torch.export.export(wrapped, (), given, dynamic_shapes=shapes, strict=False)
    torch.export.save(program, folder / PROGRAM)


def write_onnx(model: Bert, folder: Path) -> None:
    """Writes model.onnx with its weights inside.

    torch's tracing exporter is not used: it fixes shapes without a word, and the answers at other shapes are wrong.
    """
    wrapped, given, shapes = _asked(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of its own inner calls and of axes with one name
        torch.onnx.export(
            wrapped,
            (),
            folder / ONNX,
            kwargs=given,
            input_names=list(INPUTS),
            output_names=["logits"],
            dynamic_shapes=shapes,
            dynamo=True,
            external_data=False,
        )


def quantise(folder: Path) -> None:
    """Writes model.int8.onnx beside model.onnx: weights in 8 bits, activations quantised as they come."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    graph = onnx.load(folder / ONNX)
    del graph.graph.value_info[:]  # shapes of the weights before the quantiser turned them round
    quantize_dynamic(graph, folder / INT8, weight_type=QuantType.QInt8)


class OnnxModel(nn.Module):
    """An ONNX graph that answers a `Batch` like a model of ours, on the CPU."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        import onnxruntime

        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def forward(self, given: Any) -> "Answered":  # noqa: ANN401  anything with the three inputs
        """Map a batch to its logits."""
        rows = {name: getattr(given, name).numpy() for name in INPUTS}
        return Answered(torch.from_numpy(self.session.run(["logits"], rows)[0]))


class Answered:
    """Logits (B, C) under the name that a model's output has."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


def _asked(model: Bert) -> tuple[nn.Module, dict[str, Tensor], dict[str, Any]]:
    """The module to trace, inputs to trace it with, and which of their sizes vary."""
    rows, length = SHAPES[0]
    given = batch(model.layout, rows, min(length, model.layout.positions))
    sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=model.layout.positions)}
    return (
        Logits(model).eval(),
        {name: getattr(given, name) for name in INPUTS},
        dict.fromkeys(INPUTS, sizes),
    )
