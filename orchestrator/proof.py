"""The proof that an export loads: a fresh process opens it and answers batches of several shapes as the model does."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from methods.parts.batches import Batch
from methods.parts.bert import Bert
from methods.parts.layout import Layout
from orchestrator.errors import SweepError
from orchestrator.reopen import INPUTS

SHAPES = ((4, 24), (3, 11), (1, 7))
"""Rows and tokens of the batches that are compared; the tokens are at most the model's positions.

The first is the shape that graphs are traced at, the others are none that was seen before.
"""

TIMEOUT_S = 600


def batches(layout: Layout) -> list[Batch]:
    """Random batches of `SHAPES` with padding and, where the model has them, two token types."""
    return [batch(layout, rows, min(length, layout.positions), seed) for seed, (rows, length) in enumerate(SHAPES)]


def batch(layout: Layout, num_rows: int, length: int, seed: int = 0) -> Batch:
    """One random batch (num_rows, length) whose first row is not padded."""
    generator = torch.Generator().manual_seed(seed)
    input_ids = torch.randint(0, layout.vocab, (num_rows, length), generator=generator)
    lengths = torch.tensor([max(1, length // (1 + row % 3)) for row in range(num_rows)]).unsqueeze(1)
    attention_mask = (torch.arange(length).unsqueeze(0) < lengths).long()
    second = (torch.arange(length) > length // 2).long() * (layout.types > 1)
    return Batch(
        input_ids=input_ids,
        attention_mask=attention_mask,
        token_type_ids=second.expand(num_rows, length).contiguous(),
        labels=torch.zeros(num_rows, dtype=torch.long),
        ids=torch.arange(num_rows),
        sites=None,
        sizes={"examples": num_rows, "tokens": int(attention_mask.sum()), "positions": num_rows * length},
    )


def difference(trained: Bert, exported: Path, way: str) -> float:
    """The largest absolute difference of logits, over `batches`, between a model here and an export reopened.

    Args:
        trained: the model that was exported.
        exported: the folder that was written.
        way: how it is opened, a key of `reopen.WAYS`.

    Raises:
        SweepError: it does not open, or answers with other shapes or with what is no number.
    """
    asked = batches(trained.layout)
    trained.eval()
    with torch.no_grad():
        here = [trained(given).logits.double() for given in asked]
    there = [torch.tensor(found, dtype=torch.float64) for found in _reopened(asked, exported, way)]
    if [found.shape for found in there] != [found.shape for found in here]:
        shapes = [tuple(found.shape) for found in there]
        raise SweepError(f"{exported}: reopened logits have the shapes {shapes}, the trained model's differ")
    worst = max(float((one - other).abs().max()) for one, other in zip(here, there, strict=True))
    if worst != worst:
        raise SweepError(f"{exported}: reopened logits are NaN")
    return worst


def _reopened(asked: Sequence[Batch], exported: Path, way: str) -> list[list[list[float]]]:
    """The logits that a fresh process finds."""
    rows = [{name: getattr(given, name).tolist() for name in INPUTS} for given in asked]
    script = Path(__file__).with_name("reopen.py")
    paths = [str(script.parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    surroundings = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-P", str(script), way, str(exported.absolute())],
        input=json.dumps(rows),
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
        env=surroundings,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise SweepError(f"{exported}: does not reopen in a fresh process: {last}")
    return [list(found) for found in json.loads(done.stdout)]
