"""One-step pruning by label importance: score a fine-tuned model once for all trials, then cut it to any shape."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from methods.parts.batches import Batch
from methods.parts.bert import Bert
from methods.parts.checkpoint import load
from methods.parts.files import JsonValue, read_tensors, write_tensors
from methods.parts.importance import Importance, TaylorScores, top
from methods.parts.layout import Layout
from methods.parts.loop import fit
from methods.parts.losses import Term, label_loss
from methods.parts.recipe import Recipe
from methods.parts.run import Run
from methods.parts.splits import Splits, training_batches
from methods.parts.surgery import cut
from methods.parts.teacher import Teacher
from methods.parts.training import Training

IMPORTANCE_VERSION = 1
"""Raised whenever the meaning of the stored scores changes."""

SCORES = "importance.safetensors"


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

    def build(folder: Path, inner: Run) -> None:
        scores, model = TaylorScores(), load(teacher.tuned).to(inner.device)
        recipe = Recipe(
            epochs=rows / len(splits.train), batch_size=batch_size, lr=0.0
        )  # a rate of 0 freezes every weight

        def losses(batch: Batch) -> Iterator[Sequence[Term]]:
            yield [label_loss(model(batch).logits, batch.labels)]

        with inner.stage("importance") as stage:
            training = Training(
                model=model,
                data=training_batches(splits.train, recipe, inner),
                losses=losses,
                before_step=lambda _step, _optimizer: scores.observe(model),
                keep={"scores": scores},
            )
            fit(training, recipe, stage, inner)
        if inner.rank == 0:
            _write(scores.scores(model), folder / SCORES)

    folder = run.once("importance", inputs, build, version=IMPORTANCE_VERSION)
    return _read(folder / SCORES)


def prune(model: Bert, importance: Importance, target: Layout) -> Bert:
    """Cut a model in one step: its best heads and neurons within each layer, its bottom layers, the word table's rank.

    Raises:
        ValueError: the target is not a uniform narrowing of the model's layout.
    """
    layer = target.layers[0]
    kept = top(importance, layer.heads, layer.ffn)
    pruned = cut(
        model, heads=kept.heads, neurons=kept.neurons, layers=range(len(target.layers)), rank=target.embedding_rank
    )
    if pruned.layout != target:
        raise ValueError(
            f"prune: found target {target.describe()}, which is no uniform narrowing of {model.layout.describe()}"
        )
    return pruned


def _write(importance: Importance, path: Path) -> None:
    heads = {f"heads.{number}": scores for number, scores in enumerate(importance.heads)}
    neurons = {f"neurons.{number}": scores for number, scores in enumerate(importance.neurons)}
    write_tensors(path, {**heads, **neurons})


def _read(path: Path) -> Importance:
    tensors = read_tensors(path)
    layers = range(len(tensors) // 2)
    return Importance(
        heads=tuple(tensors[f"heads.{number}"] for number in layers),
        neurons=tuple(tensors[f"neurons.{number}"] for number in layers),
    )
