"""A narrow masked language model that inherits its weights: trained with compactors on text, then merged.

Nothing in it depends on a task or on a trial's seed, so one student serves all trials of a width and its numbers.

References:
    Wu et al.: Weight-Inherited Distillation for Task-Agnostic BERT Compression, Findings of NAACL 2024,
    https://arxiv.org/abs/2305.09098
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from methods.parts import weights
from methods.parts.bert import Bert
from methods.parts.compaction import Compaction, compaction_groups, left_over
from methods.parts.compactors import CompactedBert
from methods.parts.files import JsonValue, read_json, write_json
from methods.parts.layout import Layout
from methods.parts.loop import fit
from methods.parts.mask_groups import Narrowing
from methods.parts.masked_lm import masked_lm_losses
from methods.parts.masked_text import Text, masked_lm_base
from methods.parts.merge import TOLERANCE, leak, merge
from methods.parts.recipe import Recipe
from methods.parts.run import Run
from methods.parts.teacher import Teacher, checkpoint_fingerprint
from methods.parts.training import Training

INHERITED_VERSION = 1
"""Raised whenever the meaning of what is stored changes."""

STUDENT, NUMBERS = "student", "numbers.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Inheritance:
    """How a student is made; see `Narrowing`, `Compaction` and `merge` for what the numbers mean."""

    target: int
    strategy: str
    scoring: str
    ramp_residual: int | None
    ramp_ffn: int
    mask_every: int
    mode: str
    penalty: float
    compactors_only: bool
    lr: float
    """The compactors' peak learning rate; `recipe.lr` is that of the inherited weights."""
    recipe: Recipe
    """Of the training with compactors, with `total_steps`."""
    head: Recipe
    """Of the training of a checkpoint that has no masked-LM head; with `total_steps`, 0 refuses such a checkpoint."""
    compat: tuple[str, ...] = ()

    def narrowing(self, layout: Layout) -> Narrowing:
        """From which layout to which width.

        Raises:
            ValueError: the target does not fit the layout.
        """
        names = ("target", "strategy", "scoring", "ramp_residual", "ramp_ffn")
        values: dict[str, Any] = {name: getattr(self, name) for name in names}
        return Narrowing(layout=layout, **values)

    def check(self, layout: Layout, tolerance: float | None) -> None:
        """Refuse, before anything is trained, a training whose removed dimensions cannot vanish.

        Args:
            layout: the teacher's.
            tolerance: what is let through; None lets any through.

        Raises:
            ValueError: the training is too short for the masks, or the decay too slow.
        """
        first, steps = self.narrowing(layout).complete * self.mask_every, self.recipe.steps(0)
        if first > steps:
            raise ValueError(
                f"inherit_steps: found {steps}, allowed are at least {first}, the updates until the width is reached"
            )
        if self.mode == "decoupled" and first and tolerance is not None:
            left = left_over(self.recipe, self.lr, self.penalty, first - 1)
            if left > tolerance:
                raise ValueError(
                    f"penalty: found {self.penalty:g}, which leaves {left:.3g} of what is removed last, allowed is "
                    f"{tolerance:g}; take a larger penalty or compactor_lr, more inherit_steps, or a smaller mask_every"
                )


def inherited_student(
    how: Inheritance, text: Text, teacher: Teacher, run: Run, *, tolerance: float | None = TOLERANCE
) -> tuple[Bert, dict[str, float]]:
    """The merged student, trained once for all trials; collective.

    Args:
        how: the numbers.
        text: what it learns on.
        teacher: its pretrained checkpoint is inherited from.
        run: the world.
        tolerance: the largest value that may be cut away where it counts; None lets any through.

    Returns:
        The student with its masked-LM head, on the CPU; and `mlm_teacher`, `mlm_unmerged`, `mlm_merged`: masked-LM
        losses on held-out blocks, `mlm_difference` between the last two, relative, and `leak`, the largest value cut
        away where it counts.

    Raises:
        ValueError: there is no text, the checkpoint has no masked-LM head and may not be given one, or more than
            `tolerance` would be cut away.
    """
    inputs: dict[str, JsonValue] = {
        "teacher": checkpoint_fingerprint(teacher.base),
        "text": text.facts(),
        "numbers": asdict(how),
    }

    def build(folder: Path, inner: Run) -> None:
        _inherit(how, text, teacher, folder, inner)

    folder = run.once("wid", inputs, build, version=INHERITED_VERSION)
    numbers: dict[str, float] = read_json(folder / NUMBERS)
    if tolerance is not None and not numbers["leak"] <= tolerance:
        raise ValueError(
            f"merge: found values up to {numbers['leak']:.3g} where dimensions are cut, allowed are {tolerance:g}; "
            "take more inherit_steps or a larger penalty, or no tolerance, which lets any be dropped"
        )
    return weights.load(folder / STUDENT), numbers


def _inherit(how: Inheritance, text: Text, teacher: Teacher, folder: Path, run: Run) -> None:
    """Train with compactors, merge, measure and write."""
    train, held = text.blocks(run)
    base = masked_lm_base(teacher, text, how.head, run).to(run.device)
    numbers = {"mlm_teacher": text.loss(base, held, run)}
    model = CompactedBert.inherit(base, how.compat).to(run.device)
    narrowing = how.narrowing(model.layout)
    compaction = Compaction(model, narrowing, mask_every=how.mask_every, penalty=how.penalty, mode=how.mode)
    groups = compaction_groups(model, lr=how.lr, base_lr=how.recipe.lr, compactors_only=how.compactors_only)

    def evaluate(trained: nn.Module) -> Mapping[str, float]:
        assert trained is model
        return {"masked_lm": text.loss(model, held, run), "leak": leak(model)}

    training = Training(
        model=model,
        data=text.batches(train, how.recipe, run),
        losses=masked_lm_losses(model),
        groups=groups,
        before_step=compaction.before_step,
        evaluate=evaluate,
        best={},
    )
    with run.stage("compact") as stage:
        fit(training, how.recipe, stage, run)
    student = merge(model, hard_zero=True)
    losses = {"mlm_unmerged": text.loss(model, held, run), "mlm_merged": text.loss(student, held, run)}
    numbers |= {**losses, "leak": leak(model)}
    numbers["mlm_difference"] = abs(numbers["mlm_merged"] - numbers["mlm_unmerged"]) / numbers["mlm_unmerged"]
    if run.rank == 0:
        weights.save(student, folder / STUDENT)
        write_json(folder / NUMBERS, numbers)
