"""What each form of an export costs: size on disk, and latency beside the teacher's, measured by turns.

Run as `python benchmarks/exports.py [--rounds 200] [--length 128] [--layers 12] [--hidden 768] [--threads 1]`. Random
weights: a teacher of BERT-base's shape and a student of ROSITA's kind (a third of the heads, a quarter of the FFN, rank
128, half the layers). Every round calls every model once, so that what the machine does meanwhile falls on all alike;
the median and the 95th percentile over the rounds are printed, and how far the logits are from the student's. ONNX is
left out where its packages are not installed.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification

from methods.parts.batches import Batch
from methods.parts.bert import Bert, initialise
from methods.parts.checkpoint import load, save
from methods.parts.layout import Layout
from orchestrator import graphs
from orchestrator.formats import FORMATS, Wanted, write
from orchestrator.proof import batch
from orchestrator.reopen import INPUTS, INT8, ONNX, PROGRAM

BATCHES = (1, 16)


@dataclass(frozen=True)
class Entry:
    """One model in one form."""

    name: str
    answer: Callable[[Batch], torch.Tensor]
    size_bytes: int


def layouts(layers: int, hidden: int, positions: int) -> tuple[Layout, Layout]:
    heads = max(1, hidden // 64)
    shape = partial(Layout.uniform, vocab=30522, hidden=hidden, head_width=hidden // heads, positions=positions)
    teacher = shape(num_layers=layers, heads=heads, ffn=4 * hidden)
    depth, kept, rank = max(1, layers // 2), max(1, heads // 3), min(128, hidden // 2)
    student = shape(num_layers=depth, heads=kept, ffn=hidden, embedding_rank=rank)
    return teacher, student


def drawn(layout: Layout, folder: Path) -> Bert:
    model = Bert(layout, dropout=0.0)
    initialise(model, 0)
    save(model, folder)
    return load(folder)


def called(model: Callable[..., torch.Tensor]) -> Callable[[Batch], torch.Tensor]:
    def answer(given: Batch) -> torch.Tensor:
        found = model(**{name: getattr(given, name) for name in INPUTS})
        return getattr(found, "logits", found)

    return answer


def opened(form: str, folder: Path) -> Callable[[Batch], torch.Tensor]:
    """The exported folder as its user would open it."""
    if form == "torch-export":
        return called(torch.export.load(folder / PROGRAM).module())
    if form in ("onnx", "int8"):
        graph = graphs.OnnxModel(folder / (ONNX if form == "onnx" else INT8))
        return lambda given: graph(given).logits
    return called(AutoModelForSequenceClassification.from_pretrained(folder).eval())


def entries(place: Path, layers: int, hidden: int, positions: int) -> tuple[Bert, list[Entry]]:
    teacher_layout, student_layout = layouts(layers, hidden, positions)
    teacher, student = drawn(teacher_layout, place / "teacher"), drawn(student_layout, place / "student")
    found = [Entry("teacher", lambda given: teacher(given).logits, size(place / "teacher" / "model.safetensors"))]
    for form in FORMATS:
        if form == "onnx" and not all(find_spec(name) for name in graphs.NEEDED):
            print("onnx: left out, its packages are not installed")
            continue
        written = write(Wanted(format=form), student, place / "student", place / form)
        answer = opened(form, place / form)
        found.append(Entry(form, answer, size(place / form / written.file)))
        if form == "onnx":
            graphs.quantise(place / form)
            found.append(Entry("onnx int8", opened("int8", place / form), size(place / form / INT8)))
    return student, found


def size(path: Path) -> int:
    return path.stat().st_size


def measure(found: list[Entry], given: Batch, rounds: int) -> Mapping[str, list[float]]:
    """Milliseconds of every call, the models by turns; the first tenth of the rounds only warms up."""
    times: dict[str, list[float]] = {entry.name: [] for entry in found}
    warm = max(1, rounds // 10)
    for turn in range(rounds + warm):
        for entry in found:
            begun = time.perf_counter()
            entry.answer(given)
            if turn >= warm:
                times[entry.name].append(1000 * (time.perf_counter() - begun))
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, number in (("rounds", 200), ("length", 128), ("layers", 12), ("hidden", 768), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=number)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    with tempfile.TemporaryDirectory() as place, torch.no_grad():
        student, found = entries(Path(place), asked.layers, asked.hidden, max(asked.length, 24))
        inputs = {rows: batch(student.layout, rows, asked.length) for rows in BATCHES}
        times = {rows: measure(found, given, asked.rounds) for rows, given in inputs.items()}
        print(f"{asked.length} tokens, {asked.threads} threads, {asked.rounds} rounds; milliseconds p50 / p95")
        print(
            f"{'form':14}{'MB':>9}" + "".join(f"{f'batch {rows}':>22}" for rows in BATCHES) + f"{'logits off by':>16}"
        )
        for entry in found:
            cells = (np.percentile(times[rows][entry.name], (50, 95)) for rows in BATCHES)
            off = max(float((entry.answer(given) - student(given).logits).abs().max()) for given in inputs.values())
            print(
                f"{entry.name:14}{entry.size_bytes / 1e6:9.2f}"
                + "".join(f"{f'{half:.2f} / {most:.2f}':>22}" for half, most in cells)
                + ("               -" if entry.name == "teacher" else f"{off:16.1e}")
            )


if __name__ == "__main__":
    main()
