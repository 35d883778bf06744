from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from methods.parts.batches import Batch
from methods.parts.compaction import Compaction, compaction_groups, left_over, masked_compactors
from methods.parts.compactors import CompactedBert
from methods.parts.loop import fit
from methods.parts.losses import Term
from methods.parts.mask_groups import Narrowing
from methods.parts.masked_lm import masked_lm_loss
from methods.parts.merge import leak, merge, merge_checkpoint
from methods.parts.optim import optimizer_for
from methods.parts.recipe import Recipe
from methods.parts.run import LocalRun, Stopped
from methods.parts.training import Training
from tests.parts.ranks import run_ranks
from tests.parts.test_compactors import LAYOUT, compacted
from tests.parts.tiny import Rows
from tests.strategies import random_bert

pytestmark = pytest.mark.long

RECIPE = Recipe(
    total_steps=24, lr=1e-3, warmup=0.1, optimizer="uncorrected_adamw", weight_decay=0.01, clip="none", batch_size=8
)
NARROWING = Narrowing(layout=LAYOUT, target=8, ramp_ffn=3)
LR, PENALTY = 1e-2, 90.0


class Words(Rows):
    """Every second token is asked for."""

    def step(self, step: int) -> list[Batch]:
        return [_asked(batch) for batch in super().step(step)]


def _asked(batch: Batch) -> Batch:
    wanted = batch.attention_mask.bool() & (torch.arange(batch.input_ids.shape[1]) % 2 == 1)
    labels = torch.where(wanted, batch.input_ids, -100)
    return replace(batch, labels=labels, sizes={**batch.sizes, "masked": int(wanted.sum())})


def start(mode: str = "decoupled", **changes: Any) -> tuple[CompactedBert, Compaction]:
    model = CompactedBert.inherit(random_bert(LAYOUT)).train()
    return model, Compaction(model, NARROWING, mask_every=2, **{"penalty": PENALTY, "mode": mode, **changes})


def training(
    model: CompactedBert, compaction: Compaction, run: LocalRun, *, only: bool = False, micro: int = 1
) -> Training:
    def losses(batch: Batch) -> Iterator[Sequence[Term]]:
        yield [masked_lm_loss(model, batch)]

    return Training(
        model=model,
        data=Words(rank=run.rank, world_size=run.world_size, micro_batches=micro),
        losses=losses,
        groups=compaction_groups(model, lr=LR, base_lr=1e-3, compactors_only=only),
        before_step=compaction.before_step,
        best={},
    )


def trained(run: LocalRun, recipe: Recipe = RECIPE, **changes: Any) -> CompactedBert:
    micro = changes.pop("micro", 1)
    only = changes.pop("only", False)
    model, compaction = start(**changes)
    with run.stage("compact") as stage:
        fit(training(model, compaction, run, only=only, micro=micro), recipe, stage, run)
    return model


def step_of(model: CompactedBert, compaction: Compaction, number: int) -> dict[str, Tensor]:
    """One update with random gradients and moments; what Adam alone would have made of the compactors."""
    optimizer = optimizer_for(compaction_groups(model, lr=LR, base_lr=1e-3), RECIPE)
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
        moments = {name: torch.rand(parameter.shape, generator=generator) for name in ("exp_avg", "exp_avg_sq")}
        optimizer.state[parameter] = moments
    alone = {}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        state, group = (
            optimizer.state[parameter],
            next(group for group in optimizer.param_groups if any(parameter is each for each in group["params"])),
        )
        mean = 0.9 * state["exp_avg"] + 0.1 * parameter.grad
        square = 0.999 * state["exp_avg_sq"] + 0.001 * parameter.grad.square()
        after = parameter.detach() - group["lr"] * mean / (square.sqrt() + 1e-6)
        alone[name] = after * (1 - group["lr"] * group["weight_decay"])
    compaction.before_step(number, optimizer)
    optimizer.step()
    return alone


def test_decoupled_leaves_adam_alone_on_what_is_kept_and_decays_the_rest() -> None:
    model, compaction = start()
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    alone = step_of(model, compaction, 3)
    names = {id(value): name for name, value in model.named_parameters()}
    for parameter, kept in masked_compactors(model):
        name = names[id(parameter)]
        assert not kept.all()
        decayed = before[name] * (1 - LR * PENALTY) * (1 - LR * 0.01)
        torch.testing.assert_close(parameter.detach(), torch.where(kept, alone[name], decayed), msg=name)
        del names[id(parameter)]
    for parameter in model.parameters():
        if id(parameter) in names:  # all that was inherited
            torch.testing.assert_close(parameter.detach(), alone[names[id(parameter)]])


def test_nothing_is_removed_before_the_first_masks() -> None:
    model, compaction = start()
    alone = step_of(model, compaction, 0)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), alone[name])
    assert all(bool(model.mask(group.name).all()) for group in model.groups)


def test_ties_never_remove_everything() -> None:
    model, compaction = start(mode="faithful")
    optimizer = optimizer_for(compaction_groups(model, lr=0.0, base_lr=0.0), RECIPE)
    for number in range(8):
        compaction.before_step(number, optimizer)
    assert [int(model.mask(group.name).sum()) for group in model.groups] == [8, 8, 12, 8, 12, 8]


def test_a_trained_model_merges_to_what_it_computes(tmp_path: Path) -> None:
    model = trained(LocalRun(tmp_path))
    assert leak(model) < 1e-4
    student = merge(model)
    (batch,) = Words().step(0)
    with torch.no_grad():
        whole, small = (float(masked_lm_loss(each.eval(), batch).sum) for each in (model, student))
    assert abs(whole - small) < 1e-4 * whole


@pytest.mark.parametrize("mode", ["decoupled", "faithful"])
def test_compactors_alone_can_be_trained(mode: str, tmp_path: Path) -> None:
    model = trained(LocalRun(tmp_path), mode=mode, only=True)
    inherited = CompactedBert.inherit(random_bert(LAYOUT)).state_dict()
    state = model.state_dict()
    same = {name for name in state if torch.equal(state[name], inherited[name])}
    assert {name for name in state if not name.startswith(("compactors", "masks"))} <= same
    assert not {name for name in state if name.startswith("compactors")} & same


class Cut(LocalRun):
    """Ends after so many steps, each checkpointed."""

    def __init__(self, folder: Path, after: int) -> None:
        super().__init__(folder)
        self.cadence = replace(self.cadence, seconds=0.0, steps=1)
        self.after = after

    def poll(self) -> None:
        self.after -= 1
        if self.after == 0:
            raise Stopped


@pytest.mark.parametrize("mode", ["decoupled", "faithful"])
def test_a_stopped_training_goes_on_bit_for_bit_with_its_masks(mode: str, tmp_path: Path) -> None:
    whole = trained(LocalRun(tmp_path / "whole"), mode=mode).state_dict()
    with pytest.raises(Stopped):
        trained(Cut(tmp_path / "cut", 7), mode=mode)
    (checkpoint,) = (tmp_path / "cut").glob("stages/compact/step-*")
    student = merge_checkpoint(checkpoint, hard_zero=True)
    assert student.layout.hidden == 8  # the masks are in the checkpoint
    with pytest.raises(ValueError, match="merge: found values up to"):
        merge_checkpoint(checkpoint)
    again = trained(Cut(tmp_path / "cut", 10**6), mode=mode).state_dict()
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert merge_checkpoint(tmp_path / "cut/stages/compact/done", hard_zero=True).layout == student.layout


def on_ranks(rank: int, world_size: int, folder: Path, mode: str) -> dict[str, list[float]]:
    run = LocalRun(folder / "two", rank=rank, world_size=world_size)
    return {name: value.tolist() for name, value in trained(run, mode=mode, micro=2).state_dict().items()}


def test_the_number_of_ranks_changes_nothing(tmp_path: Path) -> None:
    alone = trained(LocalRun(tmp_path / "alone"), micro=4).state_dict()
    one, two = run_ranks(on_ranks, tmp_path, "decoupled")
    for name, value in alone.items():
        assert one[name] == two[name]
        if name.startswith("masks"):
            assert one[name] == value.tolist()
        elif not name.endswith("key.bias"):  # no softmax sees it: its gradient is rounding noise that Adam blows up
            torch.testing.assert_close(torch.tensor(one[name]), value, rtol=1e-2, atol=1e-2, msg=name)


def test_what_a_decay_leaves_is_known_beforehand() -> None:
    model, compaction = start()
    parameter, _ = next(masked_compactors(model))
    optimizer = optimizer_for(compaction_groups(model, lr=LR, base_lr=1e-3), RECIPE)
    model.set_masks({"residual": torch.arange(16) < 8})
    compaction.mask_every = 1000
    for number in range(1000, 1003):
        for group in optimizer.param_groups:
            group["lr"] = LR * 0.5
        for each in model.parameters():
            each.grad = torch.zeros_like(each)
        compaction.before_step(number, optimizer)
    constant = replace(RECIPE, schedule="constant", total_steps=3, warmup=0.0)
    assert float(parameter[15, 15].detach()) == pytest.approx(left_over(constant, LR * 0.5, PENALTY, 0))
    assert left_over(RECIPE, LR, PENALTY, 4) < left_over(RECIPE, LR, PENALTY, 12) < 1.0
    assert left_over(RECIPE, LR, 1e4, 4) == 0.0


def test_numbers_out_of_range_are_refused() -> None:
    model = compacted()
    for values, message in (
        ({"mode": "x"}, "mode: found 'x', allowed are decoupled, faithful"),
        ({"penalty": 0.0}, "penalty: found 0.0"),
        ({"mask_every": 0}, "mask_every: found 0"),
    ):
        with pytest.raises(ValueError, match=message):
            Compaction(model, NARROWING, **{"mask_every": 1, "penalty": 1.0, **values})  # type: ignore[arg-type]
