"""LAD on tiny models, item by item against the numbers of the original code.

`python -m tests.parts.lad_parity` prints every item with its largest error. Student, gates, losses and optimizer are
those that the method builds from its `Config`; gates and losses count padding here, as in the original.
"""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from methods import lad
from methods.parts.batches import Batch
from methods.parts.bert import Bert, build
from methods.parts.gated import Gated
from methods.parts.gates import Gates
from methods.parts.knowledge import live
from methods.parts.layout import Layout
from methods.parts.loop import fit
from methods.parts.losses import Term
from methods.parts.optim import Group, named
from methods.parts.run import LocalRun
from methods.parts.shallow import shallow_layout, start_layers
from methods.parts.surgery import cut
from methods.parts.training import Training

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(os.environ.get("DISTILSWEEP_SHARED", ROOT.parent / "shared")) / "golden" / "golden_lad.npz"

Arrays = Mapping[str, NDArray[Any]]
State = dict[str, Tensor]


@dataclass(frozen=True)
class Row:
    """One compared item."""

    item: str
    error: float
    tolerance: float


def bert_name(name: str) -> str:
    """The original's parameter names in ours."""
    return name.replace("linear_layer.", "classifier.", 1) if "linear_layer" in name else f"bert.{name[8:]}"


def weights(arrays: Arrays, prefix: str) -> State:
    """A model's parameters under our names, without tables of constants."""
    found = {name.removeprefix(prefix): torch.from_numpy(arrays[name]) for name in arrays if name.startswith(prefix)}
    return {bert_name(name): value for name, value in found.items() if "position_ids" not in name}


def gate_weights(arrays: Arrays, prefix: str) -> State:
    """The gates' parameters under our names; gate 0 has none."""
    found = {name.removeprefix(prefix): torch.from_numpy(arrays[name]) for name in arrays if name.startswith(prefix)}
    return {f"gate.{name.replace('/', '.')}": value for name, value in found.items() if not name.startswith("0/")}


class World:
    """The golden file, opened."""

    def __init__(self) -> None:
        self.arrays: Arrays = dict(np.load(GOLDEN))
        self.shape = json.loads(str(self.arrays["config_json"]))
        sizes = {"vocab": self.shape["vocab"], "hidden": self.shape["D"], "ffn": self.shape["ffn"]}
        heads, labels = self.shape["heads"], self.shape["C"]
        self.layout = Layout.uniform(
            **sizes,
            **{"heads": heads, "head_width": self.shape["D"] // heads, "labels": labels},
            positions=self.shape["teacher_max_pos"],
            num_layers=self.shape["T"],
        )
        self.teacher = build(self.layout, weights(self.arrays, "teacher/"), like=Bert(self.layout, dropout=0.0)).eval()

    def config(self, **values: Any) -> lad.Config:
        shape = self.shape
        return lad.Config(
            **{"layers": shape["L"], "hard_weight": shape["gamma"], "soft_weight": shape["alpha"]},
            **{"temperature": shape["temp"], "hidden_weight": shape["mu"], "lr": shape["lr"]},
            **{"gate_lr": shape["gate_lr"], "weight_decay": shape["weight_decay"], "clip_norm": shape["max_norm"]},
            **{"gate_clip_norm": shape["gate_max_norm"], "batch_size": shape["B"], "evaluate_every": 1},
            **{"epochs": shape["total_step"], "warmup": shape["warmup_step"] / shape["total_step"]},
            compat=("fixed-length", "padding"),
            **values,
        )

    def student(self) -> Bert:
        layout = replace(shallow_layout(self.layout, (1, 3)), positions=self.shape["student_max_pos"])
        return build(layout, weights(self.arrays, "student0/"), like=Bert(layout, dropout=0.0)).eval()

    def gates(self, config: lad.Config, folder: Path = Path()) -> Gates:
        shape = self.shape
        gates = config.gates(shape["T"], shape["D"], LocalRun(folder), length=shape["S"], seed=0)
        gates.load_state_dict(gate_weights(self.arrays, "gate0/"))
        return gates

    def batch(self, labels: str = "in/labels") -> Batch:
        names = ("in/input_ids", "in/attention_mask", "in/token_type_ids", labels)
        ids, mask, types, wanted = (torch.from_numpy(self.arrays[name]) for name in names)
        sizes = {"examples": len(ids), "tokens": int(mask.sum()), "positions": mask.numel()}
        return Batch(ids, mask, types, wanted, torch.arange(len(ids)), None, sizes)


def absolute(item: str, found: Tensor, wanted: NDArray[Any], tolerance: float = 1e-5) -> Row:
    """The largest difference."""
    assert found.shape == wanted.shape, (item, found.shape, wanted.shape)
    return Row(item, float(np.abs(found.detach().double().numpy() - wanted).max(initial=0.0)), tolerance)


def relative(item: str, found: Tensor, wanted: NDArray[Any], tolerance: float) -> Row:
    """The largest difference, relative to the largest number."""
    row = absolute(item, found, wanted, tolerance)
    return replace(row, error=row.error / float(np.abs(wanted).max()))


def divided(terms: Sequence[Term], batch: Batch) -> dict[str, Tensor]:
    """The values of the terms that count, by name, as the loop would take them."""
    return {term.name: term.weight * term.sum / batch.sizes[term.per] for term in terms if not term.watched}


def all_terms(world: World, gated: Gated, student: Bert, gates: Gates, batch: Batch) -> dict[str, Tensor]:
    (terms,) = gated.losses(student, gates, live(world.teacher, gated.selection))(batch)
    return divided(terms, batch)


def started(world: World) -> Iterator[Row]:
    """The student's layers after initialisation, from the pretrained layers that the golden file has."""
    arrays, config = world.arrays, world.config()
    indices = start_layers(config.init, lad.gated_of(config, world.layout).pairs, None)
    yield absolute("student_indices_of_teacher", torch.tensor(indices), arrays["student_indices_of_teacher"], 0.0)
    base = Bert(world.layout, dropout=0.0)
    state = {name if name.startswith("bert.") else f"bert.{name}": value for name, value in pretrained(arrays).items()}
    base.load_state_dict(state, strict=False)
    mine = cut(base, layers=indices).state_dict()
    for name, value in weights(arrays, "student0/").items():
        if "embeddings" not in name and "classifier" not in name:
            yield absolute(f"student0/{name}", mine[name], value.numpy(), 0.0)


def pretrained(arrays: Arrays) -> State:
    """The other checkpoint: layers 1 and 3 and the pooler."""
    prefix = "pretrained/"
    return {name.removeprefix(prefix): torch.from_numpy(arrays[name]) for name in arrays if name.startswith(prefix)}


def forward(world: World) -> Iterator[Row]:
    arrays, batch, student = world.arrays, world.batch(), world.student()
    for name, model in (("teacher", world.teacher), ("student", student)):
        output = model(batch, hidden=True)
        yield absolute(f"{name}_hidden", torch.stack(output.hidden), arrays[f"{name}_hidden"])
        yield absolute(f"{name}_logits", output.logits, arrays[f"{name}_logits"])
    states = list(world.teacher(batch, hidden=True).hidden[1:])
    for name, direction in (("agg_all", "forward"), ("agg_all_reverse", "reverse")):
        gates = world.gates(world.config(aggregation=direction))
        yield absolute(name, torch.stack(gates(states, batch.attention_mask)), arrays[name])


def losses(world: World) -> Iterator[Row]:
    arrays, batch, config = world.arrays, world.batch(), world.config()
    terms = all_terms(world, lad.gated_of(config, world.layout), world.student(), world.gates(config), batch)
    named_terms = {
        "hard_ce": terms["label"] / config.hard_weight,
        "soft_term_T2": terms["prediction"] / config.soft_weight,
        "kl_unscaled": terms["prediction"] / (config.soft_weight * config.temperature**2),
        "logits_loss": terms["label"] + terms["prediction"],
        "hidden_sum": terms["hidden"],
        "total": terms["label"] + terms["prediction"] + terms["hidden"],
    }
    for name, value in named_terms.items():
        yield relative(f"loss/{name}", value, arrays[f"loss/{name}"], 1e-5)
    for direction, ending in (("forward", ""), ("reverse", "_reverse")):
        yield from of_layers(world, direction, ending)
    one = world.batch("in/reg_targets")
    student, teacher = world.student()(batch).logits[:, :1], world.teacher(batch).logits[:, :1]
    gated = lad.gated_of(config, world.layout)
    both = torch.stack(list(divided(gated.predictions(student, teacher, one.labels), one).values())).sum()
    yield relative("loss/regression_logits_loss", both, arrays["loss/regression_logits_loss"], 1e-5)


def of_layers(world: World, direction: str, ending: str) -> Iterator[Row]:
    """The hidden loss of each layer, and in reverse the total, from gates as deep as the method makes them."""
    config, batch, arrays = world.config(aggregation=direction), world.batch(), world.arrays
    gated, gates = lad.gated_of(config, world.layout), world.gates(config)
    if gated.reverse:  # the last gate would fold a layer that no student layer learns
        gates.gate = nn.ModuleList(list(gates.gate)[: len(gated.selection.states)])
    student = world.student()
    terms = all_terms(world, gated, student, gates, batch)
    if gated.reverse:
        yield relative(
            "loss/total_reverse", torch.stack(list(terms.values())).sum(), arrays["loss/total_reverse"], 1e-5
        )
    hidden, lesson = student(batch, hidden=True).hidden[1:], live(world.teacher, gated.selection)(batch)
    targets = gated.targets([state.values for state in lesson.states], gates, batch.attention_mask)
    for layer, (mine, target) in enumerate(zip(hidden, targets, strict=True)):
        value = divided(gated.distances([mine], [target], batch.attention_mask), batch)["hidden"] / config.layers
        yield relative(f"loss/hidden_{layer}{ending}", value, arrays[f"loss/hidden_{layer}{ending}"], 1e-5)


def gradients(world: World) -> Iterator[Row]:
    """Before clipping, of one backward pass of the sum."""
    arrays, config, student = world.arrays, world.config(), world.student()
    gates = world.gates(config)
    terms = all_terms(world, lad.gated_of(config, world.layout), student, gates, world.batch())
    torch.autograd.backward(torch.stack(list(terms.values())).sum())
    yield relative("gradnorm/student", norm_of(student), arrays["gradnorm/student"], 1e-3)
    for name, value in arrays.items():
        if name.startswith("grad_student/"):
            gradient = student.get_parameter(bert_name(name.removeprefix("grad_student/"))).grad
            yield gradient_row(name, gradient, value)
        elif name.startswith("grad_gate/") and not name.startswith("grad_gate/0/"):
            gradient = gates.get_parameter(f"gate.{name.removeprefix('grad_gate/').replace('/', '.')}").grad
            yield gradient_row(name, gradient, value)
    for number, gate in enumerate(gates.gate):
        wanted = arrays[f"gradnorm/gate{number}"]
        row = absolute(f"gradnorm/gate{number}", norm_of(gate), wanted, 1e-3)
        yield replace(row, error=row.error / max(float(wanted), 1.0))
    for name, value in arrays.items():
        if name.startswith("grad_gate/0/"):  # no gradient there, no parameter here
            yield absolute(name, torch.zeros(len(list(gates.gate[0].parameters()))), value, 0.0)


def gradient_row(name: str, found: Tensor | None, wanted: NDArray[Any]) -> Row:
    """A gradient relative to its largest number; that of key biases is 0 but for rounding."""
    assert found is not None, name
    floor = 1.0 if name.endswith("key.bias") else 1e-12
    row = absolute(name, found, wanted, 1e-3)
    return replace(row, error=row.error / max(float(np.abs(wanted).max()), floor))


def norm_of(module: nn.Module) -> Tensor:
    """Of all gradients together."""
    found = [parameter.grad.norm() for parameter in module.parameters() if parameter.grad is not None]
    return torch.stack(found).norm() if found else torch.zeros(())


class Repeated:
    """The golden batch at every step."""

    num_steps = 1

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def step(self, step: int) -> list[Batch]:
        return [self.batch]


def training(world: World, folder: Path) -> Iterator[Row]:
    """The four updates, in the loop, with the groups and the recipe of the method."""
    arrays, config, student = world.arrays, world.config(), world.student()
    gates, gated, run = world.gates(config), lad.gated_of(config, world.layout), LocalRun(folder)
    rates: list[list[float]] = []

    def hook(_step: int, optimizer: torch.optim.Optimizer) -> None:
        rates.append([optimizer.param_groups[0]["lr"], optimizer.param_groups[-1]["lr"]])

    job = Training(
        model=student,
        data=Repeated(world.batch()),
        losses=gated.losses(student, gates, live(world.teacher, gated.selection)),
        groups=[Group(name="model", parameters=named(student)), *config.groups(gates)],
        before_step=hook,
        keep={"gates": gates},
    )
    with run.stage("golden") as stage:
        fit(job, lad.recipe_of(config, config.batch_size), stage, run)
    wanted = arrays["train/lr_after_step_and_losses"]
    ours = torch.tensor([*rates[1:], [0.0, 0.0]])  # theirs are those of the next update
    yield absolute("train/lr", ours, wanted[:, :2], 1e-9)
    names = ("train/loss", "train/label", "train/prediction", "train/hidden")
    total, label, prediction, hidden = torch.tensor([[r.metrics[name] for r in run.reports] for name in names])
    for name, value, column in (("loss", total, 2), ("logits_loss", label + prediction, 3), ("hidden_loss", hidden, 4)):
        yield relative(f"train/{name}", value, wanted[:, column], 1e-5)
    for prefix, module, state in (
        ("student4/", student, weights(arrays, "student4/")),
        ("gate4/", gates, gate_weights(arrays, "gate4/")),
    ):
        mine = module.state_dict()
        assert state.keys() == mine.keys()
        for name, value in state.items():
            yield absolute(f"{prefix}{name}", mine[name], value.numpy(), 5e-4)
        every = torch.cat([(mine[name] - value).abs().reshape(-1) for name, value in state.items()])
        yield Row(f"{prefix} share off by more than 1e-5", float((every > 1e-5).double().mean()), 0.01)
    for name, value in arrays.items():
        if name.startswith("gate4/0/"):  # gate 0 never moves
            yield absolute(name, torch.from_numpy(arrays[name.replace("gate4", "gate0")]), value, 0.0)


def parity() -> Iterator[Row]:
    """Every item of the golden file with its error and its tolerance."""
    world = World()
    for part in (started, forward, losses, gradients):
        yield from part(world)
    with tempfile.TemporaryDirectory() as folder:
        yield from training(world, Path(folder))


def main() -> None:
    """Print the parity table."""
    torch.set_num_threads(1)
    print(f"{'item':72} {'error':>9} {'tolerance':>9}")
    for row in parity():
        print(f"{row.item:72} {row.error:9.1e} {row.tolerance:9.0e}{'  FAIL' * (not row.error <= row.tolerance)}")


if __name__ == "__main__":
    main()
