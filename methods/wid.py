"""WID: a narrow BERT inherits its teacher's weights through compactors that are trained away, then learns the task.

    y = C_out (W C_in x + b)     every linear map of the pretrained teacher; the C start as identities
    on text:  loss = masked words alone; every `mask_every` updates masks are chosen by the norms of C's columns, and
              rows of C_out and columns of C_in that they remove decay to 0
    merge:    W' = C_out[kept, :] W C_in[:, kept], the student; depth stays
    then:     fine-tuning on the labels with a fresh pooler and classifier

No teacher runs. All but the last stage is task-agnostic and shared by all trials of a width. Of the published code's
defects none is kept: its students' attention is scaled by another width than was trained with, ties of norms remove
everything, and the edit of Adam's moment slows down what is kept (`mode: faithful` has it).

References:
    Wu et al.: Weight-Inherited Distillation for Task-Agnostic BERT Compression, Findings of NAACL 2024,
    https://arxiv.org/abs/2305.09098
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal

from methods.parts.bert import Bert, initialise, set_dropout
from methods.parts.inherited import Inheritance, inherited_student
from methods.parts.label_training import label_training
from methods.parts.layout import Layout
from methods.parts.loop import fit
from methods.parts.masked_text import Text, with_classifier
from methods.parts.ranges import check_compat, check_least
from methods.parts.recipe import Recipe
from methods.parts.run import Outcome, Run
from methods.parts.splits import Splits, open_splits
from methods.parts.tasks import Task
from methods.parts.teacher import Teacher

COMPAT = ("uer-layernorm", "published-text")


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Hyper-parameters; the defaults are WID-11M's. Numbers without a stage's name are fine-tuning's."""

    target: int = 192
    """Hidden width of the student; a multiple of the teacher's heads (`dim`) or of its head width (`head`)."""
    start: Literal["inherited", "random"] = "inherited"
    """What fine-tuning begins with; `random` is the control, the same student with no weight inherited."""
    strategy: Literal["dim", "head"] = "dim"
    """`dim`: every head shrinks; `head`: whole heads go."""
    mode: Literal["decoupled", "faithful"] = "decoupled"
    """How removed dimensions vanish: beside Adam, or by the released code's edit of gradients and of Adam's moment."""
    penalty: float | None = None
    """Rate at which they vanish: a share of the learning rate (`decoupled`), or the published lambda (`faithful`);
    null is 100, or 20."""
    scoring: Literal["single", "group"] = "single"
    """Dimensions are ranked by one matrix (published), or by all that touch them."""
    compactors_only: bool = False
    """Whether the inherited weights stay as they are."""
    mask_every: int = 500
    """Updates from one choice of masks to the next; nothing is removed before the first."""
    ramp_residual: int | None = None
    """Choices of masks until hidden and attention width are reached; null is 8 (`dim`), or 2 a head (`head`)."""
    ramp_ffn: int = 16
    """Choices of masks until the widths of FFN and word head are reached."""
    compactor_lr: float = 5e-5
    """Peak learning rate of the compactors."""
    base_lr: float = 1e-6
    """Peak learning rate of the inherited weights."""
    inherit_steps: int = 400_000
    """Updates on text."""
    inherit_batch_size: int = 960
    """Blocks of one update, over all workers."""
    inherit_warmup: float = 0.01
    """Share of the updates on text in which the rates rise; then they fall to 0."""
    inherit_weight_decay: float = 0.01
    """Never of biases and LayerNorms."""
    inherit_accumulation: int = 1
    """Micro-batches an update on text is split into, to save memory."""
    inherit_evaluate_every: int = 10_000
    """Updates between measurements of the masked-LM loss on held-out blocks."""
    text: Literal["corpus", "task"] = "corpus"
    """The sweep's corpus, or the task's training sentences without their labels."""
    length: int = 128
    """Tokens of a block of the corpus."""
    full_sentences: bool = False
    """Whether a block goes on with the next document."""
    mask_unit: Literal["token", "word", "span"] = "token"
    """What is hidden in a block."""
    head_steps: int = 2000
    """Updates in which a teacher that has no masked-LM head is trained with a fresh one; 0 refuses such a teacher."""
    head_lr: float = 1e-4
    """Peak learning rate of these updates, of all weights."""
    tolerance: float | None = 1e-4
    """Largest value that merging may cut away where it counts; refused beyond, and null lets any through."""
    epochs: float = 3.0
    """Passes over the training set."""
    lr: float = 2e-5
    """Peak learning rate."""
    batch_size: int = 32
    """Sentences of one update, over all workers."""
    warmup: float = 0.1
    """Share of the updates in which the learning rate rises."""
    schedule: str = "linear"
    """After the warm-up: `linear` to 0, or `constant`."""
    weight_decay: float = 0.01
    """Never of biases and LayerNorms."""
    clip: str = "none"
    """Gradients are not clipped (published), or all together to norm 1 (`global`)."""
    optimizer: str = "uncorrected_adamw"
    """Of all stages: `uncorrected_adamw` (published: no bias correction), or `adamw`."""
    dropout: float | None = None
    """In fine-tuning; null is the teacher's."""
    evaluate_every: int = 0
    """Updates between evaluations; 0 is once an epoch."""
    accumulation: int = 1
    """Micro-batches an update is split into, to save memory."""
    precision: str = "fp32"
    """`fp32`, `bf16`, or `auto`; compactors are multiplied in fp32."""
    compat: tuple[str, ...] = ()
    """Behaviours of the published code to bring back: any of `uer-layernorm`, `published-text`."""

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        check_least(self, 1, "target", "mask_every", "ramp_residual", "ramp_ffn", "length")
        check_least(self, 0, "inherit_steps", "head_steps", "tolerance", "compactor_lr", "base_lr")
        if self.penalty is not None and not self.penalty > 0:
            raise ValueError(f"penalty: found {self.penalty!r}, allowed is above 0, or null")
        check_compat(self.compat, COMPAT)
        recipe_of(self)
        inheritance_of(self)


RECIPES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "wid-11m": {"target": 192},
        "wid-55m": {"target": 516},
        "faithful-11m": {"target": 192, "mode": "faithful", "compat": ("uer-layernorm", "published-text")},
        "faithful-55m": {"target": 516, "mode": "faithful", "compat": ("uer-layernorm", "published-text")},
    }
)
"""Students of BERT-base by their parameters in millions; `faithful` is the released code but for its merge."""


def recipe_of(config: Config) -> Recipe:
    """The numbers of fine-tuning."""
    names = ("epochs", "lr", "batch_size", "warmup", "schedule", "weight_decay", "clip", "optimizer", "accumulation")
    return Recipe(**{name: getattr(config, name) for name in (*names, "precision", "evaluate_every")})


def inheritance_of(config: Config) -> Inheritance:
    """The numbers of the training on text."""
    own = ("batch_size", "warmup", "weight_decay", "accumulation", "evaluate_every")
    same: dict[str, Any] = {name: getattr(config, name) for name in ("optimizer", "precision")}
    same |= {name: getattr(config, f"inherit_{name}") for name in own}
    recipe = Recipe(total_steps=config.inherit_steps, lr=config.base_lr, clip="none", **same)
    names = ("target", "strategy", "scoring", "ramp_residual", "ramp_ffn", "mask_every", "mode", "compactors_only")
    return Inheritance(
        **{name: getattr(config, name) for name in names},
        penalty=config.penalty or (100.0 if config.mode == "decoupled" else 20.0),
        lr=config.compactor_lr,
        recipe=recipe,
        head=replace(recipe, total_steps=config.head_steps, lr=config.head_lr, warmup=0.1, clip="global"),
        compat=tuple(name for name in config.compat if name == "uer-layernorm"),
    )


def layout(config: Config, teacher: Layout) -> Layout:
    """The teacher's layout at the target width; also refuses a training in which removed dimensions cannot vanish."""
    how = inheritance_of(config)
    if config.start == "inherited":
        how.check(teacher, config.tolerance)
    return how.narrowing(teacher).student


def compress(task: Task, teacher: Teacher, config: Config, run: Run) -> Outcome:
    """Fine-tune the narrow student, which is made once for all trials of its numbers, or drawn."""
    splits, target = open_splits(task, teacher.tokenizer, run, augmented=False), layout(config, teacher.layout)
    if config.start == "random":
        model, numbers = Bert(target), dict[str, float]()
        initialise(model, run.seed)
    else:
        model, numbers = _inherited(task, splits, teacher, config, run)
    model, recipe = with_classifier(model, target.labels, run.seed).to(run.device), recipe_of(config)
    set_dropout(model, config.dropout)
    with run.stage("finetune", final=True) as stage:
        fit(label_training(model, task, splits, recipe, run), recipe, stage, run)
    return Outcome(model=model, layout=model.layout, notes=numbers)


def _inherited(task: Task, splits: Splits, teacher: Teacher, config: Config, run: Run) -> tuple[Bert, dict[str, float]]:
    """The merged student with its masked-LM head, and its losses on text."""
    text = Text(
        tokenizer=teacher.tokenizer,
        corpus=task.corpus if config.text == "corpus" else None,
        rows=splits.train if config.text == "task" else None,
        length=config.length,
        full_sentences=config.full_sentences,
        unit=config.mask_unit,
        published="published-text" in config.compat,
    )
    return inherited_student(inheritance_of(config), text, teacher, run, tolerance=config.tolerance)
