"""The one training loop: a method yields losses, `fit` does the rest.

    repeat until the last step:   update (see methods.parts.update), evaluate and keep the best, report, checkpoint

Iterative pruning is fit, cut, fit, cut: each `fit` has its own stage and a fresh optimizer, and takes the `Progress`
of the one before, so that step count, data order and learning rate run on in one line.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import Tensor, nn

from methods.parts import rng, weights
from methods.parts.bert import Bert
from methods.parts.files import canonical, read_tensors
from methods.parts.optim import pack, unpack
from methods.parts.recipe import Best, Progress, Recipe
from methods.parts.reduce import Ranked, agree, broadcast, check_equal
from methods.parts.run import Run, Stopped
from methods.parts.stages import Snapshot, Stage
from methods.parts.training import Diverged, Losses, Stateful, Steps, Training
from methods.parts.update import Updater

__all__ = [
    "Best",
    "Diverged",
    "Fitted",
    "Losses",
    "Progress",
    "Recipe",
    "Stateful",
    "Steps",
    "Training",
    "fit",
    "load_best",
]


@dataclass(frozen=True, slots=True)
class Fitted:
    """What training gave."""

    model: nn.Module
    """The model that was given, in evaluation mode, with the weights of its main best evaluation, else its last."""
    progress: Progress


def fit(
    training: Training,
    recipe: Recipe,
    stage: Stage,
    run: Run,
    *,
    progress: Progress | None = None,
    until: int | None = None,
) -> Fitted:
    """Train, or answer from the stage if it is finished; an interrupted stage continues where it was, bit for bit.

    Args:
        training: the model, changed in place, and all that belongs to it.
        recipe: the numbers.
        stage: where it is kept; one `fit` for each stage.
        run: the world.
        progress: where an earlier `fit` of the same line ended; its bests and its patience stay behind, for they
            belong to another model.
        until: stop after this many updates of the whole line; None is its end.

    Raises:
        Diverged: loss or gradients became NaN or infinite.
        ValueError: the stage was used already, holds the result of other settings, or an argument does not fit.
        Stopped: `run` was told to end.
    """
    if stage.fitted:
        raise ValueError(f"stage {stage.name!r}: two fits in one stage, allowed is one; give each its own name")
    stage.fitted = True
    fitting = _Fitting(training, recipe, stage, run)
    fitting.start(progress, until)
    if stage.finished():
        fitting.restore(stage.result())
        return Fitted(training.model.eval(), fitting.progress)
    fitting.resume()
    fitting.run_all()
    return Fitted(training.model.eval(), fitting.finish())


def load_best(model: nn.Module, best: Best, ranks: Ranked) -> None:
    """Put the weights of a best evaluation into `model`; collective, rank 0 reads."""
    if ranks.rank == 0:
        model.load_state_dict(read_tensors(best.file))
    broadcast(model.state_dict().values(), ranks)


class _Fitting:
    """A fit under way."""

    def __init__(self, training: Training, recipe: Recipe, stage: Stage, run: Run) -> None:
        self.training, self.recipe, self.stage, self.run = training, recipe, stage, run
        self.updater = Updater(training, recipe, run)
        self.settings: dict[str, Any] = {}
        self.end = 0
        self.progress = Progress(total_steps=0, steps_per_epoch=0)

    def start(self, progress: Progress | None, until: int | None) -> None:
        """Take up the line where `progress` left it: equal models on all ranks, randomness of this rank's own."""
        per_epoch = self.training.data.num_steps
        before = progress or Progress(total_steps=self.recipe.steps(per_epoch), steps_per_epoch=per_epoch)
        self.progress = Progress(step=before.step, total_steps=before.total_steps, steps_per_epoch=per_epoch)
        self.end = before.total_steps if until is None else min(until, before.total_steps)
        line = {"first": before.step, "end": self.end, "total": before.total_steps, "per_epoch": per_epoch}
        self.settings = {"recipe": asdict(self.recipe), "line": line, "seed": self.stage.seed}
        rng.seed_all(rng.derive(self.stage.seed, self.stage.name, before.step, self.run.rank))
        broadcast((*self.training.model.state_dict().values(), *self.updater.parameters), self.run)

    def resume(self) -> None:
        """Continue from the last checkpoint, if there is one."""
        snapshot = self.stage.resume()
        if snapshot is None:
            return
        self.restore(snapshot)
        unpack(self.updater.optimizer, snapshot.tensors["optimizer"])
        window: Any = snapshot.values["window"]
        self.updater.window.load(window["sums"] if self.run.rank == 0 else {}, window["updates"])

    def restore(self, snapshot: Snapshot) -> None:
        """Put stored weights and progress in place.

        Raises:
            ValueError: they belong to other settings or another architecture.
        """
        values: Any = snapshot.values
        if canonical(values["settings"]) != canonical(self.settings):
            found = values["settings"]
            raise ValueError(f"{self.stage.folder}: holds a stage with settings {found}, wanted are {self.settings}")
        parts = {"model": self.training.model, **{f"keep.{name}": part for name, part in self.training.keep.items()}}
        for name, part in parts.items():
            tensors = {key: value.to(self.run.device) for key, value in snapshot.tensors[name].items()}
            try:
                part.load_state_dict(tensors)
            except RuntimeError as error:
                where = f"{self.stage.folder}: {name}"
                raise ValueError(f"{where}: stored weights are of another architecture: {error}") from None
        self.progress = Progress.from_json(values["progress"], self.stage.folder)

    def run_all(self) -> None:
        """Update until the end; evaluate, report and checkpoint on the way."""
        self.training.train_mode()
        if self.progress.step == self.settings["line"]["first"] >= self.end:
            self.tell(evaluate=True)
        while self.progress.step < self.end and not self.progress.stopped:
            step = self.progress.step + 1
            due = self.updater.update(step - 1, self.progress.total_steps, self.stage.due(step))
            self.progress = replace(self.progress, step=step)
            every = self.recipe.evaluate_every or self.progress.steps_per_epoch
            if step == self.end or step % every == 0:
                self.tell(evaluate=True)
            elif self.training.report_every and step % self.training.report_every == 0:
                self.tell(evaluate=False)
            due = due and step < self.end
            if due:
                self.checkpoint()
            try:
                self.run.poll()
            except Stopped as stop:
                if stop.resumable and not due:
                    self.checkpoint()
                raise

    def tell(self, *, evaluate: bool) -> None:
        """Report the training losses since the last report, and the metrics if the model is to be evaluated."""
        metrics: dict[str, float] = {}
        if evaluate and self.training.evaluate is not None:
            metrics = _measured(self.training, self.run)
            self.training.train_mode()
            self.progress = _selected(self.progress, metrics, self.training, self.recipe, self.stage)
        numbers = {"epoch": self.progress.epoch, "lr": float(self.updater.optimizer.param_groups[0]["lr"])}
        self.run.report(self.progress.step, {**self.updater.window.means(self.run), **numbers, **metrics})

    def checkpoint(self) -> None:
        """Store everything that a continuation needs."""
        check_equal((*self.training.model.state_dict().values(), *self.updater.parameters), self.run)
        window = self.updater.window
        values = {"window": {"sums": window.fold(self.run), "updates": window.updates}}
        snapshot = self.snapshot(values, {"optimizer": pack(self.updater.optimizer)})
        self.stage.checkpoint(self.progress.step, snapshot, self.progress.files)

    def snapshot(self, values: Mapping[str, Any], tensors: Mapping[str, Mapping[str, Tensor]]) -> Snapshot:
        """What `restore` reads, and more."""
        model = self.training.model
        described = {"bert": weights.describe(model)} if isinstance(model, Bert) else {}
        kept = {f"keep.{name}": part.state_dict() for name, part in self.training.keep.items()}
        return Snapshot(
            {"settings": self.settings, "progress": self.progress.to_json(), **described, **values},
            {"model": model.state_dict(), **kept, **tensors},
        )

    def finish(self) -> Progress:
        """Take the main best weights, and store the result."""
        main = next(iter(self.training.best), "")
        if main in self.progress.bests:
            load_best(self.training.model, self.progress.bests[main], self.run)
        self.stage.finish(self.snapshot({}, {}), self.progress.files)
        return self.progress


def _measured(training: Training, ranks: Ranked) -> dict[str, float]:
    """Evaluate the model; rank 0's numbers on every rank.

    Raises:
        ValueError: a metric that selects the best is not among them.
    """
    found = training.evaluate(training.model) if training.evaluate is not None else {}
    missing = [name for name in training.best if name not in found]
    if missing:
        raise ValueError(f"Training.best: found {missing[0]!r}, allowed are what evaluate gives: {sorted(found)}")
    names = sorted(found)
    return dict(zip(names, agree([found[name] for name in names], ranks), strict=True))


def _selected(
    progress: Progress, metrics: Mapping[str, float], training: Training, recipe: Recipe, stage: Stage
) -> Progress:
    """Keep the weights if a metric improved, and count the evaluations in which the main one did not."""
    better = [name for name in training.best if _improves(metrics[name], training.best[name], progress.bests.get(name))]
    bests = dict(progress.bests)
    if better:
        file = stage.keep_best(progress.step, training.model.state_dict())
        bests.update({name: Best(metrics[name], progress.step, file) for name in better})
    main = next(iter(training.best), "")
    since = 0 if main in better else progress.since_best + 1
    return replace(progress, bests=bests, since_best=since, stopped=0 < recipe.patience <= since)


def _improves(value: float, direction: str, best: Best | None) -> bool:
    """Whether `value` beats the best so far; NaN never does."""
    if math.isnan(value) or best is None:
        return not math.isnan(value)
    return value > best.value if direction == "max" else value < best.value
