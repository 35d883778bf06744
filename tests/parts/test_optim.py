from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from methods.parts.clip import clip_gradients
from methods.parts.files import read_tensors, write_tensors
from methods.parts.optim import BertAdam, Group, UncorrectedAdamW, decays, named, optimizer_for, pack, unpack
from methods.parts.precision import autocast_dtype
from methods.parts.recipe import OPTIMIZERS, Best, Progress, Recipe
from methods.parts.schedule import factor, rounded_steps

CPU = torch.device("cpu")


class Twofold(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(3, 4)
        self.LayerNorm = nn.LayerNorm(4)


def gradients(parameters: Iterable[Tensor], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def slow_bert_adam(weights: list[float], grads: list[list[float]], lr: float, wd: float, *, after: bool) -> list[float]:
    """One number at a time, as the originals' papers write it."""
    out = []
    for place, weight in enumerate(weights):
        m = v = 0.0
        for step in grads:
            m = 0.9 * m + 0.1 * step[place]
            v = 0.999 * v + 0.001 * step[place] ** 2
            update = m / (v**0.5 + 1e-6)
            if after:
                weight -= lr * update
                weight -= lr * wd * weight
            else:
                weight -= lr * (update + wd * weight)
        out.append(weight)
    return out


@settings(max_examples=30, deadline=None)
@given(
    weights=st.lists(st.floats(-3, 3), min_size=1, max_size=4),
    seed=st.integers(0, 99),
    lr=st.sampled_from([0.0, 1e-3, 0.1]),
    wd=st.sampled_from([0.0, 0.01, 0.5]),
    after=st.booleans(),
)
def test_optimizers_without_bias_correction_follow_the_definition(
    weights: list[float], seed: int, lr: float, wd: float, after: bool
) -> None:
    parameter = nn.Parameter(torch.tensor(weights, dtype=torch.float64))
    kind = UncorrectedAdamW if after else BertAdam
    optimizer = kind([parameter], lr=lr, weight_decay=wd)
    history = torch.randn(4, len(weights), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    for row in history:
        parameter.grad = row.clone()
        optimizer.step()
    expected = slow_bert_adam(weights, history.tolist(), lr, wd, after=after)
    assert parameter.tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_a_parameter_without_gradient_neither_moves_nor_decays() -> None:
    for optimizer_name in OPTIMIZERS:
        model = Twofold()
        optimizer = optimizer_for(
            [Group(name="all", parameters=named(model))], Recipe(optimizer=optimizer_name, weight_decay=1.0)
        )
        before = model.dense.weight.detach().clone()
        model.dense.bias.grad = torch.ones(4)
        optimizer.step()
        assert torch.equal(model.dense.weight, before)
        assert model.dense.weight not in optimizer.state


def test_fused_adamw_is_torchs_adamw() -> None:
    one, two = Twofold(), Twofold()
    two.load_state_dict(one.state_dict())
    ours = optimizer_for([Group(name="all", parameters=named(one))], Recipe(lr=0.1, weight_decay=0.2))
    wd = [{"params": [two.dense.weight], "weight_decay": 0.2}]
    plain = torch.optim.AdamW(
        [*wd, {"params": [two.dense.bias, *two.LayerNorm.parameters()], "weight_decay": 0.0}], lr=0.1, eps=1e-8
    )
    for step in range(5):
        gradients(one.parameters(), step)
        gradients(two.parameters(), step)
        ours.step()
        plain.step()
    for mine, theirs in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-7)


def test_groups_have_their_own_numbers_and_biases_never_decay() -> None:
    model, gate = Twofold(), Twofold()
    recipe = Recipe(lr=1e-3, weight_decay=0.01, optimizer="uncorrected_adamw")
    groups = [
        Group(name="model", parameters=named(model)),
        Group(name="gate", parameters=named(gate, without=[gate.dense.bias]), lr=5e-7, weight_decay=0.1, eps=1e-8),
    ]
    found = {
        group["name"]: (len(group["params"]), group["lr"], group["weight_decay"], group["eps"])
        for group in optimizer_for(groups, recipe).param_groups
    }
    assert found == {
        "model/decay": (1, 1e-3, 0.01, 1e-6),
        "model/no_decay": (3, 1e-3, 0.0, 1e-6),
        "gate/decay": (1, 5e-7, 0.1, 1e-8),
        "gate/no_decay": (2, 5e-7, 0.0, 1e-8),
    }
    assert [
        decays(name) for name in ("cls.predictions.bias", "x.layernorm.weight", "layer_norm.weight", "a.weight")
    ] == [
        False,
        False,
        False,
        True,
    ]


def test_overlapping_and_empty_groups_are_refused() -> None:
    model = Twofold()
    group = Group(name="model", parameters=named(model))
    with pytest.raises(ValueError, match=r"group 'two': parameter 'weight' is already in group 'model'"):
        optimizer_for([group, Group(name="two", parameters=named(model.dense))], Recipe())
    with pytest.raises(ValueError, match="group 'none': no trainable parameter"):
        optimizer_for([Group(name="none", parameters=())], Recipe())
    with pytest.raises(ValueError, match="no parameter group"):
        optimizer_for([], Recipe())


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_state_survives_the_disk_bit_for_bit(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    straight, other = Twofold(), Twofold()
    recipe = Recipe(optimizer=kind, lr=0.01, weight_decay=0.1)
    first = optimizer_for([Group(name="all", parameters=named(straight))], recipe)
    for step in range(3):
        gradients([straight.dense.weight, straight.LayerNorm.bias], step)
        first.step()
    write_tensors(tmp_path / "optimizer.safetensors", pack(first))
    other.load_state_dict(straight.state_dict())
    second = optimizer_for([Group(name="all", parameters=named(other))], recipe)
    unpack(second, read_tensors(tmp_path / "optimizer.safetensors"))
    for step in range(3, 6):
        for model, optimizer in ((straight, first), (other, second)):
            gradients(model.parameters(), step)
            optimizer.step()
    for mine, theirs in zip(straight.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)


@settings(max_examples=40, deadline=None)
@given(
    total=st.integers(1, 60),
    warmup=st.floats(0, 1),
    schedule=st.sampled_from(["linear", "constant"]),
    step=st.integers(0, 60),
)
def test_factor_is_the_bert_adam_rule(total: int, warmup: float, schedule: str, step: int) -> None:
    x = step / total
    if x < warmup:
        expected = x / warmup
    else:
        expected = 1.0 if schedule == "constant" else max(0.0, (1.0 - x) / max(1.0 - warmup, 1e-9))
    assert factor(step, total, warmup * total, schedule) == pytest.approx(expected, abs=1e-6) or abs(x - warmup) < 1e-9


def test_warm_up_begins_at_zero_and_peaks_where_it_should() -> None:
    assert [factor(step, 20, 2.0, "linear") for step in range(3)] == [0.0, 0.5, 1.0]
    assert factor(20, 20, 2.0, "linear") == 0.0
    assert [factor(step, 4, 0.0, "constant") for step in range(5)] == [1.0] * 5


@pytest.mark.parametrize(
    ("rows", "batch", "epochs", "share", "expected"),
    [
        (392702, 32, 4, 0.1, (49088, 4909)),
        (363846, 32, 5, 0.1, (56851, 5685)),
        (67349, 32, 20, 0.3, (42093, 12628)),
        (2490, 32, 10, 0.1, (778, 78)),
        (10, 32, 1, 0.1, (0, 1)),
    ],
)
def test_lads_step_counts(rows: int, batch: int, epochs: float, share: float, expected: tuple[int, int]) -> None:
    assert rounded_steps(rows, batch, epochs, share) == expected


def norms(parameters: Iterable[Tensor]) -> list[float]:
    return [float(parameter.grad.norm()) for parameter in parameters if parameter.grad is not None]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 99), scale=st.sampled_from([0.01, 1.0, 100.0]), limit=st.sampled_from([0.5, 1.0]))
def test_clipping_matches_torch_and_keeps_every_norm_under_its_limit(seed: int, scale: float, limit: float) -> None:
    def parameters() -> list[nn.Parameter]:
        made = [nn.Parameter(torch.zeros(shape)) for shape in ((3,), (2, 2), (5,))]
        gradients(made[:2], seed)
        for parameter in made[:2]:
            assert parameter.grad is not None
            parameter.grad *= scale
        return made

    ours, theirs, single, apart = parameters(), parameters(), parameters(), parameters()
    whole = clip_gradients([(ours, 9.0)], "global", limit)
    assert float(whole) == pytest.approx(float(clip_grad_norm_(theirs, limit)))
    assert norms(ours) == pytest.approx(norms(theirs))
    before = norms(single)
    clip_gradients([(single, limit)], "tensor", 9.0)
    assert norms(single) == pytest.approx([min(norm, limit * norm / (norm + 1e-6)) for norm in before], rel=1e-5)
    clip_gradients([(apart[:1], limit), (apart[1:], 2 * limit)], "group", 9.0)
    assert norms(apart) == pytest.approx(
        [min(norm, bound) for norm, bound in zip(before, (limit, 2 * limit), strict=True)], rel=1e-4
    )


def test_no_clipping_still_tells_the_norm() -> None:
    weight = nn.Parameter(torch.zeros(2))
    assert float(clip_gradients([([weight], 1.0)], "none", 1.0)) == 0.0
    weight.grad = torch.tensor([3.0, 4.0])
    assert float(clip_gradients([([weight], 1.0)], "none", 1.0)) == 5.0
    assert weight.grad.tolist() == [3.0, 4.0]
    weight.grad = torch.tensor([float("nan"), 4.0])
    assert not torch.isfinite(clip_gradients([([weight], 1.0)], "global", 1.0))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("optimizer", "bertadam", r"Recipe.optimizer: found 'bertadam', allowed are .*did you mean 'bert_adam'\?"),
        ("schedule", "cosine", "allowed are linear, constant"),
        ("clip", "norm", "allowed are global, tensor, group, none"),
        ("precision", "fp16", "allowed are auto, fp32, bf16"),
        ("warmup", 1.5, "share of the steps"),
        ("lr", float("nan"), "finite number >= 0"),
        ("batch_size", 0, ">= 1"),
        ("clip_norm", 0.0, "> 0"),
        ("betas", (0.9, 1.0), "two numbers"),
    ],
)
def test_a_recipe_refuses_what_it_cannot_mean(field: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recipe(**{field: value})  # type: ignore[arg-type]


def test_steps_of_a_recipe() -> None:
    assert Recipe(epochs=2.5).steps(3) == 7
    assert Recipe(epochs=0.1).steps(30) == 3
    assert Recipe(total_steps=4).steps(100) == 4
    assert Recipe(warmup=0.1).warm(25) == 2.5
    assert Recipe(warmup=0.1, warmup_steps=1).warm(25) == 1


def test_progress_round_trip(tmp_path: Path) -> None:
    best = {"score": Best(0.5, 3, tmp_path / "best-00000003.safetensors")}
    progress = Progress(step=5, total_steps=10, steps_per_epoch=2, bests=best, since_best=2, stopped=True)
    assert Progress.from_json(progress.to_json(), tmp_path) == progress
    assert progress.epoch == 2.5
    assert progress.files == (tmp_path / "best-00000003.safetensors",)


def test_precision_is_plain_where_bf16_gains_nothing() -> None:
    assert autocast_dtype("fp32", CPU, 1024) is None
    assert autocast_dtype("bf16", CPU, 8) is torch.bfloat16
    assert autocast_dtype("auto", CPU, 128) is None
    assert autocast_dtype("auto", CPU, 256) in (None, torch.bfloat16)
