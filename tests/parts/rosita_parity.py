"""ROSITA's whole chain on tiny models, item by item against the numbers of the original code.

`python -m tests.parts.rosita_parity` prints every item with its largest relative error. The same chain on weights made
from a seed is frozen in tests/golden/rosita.json (`--freeze` writes it anew), so that the formulas are checked where
the golden file is absent.
"""

import json
import os
import sys
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from methods.parts.bert import Bert
from methods.parts.clip import clip_gradients
from methods.parts.importance import MATRICES, Kept, TaylorScores, top
from methods.parts.layout import Layout
from methods.parts.losses import Term, hard_cross_entropy, hidden_mse, layer_map, soft_cross_entropy
from methods.parts.optim import Group, named, optimizer_for
from methods.parts.recipe import Recipe
from methods.parts.schedule import factor
from methods.parts.surgery import cut
from tests.strategies import Rows

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(os.environ.get("DISTILSWEEP_SHARED", ROOT.parent / "shared")) / "golden" / "golden_rosita.npz"
FROZEN = ROOT / "tests" / "golden" / "rosita.json"
EXACT = ("kept_heads", "kept_neurons", "num_params", "index_map")

Item = tuple[str, Tensor]
Items = Iterator[Item]
Arrays = Mapping[str, NDArray[Any]]
Shape = tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True)
class Case:
    """Two models with the plain head and no dropout, three batches, two shapes (heads, layers, ffn, rank) to cut to."""

    teacher: Bert
    student: Bert
    batches: Sequence[Rows]
    first: Shape
    second: Shape


def with_head(model: Bert, head: str) -> Bert:
    """A copy with another head kind."""
    other = Bert(model.layout, head=head, dropout=0.0)
    other.load_state_dict(model.state_dict())
    return other


def divided(term: Term, batch: Rows) -> Tensor:
    """The term's value on one batch, as the loop would take it."""
    return term.weight * term.sum / batch.sizes[term.per]


def trace(case: Case) -> Items:
    """Every item of golden_rosita.npz that is computed, under its name there."""
    teacher, student = with_head(case.teacher, "relu"), with_head(case.student, "relu")
    yield from forward("T.out", teacher, case.batches[0])
    yield from forward("S.out", student, case.batches[0])
    yield "S.out.hf_logits", case.student(case.batches[0]).logits
    kept = yield from variant_a(case)
    yield from variant_b(case, teacher, with_head(case.student, "relu"))
    pruned = yield from cut_to("P", student, kept, case.first)
    yield from parameters("P", pruned)
    yield "P.num_params_state_dict", torch.tensor(pruned.layout.params())
    yield from forward("P.out", pruned, case.batches[0])
    yield from distillation(teacher, pruned, case.batches[0])
    scores = yield from steps(teacher, pruned, case.batches)
    yield from parameters("P3", pruned)
    importance = scores.scores(pruned, per_step=True)
    yield "C.head_score", torch.stack(importance.heads)
    yield "C.ffn_score", torch.stack(importance.neurons)
    last = yield from cut_to("Q", pruned, top(importance, case.second[0], case.second[2]), case.second)
    yield "Q.emb_product", product(last)
    yield "Q.out.logits", last(case.batches[0]).logits


def forward(name: str, model: Bert, batch: Rows) -> Items:
    output = model(batch, hidden=True)
    yield f"{name}.logits", output.logits
    for number, states in enumerate(output.hidden):
        yield f"{name}.hidden.{number}", states


def variant_a(case: Case) -> Generator[Item, None, Kept]:
    """Label loss, plain head, frozen weights; both ways of keeping the sums must agree."""
    model, matrices, sums = with_head(case.student, "plain"), TaylorScores("final"), TaylorScores()
    losses = []
    for batch in case.batches:
        model.zero_grad()
        loss = divided(hard_cross_entropy(model(batch).logits, batch.labels), batch)
        torch.autograd.backward(loss)
        losses.append(loss.detach())
        matrices.observe(model)
        sums.observe(model)
    yield "A.losses", torch.stack(losses)
    for scores in (matrices.scores(model), sums.scores(model)):
        yield "A.head_score", torch.stack(scores.heads)
        yield "A.ffn_score", torch.stack(scores.neurons)
    for number in (0, len(model.layers) - 1):
        for name in MATRICES:
            matrix = matrices.matrix(number, name, model.layers[number])
            yield f"A.weight.encoder.layer.{number}.{name}.weight", matrix
    return top(sums.scores(model), case.first[0], case.first[2])


def variant_b(case: Case, teacher: Bert, model: Bert) -> Items:
    """Distillation loss, ReLU head, weights that keep moving; final weights times accumulated gradients."""
    optimizer = bert_adam(model, 5e-5)
    scores, losses = TaylorScores("final"), []
    for batch in case.batches:
        model.zero_grad()
        term = soft_cross_entropy(model(batch).logits, teacher(batch).logits, mean_over_classes=True)
        loss = divided(term, batch)
        torch.autograd.backward(loss)
        losses.append(loss.detach())
        scores.observe(model)
        clip_gradients([(list(model.parameters()), 1.0)], "tensor", 1.0)
        optimizer.step()
    yield "B.losses", torch.stack(losses)
    importance = scores.scores(model, per_step=True)
    yield "B.head_score", torch.stack(importance.heads)
    yield "B.ffn_score", torch.stack(importance.neurons)
    yield "B.student_after.layer0.query.weight", model.layers[0].attention.self.query.weight
    yield "B.student_after.classifier.weight", model.state_dict()["classifier.weight"]


def bert_adam(model: Bert, lr: float) -> torch.optim.Optimizer:
    """The KD trainer's optimizer."""
    recipe = Recipe(optimizer="bert_adam", lr=lr, weight_decay=0.01)
    return optimizer_for([Group(name="model", parameters=named(model))], recipe)


def cut_to(name: str, model: Bert, kept: Kept, shape: Shape) -> Generator[Item, None, Bert]:
    """Cut to the best heads and neurons of the bottom layers."""
    pruned = cut(model, heads=kept.heads, neurons=kept.neurons, layers=range(shape[1]), rank=shape[3])
    yield f"{name}.kept_heads", torch.tensor(kept.heads[: shape[1]])
    yield f"{name}.kept_neurons", torch.tensor(kept.neurons[: shape[1]])
    return pruned


def product(model: Bert) -> Tensor:
    """The word table that two factors stand for; the factors themselves have free signs."""
    embeddings = model.bert.embeddings
    assert embeddings.word_projection is not None
    return embeddings.word_embeddings.weight @ embeddings.word_projection.weight.T


def parameters(name: str, model: Bert) -> Items:
    for key, value in model.state_dict().items():
        if ".word_" not in key:
            yield f"{name}.{key}", value
    yield f"{name}.emb_product", product(model)


def both_losses(teacher: Bert, student: Bert, batch: Rows) -> tuple[Term, Term]:
    """Hidden and prediction loss as the original has them: padding counts, mean over classes."""
    theirs, mine = teacher(batch, hidden=True), student(batch, hidden=True)
    targets = [theirs.hidden[i] for i in layer_map(len(teacher.layers), len(student.layers))]
    hidden = hidden_mse(mine.hidden, targets, batch.attention_mask, compat="padding")
    return hidden, soft_cross_entropy(mine.logits, theirs.logits, mean_over_classes=True)


def distillation(teacher: Bert, student: Bert, batch: Rows) -> Items:
    indices = layer_map(len(teacher.layers), len(student.layers))
    theirs, mine = teacher(batch, hidden=True), student(batch, hidden=True)
    pairs = [(mine.hidden[i], theirs.hidden[j]) for i, j in enumerate(indices)]
    yield "KD.teacher_index_map", torch.tensor(indices)
    mse = [hidden_mse([s], [t], batch.attention_mask, compat="padding") for s, t in pairs]
    yield "KD.pair_mse", torch.stack([divided(term, batch) for term in mse])
    hidden, prediction = both_losses(teacher, student, batch)
    student.zero_grad()
    total = divided(hidden, batch) + divided(prediction, batch)
    torch.autograd.backward(total)
    yield "KD.rep_loss", divided(hidden, batch)
    yield "KD.cls_loss_T1", divided(prediction, batch)
    softer = soft_cross_entropy(mine.logits, theirs.logits, temperature=2.0, mean_over_classes=True)
    yield "KD.cls_loss_T2", divided(softer, batch)
    yield "KD.total_T1", total
    for key, name in (("classifier", "classifier"), ("layer1.output.dense", "bert.encoder.layer.1.output.dense")):
        gradient = student.get_parameter(f"{name}.weight").grad
        assert gradient is not None
        yield f"KD.grad.{key}.weight", gradient


def steps(teacher: Bert, student: Bert, batches: Sequence[Rows]) -> Generator[Item, None, TaylorScores]:
    """Train for three steps of a schedule of 20, scores gathered on line."""
    optimizer, scores, losses, rates = bert_adam(student, 1e-3), TaylorScores("final"), [], []
    for number, batch in enumerate(batches):
        rates.append(1e-3 * factor(number, 20, 2.0, "linear"))
        for group in optimizer.param_groups:
            group["lr"] = rates[-1]
        student.zero_grad()
        loss = torch.stack([divided(term, batch) for term in both_losses(teacher, student, batch)]).sum()
        torch.autograd.backward(loss)
        losses.append(loss.detach())
        scores.observe(student)
        clip_gradients([(list(student.parameters()), 1.0)], "tensor", 1.0)
        optimizer.step()
    yield "STEP.losses", torch.stack(losses)
    yield "STEP.lrs", torch.tensor(rates)
    return scores


def tolerance(item: str) -> float:
    """Relative tolerance of an item, from golden_rosita.md; 0 for index lists."""
    if any(word in item for word in EXACT):
        return 0.0
    return 1e-4 if item.split(".")[0] in {"B", "C", "P3", "Q"} or item.startswith(("KD.grad", "STEP.losses")) else 1e-5


def golden_case(golden: Arrays) -> Case:
    """The models and batches of the golden file."""
    layout = Layout.uniform(vocab=512, positions=64, hidden=64, num_layers=4, heads=4, head_width=16, ffn=128)
    models = []
    for name in ("T", "S"):
        model = Bert(layout, dropout=0.0)
        model.load_state_dict({key: torch.from_numpy(golden[f"{name}.{key}"]) for key in model.state_dict()})
        models.append(model)
    batches = [batch_of({key: golden[f"batch{i}.{key}"] for key in FIELDS}) for i in range(3)]
    return Case(teacher=models[0], student=models[1], batches=batches, first=(2, 2, 64, 16), second=(1, 2, 32, 8))


FIELDS = ("input_ids", "attention_mask", "token_type_ids", "labels")


def batch_of(arrays: Arrays) -> Rows:
    tensors = {name: torch.from_numpy(arrays[name]) for name in FIELDS}
    rows, length = tensors["input_ids"].shape
    sizes = {"examples": rows, "tokens": int(arrays["attention_mask"].sum()), "positions": rows * length}
    return Rows(**tensors, sizes=sizes)


def error(found: Tensor, wanted: NDArray[Any]) -> float:
    """Largest difference, relative to the largest number of the array; for whole numbers, the count of differences."""
    mine = found.detach().double().numpy()
    assert mine.shape == wanted.shape, (mine.shape, wanted.shape)
    if wanted.dtype.kind == "i":
        return float((mine != wanted).sum())
    return float(np.abs(mine - wanted).max() / np.abs(wanted).max())


def parity() -> Iterator[tuple[str, float, float]]:
    """Every item of the golden file: name, largest relative error, tolerance.

    Raises:
        AssertionError: an item of the golden file was not computed.
    """
    golden = dict(np.load(GOLDEN))
    seen = set()
    for item, value in trace(golden_case(golden)):
        seen.add(item)
        yield item, error(value, golden[item]), tolerance(item)
    inputs = ("batch", "T.bert", "T.cla", "S.bert", "S.cla", "P.bert.embeddings.word_", "P3.bert.embeddings.word_")
    left = [name for name in golden if name not in seen and not name.startswith(inputs)]
    assert not left, f"not computed: {left}"


def made_case() -> Case:
    """Models and batches made from a seed by NumPy's frozen legacy generator."""
    draw = np.random.RandomState(0)
    layout = Layout.uniform(vocab=40, positions=16, hidden=24, num_layers=3, heads=3, head_width=8, ffn=20)
    models = []
    for _ in range(2):
        model = Bert(layout, dropout=0.0)
        state = {key: draw.standard_normal(tuple(value.shape)) * 0.3 for key, value in model.state_dict().items()}
        state = {key: value + key.endswith("LayerNorm.weight") for key, value in state.items()}
        model.load_state_dict({key: torch.from_numpy(value).float() for key, value in state.items()})
        models.append(model)
    batches = []
    for _ in range(3):
        mask = np.arange(9) < draw.randint(3, 10, size=(5, 1))
        types = (np.arange(9) > 3) & mask & (np.arange(5)[:, None] % 2 == 1)
        arrays = (draw.randint(1, 40, size=(5, 9)) * mask, mask, types, draw.randint(0, 2, size=5))
        batches.append(batch_of({name: array.astype(np.int64) for name, array in zip(FIELDS, arrays, strict=True)}))
    return Case(teacher=models[0], student=models[1], batches=batches, first=(2, 2, 9, 6), second=(1, 2, 5, 4))


def frozen_items() -> dict[str, Any]:
    """The small items of the made case: losses, index lists, scores of heads, logits."""
    names = (
        "losses",
        "logits",
        "head_score",
        "kept_heads",
        "kept_neurons",
        "num_params",
        "KD.pair",
        "KD.rep",
        "KD.cls",
    )
    return {name: value.tolist() for name, value in trace(made_case()) if any(word in name for word in names)}


def main(arguments: Sequence[str]) -> None:
    """Print the parity table, or write the frozen numbers anew."""
    torch.set_num_threads(1)
    if arguments == ["--freeze"]:
        rows = [f'"{name}": {json.dumps(value)}' for name, value in frozen_items().items()]
        FROZEN.write_text("{\n" + ",\n".join(rows) + "\n}\n", encoding="utf-8")
        return
    print(f"{'item':64} {'error':>9} {'tolerance':>9}")
    for row, largest, limit in parity():
        print(f"{row:64} {largest:9.1e} {limit:9.0e}{'  FAIL' * (largest > limit)}")


if __name__ == "__main__":
    main(sys.argv[1:])
