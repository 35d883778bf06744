"""HSK's formulas on tiny models, item by item against the numbers of the original code.

`python -m tests.parts.mud_parity` prints every item with its largest error. The choices come from `Choice`, as in the
method; padding counts here, as in the original, wherever the golden numbers count it.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from methods.parts.amounts import Choice
from methods.parts.bert import Bert
from methods.parts.choosing import attention_layers, keep, positions, state_pairs, uniform_coordinates
from methods.parts.clip import clip_gradients
from methods.parts.distilling import learn_predictions, learn_states
from methods.parts.layout import Layout
from methods.parts.lesson import Lesson, State
from methods.parts.narrow import narrow_layout
from methods.parts.optim import Group, named, optimizer_for
from methods.parts.projection import Projection
from methods.parts.recipe import Recipe
from methods.parts.schedule import factor
from methods.parts.selection import Selection
from methods.parts.training import Losses
from tests.strategies import Rows

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(os.environ.get("DISTILSWEEP_SHARED", ROOT.parent / "shared")) / "golden" / "golden_mud.npz"
FLIPPED = 4
"""Mask entries of a layer that may differ: values on the threshold."""
WIDTHS = {"importance_mask_dynamic": "importance", "uniform_mask": "uniform", "rand_mask": "random"}

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Row:
    """One compared item; an error is relative to the largest number wanted, or counts differences."""

    item: str
    error: float
    tolerance: float


@dataclass(frozen=True)
class Student:
    """A student as the original has it: the projection is part of it."""

    model: Bert
    projection: Projection | None

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [*self.model.parameters(), *(self.projection.parameters() if self.projection else ())]


@dataclass(frozen=True)
class World:
    """The golden file, opened."""

    arrays: Arrays
    models: Mapping[str, Mapping[str, Any]]
    cases: Mapping[str, Mapping[str, Any]]

    def batch(self, name: str) -> Rows:
        names = ("input_ids", "attention_mask", "token_type_ids")
        ids, mask, types = (torch.from_numpy(self.arrays[f"{name}.{field}"]).long() for field in names)
        labels = torch.zeros(len(ids), dtype=torch.int64)
        sizes = {"examples": len(ids), "tokens": int(mask.sum()), "positions": mask.numel()}
        return Rows(input_ids=ids, attention_mask=mask, token_type_ids=types, labels=labels, sizes=sizes)

    def student(self, name: str) -> Student:
        """A model with the head of the distillation code, without dropout."""
        prefix = f"w.{name}."
        state = {key.removeprefix(prefix): torch.from_numpy(self.arrays[key]) for key in self._keys(prefix)}
        model = Bert(self.layout(name), head="relu", dropout=0.0)
        renamed = {_OWN_NAMES.get(key, key): value for key, value in state.items() if "fit_dense" not in key}
        model.load_state_dict(renamed)
        if "fit_dense.weight" not in state:
            return Student(model, None)
        projection = Projection(model.layout.hidden, len(state["fit_dense.bias"]), seed=0)
        projection.load_state_dict({f"dense.{end}": state[f"fit_dense.{end}"] for end in ("weight", "bias")})
        return Student(model, projection)

    def layout(self, name: str) -> Layout:
        shape = self.models[name]
        hidden, heads = shape["hidden_size"], shape["num_attention_heads"]
        return Layout.uniform(
            vocab=shape["vocab_size"],
            positions=shape["max_position_embeddings"],
            hidden=hidden,
            num_layers=shape["num_hidden_layers"],
            heads=heads,
            head_width=shape.get("prun_hidden_size", hidden) // heads,
            ffn=shape.get("prun_intermediate_size", shape["intermediate_size"]),
            embedding_rank=shape.get("emb_hidden_dim"),
            labels=3,
        )

    def _keys(self, prefix: str) -> list[str]:
        return [key for key in self.arrays if key.startswith(prefix)]


_OWN_NAMES = {
    "bert.embeddings.word_embeddings1.weight": "bert.embeddings.word_embeddings.weight",
    "bert.embeddings.word_embeddings2.weight": "bert.embeddings.word_projection.weight",
}


def open_world() -> World:
    arrays = dict(np.load(GOLDEN))
    meta = json.loads(arrays.pop("meta_json").tobytes())
    return World(arrays, meta["models"], meta["cases"])


def relative(item: str, found: Tensor, wanted: Any, tolerance: float) -> Row:
    mine, theirs = found.detach().double().numpy(), np.asarray(wanted, dtype=np.float64)
    assert mine.shape == theirs.shape, (item, mine.shape, theirs.shape)
    return Row(item, float(np.abs(mine - theirs).max() / np.abs(theirs).max()), tolerance)


def counted(item: str, found: Any, wanted: Any, tolerance: float = 0.0) -> Row:
    mine, theirs = np.asarray(found), np.asarray(wanted)
    assert mine.shape == theirs.shape, (item, mine.shape, theirs.shape)
    return Row(item, float((mine != theirs).sum()), tolerance)


def choice_of(case: Mapping[str, Any], step_zero: bool) -> Choice:
    """The configuration that a golden case stands for; the original masks no fixed width at its first step."""
    args = case["args"]
    scheme = WIDTHS.get(args.get("hidden_scheme", ""), "importance")
    skipped = step_zero and scheme != "importance"
    return Choice(
        top=int(args["layer_scheme"].removeprefix("t_top")),
        keep_layers=args.get("keep_layers"),
        token_scheme=args.get("token_scheme", "attention"),
        keep_tokens=args.get("keep_tokens"),
        ranking="top12" if args.get("att_ttop12", True) else "own",
        width_scheme=scheme,  # type: ignore[arg-type]
        keep_hidden=None if skipped else args.get("keep_hidden"),
        mask_seed=case.get("torch_seed", 0),
    )


@dataclass(frozen=True)
class Taught:
    """A lesson, and what led to it."""

    lesson: Lesson
    whole: tuple[Tensor, ...]
    masks: tuple[Tensor, ...]
    scores: tuple[Tensor, ...]


@torch.no_grad()
def taught(teacher: Bert, selection: Selection, batch: Rows) -> Taught:
    """The lesson by the pure functions; a selection of all positions counts the padded ones, as the original does."""
    output = teacher(batch, hidden=True, cls_scores=True)
    states, wholes, masks, scores = [], [], [], []
    for number, state in enumerate(selection.states):
        values, places = output.hidden[state], None
        real = torch.ones_like(batch.attention_mask, dtype=torch.bool)
        if selection.tokens is not None:
            raw = output.cls_scores[selection.attention[number] - 1] if selection.ranked else None
            places, real = positions(
                selection.token_scheme,
                selection.tokens,
                mask=batch.attention_mask,
                cls_scores=raw,
                types=batch.token_type_ids,
            )
            values = values.gather(1, places[..., None].expand(-1, -1, values.shape[-1]))
            scores += [] if raw is None else [raw.mean(1)]
        wholes.append(values)
        masks.append(keep(values, real, selection))
        states.append(State(values * masks[-1], places, real))
    return Taught(Lesson(None, tuple(states), ()), tuple(wholes), tuple(masks), tuple(scores))


def loss_of(losses: Losses, batch: Rows) -> Tensor:
    (terms,) = losses(batch)  # type: ignore[arg-type]
    return torch.stack([term.weight * term.sum / batch.sizes[term.per] for term in terms]).sum()


def state_loss(student: Student, states: Sequence[int], lesson: Lesson, batch: Rows) -> Tensor:
    return loss_of(
        learn_states(student.model, lambda _: lesson, states, projection=student.projection, compat="padding"), batch
    )


def gradient_norm(student: Student, loss: Tensor) -> Tensor:
    torch.autograd.backward(loss)
    norm: Tensor = torch.stack([p.grad.norm() for p in student.parameters if p.grad is not None]).norm()
    return norm


def maps(world: World) -> Iterator[Row]:
    for name in (name for name in world.arrays if name.startswith("map.")):
        depth, top, count = (int(part[1:]) for part in name.split(".")[1:])
        yield counted(name, state_pairs(depth, top, count), world.arrays[name])
    for name in (name for name in world.arrays if name.startswith("uniform_idx.")):
        yield counted(name, uniform_coordinates(768, float(name.removeprefix("uniform_idx.D768."))), world.arrays[name])


def forward(world: World) -> Iterator[Row]:
    batch = world.batch("pair")
    for name in world.models:
        student = world.student(name)
        output = student.model(batch, hidden=True, cls_scores=True)
        hidden = output.hidden if student.projection is None else student.projection(output.hidden)
        yield relative(f"fwd.{name}.logits_relu", output.logits, world.arrays[f"fwd.{name}.logits_relu"], 5e-5)
        for end, values in (("sum", hidden), ("sqsum", [state.square() for state in hidden])):
            found = torch.stack([state.detach().double().sum() for state in values])
            yield relative(f"fwd.{name}.hidden_{end}", found, world.arrays[f"fwd.{name}.hidden_{end}"], 1e-4)
        if name.startswith("teacher"):
            plain = Bert(student.model.layout, dropout=0.0)
            plain.load_state_dict(student.model.state_dict())
            wanted = world.arrays[f"fwd.{name}.logits_hf_norelu"]
            yield relative(f"fwd.{name}.logits_hf_norelu", plain(batch).logits, wanted, 5e-5)
            wanted = world.arrays[f"fwd.{name}.cls_raw_score_headmean"]
            found = torch.stack([raw.mean(1) for raw in output.cls_scores])
            yield relative(f"fwd.{name}.cls_raw_score_headmean", found, wanted, 1e-5)


def compared(world: World, name: str) -> Iterator[Row]:
    """All items of one state-distillation case."""
    case, prefix = world.cases[name], f"case.{name}"
    student, teacher = world.student(case["student"]), world.student(case["teacher"]).model
    batch, choice = world.batch(case["batch"]), choice_of(case, name.endswith("step0"))
    selection, mine = choice.select(teacher.layout, len(student.model.layers), batch_threshold=True)
    ranked = attention_layers(
        choice.ranking,
        selection.states,
        mine,
        teacher_layers=len(teacher.layers),
        student_layers=len(student.model.layers),
    )
    yield counted(f"{prefix}.t_layers", selection.states, case["t_layers"])
    yield counted(f"{prefix}.s_layers", mine, case["s_layers"])
    yield counted(f"{prefix}.att_index", [layer - 1 for layer in ranked], case["att_index"])
    lesson = taught(teacher, selection, batch)
    yield from choices(world, prefix, lesson)
    lesson = with_golden_masks(world, prefix, lesson)
    pairs = zip(mine, lesson.lesson.states, strict=True)
    each = [state_loss(student, [state], Lesson(None, (target,), ()), batch) for state, target in pairs]
    yield relative(f"{prefix}.loss_per_layer", torch.stack(each), world.arrays[f"{prefix}.loss_per_layer"], 1e-5)
    loss = state_loss(student, mine, lesson.lesson, batch)
    yield relative(f"{prefix}.loss", loss, world.arrays[f"{prefix}.loss"], 1e-5)
    norm = gradient_norm(student, loss)
    yield relative(f"{prefix}.student_grad_norm", norm, case["student_grad_norm"], 1e-4)


def choices(world: World, prefix: str, lesson: Taught) -> Iterator[Row]:
    """Positions and masks of a case."""
    places = [state.positions for state in lesson.lesson.states if state.positions is not None]
    if f"{prefix}.token_indices" in world.arrays:
        sets = torch.stack(places).sort(-1).values
        yield counted(f"{prefix}.token_indices", sets, np.sort(world.arrays[f"{prefix}.token_indices"], -1))
        wanted = torch.from_numpy(world.arrays[f"{prefix}.token_scores"])
        seen = wanted > -9000.0  # separators and padding stand for themselves
        found = torch.where(seen, torch.stack(lesson.scores), 0.0)
        yield relative(f"{prefix}.token_scores", found, torch.where(seen, wanted, 0.0).numpy(), 1e-5)
    if f"{prefix}.mask_packed" in world.arrays:
        pairs = zip(lesson.masks, golden_masks(world, prefix), strict=True)
        yield Row(f"{prefix}.mask_packed", max(counted(prefix, *pair).error for pair in pairs), FLIPPED)
        states = zip(lesson.lesson.states, lesson.masks, strict=True)
        kept = torch.stack([state.values[mask].abs().min() for state, mask in states])
        yield relative(f"{prefix}.thresholds", kept, world.arrays[f"{prefix}.thresholds"], 1e-5)
    if f"{prefix}.dim_mask" in world.arrays and not prefix.endswith("step0"):
        yield counted(f"{prefix}.dim_mask", lesson.masks[0][0, 0], world.arrays[f"{prefix}.dim_mask"].astype(bool))


def golden_masks(world: World, prefix: str) -> Tensor:
    shape = world.arrays[f"{prefix}.mask_shape"]
    bits = np.unpackbits(world.arrays[f"{prefix}.mask_packed"])[: int(np.prod(shape))]
    return torch.from_numpy(bits.reshape(shape).astype(bool))


def with_golden_masks(world: World, prefix: str, lesson: Taught) -> Taught:
    """The lesson as the original's masks make it, so that a value on the threshold does not blur the losses."""
    if f"{prefix}.mask_packed" not in world.arrays:
        return lesson
    golden = golden_masks(world, prefix)
    states = zip(lesson.lesson.states, lesson.whole, golden, strict=True)
    masked = tuple(replace(state, values=whole * mask) for state, whole, mask in states)
    return replace(lesson, lesson=replace(lesson.lesson, states=masked))


def predictions(world: World) -> Iterator[Row]:
    batch = world.batch("pair")
    lesson = Lesson(torch.from_numpy(world.arrays["fwd.teacher12.logits_relu"]), (), ())
    for name in (name for name in world.cases if name.startswith("pred.")):
        _, student_name, temperature = name.split(".")
        student = world.student(student_name)
        loss = loss_of(learn_predictions(student.model, lambda _: lesson, temperature=float(temperature[1:])), batch)
        yield relative(f"{name}.loss", loss, world.arrays[f"{name}.loss"], 1e-5)
        norm = gradient_norm(student, loss)
        yield relative(f"{name}.student_grad_norm", norm, world.cases[name]["student_grad_norm"], 1e-4)


def trained(world: World, kind: str) -> Iterator[Row]:
    """Four steps of BertAdam, each tensor clipped to norm 1."""
    student, teacher, batch = world.student("tiny4"), world.student("teacher12").model, world.batch("pair")
    groups = [Group(name="model", parameters=named(student.model))]
    if kind == "hsk":
        selection, mine = Choice(top=12).select(teacher.layout, 4)
        lesson = taught(teacher, selection, batch).lesson
        losses = learn_states(student.model, lambda _: lesson, mine, projection=student.projection, compat="padding")
        assert student.projection is not None
        groups.append(Group(name="projection", parameters=named(student.projection)))
        schedule, warm = "constant", 0.0
    else:
        lesson = Lesson(torch.from_numpy(world.arrays["fwd.teacher12.logits_relu"]), (), ())
        losses, schedule, warm = learn_predictions(student.model, lambda _: lesson), "linear", 2.0
    optimizer = optimizer_for(groups, Recipe(optimizer="bert_adam", lr=5e-3, weight_decay=0.01))
    found = []
    for step in range(4):
        for group in optimizer.param_groups:
            group["lr"] = 5e-3 * factor(step, 20, warm, schedule)
        optimizer.zero_grad()
        loss = loss_of(losses, batch)
        torch.autograd.backward(loss)
        clip_gradients([(student.parameters, 1.0)], "tensor", 1.0)
        optimizer.step()
        found.append(loss.detach())
    yield relative(f"opt.{kind}.losses", torch.stack(found), world.arrays[f"opt.{kind}.losses"], 1e-5)
    state = dict(student.model.state_dict())
    if student.projection is not None:
        state |= {f"fit_{name}": value for name, value in student.projection.state_dict().items()}
    prefix = f"opt.{kind}.after4."
    for name in (name for name in world.arrays if name.startswith(prefix)):
        error = np.abs(state[name.removeprefix(prefix)].numpy() - world.arrays[name]).max()
        yield Row(name, float(error), 1e-4)


def parity() -> Iterator[Row]:
    """Every item of the golden file but the overflowing cases, which only document the original.

    Raises:
        AssertionError: an item of the golden file was not computed.
    """
    world = open_world()
    seen = set()
    names = [name for name in world.cases if "student" in world.cases[name] and "overflow" not in name]
    parts = (maps(world), forward(world), *(compared(world, name) for name in names), predictions(world))
    for part in (*parts, trained(world, "hsk"), trained(world, "pred")):
        for row in part:
            seen.add(row.item)
            yield row
    others = ("w.", "pair.", "single.", "tinybert.")
    told = (".mask_shape", ".step0.dim_mask")
    left = [
        name for name in world.arrays if name not in seen and not name.startswith(others) and not name.endswith(told)
    ]
    assert all("overflow" in name for name in left), f"not computed: {left}"


def narrow_shapes() -> Iterator[tuple[Layout, Layout]]:
    """The layouts of the narrow golden students: as the golden file has them, and as `narrow_layout` makes them."""
    world = open_world()
    for name, layers, teacher in (("tiny4", 4, "teacher12"), ("tiny2", 2, "teacher4")):
        made = narrow_layout(world.layout(teacher), hidden=32, layers=layers, heads=4, ffn=48)
        yield world.layout(name), made


def main() -> None:
    """Print the parity table."""
    torch.set_num_threads(1)
    print(f"{'item':72} {'error':>9} {'tolerance':>9}")
    for row in parity():
        print(f"{row.item:72} {row.error:9.1e} {row.tolerance:9.0e}{'  FAIL' * (row.error > row.tolerance)}")


if __name__ == "__main__":
    main()
