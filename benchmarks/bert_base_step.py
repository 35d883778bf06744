"""One training step of every method at BERT-base scale: seconds and peak memory of each of its stages.

Run as `python benchmarks/bert_base_step.py [--device cuda] [--precision bf16] [--methods rosita lad]`. Teacher and
students have random weights and their published shapes; rows are full, so nothing is padded. Each method runs whole, in
a process of its own, with `--steps` updates a stage; a step lasts from one optimizer's step to its next, so the first
is left out. Peak memory is the process's, or what torch took of the GPU.
"""

import argparse
import importlib
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from methods.parts.bert import Bert, initialise
from methods.parts.checkpoint import save
from methods.parts.layout import Layout
from methods.parts.run import LocalRun
from methods.parts.tasks import Task, open_task
from methods.parts.teacher import Teacher, checkpoint_fingerprint
from methods.parts.wordpiece import train_wordpiece
from orchestrator.configs import build, load_method

WORDS = ("sun", "moon", "star", "sky", "rain", "snow", "wind", "cloud")
STAGES: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "finetune": {"labels": {}},
    "rosita": {"importance": {}, "distil": {}},
    "hsk": {"importance": {}, "hidden states": {"hsk_epochs": 1.0}, "predictions": {}},
    "tinybert": {"intermediate": {"start": "random"}, "predictions": {"prediction_epochs": 1.0}},
    "lad": {"all losses": {}},
    "dynabert": {
        "importance": {},
        "all widths": {"width": 0.5},
        "all widths and depths": {"depths": [1.0, 0.75, 0.5], "depth_epochs": 1.0},
    },
    "wid": {
        "masked-LM head": {"text": "task"},
        "compactors": {"mask_every": 1, "ramp_residual": 1, "ramp_ffn": 1, "penalty": 1e6, "tolerance": None},
        "labels": {},
    },
}
"""The stages of each method in their order, and what differs from its published numbers."""


def make_task(folder: Path, rows: int, length: int) -> Task:
    """Rows of random words, each longer than it is read."""
    for split, count in (("train", rows), ("dev", 4)):
        words = (
            " ".join(WORDS[(row * 7 + place * (row + 3)) % len(WORDS)] for place in range(length))
            for row in range(count)
        )
        text = "".join(f"{line},{row % 2}\n" for row, line in enumerate(words))
        (folder / f"{split}.csv").write_text("text,label\n" + text, encoding="utf-8")
    return open_task("words", folder, max_length=length)


def make_teacher(folder: Path, layout: Layout, task: Task) -> Teacher:
    """A random BERT on disk, once as pretrained and once as fine-tuned."""
    tokenizer, model = folder / "tokenizer", Bert(layout)
    train_wordpiece(WORDS, 64, tokenizer)
    initialise(model, 0)
    for name in ("base", "tuned"):
        save(model, folder / name, tokenizer=tokenizer, labels=task.labels or None)
    return Teacher(
        base=folder / "base",
        tuned=folder / "tuned",
        layout=layout,
        labels=task.labels,
        tokenizer=folder / "base",
        head="plain",
        fingerprint=checkpoint_fingerprint(folder / "tuned"),
    )


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Runs one method; the seconds between the steps of each stage's optimizer, and the peak in bytes."""
    method, stages = load_method(name), STAGES[name]
    values = {key: value for settings in stages.values() for key, value in settings.items()}
    sizes = {"epochs": 1.0, "batch_size": options.batch, "precision": options.precision}
    if name == "wid":
        values |= {"inherit_batch_size": options.batch, "inherit_steps": options.steps, "head_steps": options.steps}
    stepped: dict[int, list[float]] = {}
    kept: list[Optimizer] = []  # so that no second optimizer gets the identity of a dead one

    def note(optimizer: Optimizer, *_: object) -> None:
        if options.device != "cpu":
            torch.cuda.synchronize()
        kept.append(optimizer)
        stepped.setdefault(id(optimizer), []).append(time.perf_counter())

    layout = Layout.uniform(
        vocab=30522,
        hidden=options.hidden,
        num_layers=12,
        heads=12,
        head_width=options.hidden // 12,
        ffn=4 * options.hidden,
        labels=2,
    )
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        task = make_task(folder, options.batch * options.steps, options.length)
        teacher = make_teacher(folder, layout, task)
        hook = register_optimizer_step_post_hook(note)
        try:
            run = LocalRun(folder / "run", store=folder / "store", device=options.device)
            importlib.import_module(f"methods.{name}").compress(task, teacher, build(method, {**values, **sizes}), run)
        finally:
            hook.remove()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 2**10
    if options.device != "cpu":
        peak = torch.cuda.max_memory_allocated()
    gaps = [[end - start for start, end in pairwise(times)] for times in stepped.values()]
    return {"gaps": gaps, "peak": peak}


def main() -> None:
    """Measures method by method and prints one line a stage."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--hidden", type=int, default=768)
    parser.add_argument("--methods", nargs="+", default=list(STAGES), choices=list(STAGES))
    parser.add_argument("--here", action="store_true", help="measure one method in this process and print JSON")
    options = parser.parse_args()
    if options.here:
        print(json.dumps(measure(options.methods[0], options)))
        return
    print(
        f"{options.device} {options.precision}, batch {options.batch} x {options.length} tokens, 12 x {options.hidden}"
    )
    shared = [
        f"--{name}={getattr(options, name)}" for name in ("device", "precision", "steps", "batch", "length", "hidden")
    ]
    for method in options.methods:
        command = [sys.executable, __file__, *shared, "--here", "--methods", method]
        told = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[-1]
        found = json.loads(told)
        for stage, gaps in zip(STAGES[method], found["gaps"], strict=True):
            if not gaps:  # scored in one step, since there are few rows
                continue
            print(
                f"{method:9} {stage:22} {statistics.median(gaps):8.3f} s a step "
                f"({min(gaps):.3f} to {max(gaps):.3f}, {len(gaps)} steps), "
                f"peak of the method {found['peak'] / 2**30:.2f} GiB",
                flush=True,
            )


if __name__ == "__main__":
    main()
