"""Where a narrow student comes from: random weights, a checkpoint, or general distillation on running text.

General distillation lets the student learn the layers of the pretrained, not the fine-tuned teacher before it sees any
task. Nothing in it depends on a task, so that one result serves all trials of a student layout, on every task.

References:
    Jiao et al.: TinyBERT: Distilling BERT for Natural Language Understanding, Findings of EMNLP 2020,
    https://arxiv.org/abs/1909.10351, section 3.2
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

from torch import nn

from methods.parts.batches import Batches
from methods.parts.bert import Bert, set_dropout
from methods.parts.checkpoint import load, save
from methods.parts.corpus import open_text
from methods.parts.files import JsonValue, read_tensors, write_tensors
from methods.parts.knowledge import live
from methods.parts.layerwise import Layerwise, layer_training
from methods.parts.layout import Layout
from methods.parts.loop import fit
from methods.parts.narrow import narrow_student
from methods.parts.packed import packed
from methods.parts.recipe import Recipe
from methods.parts.rng import derive
from methods.parts.run import Run
from methods.parts.sequences import Packing
from methods.parts.sharded import Sharded
from methods.parts.teacher import Teacher, checkpoint_fingerprint
from methods.parts.tokens import Encoded
from methods.parts.wordpiece import fingerprint_of_tokenizer

GENERAL_VERSION = 1
"""Raised whenever the meaning of the stored student changes."""

STUDENT, PROJECTION = "student", "projection.safetensors"


@dataclass(frozen=True, kw_only=True, slots=True)
class General:
    """How a student is distilled on text."""

    corpus: Path | None = None
    """The text: one sentence a line, a blank line between documents."""
    layerwise: Layerwise
    """What it learns."""
    epochs: int
    """Passes over the corpus, each packed anew."""
    recipe: Recipe
    """Of one stage over all passes; its own `epochs` is not looked at."""
    packing: Packing
    """How sequences are made of the text."""
    dropout: float | None
    """The student's; None is the teacher's."""
    teacher_dropout: bool
    """Whether the teacher runs with dropout, as in the released code."""


def start_student(
    start: str, general: General, layout: Layout, teacher: Teacher, like: Bert, run: Run
) -> tuple[Bert, nn.Module]:
    """A student before it sees its task, and the projection of its states to the teacher's width; collective.

    Args:
        start: `general`, `random`, or a checkpoint's folder or hub name.
        general: how a general student is distilled; its projection is kept, any other one is drawn.
        layout: the student's.
        teacher: its pretrained checkpoint teaches a general student.
        like: gives the head kind, and to a random student its dropout.
        run: the world; its seed is that of what is drawn.

    Raises:
        ValueError: there is no corpus for `general`, no such checkpoint, or one of another layout.
    """
    projection = general.layerwise.projection(layout, teacher.layout, run.seed)
    checkpoint: str | Path | None = None if start == "random" else start
    if start == "general":
        if general.corpus is None:
            raise ValueError(
                "start: found 'general' without a corpus to distil on; allowed are random, a checkpoint, or a corpus"
            )
        folder = general_student(general, general.corpus, layout, teacher, run)
        projection.load_state_dict(read_tensors(folder / PROJECTION))
        checkpoint = folder / STUDENT
    student = narrow_student(layout, like=like, checkpoint=checkpoint, seed=run.seed)
    set_dropout(student, general.dropout)
    return student.to(run.device), projection.to(run.device)


def general_student(general: General, corpus: Path, layout: Layout, teacher: Teacher, run: Run) -> Path:
    """The folder of a generally distilled student, trained once for all trials; collective.

    Args:
        general: the numbers.
        corpus: text, one sentence a line, a blank line between documents.
        layout: the student's; its classifier is left out.
        teacher: its pretrained checkpoint teaches.
        run: the world.

    Returns:
        A folder with the checkpoint under `STUDENT` and the weights of the projection.

    Raises:
        ValueError: no layer loss has a weight, or the sequences are longer than the position table; see also
            `methods.parts.packed.packed`.
    """
    if not general.layerwise:
        raise ValueError("start: found 'general' with the weights of all layer losses 0, allowed is one above 0")
    if general.packing.max_length > layout.positions:
        found = general.packing.max_length
        raise ValueError(
            f"general_length: found {found}, allowed is at most the teacher's {layout.positions} positions"
        )
    layout = replace(layout, labels=0)
    general = replace(general, corpus=None, recipe=replace(general.recipe, epochs=1.0))
    inputs: dict[str, JsonValue] = {
        "teacher": checkpoint_fingerprint(teacher.base),
        "tokenizer": fingerprint_of_tokenizer(teacher.tokenizer),
        "corpus": open_text(corpus),
        "layout": layout.to_json(),
        "numbers": asdict(general),
    }

    def build(folder: Path, inner: Run) -> None:
        shards: list[Encoded] = []
        for epoch in range(general.epochs):
            shards += packed(corpus, teacher.tokenizer, inner, general.packing, epoch)
        _distil(general, shards, teacher, layout, folder, inner)

    return run.once("general", inputs, build, version=GENERAL_VERSION)


def _distil(general: General, shards: list[Encoded], teacher: Teacher, layout: Layout, folder: Path, run: Run) -> None:
    """Train a student on packed shards and write it."""
    base, layerwise = load(teacher.base).to(run.device), general.layerwise
    student = narrow_student(layout, like=base, checkpoint=None, seed=run.seed).to(run.device)
    set_dropout(student, general.dropout)
    projection = layerwise.projection(layout, base.layout, run.seed).to(run.device)
    knowledge = live(base, layerwise.selection(layout, base.layout), dropout=general.teacher_dropout)
    training = layer_training(layerwise, student, projection, knowledge, _batches(shards, general, run))
    with run.stage("general") as stage:
        fit(training, general.recipe, stage, run)
    if run.rank == 0:
        save(student, folder / STUDENT, tokenizer=teacher.tokenizer)
        write_tensors(folder / PROJECTION, projection.state_dict())


def _batches(shards: list[Encoded], general: General, run: Run) -> Sharded:
    """The batches of all passes in one line."""
    recipe = general.recipe

    def of_shard(shard: Encoded, number: int) -> Batches:
        return Batches(
            shard,
            batch_size=recipe.batch_size,
            seed=derive(run.seed, "shard", number),
            rank=run.rank,
            world_size=run.world_size,
            pad_to=general.packing.max_length if general.layerwise.padding else None,
            micro_batches=recipe.accumulation,
        )

    return Sharded(shards, of_shard)
