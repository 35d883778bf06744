"""DynaBERT: train one supernet whose sub-networks of any width and depth are students; each trial takes one of them.

    importance   of each head and FFN neuron, by the gradient of a mask on it
    supernet     <- the tuned teacher, most important heads and neurons first
    width:       for each width: SCE(logits, teacher) + 0.1 * sum over states of MSE(state, teacher), summed
    depth:       for each width and depth: the same, weights 1 and 1, learnt from the supernet so far; with `depths`
    labels:      for each width and depth: the task's loss; with `final_epochs`
    a trial      cuts its sub-network out of the supernet, fine-tunes it if asked to, and is scored

The supernet is shared by all trials with the same numbers, so a trial costs an evaluation. PaddleSlim's OFA for BERT is
the width stage alone. The published code's defects are not reproduced; importance is taken on training rows instead of
the development set; where numbers change, `compat` brings the original's back: importance from gradients that are never
cleared, a hidden loss over padding, regressions that train no head.

References:
    Hou et al.: DynaBERT: Dynamic BERT with Adaptive Width and Depth, NeurIPS 2020, https://arxiv.org/abs/2004.04037
    Cai et al.: Once-for-All: Train One Network and Specialize it for Efficient Deployment, ICLR 2020,
    https://arxiv.org/abs/1908.09791
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from methods.parts.bert import Bert, set_dropout
from methods.parts.checkpoint import card_of, load
from methods.parts.elastic_training import COMPAT, Weights
from methods.parts.evaluate import evaluate
from methods.parts.label_training import label_training
from methods.parts.layout import Layout
from methods.parts.loop import fit
from methods.parts.point import Elastic
from methods.parts.ranges import check_any, check_compat, check_least
from methods.parts.recipe import Recipe
from methods.parts.run import Outcome, Run
from methods.parts.selection import Selection
from methods.parts.splits import open_splits
from methods.parts.supernet import extract
from methods.parts.supernet_stages import Phase, Upbringing, best_for, supernet, taught
from methods.parts.tasks import Task
from methods.parts.teacher import Teacher


@dataclass(frozen=True, kw_only=True, slots=True)
class Config(Elastic):
    """Hyper-parameters, and those of `Elastic`, the sub-networks; the defaults are PaddleSlim's OFA for BERT."""

    depth_teacher: Literal["full", "same"] = "full"
    """Depth stage: the width stage's supernet at full width teaches all, or each width teaches itself."""
    epochs: float = 6.0
    """Width stage: passes over the augmented set, or the training set where there is none."""
    depth_epochs: float = 3.0
    """Depth stage: likewise."""
    final_epochs: float = 0.0
    """Labels stage of all sub-networks together: passes over the training set."""
    lr: float = 2e-5
    """Peak learning rate of all three; falls linearly to 0."""
    batch_size: int = 32
    """Sentences of one update, over all workers."""
    warmup: float = 0.0
    """Share of the updates in which the learning rate rises."""
    prediction_weight: float = 1.0
    """Width stage: weight of the soft cross-entropy."""
    hidden_weight: float = 0.1
    """Width stage: weight of the hidden-state loss."""
    depth_prediction_weight: float = 1.0
    """Depth stage: weight of the soft cross-entropy."""
    depth_hidden_weight: float = 1.0
    """Depth stage: weight of the hidden-state loss."""
    weight_decay: float = 0.0
    """Never of biases and LayerNorms."""
    clip: str = "global"
    """Gradients are clipped to norm 1 `global`ly as in DynaBERT, or not (`none`) as in PaddleSlim's."""
    importance_rows: Literal["train", "search", "dev"] = "train"
    """Rows of importance: training rows, the half of dev that is searched on, or all of dev as published."""
    importance_examples: int | None = 2000
    """Training rows of importance, a sample; null is all."""
    importance_batch: int = 32
    """Sentences of one gradient of importance; scores depend on it. DynaBERT takes 8."""
    select: Literal["sum", "subnet", "last"] = "sum"
    """Weights kept: best by the sum of all scores; also each sub-network's own best, for its trial; or the last."""
    evaluate_every: int = 500
    """Updates between evaluations of all sub-networks; 0 is once an epoch. The last update is always evaluated."""
    supernet_seed: int = 0
    """Of the supernet's training; a trial's own seed decides its fine-tuning only."""
    knowledge: Literal["auto", "stored", "live"] = "live"
    """Whether a teacher's outputs are stored once or computed once an update; all its states take much room."""
    finetune_epochs: float = 0.0
    """A trial's sub-network alone, on the labels: passes over the training set; 0 takes it as it is."""
    finetune_lr: float = 2e-5
    """Its peak learning rate; falls linearly to 0."""
    dropout: float | None = None
    """Of the supernet; null is the teacher's."""
    accumulation: int = 1
    """Micro-batches an update is split into, to save memory."""
    precision: str = "fp32"
    """`fp32`, `bf16`, or `auto`."""
    compat: tuple[str, ...] = ()
    """Published behaviours to bring back: any of `accumulated-gradients`, `padding`, `no-regression-loss`."""

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        check_least(self, 0, "prediction_weight", "hidden_weight", "depth_prediction_weight", "depth_hidden_weight")
        check_least(self, 0, "final_epochs", "supernet_seed")
        check_least(self, 1, "importance_examples", "importance_batch")
        check_any(self, "prediction_weight", "hidden_weight")
        check_any(self, "depth_prediction_weight", "depth_hidden_weight")
        check_compat(self.compat, COMPAT)
        if self.knowledge == "stored" and ("padding" in self.compat or self.depth_teacher == "same"):
            raise ValueError("knowledge: found 'stored' with padding or depth_teacher same, allowed are auto and live")
        _ = self.choices, recipe_of(self, 0.0, self.finetune_lr)


_W: Mapping[str, Any] = {"widths": (1.0, 0.75, 0.5, 0.25), "width": 0.5}
_W_EPOCHS: Mapping[str, Any] = {**_W, "epochs": 3.0, "importance_batch": 8, "evaluate_every": 50}
RECIPES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "ofa": {"clip": "none"},
        "ofa-depth": {"clip": "none", "depths": (1.0, 0.75, 0.5)},
        "dynabert-w": _W_EPOCHS,
        "dynabert": {**_W_EPOCHS, "depths": (1.0, 0.75, 0.5), "final_epochs": 3.0},
        "ernie": {
            **{**_W, "depths": (1.0, 0.75), "epochs": 12.0, "depth_epochs": 18.0, "lr": 5e-5},
            **{"warmup": 0.1, "weight_decay": 0.01, "evaluate_every": 100},
        },
    }
)
"""Published numbers, the same for all tasks: PaddleSlim's, PaddleNLP's with depth, DynaBERT's, PaddleNLP's ERNIE."""


def recipe_of(config: Config, epochs: float, lr: float) -> Recipe:
    """The loop's numbers of a stage."""
    names = ("batch_size", "warmup", "weight_decay", "clip", "evaluate_every", "accumulation", "precision")
    return Recipe(epochs=epochs, lr=lr, **{name: getattr(config, name) for name in names})


def upbringing(config: Config) -> Upbringing:
    """The supernet's stages and numbers; the trial's sub-network has no part in them."""
    choices = config.choices
    wide, recipe = replace(choices, depths=(1.0,)), recipe_of(config, config.epochs, config.lr)
    weights = Weights(prediction=config.prediction_weight, hidden=config.hidden_weight)
    phases = [Phase(name="width", choices=wide, recipe=recipe, learns="tuned", weights=weights)]
    if config.depths != (1.0,):
        weights = Weights(prediction=config.depth_prediction_weight, hidden=config.depth_hidden_weight)
        recipe = replace(recipe, epochs=config.depth_epochs)
        learns = config.depth_teacher
        phases.append(Phase(name="depth", choices=choices, recipe=recipe, learns=learns, weights=weights))
    if config.final_epochs:
        recipe = replace(recipe, epochs=config.final_epochs)
        phases.append(Phase(name="labels", choices=choices, recipe=recipe, learns="labels"))
    names = ("select", "dropout", "knowledge", "compat", "importance_batch")
    same: dict[str, Any] = {name: getattr(config, name) for name in names}
    rows: dict[str, Any] = {"rows": config.importance_rows, "examples": config.importance_examples}
    return Upbringing(phases=tuple(phases), **same, **rows, seed=config.supernet_seed)


def layout(config: Config, teacher: Layout) -> Layout:
    """The layout of the trial's sub-network."""
    return config.subnet(teacher).layout(teacher)


def knowledge(config: Config, teacher: Layout) -> Selection | None:
    """What the width stage stores of the teacher's outputs, once for all trials; None for nothing."""
    live_only = config.knowledge == "live" or "padding" in config.compat
    return None if live_only else taught(upbringing(config).phases[0], teacher, config.compat)


def compress(task: Task, teacher: Teacher, config: Config, run: Run) -> Outcome:
    """Have the supernet trained, once for all trials; take the trial's sub-network, and score it."""
    splits, plan = open_splits(task, teacher.tokenizer, run), upbringing(config)
    subnet = config.subnet(teacher.layout)
    stored = supernet(plan, task, splits, teacher, run)
    model = take(config, stored).to(run.device)
    set_dropout(model, config.dropout)
    recipe = recipe_of(config, config.finetune_epochs, config.finetune_lr)
    with run.stage("subnet", final=True) as stage:
        if config.finetune_epochs:
            fit(label_training(model, task, splits, recipe, run), recipe, stage, run)
        else:
            run.report(0, {"epoch": 0.0, **evaluate(model, task, splits.search, run)})
    numbers = {"heads": subnet.heads, "neurons": subnet.neurons, "layers": [block + 1 for block in subnet.blocks]}
    facts = {"head": model.head, "supernet": stored.name}
    return Outcome(model=model, layout=model.layout, notes={**facts, **{k: [*v] for k, v in numbers.items()}})


def take(config: Config, stored: Path) -> Bert:
    """The sub-network of a stored supernet that a trial of this config starts from.

    Raises:
        ValueError: the supernet was not trained for it.
    """
    whole, choices = card_of(stored).layout, upbringing(config).phases[-1].choices
    subnet = config.subnet(whole)
    return extract(load(best_for(stored, choices, whole, subnet)), subnet)
