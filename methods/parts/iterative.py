"""Training in whose course the model shrinks: fit, cut, fit, cut, with one unbroken learning-rate line.

    for each prune:   train until its time, gathering |gradient| of the full loss (Taylor variant C)
                      keep the best heads and neurons by |weight * sum of |gradient||, the bottom layers, the rank
                      go on with a fresh optimizer
    train the final shape to the end, keep its best evaluation

Each part is a stage of its own, so an interrupted training goes on in the part where it was. A part's stored weights
and scores are removed once the next part is finished. The optimizer's moments, its step counter and the scores begin
anew at each prune, and there is no second warm-up. The released code re-bases the learning rate there and arrives
at the same line; it may end with the model saved before the last prune, where ours always has the final shape.

References:
    Liu, Lin, Yuan: ROSITA: Refined BERT cOmpreSsion with InTegrAted techniques, AAAI 2021,
    https://arxiv.org/abs/2103.11367
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch.optim import Optimizer

from methods.parts.bert import Bert
from methods.parts.files import remove
from methods.parts.importance import TaylorScores
from methods.parts.layout import Layout
from methods.parts.loop import fit
from methods.parts.prune_schedule import Prune
from methods.parts.pruning import prune
from methods.parts.recipe import Progress, Recipe
from methods.parts.run import Run
from methods.parts.stages import Stage
from methods.parts.training import Training


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """A training with prunes."""

    name: str
    """Of its stages: `<name>-00`, `<name>-01`, ... by the prunes before; plain `<name>` without any prune."""
    training: Callable[[Bert], Training]
    """What is trained, given the model of the moment; evaluation and choice of the best happen in the last part only,
    for before it the model has another shape."""
    recipe: Recipe
    prunes: Sequence[Prune] = ()
    """In order of time."""
    final: bool = False
    """Whether reports of the last part are comparable between trials."""


def fit_pruning(model: Bert, line: Line, run: Run) -> Bert:
    """Train a model and prune it on the way; the same shape comes out as the last prune names.

    Args:
        model: on the run's device; only its first part is trained in place.
        line: the training.
        run: the world.

    Returns:
        The model of the final shape, in evaluation mode, with the weights of its best evaluation, else its last.

    Raises:
        Diverged, ValueError, Stopped: see `methods.parts.loop.fit`.
    """
    layouts = [model.layout, *(cut.layout for cut in line.prunes)]
    first = _finished(line, run)
    if first:
        model = _shell(model, layouts[first]).to(run.device)  # its weights and scores come from the stage
    for number in range(first, len(layouts)):
        last = number == len(layouts) - 1
        scores = TaylorScores("final")
        training = line.training(model)
        with run.stage(_names(line)[number], final=line.final and last) as stage:
            progress = _progress(line, number, training.data.num_steps)
            if last:
                fit(training, line.recipe, stage, run, progress=progress)
            else:
                part = _unjudged(training)
                part = _watched(part, model, scores) if _narrows(model.layout, layouts[number + 1]) else part
                fit(part, line.recipe, stage, run, progress=progress, until=line.prunes[number].after)
            _forget(line, number, stage)
        if not last:
            model = prune(model, scores.scores(model) if scores.num_steps else None, layouts[number + 1])
    return model


def _names(line: Line) -> list[str]:
    """The names of the stages, in order."""
    return [f"{line.name}-{number:02d}" for number in range(len(line.prunes) + 1)] if line.prunes else [line.name]


def _finished(line: Line, run: Run) -> int:
    """The last part whose result is stored, or 0."""
    for number in reversed(range(1, len(line.prunes) + 1)):
        with run.stage(_names(line)[number]) as stage:
            if stage.finished():
                return number
    return 0


def _shell(model: Bert, layout: Layout) -> Bert:
    """A model of another shape, with weights that mean nothing."""
    return Bert(layout, head=model.head, dropout=model.dropout, layer_norm_eps=model.layer_norm_eps)


def _progress(line: Line, number: int, steps_per_epoch: int) -> Progress | None:
    """Where part `number` begins."""
    if number == 0:
        return None
    total = line.recipe.steps(steps_per_epoch)
    return Progress(step=line.prunes[number - 1].after, total_steps=total, steps_per_epoch=steps_per_epoch)


def _narrows(before: Layout, after: Layout) -> bool:
    """Whether a layer that stays loses heads or neurons."""
    return any(old != new for old, new in zip(before.layers, after.layers, strict=False))


def _unjudged(training: Training) -> Training:
    """The same training without evaluation."""
    return dataclasses.replace(training, evaluate=None, best={})


def _watched(training: Training, model: Bert, scores: TaylorScores) -> Training:
    """The same training, its gradients added to `scores`."""

    def before_step(step: int, optimizer: Optimizer) -> None:
        scores.observe(model)
        if training.before_step is not None:
            training.before_step(step, optimizer)

    return dataclasses.replace(training, before_step=before_step, keep={**training.keep, "scores": scores})


def _forget(line: Line, number: int, stage: Stage) -> None:
    """Remove the results of the parts before; every rank has read them when it comes here."""
    if stage.ranks.rank == 0 and stage.owned():
        for name in _names(line)[:number]:
            remove(stage.folder.with_name(name))
