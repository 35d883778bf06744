"""TinyBERT: a narrow student learns the teacher's attention, states and embeddings, then its predictions.

Transformer distillation (section 3.1) in two stages (section 3.2); student layer m learns from teacher layer g(m):

    general:       student <- random;  teacher = pretrained;  on text, layer loss
    intermediate:  student <- general; teacher = fine-tuned;  on the task, layer loss
    prediction:    soft cross-entropy(student, teacher)
    layer loss = sum over m of MSE(scores_m, scores_g(m)) + MSE(W states_m, states_g(m)) + MSE(W embedding, embedding)

Attention is compared before its softmax. Where N / M is no whole number, g(m) = floor(m N / M); the published code
refuses it. A regression learns its gold values, on the task's own rows. The published code's defects are not kept;
where they change numbers, `compat` brings them back: a ReLU before a classifier trained without, layer losses over
padding (ours are means over real tokens and pairs of them), a teacher with dropout.

References:
    Jiao et al.: TinyBERT: Distilling BERT for Natural Language Understanding, Findings of EMNLP 2020,
    https://arxiv.org/abs/1909.10351
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal

from methods.parts.checkpoint import load
from methods.parts.distilling import learn_predictions
from methods.parts.general import General, start_student
from methods.parts.knowledge import live, open_knowledge
from methods.parts.layerwise import Layerwise, layer_training, weighted
from methods.parts.layout import Layout
from methods.parts.loop import fit
from methods.parts.narrow import narrow_layout
from methods.parts.ranges import check_compat
from methods.parts.recipe import Recipe
from methods.parts.run import Outcome, Run
from methods.parts.selection import Selection
from methods.parts.sequences import Packing
from methods.parts.splits import distil_batches, open_splits, scorer
from methods.parts.tasks import Task
from methods.parts.teacher import Teacher
from methods.parts.training import Training

COMPAT = ("relu-head", "padding", "teacher-dropout")


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Hyper-parameters; the defaults are TinyBERT4's. Numbers without a stage's name are the intermediate stage's."""

    layers: int = 4
    """M, at most the teacher's."""
    hidden: int = 312
    """Width of the states, a multiple of the heads."""
    heads: int = 12
    """The teacher's, unless `attention_weight` is 0."""
    ffn_dim: int = 1200
    """FFN neurons of each layer."""
    start: str = "general"
    """`general` (distilled on the task's corpus first), `random`, or a checkpoint's folder or hub name."""
    layer_map: Literal["uniform", "top", "bottom"] = "uniform"
    """g(m): floor(m N / M), m + N - M, or m; embeddings always learn from embeddings."""
    projections: Literal["shared", "separate"] = "shared"
    """W: one with bias for all states (the code), or two without bias, one of them for embeddings (the paper)."""
    attention_weight: float = 1.0
    """Weight of the attention loss; 0 leaves it out."""
    hidden_weight: float = 1.0
    """Weight of the loss of the layers' states; 0 leaves it out."""
    embedding_weight: float = 1.0
    """Weight of the embedding loss; 0 leaves it out. Without any of the three there is no intermediate stage."""
    prediction_weight: float = 1.0
    """Weight of the prediction loss, > 0."""
    temperature: float = 1.0
    """Of the prediction loss, > 0."""
    epochs: float = 20.0
    """Passes over the augmented set, or the training set where there is none."""
    lr: float = 5e-5
    """Learning rate, constant."""
    batch_size: int = 32
    """Sentences of one update of the intermediate and the prediction stage, over all workers."""
    prediction_epochs: float = 3.0
    """Passes of the prediction stage."""
    prediction_lr: float = 3e-5
    """Peak learning rate; published are 1e-5, 2e-5 and 3e-5, chosen on dev."""
    warmup: float = 0.1
    """Share of the updates of the general and the prediction stage in which the rate rises; then it falls to 0."""
    general_epochs: int = 3
    """Passes over the corpus, each packed anew."""
    general_lr: float = 5e-5
    """Peak learning rate."""
    general_batch_size: int = 256
    """Sequences of one update."""
    general_length: int = 128
    """Tokens of a sequence."""
    one_sequence: bool = False
    """Whether a sequence never goes on in another document."""
    optimizer: str = "bert_adam"
    """`bert_adam` (the published one: no bias correction), or `adamw`."""
    clip: str = "tensor"
    """Gradients are clipped to norm 1 per `tensor` (published), or all together (`global`)."""
    weight_decay: float = 0.01
    """Never of biases and LayerNorms."""
    dropout: float | None = None
    """The student's; null is the teacher's."""
    evaluate_every: int = 100
    """Updates between evaluations of the prediction stage; 0 is once an epoch. The last is always evaluated."""
    accumulation: int = 1
    """Micro-batches an update is split into, to save memory."""
    precision: str = "fp32"
    """`fp32`, `bf16`, or `auto`."""
    knowledge: Literal["auto", "stored", "live"] = "auto"
    """Whether the prediction stage reads stored logits; the layers' knowledge is always live."""
    compat: tuple[str, ...] = ()
    """Behaviours of the published code to bring back: any of `relu-head`, `padding`, `teacher-dropout`."""

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        for name in ("layers", "hidden", "heads", "ffn_dim", "general_epochs", "prediction_weight", "temperature"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: found {getattr(self, name)!r}, allowed is above 0")
        check_compat(self.compat, COMPAT)
        general_of(self)


_EPOCHS = {"cola": 50.0, "mnli": 10.0, "qqp": 10.0, "qnli": 10.0, "sst2": 20.0, "mrpc": 20.0, "stsb": 20.0, "rte": 20.0}
RECIPES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {task: {"epochs": epochs} for task, epochs in _EPOCHS.items()}
    | {f"tinybert6-{task}": {"layers": 6, "hidden": 768, "ffn_dim": 3072, "epochs": e} for task, e in _EPOCHS.items()}
)
"""The published hyper-parameters by task, of TinyBERT4 and of TinyBERT6."""


def recipes(config: Config) -> tuple[Recipe, Recipe, Recipe]:
    """The loop's numbers of the general, the intermediate and the prediction stage."""
    names = ("optimizer", "clip", "weight_decay", "accumulation", "precision", "batch_size")
    common: dict[str, Any] = {name: getattr(config, name) for name in names}
    middle = Recipe(**common, epochs=config.epochs, lr=config.lr, schedule="constant")
    late = replace(middle, schedule="linear", warmup=config.warmup)
    last = replace(late, epochs=config.prediction_epochs, lr=config.prediction_lr, evaluate_every=config.evaluate_every)
    return replace(late, lr=config.general_lr, batch_size=config.general_batch_size), middle, last


def general_of(config: Config) -> General:
    """The general stage, and the layer loss that it shares with the intermediate stage."""
    names = ("layer_map", "projections", "attention_weight", "hidden_weight", "embedding_weight")
    layers: dict[str, Any] = {name: getattr(config, name) for name in names}
    return General(
        layerwise=Layerwise(**layers, padding="padding" in config.compat),
        epochs=config.general_epochs,
        recipe=recipes(config)[0],
        packing=Packing(max_length=config.general_length, one_sequence=config.one_sequence),
        dropout=config.dropout,
        teacher_dropout="teacher-dropout" in config.compat,
    )


def layout(config: Config, teacher: Layout) -> Layout:
    """The student's layout: vocabulary, positions and labels are the teacher's."""
    sizes = {"hidden": config.hidden, "layers": config.layers, "heads": config.heads, "ffn": config.ffn_dim}
    student = narrow_layout(teacher, **sizes)
    general_of(config).layerwise.selection(student, teacher)  # refuses layers that cannot be compared
    return student


def knowledge(config: Config, teacher: Layout) -> Selection | None:
    """What a trial stores: the teacher's logits, unless they are computed live or the task is a regression."""
    live_only = config.knowledge == "live" or "teacher-dropout" in config.compat or teacher.labels == 1
    return None if live_only else Selection()


def compress(task: Task, teacher: Teacher, config: Config, run: Run) -> Outcome:
    """Start a student, let it learn the fine-tuned teacher's layers, then its predictions."""
    splits, target = open_splits(task, teacher.tokenizer, run), layout(config, teacher.layout)
    general = replace(general_of(config), corpus=task.corpus)
    head, noisy = "relu" if "relu-head" in config.compat else None, general.teacher_dropout
    tuned, layerwise = load(teacher.tuned, head=head).to(run.device), general.layerwise
    pad_to = task.max_length if layerwise.padding else None
    student, projection = start_student(config.start, general, target, teacher, tuned, run)
    _, middle, last = recipes(config)
    if layerwise:
        teaching = live(tuned, layerwise.selection(target, teacher.layout), dropout=noisy)
        data = distil_batches(splits, middle, run, pad_to=pad_to)
        with run.stage("intermediate") as stage:
            fit(layer_training(layerwise, student, projection, teaching, data), middle, stage, run)
    said = None
    if task.labels:
        said = open_knowledge(teacher, splits.distil, Selection(), run, mode=config.knowledge, head=head, dropout=noisy)
    else:  # augmented rows keep the score of the row they come from
        splits = replace(splits, augmented=())
    losses = weighted(learn_predictions(student, said, temperature=config.temperature), config.prediction_weight)
    with run.stage("prediction", final=True) as stage:
        training = Training(
            model=student,
            data=distil_batches(splits, last, run, pad_to=pad_to),
            losses=losses,
            evaluate=scorer(task, splits.search, run),
        )
        fit(training, last, stage, run)
    return Outcome(model=student, layout=student.layout, notes={"head": student.head})
