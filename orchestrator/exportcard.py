"""The model card of an export, made from the sweep's plan and records: nothing in it is written by hand."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from methods.parts.layout import Layout
from orchestrator import figures
from orchestrator.changes import stored_plan
from orchestrator.folder import SweepFolder
from orchestrator.formats import UNKNOWN, Wanted, Written
from orchestrator.records import TEACHER, TrialRecord, read_one
from orchestrator.reopen import CODE, INPUTS, INT8, ONNX, PROGRAM

LENGTH = 128
"""Tokens in the examples of how to call a graph."""


def model_card(folder: SweepFolder, record: TrialRecord, wanted: Wanted, written: Written) -> str:
    """README.md of an exported folder.

    Args:
        folder: the sweep; without a stored plan or a teacher's record, what they would say is left out.
        record: the trial.
        wanted: what was asked for.
        written: what was written.
    """
    plan = stored_plan(folder) if folder.file("plan.json").exists() else {}
    path = folder.record(TEACHER)
    teacher = read_one(path) if path.exists() and record.trial != TEACHER else None
    layout = Layout.from_json(record.layout) if record.layout else None
    blocks = [
        _front_matter(record, wanted),
        [f"# {folder.name} / {record.trial}"],
        [f"A BERT compressed with `{record.method}` by distilsweep, exported as `{wanted.format}`."],
        [f"Shape: {layout.describe()}."] if layout else [],
        [f"- {note}" for note in written.notes],
        ["## How to load it"],
        how_to_load(written),
        ["## Scores and costs"],
        _table(("number", "value"), _numbers(record, written)),
        [
            "`score` is measured on the half of the dev set that the search sees, `held` on the other half; after ± "
            "stand two standard errors."
        ],
        *_beside_teacher(record, teacher),
        ["## Where it comes from"],
        _table(("what", "found"), _origin(record, teacher, plan, wanted)),
        ["```json", json.dumps({"seed": record.seed, "config": dict(record.config)}, indent=1, sort_keys=True), "```"],
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def _front_matter(record: TrialRecord, wanted: Wanted) -> list[str]:
    """What hubs read; JSON strings are YAML strings, whatever is in them."""
    return [
        "---",
        f"license: {json.dumps(wanted.licence)}",
        "pipeline_tag: text-classification",
        "tags:",
        *(f"- {json.dumps(tag)}" for tag in ("bert", "distilsweep", record.method, wanted.format)),
        "---",
    ]


def how_to_load(written: Written) -> list[str]:
    """The lines of Python that open the folder."""
    automatic = [
        "from transformers import AutoModelForSequenceClassification, AutoTokenizer",
        "",
        "model = AutoModelForSequenceClassification.from_pretrained('.')",
        "tokenizer = AutoTokenizer.from_pretrained('.')",
    ]
    register = "import methods.parts.checkpoint  # registers the model class (pip install distilsweep)"
    inputs = f"import torch\n\ngiven = {{name: torch.ones(2, {LENGTH}, dtype=torch.int64) for name in {INPUTS}}}"
    ways: dict[str, Sequence[str]] = {
        "stock": automatic,
        "compact": [register, *automatic],
        "code": [register, *automatic],
        "torch-export": [inputs, f"logits = torch.export.load('{PROGRAM}').module()(**given)"],
        "onnx": [
            f"import numpy as np\nimport onnxruntime\n\nsession = onnxruntime.InferenceSession('{ONNX}')",
            f"given = {{name: np.ones((2, {LENGTH}), dtype=np.int64) for name in {INPUTS}}}",
            f"(logits,) = session.run(['logits'], given)  # {INT8}, where there is one, takes and gives the same",
        ],
    }
    said = [
        "",
        f"Without distilsweep, transformers opens it with `{CODE}` from this folder if the call allows that by "
        "`trust_remote_code`; read the file first.",
    ]
    return ["```python", *ways[written.way], "```", *(said if written.way == "code" else [])]


def _table(head: tuple[str, str], rows: Sequence[tuple[str, str]]) -> list[str]:
    """A table in Markdown."""
    cells = [(one, other.replace("|", "\\|")) for one, other in rows]
    return [f"| {head[0]} | {head[1]} |", "|---|---|", *(f"| {one} | {other} |" for one, other in cells)]


def _numbers(record: TrialRecord, written: Written) -> list[tuple[str, str]]:
    """What the folder holds, the trial's costs, then its metrics with their errors."""
    stored = [("parameters in this folder", figures.count(written.params))]
    costs = [(figures.COSTS.get(name, name), figures.cost(name, number)) for name, number in record.costs.items()]
    metrics = [(name, figures.scored(record, name)) for name in record.metrics if not name.endswith("_se")]
    return [*stored, *costs, *metrics]


def _beside_teacher(record: TrialRecord, teacher: TrialRecord | None) -> list[list[str]]:
    """How far the model is from its teacher, in a sentence."""
    if teacher is None or not {"score"} <= set(record.metrics) & set(teacher.metrics):
        return []
    gap = record.metrics["score"] - teacher.metrics["score"]
    error = 2 * math.hypot(record.metrics.get("score_se", 0.0), teacher.metrics.get("score_se", 0.0))
    ratio = teacher.costs.get("params", math.nan) / record.costs.get("params", math.nan)
    smaller = f" at {ratio:.1f}x fewer parameters" if ratio > 1 else ""
    return [
        [
            f"The teacher scores {figures.scored(teacher, 'score')}; this model is {abs(gap):.4f} "
            f"{'above' if gap >= 0 else 'below'} it{smaller} (two standard errors of the difference, were the two "
            f"measured on different rows: {error:.4f})."
        ]
    ]


def _origin(
    record: TrialRecord, teacher: TrialRecord | None, plan: Mapping[str, Any], wanted: Wanted
) -> list[tuple[str, str]]:
    """Data, teacher, recipe, budget, seeds, licence."""
    rows = [("licence", wanted.licence if wanted.licence != UNKNOWN else "unknown; nobody gave one")]
    if plan:
        spec = plan["spec"]
        data = spec["task"].get("data") or {}
        named = ", ".join(Path(name).name for name in ([data] if isinstance(data, str) else data.values()))
        limits = [f"{name} up to {figures.cost(name, limit)}" for name, limit in plan.get("budget", {}).items()]
        rows += [
            ("task", f"{spec['task']['name']}" + (f" (data: {named})" if named else "")),
            ("data fingerprint", str(plan.get("task_fingerprint", "not recorded"))),
            ("classes", ", ".join(plan.get("labels", ())) or "none (regression)"),
            ("metric", str(plan.get("metric", "score"))),
            ("teacher", _teacher(spec["teacher"], teacher)),
            ("budget", ", ".join(limits) or "none"),
            ("seed of the search", str(plan.get("seed", spec["search"]["seed"]))),
        ]
    return [
        *rows,
        ("method", record.method),
        ("recipe", str(record.config.get("recipe", "the method's own"))),
        ("seed of the training", str(record.seed)),
        ("trained for", figures.duration(record.wall_s)),
    ]


def _teacher(section: Mapping[str, Any], teacher: TrialRecord | None) -> str:
    """What taught: a checkpoint, or one trained from the start; and its shape."""
    named = section.get("model") or section.get("package")
    origin = Path(str(named)).name if named else "trained from random weights by the sweep"
    tuned = ", fine-tuned by the sweep" if named and section.get("finetune") is not None else ""
    shape = f"; {Layout.from_json(teacher.layout).describe()}" if teacher and teacher.layout else ""
    return f"{origin}{tuned}{shape}"
