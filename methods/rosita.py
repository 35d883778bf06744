"""ROSITA: prune a BERT to few heads, layers, FFN neurons and a low-rank word table, and distil it step by step.

    BERT(student)  <- the pretrained BERT, learns the tuned teacher's predictions
    BERT-8layer    <- BERT(student), loses its top layers one by one while it learns BERT(student)'s predictions
    ROSITA         <- cut down to heads, ffn_dim, embedding_rank, learns its teacher's states and predictions:
    setting 1: the tuned teacher, cut in one step by the labels' Taylor scores, learns the tuned teacher
    setting 2: BERT(student), cut in one step by scores of the prediction loss, learns BERT(student)
    setting 3: BERT(student)'s bottom layers, cut a head at a time while they learn BERT(student)
    setting 4: BERT-8layer, cut a head at a time while it learns BERT-8layer; the final method
    no-kd:     as setting 1, then the labels alone; the control without a teacher

The published code's defects are not reproduced; where they change numbers, `compat` brings them back: a ReLU before the
classifier while distilling, on models trained without; a hidden loss over padding; teachers with dropout.

References:
    Liu, Lin, Yuan: ROSITA: Refined BERT cOmpreSsion with InTegrAted techniques, AAAI 2021,
    https://arxiv.org/abs/2103.11367
"""

from dataclasses import dataclass, replace
from typing import Literal

from methods.parts.course import COMPAT, UNSTORED, Course, check_knowledge, selected
from methods.parts.iterative import fit_pruning
from methods.parts.layout import Layout
from methods.parts.prune_schedule import width_layouts
from methods.parts.pruning import label_importance, prune
from methods.parts.ranges import check_any, check_compat, check_least, check_shares
from methods.parts.recipe import Recipe
from methods.parts.rosita_recipes import RECIPES as RECIPES
from methods.parts.run import Outcome, Run
from methods.parts.selection import Selection
from methods.parts.selfteach import pretrained_student, shallow_student, taught_importance
from methods.parts.splits import open_splits
from methods.parts.surgery import narrower
from methods.parts.tasks import Task
from methods.parts.teacher import Teacher


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Hyper-parameters; the defaults are the published ones of Setting 1 on SST-2, and of the earlier stages there."""

    setting: Literal[1, 2, 3, 4, "no-kd"] = 1
    """`1`: learn from the tuned teacher; `2`, `3`: from BERT(student); `4`: from BERT-8layer; `no-kd`: from labels."""
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
    """Sentences of one update, over all workers, in all stages."""
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
    prune_period: float = 0.01
    """Settings 3 and 4: share of the updates in which the widths shrink, (0, 1]; at most a prune an update."""
    importance_examples: int | None = None
    """Training rows the importance scores are taken on (settings 1, 2, no-kd); null is all of them, as published."""
    importance_lr: float = 5e-5
    """Setting 2: rate at which BERT(student) goes on learning while it is scored, as published; 0 freezes it."""
    student_epochs: float = 5.0
    """BERT(student): passes over the training set."""
    student_lr: float = 2e-5
    """BERT(student): peak learning rate; falls linearly after the warm-up."""
    student_warmup: float = 0.1
    """BERT(student): share of the updates in which the learning rate rises."""
    student_evaluate_every: int = 500
    """BERT(student): updates between evaluations; 0 is once an epoch."""
    depth_cut_layers: int | None = None
    """Layers of BERT-8layer; null is 8 of 12 for any teacher, or `layers` if these are more."""
    depth_epochs: float = 5.0
    """BERT-8layer: passes over the training set."""
    depth_lr: float = 2e-5
    """BERT-8layer: learning rate."""
    depth_schedule: str = "constant"
    """BERT-8layer: `constant`, or `linear` to 0; no warm-up."""
    depth_period: float = 0.5
    """BERT-8layer: share of the updates in which layers go, (0, 1]."""
    knowledge: Literal["auto", "stored", "live"] = "auto"
    """Whether a teacher's outputs are stored once or computed at each step; `auto` stores what fits the quota."""
    dropout: float | None = None
    """The students' dropout; null is the teacher's. Setting 4 needs it: its first scores come from dropout alone."""
    evaluate_every: int = 500
    """Updates between evaluations; 0 is once an epoch. The last update is always evaluated."""
    patience: float = 0.0
    """Epochs without a better score after which training ends, counted from the last prune; 0 is never."""
    accumulation: int = 1
    """Micro-batches an update is split into, to save memory."""
    precision: str = "fp32"
    """`fp32`, `bf16`, or `auto`."""
    compat: tuple[str, ...] = ()
    """Behaviours of the published code to bring back: any of `relu-head`, `padding`, `teacher-dropout`."""

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        check_least(self, 1, "heads", "layers", "ffn_dim", "embedding_rank", "importance_examples", "depth_cut_layers")
        check_least(self, 0, "hidden_weight", "prediction_weight", "patience")
        check_shares(self, "prune_period", "depth_period")
        if self.setting != "no-kd":
            check_any(self, "hidden_weight", "prediction_weight")
        check_compat(self.compat, COMPAT)
        check_knowledge(self.knowledge, self.compat)
        stages_of(self)


def recipe_of(config: Config, steps_per_epoch: int) -> Recipe:
    """The numbers of the last stage."""
    names = ("epochs", "lr", "batch_size", "warmup", "schedule", "optimizer", "weight_decay", "clip", "accumulation")
    same = {name: getattr(config, name) for name in (*names, "precision", "evaluate_every")}
    every = config.evaluate_every or steps_per_epoch
    return Recipe(**same, patience=round(config.patience * steps_per_epoch / every))


def stages_of(config: Config) -> tuple[Recipe, Recipe, Recipe]:
    """The numbers of BERT(student), of BERT-8layer, and of BERT(student) while it is scored."""
    own = replace(recipe_of(config, 1), patience=0)
    epochs, lr, every = config.student_epochs, config.student_lr, config.student_evaluate_every
    student = replace(own, epochs=epochs, lr=lr, warmup=config.student_warmup, schedule="linear", evaluate_every=every)
    depth = replace(own, epochs=config.depth_epochs, lr=config.depth_lr, warmup=0.0, schedule=config.depth_schedule)
    scoring = replace(own, epochs=1.0, lr=config.importance_lr, warmup=0.0, schedule="constant", evaluate_every=0)
    return student, depth, scoring


def depth_of(config: Config, layers: int) -> int:
    """Layers of the last stage's teacher, from those of the tuned one."""
    if config.setting != 4:
        return layers
    found = config.depth_cut_layers or max(round(layers * 8 / 12), config.layers)
    if config.layers <= found <= layers:
        return found
    raise ValueError(f"depth_cut_layers: found {found}, allowed are {config.layers} (layers) to the teacher's {layers}")


def layout(config: Config, teacher: Layout) -> Layout:
    """The teacher's layout, narrowed to the configured widths."""
    narrow = {"heads": config.heads, "ffn": config.ffn_dim, "layers": config.layers, "rank": config.embedding_rank}
    target = narrower(teacher, **narrow)
    depth_of(config, len(teacher.layers))
    return target


def knowledge(config: Config, teacher: Layout) -> Selection | None:
    """What the last stage stores of its teacher's outputs, if anything."""
    if config.setting == "no-kd" or config.knowledge == "live" or {*config.compat} & UNSTORED:
        return None
    return selected(depth_of(config, len(teacher.layers)), config.layers, hidden=config.hidden_weight > 0)


def mentor_of(course: Course, teacher: Teacher, config: Config, run: Run) -> Teacher:
    """The last stage's teacher, from which its student starts too."""
    if config.setting in (1, "no-kd"):
        return teacher
    student, depth, _ = stages_of(config)
    mentor = pretrained_student(course, teacher, student, run)
    return shallow_student(course, mentor, depth_of(config, len(mentor.layout.layers)), depth, config.depth_period, run)


def compress(task: Task, teacher: Teacher, config: Config, run: Run) -> Outcome:
    """Make the last stage's teacher and its student, then prune and distil."""
    target, labelled, stepwise = layout(config, teacher.layout), config.setting == "no-kd", config.setting in (3, 4)
    splits = open_splits(task, teacher.tokenizer, run, augmented=not labelled)
    course = Course(task=task, splits=splits, labelled=labelled, knowledge=config.knowledge, compat=config.compat)
    course = replace(course, temperature=config.temperature, dropout=config.dropout)
    mentor, limit, scores = mentor_of(course, teacher, config, run), config.importance_examples, None
    if config.setting == 2:
        scores = taught_importance(course, mentor, teacher, stages_of(config)[2], run, limit=limit)
    elif not stepwise:
        scores = label_importance(teacher, course.splits, run, limit=limit)
    start = narrower(mentor.layout, layers=config.layers) if stepwise else target
    student = prune(course.student(mentor.tuned, run), scores, start)
    recipe = recipe_of(config, course.batches(recipe_of(config, 1), run).num_steps)
    weights = (config.hidden_weight, config.prediction_weight)
    line = course.line(mentor, recipe, run, layers=config.layers, weights=weights)
    if prunes := course.prunes(width_layouts(start, target), config.prune_period, recipe, run):
        line = replace(line, name="width", prunes=prunes)
    student = fit_pruning(student, replace(line, final=True), run)
    return Outcome(model=student, layout=student.layout, notes={"head": student.head})
