"""LAD: a student learns from all layers of its teacher, folded together by gates that learn with it.

    teacher <- fine-tuned, frozen; states H_1 ... H_T      student <- every T/L-th layer of the pretrained BERT
    A_1 = H_1;  A_i = norm(g * H_i + (1 - g) * A_{i-1}),  g = sigmoid(W_i A_{i-1} + b_i)
    loss = hard * CE(student, labels) + soft * t^2 * KL(teacher || student at temperature t)
           + hidden / L * sum over j of MSE(student state j, A_{jT/L})

One backward pass trains student and gates. Labels are learned too, so the rows are the task's own, never an augmented
set. The published code's defects are not reproduced; where they change numbers, `compat` brings them back: gates tied
to one padded length, with padding in their norm (ours: see `methods.parts.gates`), a hidden loss over padding, random
embeddings.

References:
    Lin, Chen, Kao: LAD: Layer-Wise Adaptive Distillation for BERT Model Compression, Sensors 2023, 23(3):1483,
    https://doi.org/10.3390/s23031483
    Srivastava, Greff, Schmidhuber: Highway Networks, 2015, https://arxiv.org/abs/1505.00387
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

from methods.parts.bert import set_dropout
from methods.parts.devices import check_device
from methods.parts.gated import Gated
from methods.parts.gating import Gating
from methods.parts.lad_recipes import RECIPES as RECIPES
from methods.parts.layout import Layout
from methods.parts.loop import fit
from methods.parts.optim import Group, named
from methods.parts.ranges import check_any, check_compat, check_least
from methods.parts.recipe import Recipe
from methods.parts.run import Outcome, Run
from methods.parts.schedule import rounded_steps
from methods.parts.selection import Selection
from methods.parts.shallow import base_student, shallow_layout, start_layers
from methods.parts.splits import open_splits, scorer, training_batches
from methods.parts.tasks import Task
from methods.parts.teacher import Teacher
from methods.parts.training import Training

COMPAT = ("fixed-length", "padding", "random-embeddings")


@dataclass(frozen=True, kw_only=True, slots=True)
class Config(Gating):
    """Hyper-parameters, and those of `Gating`: the published ones of SST-2."""

    layers: int = 6
    """L, at most the teacher's; where it does not divide T, pairs are spread evenly and the last one is (L, T)."""
    init: Literal["even", "first"] = "even"
    """Layers the student begins as: those it is paired with, or the bottom ones."""
    init_layers: tuple[int, ...] | None = None
    """The same by number, from 0, one for each student layer; null leaves it to `init`."""
    hard_weight: float = 0.5
    """Weight of the labels, >= 0."""
    soft_weight: float = 0.5
    """Weight of the teacher's predictions, >= 0; multiplied by temperature^2 unless the task is a regression."""
    temperature: float = 20.0
    """Of the predictions, > 0."""
    hidden_weight: float = 1000.0
    """Weight of the mean over student layers of their distances; 0 leaves the gates out."""
    epochs: float = 20.0
    """Passes over the training set."""
    warmup: float = 0.3
    """Share of the updates in which both learning rates rise; then they fall to 0."""
    batch_size: int = 32
    """Sentences of one update, over all workers."""
    lr: float = 1e-4
    """Peak learning rate of the student."""
    weight_decay: float = 0.01
    """Of the student; never of biases and LayerNorms."""
    clip_norm: float = 1.0
    """Largest gradient norm of the student."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's, for the student."""
    eps: float = 1e-8
    """AdamW's, for the student."""
    teacher_device: str | int | None = None
    """Where the teacher runs, live at each step; null is where the student is, or nowhere if its outputs are stored."""
    knowledge: Literal["auto", "stored", "live"] = "auto"
    """Whether the teacher's outputs are stored once or computed at each step; `auto` stores what fits the quota."""
    dtype: Literal["float32", "float16"] = "float32"
    """Of the teacher's states; half the bytes where they are stored."""
    dropout: float | None = None
    """The student's; null is the pretrained model's."""
    evaluate_every: int = 0
    """Updates between evaluations; 0 is once an epoch."""
    patience: float = 0.0
    """Epochs without a better score after which training ends; 0 is never."""
    accumulation: int = 1
    """Micro-batches an update is split into, to save memory."""
    precision: str = "fp32"
    """`fp32`, `bf16`, or `auto`."""
    compat: tuple[str, ...] = ()
    """To bring back, any of: `fixed-length`, `padding` (both pad to max_length), `random-embeddings`."""

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        self.check_gates()
        check_least(self, 1, "layers", "batch_size")
        check_least(self, 0, "hard_weight", "soft_weight", "hidden_weight", "patience")
        check_any(self, "soft_weight", "hidden_weight")
        check_compat(self.compat, COMPAT)
        if not self.temperature > 0:
            raise ValueError(f"temperature: found {self.temperature!r}, allowed is > 0")
        check_device("teacher_device", self.teacher_device)
        if self.knowledge == "stored" and self.live:
            found = f"'stored' with teacher_device {self.teacher_device!r} and compat {list(self.compat)}"
            raise ValueError(f"knowledge: found {found}, allowed are 'auto' and 'live'")
        recipe_of(self, 1)

    @property
    def padded(self) -> bool:
        """Whether padding takes part, so that all batches have the task's length."""
        return not {*self.compat}.isdisjoint({"fixed-length", "padding"})

    @property
    def live(self) -> bool:
        """Whether the teacher must run at each step: a store knows no states of padding."""
        return self.knowledge == "live" or self.padded or self.teacher_device is not None


def recipe_of(config: Config, rows: int) -> Recipe:
    """The loop's numbers for so many training rows."""
    names = "epochs batch_size lr warmup weight_decay clip_norm betas eps accumulation precision evaluate_every"
    same: dict[str, Any] = {name: getattr(config, name) for name in names.split()}
    per_epoch = -(-rows // config.batch_size)
    patience = round(config.patience * per_epoch / (config.evaluate_every or per_epoch))
    recipe = Recipe(**same, clip="group", patience=patience)
    total, warm = rounded_steps(rows, recipe.batch_size, recipe.epochs, recipe.warmup)
    return replace(recipe, total_steps=total, warmup_steps=warm)


def gated_of(config: Config, teacher: Layout) -> Gated:
    """The losses, and the layers they pair."""
    return Gated(
        teacher_layers=len(teacher.layers),
        student_layers=config.layers,
        hard=config.hard_weight,
        soft=config.soft_weight,
        hidden=config.hidden_weight,
        temperature=config.temperature,
        reverse=config.aggregation == "reverse",
        detached=config.detach_gates,
        padding="padding" in config.compat,
        dtype=config.dtype,
    )


def begin_of(config: Config, teacher: Layout) -> tuple[int, ...]:
    """The pretrained layers, from 0, that the student begins as."""
    return start_layers(config.init, gated_of(config, teacher).pairs, config.init_layers)


def layout(config: Config, teacher: Layout) -> Layout:
    """The teacher's layout with fewer layers."""
    return shallow_layout(teacher, begin_of(config, teacher))


def knowledge(config: Config, teacher: Layout) -> Selection | None:
    """What a trial stores of the teacher's outputs, where the quota allows it; None for nothing."""
    return None if config.live else gated_of(config, teacher).selection


def compress(task: Task, teacher: Teacher, config: Config, run: Run) -> Outcome:
    """Cut the pretrained model, then train it and the gates against the fine-tuned teacher."""
    gated, begin = gated_of(config, teacher.layout), begin_of(config, teacher.layout)
    splits = open_splits(task, teacher.tokenizer, run, augmented=False)
    student = base_student(teacher, begin, seed=run.seed, random_embeddings="random-embeddings" in config.compat)
    set_dropout(student.to(run.device), config.dropout)
    length, num_states = task.max_length if "fixed-length" in config.compat else None, len(gated.selection.states)
    gates = config.gates(num_states, teacher.layout.hidden, run, length=length, seed=run.seed)
    mode: Literal["auto", "stored", "live"] = "live" if config.live else config.knowledge
    known = gated.open(teacher, splits, run, mode=mode, device=config.teacher_device)
    recipe = recipe_of(config, len(splits.train))
    data = training_batches(splits.train, recipe, run, pad_to=task.max_length if config.padded else None)
    with run.stage("distil", final=True) as stage:
        training = Training(
            model=student,
            data=data,
            losses=gated.losses(student, gates, known),
            groups=[Group(name="model", parameters=named(student)), *config.groups(gates)],
            evaluate=scorer(task, splits.search, run),
            keep={"gates": gates},
        )
        fit(training, recipe, stage, run)
    return Outcome(model=student, layout=student.layout, notes={"head": student.head})
