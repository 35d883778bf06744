"""One training step at BERT-base scale: seconds and peak memory of `rosita`, with random weights, batch 32, length 128.

Run as `python benchmarks/bert_base_step.py [--device cuda] [--precision bf16]`. The student is ROSITA's published
architecture, the teacher BERT-base; both forward passes, the backward pass and the optimizer's step count. The first
step is left out of the times.
"""

import argparse
import resource
import statistics
import tempfile
import time
from pathlib import Path

import torch

from methods import rosita
from methods.parts.batches import Batch
from methods.parts.bert import Bert, initialise
from methods.parts.course import chain_losses, selected
from methods.parts.knowledge import live
from methods.parts.layout import Layout
from methods.parts.loop import fit
from methods.parts.run import LocalRun
from methods.parts.training import Training

BERT_BASE = Layout.uniform(vocab=30522, hidden=768, num_layers=12, heads=12, head_width=64, ffn=3072, labels=2)


class RandomRows:
    """Steps of random tokens without padding."""

    def __init__(self, batch_size: int, length: int, num_steps: int) -> None:
        self.batch_size, self.length, self.num_steps = batch_size, length, num_steps
        self.started_s: list[float] = []

    def step(self, step: int) -> list[Batch]:
        """The rows of one step; notes when it was asked for."""
        self.started_s.append(time.perf_counter())
        shape = (self.batch_size, self.length)
        ids = torch.randint(1, BERT_BASE.vocab, shape, generator=torch.Generator().manual_seed(step))
        ones = torch.ones(shape, dtype=torch.long)
        sizes = {"examples": shape[0], "tokens": ids.numel(), "positions": ids.numel()}
        return [
            Batch(
                input_ids=ids,
                attention_mask=ones,
                token_type_ids=torch.zeros_like(ids),
                labels=ids[:, 0] % 2,
                ids=torch.arange(shape[0]),
                sites=None,
                sizes=sizes,
            )
        ]


def random_bert(layout: Layout, device: str) -> Bert:
    """A BERT with random weights."""
    model = Bert(layout)
    initialise(model, 0)
    return model.to(device)


def main() -> None:
    """Runs the steps and prints one line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--length", type=int, default=128)
    options = parser.parse_args()
    config = rosita.Config(batch_size=options.batch, epochs=1.0, precision=options.precision)
    teacher = random_bert(BERT_BASE, options.device).eval()
    student = random_bert(rosita.layout(config, BERT_BASE), options.device)
    rows = RandomRows(options.batch, options.length, options.steps)
    with tempfile.TemporaryDirectory() as folder:
        run = LocalRun(Path(folder), device=options.device)
        known = live(teacher, selected(len(BERT_BASE.layers), config.layers, hidden=True))
        losses = chain_losses(student, known, (config.hidden_weight, config.prediction_weight))
        with run.stage("distil") as stage:
            training = Training(model=student, data=rows, losses=losses, best={})
            fit(training, rosita.recipe_of(config, options.steps), stage, run)
        ended_s = time.perf_counter()
    times = [end - start for start, end in zip(rows.started_s[1:], [*rows.started_s[2:], ended_s], strict=True)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    if options.device != "cpu":
        peak = torch.cuda.max_memory_allocated() / 2**30
    seconds = statistics.median(times)
    print(
        f"rosita, {options.device} {options.precision}, batch {options.batch} x {options.length} tokens: "
        f"{seconds:.2f} s a step (min {min(times):.2f}, max {max(times):.2f}, {len(times)} steps), "
        f"{options.batch / seconds:.1f} samples/s, peak memory {peak:.2f} GiB"
    )


if __name__ == "__main__":
    main()
