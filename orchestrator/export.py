"""A trial's model as a Hugging Face folder that is proved to load: copied, reopened in a fresh process, compared."""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from methods.parts.batches import Batch
from methods.parts.checkpoint import load
from methods.parts.layout import Layout
from orchestrator.errors import SweepError
from orchestrator.folder import SweepFolder
from orchestrator.records import TrialRecord, write_text

TOLERANCE = 1e-5
"""Largest difference of logits allowed between the trained model and the reopened export."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """An export that was reopened: where it is and how far its logits were from the trained model's."""

    path: Path
    max_difference: float
    size_bytes: int

    def lines(self) -> list[str]:
        """The export for people."""
        proof = f"reopened in a fresh process, logits equal within {self.max_difference:.1e}"
        return [f"exported: {self.path} ({self.size_bytes / 1e6:.2f} MB, {proof})"]


def export(folder: SweepFolder, record: TrialRecord, target: Path | None = None) -> Exported:
    """Copies a trial's model to `target` (default: `export/<trial>` of the sweep) and proves that it loads.

    Raises:
        SweepError: the trial has no model, the target holds something else, or the reopened model answers differently.
    """
    source = folder.path / record.model if record.model else None
    if source is None or not (source / "model.safetensors").is_file():
        raise SweepError(f"{record.trial}: no model is stored for it (status {record.status}); nothing to export")
    target = target or folder.path / "export" / record.trial
    if target.exists() and not (target / "config.json").is_file():
        raise SweepError(f"{target}: exists and is not an exported model; name another folder")
    aside = target.with_name(f".{target.name}.new")
    shutil.rmtree(aside, ignore_errors=True)
    shutil.copytree(source, aside)
    write_text(aside / "README.md", model_card(folder, record))
    difference = reopened_difference(source, aside)
    if difference > TOLERANCE:
        raise SweepError(f"{aside}: reopened logits differ by {difference:.2g}; allowed is {TOLERANCE:g}")
    shutil.rmtree(target, ignore_errors=True)
    aside.replace(target)
    return Exported(path=target, max_difference=difference, size_bytes=(target / "model.safetensors").stat().st_size)


def reopened_difference(trained: Path, exported: Path) -> float:
    """The largest absolute difference of logits, on a padded random batch, between here and a fresh process."""
    model = load(trained).eval()
    batch = _probe(model.layout)
    with torch.no_grad():
        here = model(batch).logits.double()
    rows = {name: getattr(batch, name).tolist() for name in ("input_ids", "attention_mask", "token_type_ids")}
    command = [sys.executable, "-m", "orchestrator.reopen", str(exported)]
    done = subprocess.run(command, input=json.dumps(rows), capture_output=True, text=True, check=False, timeout=300)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise SweepError(f"{exported}: does not reopen in a fresh process: {last}")
    there = torch.tensor(json.loads(done.stdout), dtype=torch.float64)
    return float((here - there).abs().max())


def _probe(layout: Layout, num_rows: int = 4) -> Batch:
    """A random batch with padding and, where the model has them, two token types."""
    length = min(24, layout.positions)
    generator = torch.Generator().manual_seed(0)
    input_ids = torch.randint(0, layout.vocab, (num_rows, length), generator=generator)
    lengths = torch.tensor([length, max(1, length // 2), max(1, length // 3), length]).unsqueeze(1)
    attention_mask = (torch.arange(length).unsqueeze(0) < lengths).long()
    token_type_ids = ((torch.arange(length) > length // 2).long() * (layout.types > 1)).expand(num_rows, length)
    return Batch(
        input_ids=input_ids,
        attention_mask=attention_mask,
        token_type_ids=token_type_ids,
        labels=torch.zeros(num_rows, dtype=torch.long),
        ids=torch.arange(num_rows),
        sites=None,
        sizes={"examples": num_rows, "tokens": int(attention_mask.sum()), "positions": num_rows * length},
    )


def model_card(folder: SweepFolder, record: TrialRecord) -> str:
    """A model card made from the record: shape, costs, scores on both halves of dev, configuration."""
    layout = Layout.from_json(record.layout) if record.layout else None
    lines = [
        f"# {folder.name} / {record.trial}",
        "",
        f"A BERT compressed with `{record.method}` by distilsweep."
        + (f" Shape: {layout.describe()}." if layout else ""),
        "",
        "```python",
        "import methods.parts.checkpoint  # registers the model class (pip install distilsweep)",
        "from transformers import AutoModelForSequenceClassification, AutoTokenizer",
        "",
        "model = AutoModelForSequenceClassification.from_pretrained('.')",
        "tokenizer = AutoTokenizer.from_pretrained('.')",
        "```",
        "",
        "| number | value |",
        "|---|---|",
        *(f"| {name} | {number:,.6g} |" for name, number in {**record.costs, **record.metrics}.items()),
        "",
        "`score` is measured on the half of the dev set that the search sees, `held` on the other half.",
        "",
        "```json",
        json.dumps({"seed": record.seed, "config": dict(record.config)}, indent=1, sort_keys=True),
        "```",
        "",
    ]
    return "\n".join(lines)
