"""WID's formulas on a tiny model, item by item against the numbers of the original code.

`python -m tests.parts.wid_parity` prints every item with its largest error, relative to the largest number wanted.
The golden students were cut without the query's scale and without folding LayerNorms, so ours are taken back to that
before tensors are compared; outputs are compared as they are.
"""

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Optimizer

from methods.parts.bert import Bert
from methods.parts.compaction import Compaction, compaction_groups, masked_compactors
from methods.parts.compactors import CompactedBert
from methods.parts.layout import Layout
from methods.parts.mask_groups import RESIDUAL, WORDS, Group, Narrowing
from methods.parts.merge import merge
from methods.parts.optim import optimizer_for
from methods.parts.recipe import Recipe
from tests.strategies import Rows

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(os.environ.get("DISTILSWEEP_SHARED", ROOT.parent / "shared")) / "golden" / "golden_wid.npz"
LAYOUT = Layout.uniform(
    vocab=200, positions=32, hidden=64, num_layers=2, heads=4, head_width=16, ffn=128, labels=0, masked_lm=True
)
DECODER_BIAS = "cls.predictions.decoder.bias"

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Row:
    """One compared item; an error is relative to the largest number wanted, or counts differences."""

    item: str
    error: float
    tolerance: float


def tensors(arrays: Arrays, prefix: str) -> dict[str, Tensor]:
    """The arrays below `prefix`, by the rest of their names."""
    return {name.removeprefix(prefix): torch.from_numpy(arrays[name]) for name in arrays if name.startswith(prefix)}


def difference(found: Tensor, wanted: Tensor) -> float:
    """The largest error, relative to the largest number wanted."""
    if wanted.dtype == torch.bool:
        return float((found != wanted).sum())
    scale = float(wanted.abs().max()) or 1.0
    return float((found.double() - wanted.double()).abs().max()) / scale if found.numel() else 0.0


def golden_batch(arrays: Arrays) -> tuple[Rows, Tensor]:
    """The golden input, and its hidden words with -100 elsewhere."""
    ids, mask, labels = (
        torch.from_numpy(arrays[name]).long() for name in ("input_ids", "attention_mask", "labels_uer")
    )
    sizes = {"examples": len(ids), "tokens": int(mask.sum()), "positions": mask.numel(), "masked": 9}
    labels = torch.where(labels == 0, -100, labels)
    rows = Rows(input_ids=ids, attention_mask=mask, token_type_ids=torch.zeros_like(ids), labels=labels, sizes=sizes)
    return rows, labels


def golden_model(arrays: Arrays) -> CompactedBert:
    """The teacher with the golden compactors, all dimensions kept."""
    model = CompactedBert(LAYOUT, dropout=0.0, compat=("uer-layernorm",))
    state = model.state_dict()
    for name, value in tensors(arrays, "teacher/").items():
        name = "cls.predictions.bias" if name == DECODER_BIAS else name
        assert state[name].shape == value.shape, name
        state[name] = value
    model.load_state_dict(state)
    with torch.no_grad():
        for name, value in tensors(arrays, "compactor/").items():
            model.compactor(name).copy_(value)
    return model.eval()


def masks_of(keep: Mapping[str, Tensor], groups: tuple[Group, ...]) -> dict[str, Tensor]:
    """The masks of the groups among those of the compactors."""
    return {group.name: keep[f"{group.scored}.in"] for group in groups}


def narrowing(strategy: str) -> Narrowing:
    return Narrowing(layout=LAYOUT, target=32, strategy=strategy)


def words(model: Bert, batch: Rows, labels: Tensor) -> dict[str, Tensor]:
    """The states, logits and loss that the golden file has."""
    seen: list[Tensor] = []
    assert model.cls is not None
    norm = model.cls.predictions.transform.LayerNorm
    handle = norm.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    hidden, places = model(batch, hidden=True).hidden, labels != -100
    logits = model.mlm_logits(batch, torch.ones_like(places))[places.flatten()]
    handle.remove()
    found = {"emb": hidden[0], "layer0": hidden[1], "layer1": hidden[2], "mlm_ln": seen[0].view(*labels.shape, -1)}
    return {**found, "logits_masked": logits, "loss": F.cross_entropy(logits, labels[places])}


def forward_items(item: str, model: Bert, arrays: Arrays, prefix: str, tolerance: float = 2e-5) -> Iterator[Row]:
    """Compare a forward pass, states at real tokens only."""
    batch, labels = golden_batch(arrays)
    real = batch.attention_mask.bool()
    with torch.no_grad():
        found = words(model, batch, labels)
    for name, wanted in tensors(arrays, prefix).items():
        mine, theirs = (found[name][real], wanted[real]) if wanted.dim() == 3 else (found[name], wanted)
        yield Row(f"{item} {name}", difference(mine, theirs), tolerance)


def zeroed(model: CompactedBert) -> CompactedBert:
    """Set what is removed to exactly 0."""
    with torch.no_grad():
        for parameter, kept in masked_compactors(model):
            parameter.mul_(kept)
    return model


def mask_items(arrays: Arrays, strategy: str) -> Iterator[Row]:
    """The choice at mask step 20, and which compactors each mask applies to."""
    model, keep = golden_model(arrays), tensors(arrays, f"{strategy}/keep/")
    found = narrowing(strategy).select(dict(model.named_compactors()), 20)
    seen = set()
    for group in model.groups:
        members = [*(f"{name}.in" for name in group.inputs), *(f"{name}.out" for name in group.outputs)]
        for member in members:
            yield Row(f"{strategy} mask {member}", difference(found[group.name], keep[member]), 0.0)
        seen |= {*members}
    yield Row(f"{strategy} members of all groups", float(len(seen ^ keep.keys())), 0.0)


def merge_items(arrays: Arrays, strategy: str) -> Iterator[Row]:
    """The compacted model leaky and exact, and the student cut from either."""
    model = golden_model(arrays)
    model.set_masks(masks_of(tensors(arrays, f"{strategy}/keep/"), model.groups))
    yield from forward_items(f"{strategy} leaky", model, arrays, f"{strategy}/out_leaky/")
    leaky = merge(model, hard_zero=True).state_dict()
    yield from forward_items(f"{strategy} exact", zeroed(model), arrays, f"{strategy}/out_exact/")
    student = merge(model)
    state = student.state_dict()
    same = sum(not torch.equal(leaky[name], value) for name, value in state.items())
    yield Row(f"{strategy} leaky and exact give the same student", float(same), 0.0)
    scaled = "dim/out_merged_qscaled/" if strategy == "dim" else "head/out_merged_raw/"
    # Folded LayerNorms add epsilon within the root.
    yield from forward_items(f"{strategy} merged", student, arrays, scaled)
    scale = math.sqrt(8 / 16) if strategy == "dim" else 1.0
    for name, wanted in tensors(arrays, f"{strategy}/student/").items():
        found = state["cls.predictions.bias" if name == DECODER_BIAS else name]
        found = found / scale if ".query." in name else found
        found = found / math.sqrt(31 / 32) if name.endswith("LayerNorm.weight") else found
        yield Row(f"{strategy} student {name}", difference(found, wanted), 1e-6)
    if strategy == "dim":
        with torch.no_grad():
            for layer in student.layers:
                layer.attention.self.query.weight.div_(scale)
                layer.attention.self.query.bias.div_(scale)
        yield from forward_items("dim without the query's scale", student, arrays, "dim/out_merged_raw/")
        student = merge(model)
    batch, labels = golden_batch(arrays)
    places, kept = labels != -100, model.mask(RESIDUAL)
    with torch.no_grad():
        last, theirs = model(batch).last[places][:, kept], student(batch).last[places]
        logits = (model.mlm_logits(batch, places), student.mlm_logits(batch, places))
    yield Row(f"{strategy} merged equals compacted: states", difference(theirs, last), 1e-5)
    yield Row(f"{strategy} merged equals compacted: logits", difference(logits[1], logits[0]), 1e-5)


def schedule_items(arrays: Arrays) -> Iterator[Row]:
    """How much is removed at every mask step."""
    for name, table in tensors(arrays, "schedule/").items():
        hidden, heads, target = (int(part) for part in name.split("_"))
        layout = Layout.uniform(
            vocab=9,
            hidden=hidden,
            num_layers=1,
            heads=heads,
            head_width=hidden // heads,
            ffn=(2 if hidden == 64 else 4) * hidden,
        )
        for strategy in ("dim", "head"):
            if strategy == "head" and target % (hidden // heads):
                continue  # refused: its parts would not fit together
            narrow = Narrowing(layout=layout, target=target, strategy=strategy)
            for number, gone, ffn, dims, blocks in table.tolist():
                removed = narrow.removed(number)
                width = dims if strategy == "dim" else blocks * hidden // heads
                wanted = (width, width, ffn, gone)
                wrong = wanted != (removed.residual, removed.attention, removed.ffn, removed.words)
                yield Row(f"schedule {name} {strategy} {number}", float(wrong), 0.0)


def gradients(model: CompactedBert, arrays: Arrays) -> float:
    """Back-propagate the golden loss; return it."""
    batch, labels = golden_batch(arrays)
    loss = words(model, batch, labels)["loss"]
    loss.backward()  # type: ignore[no-untyped-call]
    return float(loss.detach())


def optimizer_of(model: CompactedBert, lr: float, base_lr: float) -> Optimizer:
    recipe = Recipe(optimizer="uncorrected_adamw", weight_decay=0.01, clip="none")
    return optimizer_for(compaction_groups(model, lr=lr, base_lr=base_lr), recipe)


def parameter_of(model: CompactedBert, name: str) -> torch.nn.Parameter:
    if name.endswith((".in", ".out")):
        return model.compactor(name)
    return model.get_parameter("cls.predictions.bias" if name == DECODER_BIAS else name)


def gradient_error(model: CompactedBert, name: str, wanted: Tensor) -> float:
    """The error of a gradient; absolute for a key bias, whose gradient is rounding noise, for no softmax sees it."""
    found = parameter_of(model, name).grad
    assert found is not None
    return float((found - wanted).abs().max()) if name.endswith("key.bias") else difference(found, wanted)


def first_step_items(arrays: Arrays) -> Iterator[Row]:
    """Before the first masks: forward, loss, raw gradients of the composed forward, and the edit."""
    model = golden_model(arrays)
    yield from forward_items("phase 1", model, arrays, "out_phase1/")
    loss = gradients(model, arrays)
    yield Row("step 1 loss", abs(loss / float(arrays["gradstep1/loss"]) - 1), 1e-6)
    for name, wanted in tensors(arrays, "gradstep1/grad_raw/").items():
        yield Row(f"step 1 gradient {name}", gradient_error(model, name, wanted), 2e-5)
    optimizer = optimizer_of(model, 1e-3, 1e-3)
    Compaction(model, narrowing("dim"), mask_every=2, penalty=20.0, mode="faithful").before_step(0, optimizer)
    for name, wanted in tensors(arrays, "gradstep1/grad_mod/").items():
        yield Row(f"step 1 edit {name}", gradient_error(model, name, wanted), 1e-6)


def later_step_items(arrays: Arrays, strategy: str) -> Iterator[Row]:
    """A whole step with the golden moments: gradient edit, edit of the moment, update."""
    where = f"{strategy}/gradstep8/"
    model = golden_model(arrays)
    part = {
        name: tensors(arrays, f"{where}{name}/")
        for name in ("grad_raw", "grad_mod", "param_before", "exp_avg_before", "exp_avg_sq_before", "exp_avg_penalised")
    }
    base_lr, lr = arrays[f"{where}lr_base_and_compactor"].tolist()
    optimizer = optimizer_of(model, lr, base_lr)
    with torch.no_grad():
        for name, value in part["param_before"].items():
            parameter_of(model, name).copy_(value)
    for name, raw in part["grad_raw"].items():
        parameter = parameter_of(model, name)
        parameter.grad = raw.clone()
        moments = {"exp_avg": part["exp_avg_before"][name], "exp_avg_sq": part["exp_avg_sq_before"][name]}
        optimizer.state[parameter] = {key: value.clone() for key, value in moments.items()}
    keep = masks_of(tensors(arrays, f"{where}keep_grad/"), model.groups)
    chosen = narrowing(strategy).select(dict(model.named_compactors()), 4)
    for name in ("attention.0", WORDS):  # the two whose scored compactor is stored
        yield Row(f"{strategy} step 8 mask {name}", difference(chosen[name], keep[name]), 0.0)
    model.set_masks(keep)
    Compaction(model, narrowing(strategy), mask_every=5, penalty=20.0, mode="faithful").before_step(7, optimizer)
    for name, wanted in part["grad_mod"].items():
        yield Row(f"{strategy} step 8 edit {name}", gradient_error(model, name, wanted), 1e-6)
    for name, wanted in part["exp_avg_penalised"].items():
        found = optimizer.state[parameter_of(model, name)]["exp_avg"]
        yield Row(f"{strategy} step 8 moment {name}", difference(found, wanted), 1e-6)
    optimizer.step()
    for name, wanted in tensors(arrays, f"{where}param_after/").items():
        found = parameter_of(model, name).detach()
        yield Row(f"{strategy} step 8 update {name}", difference(found, wanted), 1e-6)


def parity() -> Iterator[Row]:
    """Every item of the golden file."""
    arrays = dict(np.load(GOLDEN))
    yield from schedule_items(arrays)
    yield from first_step_items(arrays)
    for strategy in ("dim", "head"):
        yield from mask_items(arrays, strategy)
        yield from merge_items(arrays, strategy)
        yield from later_step_items(arrays, strategy)


def main() -> None:
    torch.set_num_threads(1)
    for row in parity():
        flag = "" if row.error <= row.tolerance else "  FAIL"
        print(f"{row.error:9.2e} (<= {row.tolerance:.0e})  {row.item}{flag}")


if __name__ == "__main__":
    main()
