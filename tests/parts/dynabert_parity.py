"""DynaBERT on a tiny model, item by item against the numbers of the original code.

`python -m tests.parts.dynabert_parity` prints every item with its largest relative error. A stage's optimizer step is
compared on the original's own gradient, since Adam's first step blows up the rounding of small ones.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from methods.parts.bert import Bert
from methods.parts.clip import clip_gradients
from methods.parts.elastic import Choices, Keep, Subnet
from methods.parts.elastic_training import Mentor, Weights, distilled, learn_together, one_mentor, same_width_mentor
from methods.parts.knowledge import live
from methods.parts.layout import Layout
from methods.parts.losses import hard_cross_entropy, hidden_mse
from methods.parts.mask_importance import MaskScores
from methods.parts.optim import Group, named, optimizer_for
from methods.parts.recipe import Recipe
from methods.parts.selection import Selection
from methods.parts.supernet import extract, orders, rewired, run_subnet
from tests.parts.rosita_parity import FIELDS, batch_of, divided, error
from tests.strategies import Rows

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(os.environ.get("DISTILSWEEP_SHARED", ROOT.parent / "shared")) / "golden" / "golden_dynabert.npz"

WIDTHS, DEPTHS = (1.0, 0.75, 0.5, 0.25), (1.0, 0.5)
LAYOUT = Layout.uniform(vocab=120, positions=32, hidden=64, num_layers=2, heads=4, head_width=16, ffn=128, labels=3)

Arrays = Mapping[str, NDArray[Any]]
Items = Iterator[tuple[str, Tensor]]


def model_of(golden: Arrays, prefix: str) -> Bert:
    model = Bert(LAYOUT, dropout=0.0)
    model.load_state_dict({name: torch.from_numpy(golden[f"{prefix}/{name}"]) for name in model.state_dict()})
    return model.eval()


def subnets(depths: Sequence[float] = DEPTHS, keep: Keep = "first") -> dict[str, Subnet]:
    """By the golden file's names; the released code keeps the first block of a group."""
    choices = Choices(widths=WIDTHS, depths=DEPTHS, keep=keep)
    return {f"w{w}_d{d}": choices.subnet(LAYOUT, [(w, None)] * 2, d) for w in WIDTHS for d in depths}


def trace(golden: Arrays) -> Items:
    """Every item of golden_dynabert.npz that is computed, under its name there."""
    batch, teacher = batch_of({name: golden[name] for name in FIELDS}), model_of(golden, "w")
    student = yield from importance(teacher, batch)
    yield from forwards(teacher, student, batch)
    full = one_mentor(live(teacher, Selection(states=(0, 1, 2))), (0, 1, 2))
    yield from stage("stage1", golden, "wr", subnets((1.0,)), full, Weights(hidden=0.1))
    before, both = model_of(golden, "stage1/after"), Weights(hidden=1.0)
    own = one_mentor(live(before, Selection(states=(0, 1, 2))), (0, 1, 2))
    yield from stage("stage2", golden, "stage1/after", subnets(), own, both)
    same = losses(before, batch, subnets(), same_width_mentor(before), both)
    yield from ((f"stage2_paperteacher/loss/{name}", row) for name, row in same)
    yield from stage("stage3", golden, "stage2/after", subnets(), None, both)


def importance(model: Bert, batch: Rows) -> Iterator[Any]:
    """Scores of two batches of four and of one of eight, orders, and the rewired weights."""
    halves = [part_of(batch, slice(0, 4)), part_of(batch, slice(4, 8))]
    student = model
    for name, batches, accumulated in (("onebatch", [batch], False), ("zeroed", halves, False), ("orig", halves, True)):
        scores = MaskScores(accumulated=accumulated)
        for part in batches:
            model.zero_grad()
            torch.autograd.backward(divided(hard_cross_entropy(model(part).logits, part.labels), part))
            scores.observe(model)
        found = scores.scores()
        yield f"imp_{name}_head", torch.stack(found.heads)
        yield f"imp_{name}_neuron", torch.stack(found.neurons)
        if name != "onebatch":
            yield f"perm_{name}_head", torch.tensor(orders(found.heads))
            yield f"perm_{name}_neuron", torch.tensor(orders(found.neurons))
        student = rewired(model, found)
    for key, value in student.state_dict().items():
        yield f"wr/{key}", value
    return student


def part_of(batch: Rows, rows: slice) -> Rows:
    return batch_of({name: getattr(batch, name)[rows].numpy() for name in FIELDS})


def forwards(teacher: Bert, student: Bert, batch: Rows) -> Items:
    """Whole models, and every sub-network twice: on the shared weights, and cut out."""
    output = teacher(batch, hidden=True)
    yield "teacher/logits", output.logits
    yield "teacher/hidden", torch.stack(output.hidden)
    yield "reordered/logits", student(batch).logits
    each = {f"sub/{name}": subnet for name, subnet in subnets().items()}
    each |= {f"sub_keeplast/{name}": subnet for name, subnet in subnets((0.5,), "last").items()}
    each["layerwise/w0.75-0.5"] = Choices(widths=WIDTHS).subnet(LAYOUT, [(0.75, None), (0.5, None)], 1.0)
    for name, subnet in each.items():
        for output in (run_subnet(student, subnet, batch, hidden=True), extract(student, subnet)(batch, hidden=True)):
            yield f"{name}/logits", output.logits
            yield f"{name}/hidden", torch.stack(output.hidden)


def losses(model: Bert, batch: Rows, each: Mapping[str, Subnet], mentor: Mentor | None, weights: Weights) -> Items:
    """For each sub-network: the losses one by one, and their weighted sum; the original counts padding."""
    for name, subnet in each.items():
        output = run_subnet(model, subnet, batch, hidden=True)
        if mentor is None:
            yield name, divided(hard_cross_entropy(output.logits, batch.labels), batch)[None]
            continue
        said = mentor(batch)(subnet)  # type: ignore[arg-type]
        terms = distilled(model, subnet, batch, said, weights, ("padding",))  # type: ignore[arg-type]
        pairs = zip(output.hidden, (said[1][state] for state in subnet.states), strict=True)
        mse = [divided(hidden_mse([s], [t], batch.attention_mask, compat="padding"), batch) for s, t in pairs]
        values = [divided(term, batch) for term in terms]
        yield name, torch.stack([values[0], *mse, torch.stack(values).sum()])


def stage(
    name: str, golden: Arrays, start: str, each: Mapping[str, Subnet], mentor: Mentor | None, weights: Weights
) -> Items:
    """One update of all sub-networks: losses, joint gradient, its norm, and the weights after the optimizer's step."""
    model, batch = model_of(golden, start), batch_of({key: golden[key] for key in FIELDS})
    yield from ((f"{name}/loss/{key}", row) for key, row in losses(model, batch, each, mentor, weights))
    yielded = learn_together(model, lambda: [*each.values()], mentor, weights, ("padding",))(batch)  # type: ignore[arg-type]
    for terms in yielded:
        torch.autograd.backward(torch.stack([divided(term, batch) for term in terms]).sum())
    gradients = {key: value.grad for key, value in model.named_parameters() if value.grad is not None}
    yield from ((f"{name}/grad/{key}", gradient) for key, gradient in gradients.items())
    yield f"{name}/grad_norm", torch.stack([gradient.norm() for gradient in gradients.values()]).norm()
    recipe = Recipe(
        lr=1e-3, weight_decay=0.01, eps=1e-8 / (1 - 0.999) ** 0.5
    )  # added before the correction of v, there
    optimizer = optimizer_for([Group(name="model", parameters=named(model))], recipe)
    for key, value in model.named_parameters():
        value.grad = torch.from_numpy(golden[f"{name}/grad/{key}"].copy())
    clip_gradients([([*model.parameters()], 1.0)], "global", 1.0)
    optimizer.step()
    yield from ((f"{name}/after/{key}", value) for key, value in model.state_dict().items())


def tolerance(item: str) -> float:
    """Relative tolerance of an item, from golden_dynabert.md; 0 for orders and for weights that only moved."""
    if item.startswith(("perm_", "wr/")):
        return 0.0
    return 1e-6 if "/after/" in item else 2e-5 if "/grad" in item else 3e-6


def parity() -> Iterator[tuple[str, float, float]]:
    """Every item of the golden file: name, largest relative error, tolerance.

    Raises:
        AssertionError: an item of the golden file was not computed.
    """
    golden, seen = dict(np.load(GOLDEN)), set()
    for item, value in trace(golden):
        seen.add(item)
        found = error(value, golden[item])
        if "/grad/" in item and item.endswith("key.bias"):  # no softmax sees it: rounding noise beside other gradients
            found = float(np.abs(value.numpy() - golden[item]).max() / golden[f"{item.split('/')[0]}/grad_norm"])
        yield item, found, tolerance(item)
    left = [name for name in golden if name not in seen and not name.startswith(("w/", "cfg_json", *FIELDS))]
    assert not left, f"not computed: {left}"


def main() -> None:
    """Print the parity table."""
    torch.set_num_threads(1)
    print(f"{'item':72} {'error':>9} {'tolerance':>9}")
    for row, largest, limit in parity():
        print(f"{row:72} {largest:9.1e} {limit:9.0e}{'  FAIL' * (not largest <= limit)}")


if __name__ == "__main__":
    main()
