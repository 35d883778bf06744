"""HSK: distil no more hidden-state knowledge than is needed ("Marginal Utility Diminishes").

    knowledge <- of the teacher's states: the chosen ones, of these the chosen tokens, of these the chosen coordinates
    student   <- the tuned teacher, pruned (ROSITA's shape), or a narrow BERT (TinyBERT's shape)
    stage 1:     loss = sum over pairs of mean (projected student state - teacher state)^2 over what was chosen
    stage 2:     loss = soft cross-entropy(student, teacher); a regression learns its gold values

The published code runs the teacher at every step; here its knowledge is stored once for all trials, where it fits.
Its defects are not reproduced; where they change numbers, `compat` brings them back: a ReLU before the classifier while
distilling, a loss over padding, a teacher with dropout, magnitudes ranked over a whole batch.

References:
    Liu, Li, Lin, Zhao: Marginal Utility Diminishes: Exploring the Minimum Knowledge for BERT Knowledge Distillation,
    ACL 2021, https://arxiv.org/abs/2106.05691
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Any, Literal

from methods.parts.amounts import Choice, States
from methods.parts.bert import set_dropout
from methods.parts.checkpoint import load
from methods.parts.distilling import learn_predictions, state_training
from methods.parts.knowledge import open_knowledge
from methods.parts.layout import Layout
from methods.parts.loop import fit
from methods.parts.narrow import narrow_layout, narrow_student
from methods.parts.projection import Projection
from methods.parts.pruning import label_importance, prune
from methods.parts.ranges import check_compat, check_least
from methods.parts.recipe import Recipe
from methods.parts.run import Outcome, Run
from methods.parts.selection import Selection
from methods.parts.splits import distil_batches, open_splits, scorer
from methods.parts.surgery import narrower
from methods.parts.tasks import Task
from methods.parts.teacher import Teacher
from methods.parts.training import Training

COMPAT = ("relu-head", "padding", "teacher-dropout", "batch-threshold")


@dataclass(frozen=True, kw_only=True, slots=True)
class Config(Choice):
    """Hyper-parameters, and those of `Choice`: the published ones of ROSITA's student on SST-2, all knowledge kept."""

    stages: Literal["both", "prediction"] = "both"
    """`both`: states, then predictions. `prediction`: the baseline without the first stage."""
    student: Literal["pruned", "narrow"] = "pruned"
    """`pruned`: the tuned teacher, cut by label importance. `narrow`: a BERT with a hidden width of its own."""
    heads: int = 2
    """Attention heads of each layer."""
    layers: int = 6
    """Layers; of a pruned student the teacher's bottom ones."""
    ffn_dim: int = 768
    """FFN neurons of each layer."""
    embedding_rank: int | None = 128
    """Pruned students: rank of the word table; null keeps the full table."""
    hidden: int = 312
    """Narrow students: width of the residual stream."""
    checkpoint: str | None = None
    """Narrow students: folder or hub name of the weights to start from; null draws them."""
    knowledge: Literal["auto", "stored", "live"] = "auto"
    """Whether the teacher's outputs are stored once or computed at each step; `auto` stores what fits the quota."""
    hsk_epochs: float = 10.0
    """Stage 1: passes over the data."""
    hsk_lr: float = 5e-5
    """Stage 1: peak learning rate."""
    hsk_warmup: float = 0.0
    """Stage 1: share of the updates in which the learning rate rises; then it is constant."""
    epochs: float = 5.0
    """Stage 2: passes over the data."""
    lr: float = 2e-5
    """Stage 2: peak learning rate."""
    warmup: float = 0.0
    """Stage 2: share of the updates in which the learning rate rises; then it falls linearly."""
    temperature: float = 1.0
    """Stage 2: of the predictions, > 0."""
    batch_size: int = 32
    """Sentences of one update, over all workers."""
    weight_decay: float = 0.01
    """Never of biases and LayerNorms."""
    importance_examples: int | None = None
    """Pruned students: training rows the importance scores are taken on; null is all."""
    dropout: float | None = None
    """The student's; null is the teacher's, or the checkpoint's."""
    evaluate_every: int = 50
    """Updates between evaluations in stage 2, and between reports; 0 is once an epoch."""
    patience: float = 0.0
    """Epochs without a better score after which stage 2 ends; 0 is never."""
    accumulation: int = 1
    """Micro-batches an update is split into, to save memory."""
    precision: str = "fp32"
    """`fp32`, `bf16`, or `auto`."""
    compat: tuple[str, ...] = ()
    """Published behaviours to bring back: `relu-head`, `padding`, `teacher-dropout`, `batch-threshold`."""

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        check_least(self, 1, "heads", "layers", "ffn_dim", "embedding_rank", "hidden", "importance_examples")
        if self.temperature <= 0 or self.patience < 0:
            raise ValueError(f"temperature, patience: found {self.temperature}, {self.patience}; allowed are > 0, >= 0")
        check_compat(self.compat, COMPAT)
        if self.knowledge == "stored" and set(self.compat) - {"relu-head"}:
            raise ValueError(f"knowledge: found 'stored' with compat {list(self.compat)}, allowed are auto and live")
        _ = self.kept, recipes(self, 1)


_EPOCHS = {"cola": 30.0, "mnli": 5.0, "mrpc": 20.0, "sst2": 10.0, "stsb": 20.0, "qqp": 5.0, "qnli": 5.0, "rte": 20.0}
_STATES = {n: {"hsk_epochs": e, "hsk_length": 64 if n in ("cola", "sst2") else 128} for n, e in _EPOCHS.items()}
_NARROW = {"student": "narrow", "hidden": 312, "layers": 4, "heads": 12, "ffn_dim": 1200}
_ALONE = {"stages": "prediction", "batch_size": 64, "warmup": 0.1}

RECIPES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        **_STATES,
        **{f"tinybert4-{name}": {**_NARROW, **numbers} for name, numbers in _STATES.items()},
        **{f"prediction-{name}": {**_ALONE, "epochs": epochs} for name, epochs in _EPOCHS.items()},
    }
)
"""Published numbers by task: of ROSITA's student, of TinyBERT's, and of the baseline."""


def recipes(config: Config, steps_per_epoch: int) -> tuple[Recipe, Recipe]:
    """The loop's numbers of both stages."""
    names = ("batch_size", "weight_decay", "accumulation", "precision", "evaluate_every")
    shared = Recipe(optimizer="bert_adam", clip="tensor", **{name: getattr(config, name) for name in names})
    first = replace(shared, epochs=config.hsk_epochs, lr=config.hsk_lr, warmup=config.hsk_warmup, schedule="constant")
    patience = round(config.patience * steps_per_epoch / (config.evaluate_every or steps_per_epoch))
    return first, replace(shared, epochs=config.epochs, lr=config.lr, warmup=config.warmup, patience=patience)


def layout(config: Config, teacher: Layout) -> Layout:
    """The teacher's layout narrowed, or one with a hidden width of its own."""
    if config.student == "pruned":
        rank = config.embedding_rank
        return narrower(teacher, heads=config.heads, ffn=config.ffn_dim, layers=config.layers, rank=rank)
    widths = {"hidden": config.hidden, "heads": config.heads, "ffn": config.ffn_dim}
    return narrow_layout(teacher, layers=config.layers, **widths)


def chosen(config: Config, teacher: Layout) -> tuple[Selection, States]:
    """The teacher's knowledge of stage 1, and the student states that learn it."""
    return config.select(teacher, config.layers, batch_threshold="batch-threshold" in config.compat)


def knowledge(config: Config, teacher: Layout) -> Selection | None:
    """What a trial stores of the teacher's outputs, where the quota allows it; None for nothing."""
    lessons = Selection() if teacher.labels > 1 else None
    states = chosen(config, teacher)[0] if config.stages == "both" else None
    if config.knowledge == "live" or "teacher-dropout" in config.compat:
        return None
    if states is None or not states.storable or "padding" in config.compat:
        return lessons
    return replace(states, logits=lessons is not None)


def compress(task: Task, teacher: Teacher, config: Config, run: Run) -> Outcome:
    """Start a student, teach it the chosen states, then the predictions."""
    config.check_length(task.max_length)
    selection, states = chosen(config, teacher.layout) if config.stages == "both" else (None, ())
    splits, target = open_splits(task, teacher.tokenizer, run), layout(config, teacher.layout)
    head = "relu" if "relu-head" in config.compat else None
    tuned = load(teacher.tuned, head=head).to(run.device)
    if config.student == "pruned":
        scores = label_importance(teacher, splits, run, limit=config.importance_examples)
        student = prune(tuned, scores, target)
    else:
        student = narrow_student(target, like=tuned, checkpoint=config.checkpoint, seed=run.seed)
    set_dropout(student.to(run.device), config.dropout)
    compat, pad_to = ("padding", task.max_length) if "padding" in config.compat else (None, None)
    ask = partial(
        open_knowledge, teacher, splits.distil, run=run, head=head, dropout="teacher-dropout" in config.compat
    )
    first, second = recipes(config, distil_batches(splits, recipes(config, 1)[0], run).num_steps)
    if selection is not None:
        narrow = config.student == "narrow"
        projection = Projection(target.hidden, teacher.layout.hidden, seed=run.seed).to(run.device) if narrow else None
        lessons = ask(selection, mode="live" if compat else config.knowledge)
        data = distil_batches(splits, first, run, pad_to=pad_to)
        with run.stage("hsk") as stage:
            fit(state_training(student, data, lessons, states, projection, compat), first, stage, run)
    logits = ask(Selection(), mode=config.knowledge) if task.labels else None
    with run.stage("predict", final=True) as stage:
        training = Training(
            model=student,
            data=distil_batches(splits, second, run, pad_to=pad_to),
            losses=learn_predictions(student, logits, temperature=config.temperature),
            evaluate=scorer(task, splits.search, run),
        )
        fit(training, second, stage, run)
    return Outcome(model=student, layout=student.layout, notes={"head": student.head})
