"""ROSITA: prune a BERT to few heads, layers, FFN neurons and a low-rank word table, then distil it back.

Setting 1, the one-stage setting, and the control without a teacher:

    scores  <- sum over batches of |weight * d loss / d weight|, labels' loss, frozen weights of the fine-tuned teacher
    student <- teacher cut to its best heads and neurons per layer, its bottom layers, a rank-r word table (thin SVD)
    repeat:    loss = sum over layers of MSE(student state, mapped teacher state) + soft cross-entropy(student, teacher)

The published code's defects are not reproduced; where they change numbers, `compat` brings them back: its head
mismatch (a ReLU before the classifier while distilling, on models trained without), its hidden loss over padding, its
teacher with dropout.

References:
    Liu, Lin, Yuan: ROSITA: Refined BERT cOmpreSsion with InTegrAted techniques, AAAI 2021,
    https://arxiv.org/abs/2103.11367
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import torch

from methods.parts.batches import Batch
from methods.parts.bert import Bert, set_dropout
from methods.parts.checkpoint import load
from methods.parts.layout import Layout
from methods.parts.loop import fit
from methods.parts.losses import Term, hidden_mse, label_loss, layer_map, regression_mse, soft_cross_entropy
from methods.parts.pruning import label_importance, prune
from methods.parts.recipe import Recipe
from methods.parts.run import Outcome, Run
from methods.parts.splits import open_splits, scorer, training_batches
from methods.parts.surgery import narrower
from methods.parts.tasks import Task
from methods.parts.teacher import Teacher
from methods.parts.training import Losses, Training

COMPAT = ("relu-head", "padding", "teacher-dropout")


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Hyper-parameters; the defaults are the published ones of Setting 1 on SST-2."""

    setting: Literal[1, "no-kd"] = 1
    """`1`: one-step pruning, then prediction and hidden distillation. `no-kd`: the same pruning, then labels alone."""
    heads: int = 2
    """Heads kept in each layer, 1 to the teacher's."""
    layers: int = 8
    """Bottom layers kept, 1 to the teacher's."""
    ffn_dim: int = 512
    """FFN neurons kept in each layer, 1 to the teacher's."""
    embedding_rank: int | None = 128
    """Rank of the word table, 1 to the hidden width; null keeps the full table."""
    epochs: float = 10.0
    """Passes over the training set."""
    lr: float = 5e-5
    """Peak learning rate."""
    batch_size: int = 32
    """Sentences of one update, over all workers."""
    warmup: float = 0.1
    """Share of the updates in which the learning rate rises."""
    schedule: str = "linear"
    """After the warm-up: `linear` to 0, or `constant`."""
    optimizer: str = "bert_adam"
    """`bert_adam` (the published one: no bias correction), or `adamw`."""
    clip: str = "tensor"
    """Gradients are clipped to norm 1 per `tensor` (published), or all together (`global`)."""
    weight_decay: float = 0.01
    """Never of biases and LayerNorms."""
    hidden_weight: float = 1.0
    """Weight of the hidden-state loss; 0 leaves it out."""
    prediction_weight: float = 1.0
    """Weight of the prediction loss; 0 leaves it out."""
    temperature: float = 1.0
    """Of the prediction loss, > 0."""
    importance_examples: int | None = None
    """Training rows the importance scores are taken on; null is all of them, as published."""
    dropout: float | None = None
    """The student's dropout; null is the teacher's."""
    evaluate_every: int = 500
    """Updates between evaluations; 0 is once an epoch. The last update is always evaluated."""
    patience: float = 0.0
    """Epochs without a better score after which training ends; 0 is never."""
    accumulation: int = 1
    """Micro-batches an update is split into, to save memory."""
    precision: str = "fp32"
    """`fp32`, `bf16`, or `auto`."""
    compat: tuple[str, ...] = ()
    """Behaviours of the published code to bring back: any of `relu-head`, `padding`, `teacher-dropout`."""

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        for name in ("heads", "layers", "ffn_dim", "embedding_rank", "importance_examples"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name}: found {value!r}, allowed is at least 1")
        for name in ("hidden_weight", "prediction_weight", "patience"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: found {getattr(self, name)!r}, allowed is at least 0")
        if self.setting == 1 and not self.hidden_weight and not self.prediction_weight:
            raise ValueError("hidden_weight, prediction_weight: found 0 and 0, allowed is at least one above 0")
        if unknown := [name for name in self.compat if name not in COMPAT]:
            raise ValueError(f"compat: found {unknown[0]!r}, allowed are {', '.join(COMPAT)}")
        recipe_of(self, 1)


_NO_KD: Mapping[str, Any] = {
    **{"setting": "no-kd", "lr": 2e-5, "epochs": 5.0, "warmup": 0.0, "weight_decay": 0.0, "evaluate_every": 100},
    **{"optimizer": "adamw", "clip": "global"},
}

RECIPES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "cola": {"epochs": 50.0, "patience": 10.0},
        "sst2": {"epochs": 10.0},
        "mnli": {"epochs": 5.0},
        "no-kd-cola": {**_NO_KD, "epochs": 20.0},
        **dict.fromkeys(("no-kd-sst2", "no-kd-qnli", "no-kd-qqp", "no-kd-mnli"), _NO_KD),
    }
)
"""The published hyper-parameters by task; Setting 1 was published for three tasks only."""


def recipe_of(config: Config, steps_per_epoch: int) -> Recipe:
    """The loop's numbers of a configuration."""
    every = config.evaluate_every or steps_per_epoch
    return Recipe(
        epochs=config.epochs,
        lr=config.lr,
        batch_size=config.batch_size,
        warmup=config.warmup,
        schedule=config.schedule,
        optimizer=config.optimizer,
        weight_decay=config.weight_decay,
        clip=config.clip,
        accumulation=config.accumulation,
        precision=config.precision,
        evaluate_every=config.evaluate_every,
        patience=round(config.patience * steps_per_epoch / every),
    )


def layout(config: Config, teacher: Layout) -> Layout:
    """The teacher's layout, narrowed to the configured widths."""
    narrow = {"heads": config.heads, "ffn": config.ffn_dim, "layers": config.layers, "rank": config.embedding_rank}
    return narrower(teacher, **narrow)


def distillation(student: Bert, teacher: Bert, config: Config) -> Losses:
    """Prediction and hidden-state losses, both at once."""
    states = layer_map(len(teacher.layout.layers), len(student.layout.layers))
    compat = "padding" if "padding" in config.compat else None

    def losses(batch: Batch) -> Iterator[Sequence[Term]]:
        with torch.no_grad():
            target = teacher(batch, hidden=True)
        mine = student(batch, hidden=True)
        terms = [
            config.hidden_weight
            * hidden_mse(mine.hidden, [target.hidden[i] for i in states], batch.attention_mask, compat=compat)
        ]
        if batch.labels.is_floating_point():  # a regression learns its gold values, not the teacher's
            prediction = regression_mse(mine.logits, batch.labels)
        else:
            prediction = soft_cross_entropy(
                mine.logits, target.logits, temperature=config.temperature, mean_over_classes=True
            )
        yield [term for term in (*terms, config.prediction_weight * prediction) if term.weight]

    return losses


def compress(task: Task, teacher: Teacher, config: Config, run: Run) -> Outcome:
    """Prune the fine-tuned teacher in one step, then distil it back, or train on the labels alone."""
    splits = open_splits(task, teacher.tokenizer, run)
    importance = label_importance(teacher, splits, run, limit=config.importance_examples)
    tuned = load(teacher.tuned, head="relu" if "relu-head" in config.compat and config.setting == 1 else None)
    tuned = tuned.to(run.device).train("teacher-dropout" in config.compat)
    student = prune(tuned, importance, layout(config, teacher.layout)).to(run.device)
    set_dropout(student, config.dropout)

    def from_labels(batch: Batch) -> Iterator[Sequence[Term]]:
        yield [label_loss(student(batch).logits, batch.labels)]

    steps = training_batches(splits.train, recipe_of(config, 1), run).num_steps
    recipe = recipe_of(config, steps)
    with run.stage("distil", final=True) as stage:
        training = Training(
            model=student,
            data=training_batches(
                splits.train, recipe, run, pad_to=task.max_length if "padding" in config.compat else None
            ),
            losses=from_labels if config.setting == "no-kd" else distillation(student, tuned, config),
            evaluate=scorer(task, splits.search, run),
        )
        fit(training, recipe, stage, run)
    return Outcome(model=student, layout=student.layout, notes={"head": student.head})
