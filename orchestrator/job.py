"""The work of one job, from JSON to JSON, whoever runs it: open the task, get the teacher, compress, measure.

Two kinds: `teacher` prepares what all trials share and measures the teacher; `trial` runs a method. Knows no Ray: a
`Run` is handed in.
"""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from methods.parts.bert import Bert
from methods.parts.checkpoint import load, save
from methods.parts.evaluate import evaluate, predict, score
from methods.parts.run import Run
from methods.parts.tasks import Task, open_task
from methods.parts.tokens import dev_halves, encode
from orchestrator.configs import build, load_method
from orchestrator.teachers import prepare_teacher

MODEL = "model"
"""The folder of the trained model within the trial's."""


def run_job(job: Mapping[str, Any], run: Run) -> dict[str, Any]:
    """Does one job; every rank calls it and gets the same result.

    Args:
        job: `kind`, `task` (arguments of `open_task`), `teacher` (the sweep file's section), `folder` of the trial;
            for a trial also `method` and `config`.
        run: The world.

    Returns:
        `layout`, `metrics`, `notes`, and `model`: the folder of the trained model, relative to the trial's.

    Raises:
        ValueError: data, teacher or configuration do not fit.
        Stopped: the trial was told to end.
    """
    task = open_task(**job["task"])
    teacher = prepare_teacher(task, job["teacher"], run)
    if job["kind"] == "teacher":
        model, notes = load(teacher.tuned).to(run.device), {"stored": str(teacher.tuned)}
    else:
        config = build(load_method(job["method"]), job["config"])
        outcome = importlib.import_module(f"methods.{job['method']}").compress(task, teacher, config, run)
        model, notes = outcome.model, dict(outcome.notes)
    metrics = measure(model, task, teacher.tokenizer, run)
    if run.rank == 0:
        save(model, Path(job["folder"]) / MODEL, tokenizer=teacher.tokenizer, labels=task.labels or None)
    return {"layout": model.layout.to_json(), "metrics": metrics, "notes": notes, "model": MODEL}


def measure(model: Bert, task: Task, tokenizer: Path, run: Run) -> dict[str, float]:
    """Final numbers: every metric on the search half of dev, `held` on the other, `dev` on both, other dev sets."""
    dev = encode(task, "dev", tokenizer, run)
    search, held = dev_halves(dev)
    logits, labels = predict(model, dev, run), np.asarray(dev.labels)
    metrics = score(task, logits[search.rows], labels[search.rows])
    parts = {"held": score(task, logits[held.rows], labels[held.rows]), "dev": score(task, logits, labels)}
    if "dev_mismatched" in task.splits:
        parts["mismatched"] = evaluate(model, task, encode(task, "dev_mismatched", tokenizer, run), run)
    for name, numbers in parts.items():
        metrics[name], metrics[f"{name}_se"] = numbers["score"], numbers["score_se"]
    return metrics
