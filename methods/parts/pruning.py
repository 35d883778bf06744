"""One-step pruning: score a model's heads and neurons once for all trials, then cut it to any shape.

    variant A   labels' loss, frozen weights of the fine-tuned teacher
    variant B   loss against a teacher; the scored model is trained meanwhile, and its last weights are multiplied with
                the gradients of all its steps, as published; a learning rate of 0 freezes it instead

References:
    Liu, Lin, Yuan: ROSITA: Refined BERT cOmpreSsion with InTegrAted techniques, AAAI 2021,
    https://arxiv.org/abs/2103.11367
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from methods.parts.bert import Bert
from methods.parts.checkpoint import load
from methods.parts.files import JsonValue, read_tensors, write_tensors
from methods.parts.importance import Importance, TaylorScores, top
from methods.parts.label_training import learn_labels
from methods.parts.layout import Layout
from methods.parts.loop import fit
from methods.parts.recipe import Recipe
from methods.parts.run import Run
from methods.parts.splits import Splits, training_batches
from methods.parts.surgery import cut
from methods.parts.teacher import Teacher
from methods.parts.tokens import Encoded
from methods.parts.training import Losses, Training

IMPORTANCE_VERSION = 1
"""Raised whenever the meaning of the stored scores changes."""

SCORES = "importance.safetensors"


@dataclass(frozen=True, kw_only=True, slots=True)
class Scoring:
    """What is scored, under which loss, while it is trained how."""

    model: Callable[[Run], Bert]
    """Makes the model, on the run's device."""
    losses: Callable[[Bert, Run], Losses]
    recipe: Recipe
    weights: str = "current"
    """One of `importance.WEIGHTS`."""


def label_importance(
    teacher: Teacher, splits: Splits, run: Run, *, batch_size: int = 32, limit: int | None = None
) -> Importance:
    """Taylor scores of the fine-tuned teacher under the labels' loss, computed once for all trials.

    ROSITA's variant A: one pass over the training set, dropout active, gradients of batch means, frozen weights.

    Args:
        teacher: Whose heads and neurons are scored.
        splits: The training rows are read.
        run: The world.
        batch_size: Sentences of one gradient; scores depend on it.
        limit: Training rows to use, from the beginning of the run's order; None uses all.
    """
    rows = len(splits.train) if limit is None else min(limit, len(splits.train))
    inputs: dict[str, JsonValue] = {
        "teacher": teacher.fingerprint,
        "rows": splits.train.fingerprint,
        "num_rows": rows,
        "batch_size": batch_size,
    }

    scoring = Scoring(
        model=lambda inner: load(teacher.tuned).to(inner.device),
        losses=lambda model, _inner: learn_labels(model),
        recipe=Recipe(epochs=rows / len(splits.train), batch_size=batch_size, lr=0.0),  # 0 freezes every weight
    )
    return _shared("importance", inputs, scoring, splits.train, run)


def distilled_importance(
    scoring: Scoring, inputs: Mapping[str, JsonValue], data: Encoded, run: Run, *, limit: int | None = None
) -> Importance:
    """Taylor scores under a teacher's loss, computed once for all trials: ROSITA's variant B.

    Args:
        scoring: one pass over `data` with this recipe, whose epochs do not count.
        inputs: what the model and the losses are made from.
        data: the rows.
        run: the world.
        limit: rows to use, from the beginning of the run's order; None uses all.
    """
    rows = len(data) if limit is None else min(limit, len(data))
    recipe = replace(scoring.recipe, epochs=rows / len(data))
    whole = {**inputs, "rows": data.fingerprint, "num_rows": rows, "recipe": asdict(recipe), "weights": scoring.weights}
    return _shared("distilled-importance", whole, replace(scoring, recipe=recipe), data, run)


def _shared(name: str, inputs: Mapping[str, JsonValue], scoring: Scoring, data: Encoded, run: Run) -> Importance:
    """Ask for stored scores, or take them."""

    def build(folder: Path, inner: Run) -> None:
        scores, model = TaylorScores(scoring.weights), scoring.model(inner)
        with inner.stage("importance") as stage:
            training = Training(
                model=model,
                data=training_batches(data, scoring.recipe, inner),
                losses=scoring.losses(model, inner),
                before_step=lambda _step, _optimizer: scores.observe(model),
                keep={"scores": scores},
            )
            fit(training, scoring.recipe, stage, inner)
        if inner.rank == 0:
            write_scores(scores.scores(model), folder / SCORES)

    folder = run.once(name, inputs, build, version=IMPORTANCE_VERSION)
    return read_scores(folder / SCORES)


def prune(model: Bert, importance: Importance | None, target: Layout) -> Bert:
    """Cut a model in one step: its best heads and neurons within each layer, its bottom layers, the word table's rank.

    Args:
        model: stays as it is.
        importance: of all its layers; None where no layer becomes narrower.
        target: the shape that is left.

    Raises:
        ValueError: the target is not a narrowing of the model's layout.
    """
    depth, heads, neurons = len(target.layers), None, None
    if importance is not None:
        layers = (*target.layers, *model.layout.layers[depth:])
        kept = top(importance, [layer.heads for layer in layers], [layer.ffn for layer in layers])
        heads, neurons = kept.heads, kept.neurons
    pruned = cut(model, heads=heads, neurons=neurons, layers=range(depth), rank=target.embedding_rank)
    if pruned.layout != target:
        raise ValueError(f"prune: found target {target.describe()}, which is no narrowing of {model.layout.describe()}")
    return pruned


def write_scores(importance: Importance, path: Path) -> None:
    """Write the scores of all layers into one file."""
    heads = {f"heads.{number}": scores for number, scores in enumerate(importance.heads)}
    neurons = {f"neurons.{number}": scores for number, scores in enumerate(importance.neurons)}
    write_tensors(path, {**heads, **neurons})


def read_scores(path: Path) -> Importance:
    """Read what `write_scores` wrote."""
    tensors = read_tensors(path)
    layers = range(len(tensors) // 2)
    return Importance(
        heads=tuple(tensors[f"heads.{number}"] for number in layers),
        neurons=tuple(tensors[f"neurons.{number}"] for number in layers),
    )
