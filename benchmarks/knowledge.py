"""What a store of the teacher's knowledge saves: HSK epochs with the store and with the live teacher, by turns.

Run as `python benchmarks/knowledge.py [--rows 256] [--rounds 3] [--length 64]`. Random weights and tokens; a student
of ROSITA's kind (6 layers, 2 heads, a quarter of the FFN, factorised word table) learns the states of a 12-layer
teacher at two amounts: one layer, ten tokens and a tenth of the coordinates (`1l_10t_0.1h`), and everything. Both sides
see the same batches with the same padding, dtype and optimizer. Then a process that reads a whole store tells how much
anonymous memory that took, for two sizes of it.
"""

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from methods.parts.batches import Batch, Batches, collate
from methods.parts.bert import Bert, initialise
from methods.parts.checkpoint import save
from methods.parts.choosing import attention_layers, state_pairs
from methods.parts.knowledge import Knowledge, knowledge_bytes, open_knowledge
from methods.parts.layout import Layout
from methods.parts.loop import fit
from methods.parts.losses import Term, state_mse
from methods.parts.recipe import Recipe
from methods.parts.run import LocalRun
from methods.parts.selection import Selection
from methods.parts.shelf import Shelf
from methods.parts.surgery import narrower
from methods.parts.teacher import Teacher, checkpoint_fingerprint
from methods.parts.tokens import Encoded
from methods.parts.training import Losses, Training

TRIALS = 10
STUDENT_LAYERS = 6


@dataclass(frozen=True)
class Setting:
    """What all measurements share."""

    teacher: Teacher
    student: Layout
    data: Encoded
    batch_size: int
    device: str


def random_rows(count: int, longest: int, vocab: int, shortest: int | None = None) -> Encoded:
    """Rows of random tokens; a quarter of `longest` is the shortest, unless told otherwise."""
    draw = np.random.default_rng(0)
    sizes = draw.integers(shortest or longest // 4, longest + 1, count)
    return Encoded(
        rows=np.arange(count, dtype=np.int64),
        flat=draw.integers(1, vocab, int(sizes.sum())).astype(np.uint16),
        offsets=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        seconds=(sizes // 2).astype(np.int32),
        all_labels=np.arange(count, dtype=np.int64) % 2,
        flat_sites=None,
        pad_id=0,
        fingerprint=f"random {count} {longest} {shortest}",
    )


def random_teacher(folder: Path, layout: Layout) -> Teacher:
    """A teacher with random weights, in `folder`."""
    model = Bert(layout)
    initialise(model, 0)
    save(model, folder)
    return Teacher(
        base=folder,
        tuned=folder,
        layout=layout,
        labels=("0", "1"),
        tokenizer=folder,
        head="plain",
        fingerprint=checkpoint_fingerprint(folder),
    )


def amounts(teacher_layers: int) -> dict[str, tuple[Selection, tuple[int, ...]]]:
    """The two selections, each with the student's states that learn it."""
    theirs, mine = state_pairs(STUDENT_LAYERS, teacher_layers * 2 // 3, 1)
    ranking = attention_layers("top12", theirs, mine, teacher_layers=teacher_layers, student_layers=STUDENT_LAYERS)
    few = Selection(
        logits=False,
        states=theirs,
        token_scheme="attention_no_sep",
        tokens=10,
        attention=ranking,
        width_scheme="importance",
        width=0.1,
    )
    theirs, all_mine = state_pairs(STUDENT_LAYERS, teacher_layers)
    return {"1l_10t_0.1h": (few, mine), "full": (Selection(logits=False, states=theirs), all_mine)}


def distillation(student: Bert, knowledge: Knowledge, states: Sequence[int]) -> Losses:
    """The hidden-state loss."""

    def losses(batch: Batch) -> Iterator[Sequence[Term]]:
        hidden = student(batch, hidden=True).hidden
        yield [state_mse([hidden[state] for state in states], knowledge(batch), batch.attention_mask)]

    return losses


def epoch_s(setting: Setting, knowledge: Knowledge, states: Sequence[int], run: LocalRun, name: str) -> float:
    """Seconds of one epoch, from the same student each time."""
    student = Bert(setting.student)
    initialise(student, 1)
    student.to(setting.device)
    recipe = Recipe(epochs=1.0, batch_size=setting.batch_size, lr=5e-5, schedule="constant", optimizer="bert_adam")
    with run.stage(name) as stage:
        data = Batches(setting.data, batch_size=setting.batch_size, seed=0)
        training = Training(model=student, data=data, losses=distillation(student, knowledge, states), best={})
        started_s = time.perf_counter()
        fit(training, recipe, stage, run)
        return time.perf_counter() - started_s


def compare(setting: Setting, name: str, folder: Path, rounds: int) -> None:
    """Build one store, then run epochs by turns, and print."""
    selection, states = amounts(len(setting.teacher.layout.layers))[name]
    run = LocalRun(folder, device=setting.device)
    started_s = time.perf_counter()
    stored = open_knowledge(setting.teacher, [setting.data], selection, run, mode="stored")
    built_s = time.perf_counter() - started_s
    live = open_knowledge(setting.teacher, [setting.data], selection, run, mode="live")
    epoch_s(setting, stored, states, run, f"{name}-warm-up")
    slow, fast = [], []
    for number in range(rounds):
        slow.append(epoch_s(setting, live, states, run, f"{name}-live-{number}"))
        fast.append(epoch_s(setting, stored, states, run, f"{name}-stored-{number}"))
    size = knowledge_bytes(selection, setting.teacher.layout, setting.data.lengths) / 2**20
    print(f"{name}: {size:.1f} MiB, built in {built_s:.2f} s")
    print(told("  epoch, live teacher", slow, "s"))
    print(told("  epoch, stored", fast, "s"))
    print(told("  live / stored, pair by pair", [a / b for a, b in zip(slow, fast, strict=True)], "times"))
    one, other = statistics.median(slow), statistics.median(fast)
    print(f"  {TRIALS} trials of one epoch, building counted: {TRIALS * one / (built_s + TRIALS * other):.2f} times\n")


def reader(folder: Path, selection: Selection, rows: int, length: int) -> tuple[float, float]:
    """Read a whole store; anonymous and file-backed memory that came with it, MiB."""
    before = resident()
    shelf = Shelf(folder, selection)
    draw = np.random.default_rng(1).permutation(rows)
    data = random_rows(32, length, 100, length)
    for start in range(0, rows - 31, 32):
        batch = collate(data, np.arange(32), length)
        shelf(replace(batch, ids=torch.from_numpy(draw[start : start + 32])))
    after = resident()
    return after["RssAnon"] - before["RssAnon"], after["RssFile"] - before["RssFile"]


def resident() -> dict[str, float]:
    """Resident memory of this process by kind, MiB."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines if line.startswith("Rss")}


def memory(setting: Setting, folder: Path, rows: int, length: int) -> None:
    """Print what readers of two stores hold in memory."""
    selection, _ = amounts(len(setting.teacher.layout.layers))["full"]
    context = multiprocessing.get_context("spawn")
    for count in (rows, 4 * rows):
        data = random_rows(count, length, setting.teacher.layout.vocab, length)
        run = LocalRun(folder, device=setting.device)
        shelf = open_knowledge(setting.teacher, [data], selection, run, mode="stored")
        assert isinstance(shelf, Shelf)
        with context.Pool(1) as pool:
            anonymous, mapped = pool.apply(reader, (shelf.folder, selection, count, length))
        size = sum(path.stat().st_size for path in shelf.folder.iterdir()) / 2**20
        print(f"a reader of {size:7.1f} MiB: {anonymous:6.1f} MiB anonymous, {mapped:7.1f} MiB of mapped pages")


def told(name: str, values: list[float], unit: str) -> str:
    """A median with its range."""
    return f"{name:32} {statistics.median(values):8.3f} {unit:6} ({min(values):.3f} to {max(values):.3f})"


def main() -> None:
    """Runs both amounts and the readers, and prints."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--length", type=int, default=64, help="tokens of the longest row")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--layers", type=int, default=12, help="of the teacher; the student has 6")
    parser.add_argument("--hidden", type=int, default=768)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--memory-rows", type=int, default=128, help="of the smaller store whose reader is measured")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    hidden, heads = options.hidden, options.heads
    wide = Layout.uniform(
        vocab=30522,
        hidden=hidden,
        num_layers=options.layers,
        heads=heads,
        head_width=hidden // heads,
        ffn=4 * hidden,
    )
    student = narrower(wide, heads=2, ffn=hidden, layers=STUDENT_LAYERS, rank=hidden // 6)
    with tempfile.TemporaryDirectory() as place:
        teacher = random_teacher(Path(place) / "teacher", wide)
        data = random_rows(options.rows, options.length, wide.vocab)
        setting = Setting(teacher, student, data, options.batch, options.device)
        print(f"{options.rows} rows of at most {options.length} tokens; teacher {wide.describe()}")
        print(f"student {student.describe()}, {options.device}, {torch.get_num_threads()} threads\n")
        for name in amounts(options.layers):
            compare(setting, name, Path(place), options.rounds)
        memory(setting, Path(place), options.memory_rows, options.length)


if __name__ == "__main__":
    main()
