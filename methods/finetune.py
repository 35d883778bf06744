"""Fine-tuning on the task's labels: the baseline of every comparison, and how a teacher is made.

The pretrained BERT, whole or cut to its bottom layers, gets a fresh classifier and is trained with cross-entropy
(squared error for a regression). A teacher that is trained from scratch on the built-in task needs a second,
token-level loss to leave chance level: the last hidden states must say which word breaks the sentence. Its linear
head is thrown away afterwards.

References:
    Devlin et al.: BERT: Pre-training of Deep Bidirectional Transformers, 2019, https://arxiv.org/abs/1810.04805,
    section 4.1
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from torch import nn

from methods.parts.batches import Batch
from methods.parts.checkpoint import load
from methods.parts.layout import Layout
from methods.parts.loop import fit
from methods.parts.losses import Term, label_loss, site_loss
from methods.parts.optim import Group, named
from methods.parts.recipe import Recipe
from methods.parts.run import Outcome, Run
from methods.parts.splits import open_splits, scorer, training_batches
from methods.parts.surgery import cut, narrower
from methods.parts.tasks import Task
from methods.parts.teacher import Teacher
from methods.parts.training import Training


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Hyper-parameters; the defaults are BERT's."""

    layers: int | None = None
    """Bottom layers kept of the pretrained model; none keeps all."""
    epochs: float = 3.0
    """Passes over the training set, >= 0."""
    lr: float = 2e-5
    """Peak learning rate."""
    batch_size: int = 32
    """Sentences of one update, over all workers."""
    warmup: float = 0.0
    """Share of the updates in which the learning rate rises, [0, 1]."""
    schedule: str = "linear"
    """After the warm-up: `linear` to 0, or `constant`."""
    weight_decay: float = 0.0
    """Decoupled weight decay; never of biases and LayerNorms."""
    clip_norm: float = 1.0
    """Largest norm of all gradients together."""
    accumulation: int = 1
    """Micro-batches an update is split into, to save memory."""
    precision: str = "fp32"
    """`fp32`, `bf16`, or `auto`."""
    evaluate_every: int = 0
    """Updates between evaluations; 0 is once an epoch."""
    token_loss: float = 0.0
    """Weight of the token-level loss; only for tasks that mark the words that break a sentence."""

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        if self.layers is not None and self.layers < 1:
            raise ValueError(f"layers: found {self.layers!r}, allowed is at least 1, or null for all")
        if self.token_loss < 0:
            raise ValueError(f"token_loss: found {self.token_loss!r}, allowed is at least 0")
        recipe_of(self)


RECIPES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        # ROSITA's and HSK's teachers: 5 epochs, best of an evaluation every 50 updates.
        "rosita": {"epochs": 5.0, "lr": 2e-5, "evaluate_every": 50},
        # LAD's teachers, in epochs of the published update counts; warm-up as the published share.
        "lad-mnli": {"epochs": 3.0, "lr": 3e-5, "warmup": 10000 / 36816, "weight_decay": 0.01},
        "lad-qqp": {"epochs": 3.0, "lr": 2e-5, "warmup": 10233 / 34110, "weight_decay": 0.01},
        "lad-qnli": {"epochs": 3.0, "lr": 3e-5, "warmup": 3274 / 9822, "weight_decay": 0.01},
        "lad-sst2": {"epochs": 3.0, "lr": 2e-5, "warmup": 1894 / 6315, "weight_decay": 0.01},
        "lad-mrpc": {"epochs": 3.0, "lr": 7e-5, "warmup": 1 / 345, "weight_decay": 0.01},
        "lad-rte": {"epochs": 5.0, "lr": 7e-5, "warmup": 115 / 385, "weight_decay": 0.01},
    }
)


def recipe_of(config: Config) -> Recipe:
    """The loop's numbers of a configuration."""
    return Recipe(
        epochs=config.epochs,
        lr=config.lr,
        batch_size=config.batch_size,
        warmup=config.warmup,
        schedule=config.schedule,
        weight_decay=config.weight_decay,
        clip_norm=config.clip_norm,
        accumulation=config.accumulation,
        precision=config.precision,
        evaluate_every=config.evaluate_every,
    )


def layout(config: Config, teacher: Layout) -> Layout:
    """The pretrained model's layout, cut to its bottom layers."""
    return narrower(teacher, layers=config.layers)


def compress(task: Task, teacher: Teacher, config: Config, run: Run) -> Outcome:
    """Train the pretrained checkpoint, cut to its bottom layers, on the labels."""
    splits, recipe = open_splits(task, teacher.tokenizer, run, augmented=False), recipe_of(config)
    model = load(teacher.base, labels=task.num_outputs, seed=run.seed)
    model = cut(model, layers=range(config.layers or len(model.layout.layers))).to(run.device)
    sites = nn.Linear(model.layout.hidden, 1).to(run.device)
    groups = [Group(name="model", parameters=named(model))]
    if config.token_loss:
        groups.append(Group(name="sites", parameters=named(sites)))

    def losses(batch: Batch) -> Iterator[Sequence[Term]]:
        output = model(batch)
        terms = [label_loss(output.logits, batch.labels)]
        if config.token_loss:
            terms.append(config.token_loss * site_loss(sites(output.last), batch.attention_mask, batch.sites))
        yield terms

    with run.stage("finetune", final=True) as stage:
        training = Training(
            model=model,
            data=training_batches(splits.train, recipe, run),
            losses=losses,
            groups=groups,
            evaluate=scorer(task, splits.search, run),
            keep={"sites": sites} if config.token_loss else {},
        )
        fit(training, recipe, stage, run)
    return Outcome(model=model, layout=model.layout, notes={})
