"""The stages of a supernet, each trained once for all trials: rewired, widths, depths, labels.

    rewired   the tuned teacher, heads and neurons in order of importance; no stage of its own
    width     learns the tuned teacher at every width
    depth     learns the supernet of the width stage at every width and depth
    labels    learns the labels at every width and depth

Nothing that tells one sub-network from another is among the inputs, so every sub-network is a trial at the cost of an
evaluation.

References:
    Hou et al.: DynaBERT: Dynamic BERT with Adaptive Width and Depth, NeurIPS 2020, https://arxiv.org/abs/2004.04037,
    section 2
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from methods.parts.bert import Bert, set_dropout
from methods.parts.checkpoint import card_of, load, save
from methods.parts.elastic import Choices, Subnet
from methods.parts.elastic_training import (
    Cursor,
    Mentor,
    Weights,
    all_scores,
    learn_together,
    one_mentor,
    same_width_mentor,
)
from methods.parts.files import JsonValue, read_json
from methods.parts.knowledge import open_knowledge
from methods.parts.layout import Layout
from methods.parts.loop import fit, load_best
from methods.parts.losses import layer_map
from methods.parts.mask_importance import Rows, importance_rows, mask_importance
from methods.parts.recipe import Progress, Recipe
from methods.parts.run import Run
from methods.parts.selection import Selection
from methods.parts.splits import Splits, distil_batches, training_batches
from methods.parts.supernet import rewired
from methods.parts.tasks import Task
from methods.parts.teacher import Teacher
from methods.parts.training import Steps, Training

SUPERNET_VERSION = 1
"""Raised whenever the meaning of the stored supernets changes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Phase:
    """One stage."""

    name: str
    choices: Choices
    recipe: Recipe
    learns: Literal["tuned", "full", "same", "labels"]
    """From whom: the tuned teacher; the supernet before this stage, at `full` width or at the `same` width as the
    learner; or the labels."""
    weights: Weights = dataclasses.field(default_factory=Weights)


@dataclass(frozen=True, kw_only=True, slots=True)
class Upbringing:
    """All that decides a supernet, beside task and teacher."""

    phases: tuple[Phase, ...]
    rows: Rows = "train"
    """Of importance."""
    examples: int | None = None
    """Training rows of importance; None is all."""
    importance_batch: int = 32
    select: Literal["sum", "subnet", "last"] = "sum"
    """Which weights of a stage are kept: the best by the sum of the scores; these and for each sub-network its own
    best; or the last."""
    dropout: float | None = None
    knowledge: Literal["auto", "stored", "live"] = "live"
    compat: tuple[str, ...] = ()
    seed: int = 0


def taught(phase: Phase, teacher: Layout, compat: tuple[str, ...] = ()) -> Selection:
    """What a stage needs of a teacher's outputs: logits, and the states of its depths.

    Raises:
        ValueError: nothing is left to be learnt.
    """
    count, states = len(teacher.layers), set[int]()
    if phase.weights.hidden:
        for depth in phase.choices.depths:
            states |= {*layer_map(count, round(depth * count))}
    mute = teacher.labels == 1 and "no-regression-loss" in compat
    return Selection(logits=phase.weights.prediction > 0 and not mute, states=tuple(sorted(states)))


def supernet(plan: Upbringing, task: Task, splits: Splits, teacher: Teacher, run: Run) -> Path:
    """The folder of the supernet of the last stage, trained if no trial has done it before; collective."""
    return _Nursery(plan, task, splits, teacher).grown(run)


def best_for(folder: Path, choices: Choices, whole: Layout, subnet: Subnet) -> Path:
    """Where the weights of a sub-network are: its own best, if the supernet has one, else the common ones."""
    shape = (subnet.layout(whole), subnet.blocks)
    for name, listed in choices.listed(whole).items():
        if (listed.layout(whole), listed.blocks) == shape and (folder / name).is_dir():
            return folder / name
    return folder


class _Nursery:
    """What the stages of a supernet have in common."""

    def __init__(self, plan: Upbringing, task: Task, splits: Splits, teacher: Teacher) -> None:
        self.plan, self.task, self.splits, self.teacher = plan, task, splits, teacher

    def grown(self, run: Run) -> Path:
        """Stage after stage, each an artifact of its own that later stages of other plans share."""
        before = self.teacher
        for phase in self.plan.phases:
            before = self._after(phase, before, run)
        return before.tuned

    def _after(self, phase: Phase, before: Teacher, run: Run) -> Teacher:
        """The supernet after a stage, as a teacher."""

        def build(folder: Path, inner: Run) -> None:
            model = self._start(before, inner).to(inner.device)
            set_dropout(model, self.plan.dropout)
            progress = self._trained(phase, model, before, inner)
            self._stored(model, progress, folder, inner)

        folder = run.once("supernet", self._inputs(phase, before, run), build, version=SUPERNET_VERSION)
        card, key = card_of(folder), read_json(folder / "manifest.json")["key"]
        return dataclasses.replace(self.teacher, tuned=folder, layout=card.layout, head=card.head, fingerprint=str(key))

    def _inputs(self, phase: Phase, before: Teacher, run: Run) -> Mapping[str, JsonValue]:
        """All that decides the stage's numbers."""
        plan, splits, first = self.plan, self.splits, before is self.teacher
        data = [splits.train] if phase.learns == "labels" else [*splits.distil]
        inputs: dict[str, Any] = {
            "phase": dataclasses.asdict(phase),
            "before": before.fingerprint,
            "teacher": self.teacher.fingerprint,
            "rows": [part.fingerprint for part in data],
            "dev": splits.search.fingerprint,
            "metric": self.task.metric,
            "select": plan.select,
            "dropout": plan.dropout,
            "compat": sorted({*plan.compat}),
            "seed": plan.seed,
        }
        if first:
            rows = importance_rows(self.task, splits, self.teacher, run, plan.rows, plan.examples)
            inputs["importance"] = [plan.importance_batch, *(part.fingerprint for part in rows)]
        return inputs

    def _start(self, before: Teacher, run: Run) -> Bert:
        """The model that a stage starts from: the tuned teacher, rewired, or what the stage before left."""
        if before is not self.teacher:
            return load(before.tuned)
        plan = self.plan
        rows = importance_rows(self.task, self.splits, self.teacher, run, plan.rows, plan.examples)
        accumulated = "accumulated-gradients" in plan.compat
        scores = mask_importance(self.teacher, rows, run, batch_size=plan.importance_batch, accumulated=accumulated)
        return rewired(load(self.teacher.tuned), scores)

    def _trained(self, phase: Phase, model: Bert, before: Teacher, run: Run) -> Progress:
        """Train a supernet, in place, in a stage of its own."""
        cursor, data, choices = Cursor(), self._batches(phase, run), phase.choices
        total, whole, named = phase.recipe.steps(data.num_steps), model.layout, choices.listed(model.layout)

        def before_step(step: int, _optimizer: object) -> None:
            cursor.step = step + 1

        mentor = self._mentor(phase, before, run)
        with run.stage(phase.name) as stage:
            training = Training(
                model=model,
                data=data,
                losses=learn_together(
                    model,
                    lambda: choices.of_step(whole, cursor.step, total, stage.seed),
                    mentor,
                    phase.weights,
                    self.plan.compat,
                ),
                before_step=before_step,
                evaluate=all_scores(choices, self.task, self.splits.search, run),
                best=self._best([*named]),
                keep={"cursor": cursor},
            )
            return fit(training, phase.recipe, stage, run).progress

    def _best(self, names: list[str]) -> dict[str, str]:
        """The metrics whose best weights are kept."""
        if self.plan.select == "last":
            return {}
        each = names if self.plan.select == "subnet" else []
        return dict.fromkeys(["score", *(f"score/{name}" for name in each)], "max")

    def _batches(self, phase: Phase, run: Run) -> Steps:
        """Rows with labels of their own for labels, else the augmented set if there is one."""
        pad_to = self.task.max_length if "padding" in self.plan.compat else None
        if phase.learns == "labels":
            return training_batches(self.splits.train, phase.recipe, run, pad_to=pad_to)
        return distil_batches(self.splits, phase.recipe, run, pad_to=pad_to)

    def _mentor(self, phase: Phase, before: Teacher, run: Run) -> Mentor | None:
        """Whom a stage learns from."""
        if phase.learns == "labels":
            return None
        if phase.learns == "same":
            return same_width_mentor(load(before.tuned).to(run.device))
        teacher = self.teacher if phase.learns == "tuned" else before
        selection = taught(phase, teacher.layout, self.plan.compat)
        mode = "live" if "padding" in self.plan.compat else self.plan.knowledge
        return one_mentor(open_knowledge(teacher, self.splits.distil, selection, run, mode=mode), selection.states)

    def _stored(self, model: Bert, progress: Progress, folder: Path, run: Run) -> None:
        """Write the common best, and below it that of each sub-network."""
        labels = self.task.labels or None
        if run.rank == 0:
            save(model, folder, labels=labels)
        for name, best in progress.bests.items():
            if name.startswith("score/"):
                load_best(model, best, run)
                if run.rank == 0:
                    save(model, folder / name.removeprefix("score/"), labels=labels)
