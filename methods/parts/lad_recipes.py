"""LAD's published hyper-parameters, per task.

Source: the distillation scripts of the released code, 12 to 6 layers with a BERT-base teacher. What they share is the
defaults of `methods.lad.Config`. They save a checkpoint at each of `evaluate_every` updates and evaluate them all. The
scripts for CoLA, STS-B and a student of 4 layers were never released.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

_RATES = ("epochs", "warmup", "lr", "gate_lr")
_LOSSES = ("temperature", "soft_weight", "hard_weight", "hidden_weight")
_NUMBERS: Mapping[str, tuple[float, ...]] = {
    "mnli": (4.0, 0.1, 1e-4, 5e-7, 10.0, 0.5, 0.5, 500.0, 2000),
    "qqp": (5.0, 0.1, 5e-4, 5e-7, 10.0, 0.7, 0.3, 1000.0, 3000),
    "qnli": (4.0, 0.1, 1e-4, 1e-6, 10.0, 0.5, 0.5, 1000.0, 1000),
    "sst2": (20.0, 0.3, 1e-4, 1e-6, 20.0, 0.5, 0.5, 1000.0, 2000),
    "mrpc": (20.0, 0.1, 7e-4, 5e-6, 10.0, 0.5, 0.5, 500.0, 50),
    "rte": (10.0, 0.1, 7e-4, 3e-5, 10.0, 0.5, 0.5, 1000.0, 50),
}

RECIPES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {task: dict(zip((*_RATES, *_LOSSES, "evaluate_every"), row, strict=True)) for task, row in _NUMBERS.items()}
)
"""Recipe -> the fields it sets."""
