from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from methods.parts.batches import Batch
from methods.parts.bert import Bert
from methods.parts.importance import TaylorScores, top
from methods.parts.loop import Fitted, Progress, Recipe, Training, fit, load_best
from methods.parts.losses import Term, hard_cross_entropy
from methods.parts.optim import Group, named
from methods.parts.recipe import OPTIMIZERS
from methods.parts.run import LocalRun
from methods.parts.surgery import cut
from methods.parts.training import Diverged, Losses
from tests.parts.ranks import run_ranks
from tests.parts.tiny import Rows, defined, flat, label_losses, three_losses, tiny_bert, weights

RECIPE = Recipe(epochs=2, batch_size=8, lr=0.01, warmup=0.2, weight_decay=0.01)


def fitted(run: LocalRun, model: Bert, losses: Losses, recipe: Recipe = RECIPE, stage: str = "s") -> Fitted:
    data = Rows(rank=run.rank, world_size=run.world_size, micro_batches=recipe.accumulation)
    with run.stage(stage) as opened:
        return fit(Training(model=model, data=data, losses=losses), recipe, opened, run)


def adamw(decayed: Sequence[Tensor], others: Sequence[Tensor], lr: float, decay: float) -> Optimizer:
    groups: list[dict[str, Any]] = [{"params": decayed, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr)


def slow_updates(model: Bert, losses: Callable[[Batch], Tensor], recipe: Recipe, steps: int) -> None:
    """The plainest loop there is: whole batches, one backward, torch's AdamW."""
    decayed = [p for n, p in model.named_parameters() if "bias" not in n and "LayerNorm" not in n]
    others = [p for n, p in model.named_parameters() if "bias" in n or "LayerNorm" in n]
    optimizer = adamw(decayed, others, recipe.lr, recipe.weight_decay)
    warm = recipe.warmup * steps
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: step / warm if step < warm else (steps - step) / (steps - warm)
    )
    for step in range(steps):
        (batch,) = Rows().step(step)
        optimizer.zero_grad()
        losses(batch).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
        optimizer.step()
        schedule.step()


def test_training_is_what_a_plain_loop_does(tmp_path: Path) -> None:
    ours, plain = tiny_bert(), tiny_bert()
    fitted(LocalRun(tmp_path), ours, label_losses(ours))
    slow_updates(plain, lambda batch: F.cross_entropy(plain(batch).logits, batch.labels), RECIPE, 6)
    torch.testing.assert_close(defined(ours), defined(plain), rtol=1e-5, atol=1e-6)


def test_several_losses_are_one_sum(tmp_path: Path) -> None:
    ours, plain = tiny_bert(), tiny_bert()
    fitted(LocalRun(tmp_path), ours, three_losses(ours))

    def whole(batch: Batch) -> Tensor:
        output = plain(batch)
        real = batch.attention_mask.bool()
        tokens = output.last.square().mean(-1)[real].mean()
        halved = F.cross_entropy(plain(batch).logits / 2, batch.labels)
        label = F.cross_entropy(output.logits, batch.labels)
        total: Tensor = label + 0.3 * tokens + 0.1 * weights(plain).square().sum() + 0.5 * halved
        return total

    slow_updates(plain, whole, RECIPE, 6)
    torch.testing.assert_close(defined(ours), defined(plain), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("losses", [label_losses, three_losses])
@pytest.mark.parametrize("accumulation", [2, 3, 8])
def test_micro_batches_change_nothing(tmp_path: Path, losses: Callable[[Bert], Losses], accumulation: int) -> None:
    whole, split = tiny_bert(), tiny_bert()
    one = fitted(LocalRun(tmp_path / "one"), whole, losses(whole))
    recipe = replace(RECIPE, accumulation=accumulation)
    run = LocalRun(tmp_path / "many")
    many = fitted(run, split, losses(split), recipe)
    torch.testing.assert_close(defined(split), defined(whole), rtol=1e-5, atol=1e-6)
    assert one.progress.step == many.progress.step == 6


def cut_halfway(
    run: LocalRun, losses: Callable[[Bert], Losses], recipe: Recipe
) -> tuple[Tensor, list[dict[str, float]]]:
    """Fit, cut to one head, half the neurons and one layer, and fit that model too."""
    model = tiny_bert()
    first = fitted(run, model, losses(model), replace(recipe, epochs=1), "first")
    assert isinstance(first.model, Bert)
    smaller = cut(first.model, heads=[[1], [0]], neurons=[[0, 2, 4], [1, 2, 3]], layers=[0])
    fitted(run, smaller, losses(smaller), recipe, "second")
    return defined(smaller), [dict(report.metrics) for report in run.reports]


def ranked_cut(
    rank: int, world_size: int, folder: Path, losses: Callable[[Bert], Losses], recipe: Recipe
) -> tuple[list[float], list[dict[str, float]]]:
    run = LocalRun(folder / f"of-{world_size}", rank=rank, world_size=world_size)
    values, reports = cut_halfway(run, losses, recipe)
    return values.tolist(), reports


@pytest.mark.parametrize(
    ("losses", "accumulation", "optimizer"),
    [(label_losses, 1, "adamw"), (three_losses, 1, "bert_adam"), (three_losses, 3, "uncorrected_adamw")],
)
def test_two_ranks_do_what_one_does(
    tmp_path: Path, losses: Callable[[Bert], Losses], accumulation: int, optimizer: str
) -> None:
    recipe = replace(RECIPE, accumulation=accumulation, optimizer=optimizer, lr=0.002)
    alone, reports = cut_halfway(LocalRun(tmp_path / "alone"), losses, recipe)
    (first, ours), (second, theirs) = run_ranks(ranked_cut, tmp_path, losses, recipe)
    assert first == second
    assert ours == theirs
    torch.testing.assert_close(torch.tensor(first), alone, rtol=1e-5, atol=1e-5)
    for mine, expected in zip(ours, reports, strict=True):
        assert mine == pytest.approx(expected, rel=1e-4, abs=1e-5)


def elastic_losses(model: Bert) -> Losses:
    """Rank 1's rows never reach the classifier; nobody's reach the pooler's bias."""
    model.bert.pooler.dense.bias.requires_grad_(False)  # type: ignore[union-attr]

    def losses(batch: Batch) -> Iterator[Sequence[Term]]:
        if 0 in batch.ids.tolist():
            yield [hard_cross_entropy(model(batch).logits, batch.labels)]
        yield [Term("states", model(batch).last.square().sum(), "positions")]

    return losses


def ranked_elastic(rank: int, world_size: int, folder: Path) -> list[float]:
    model = tiny_bert(seed=rank)  # the ranks begin with different weights; rank 0's count
    run = LocalRun(folder, rank=rank, world_size=world_size)
    fitted(run, model, elastic_losses(model), replace(RECIPE, clip="tensor"))
    return flat(model).tolist()


def test_parts_that_one_rank_never_uses_are_trained_alike(tmp_path: Path) -> None:
    first, second = run_ranks(ranked_elastic, tmp_path)
    assert first == second


def test_a_last_batch_too_small_for_the_second_rank(tmp_path: Path) -> None:
    first, second = run_ranks(ranked_short, tmp_path)
    model = tiny_bert()
    run = LocalRun(tmp_path / "alone")
    with run.stage("s") as stage:
        fit(Training(model=model, data=Rows(num_rows=9), losses=label_losses(model)), RECIPE, stage, run)
    assert first == second
    torch.testing.assert_close(torch.tensor(first), defined(model), rtol=1e-5, atol=1e-6)


def ranked_short(rank: int, world_size: int, folder: Path) -> list[float]:
    model, run = tiny_bert(), LocalRun(folder, rank=rank, world_size=world_size)
    data = Rows(num_rows=9, rank=rank, world_size=world_size)
    assert len(data.step(1)) == 1 - rank
    with run.stage("s") as stage:
        fit(Training(model=model, data=data, losses=label_losses(model)), RECIPE, stage, run)
    return defined(model).tolist()


@pytest.mark.parametrize("schedule", ["linear", "constant"])
def test_iterative_pruning_keeps_one_unbroken_learning_rate_line(tmp_path: Path, schedule: str) -> None:
    """ROSITA's trace: 70 rows, batch 32, 10 epochs, prunes after 4 and 9 updates of 20, lr 1e-3.

    The original logs 1e-3 * (1 - t / 20) after update t, across both prunes: the rate of update t, from 0, here.
    """
    run, model, progress = LocalRun(tmp_path), tiny_bert(), None
    recipe = Recipe(epochs=10, batch_size=32, lr=1e-3, optimizer="adamw", schedule=schedule, clip="tensor")
    lrs: list[float] = []
    counters: list[float] = []

    class Whole(Rows):
        @property
        def num_steps(self) -> int:
            return self.num_rows // self.batch_size

    for number, until in enumerate((4, 9, None)):
        scores = TaylorScores("final")

        def before(step: int, optimizer: Optimizer, model: Bert = model, scores: TaylorScores = scores) -> None:
            scores.observe(model)
            lrs.append(optimizer.param_groups[0]["lr"])
            state = optimizer.state.get(model.layers[0].output.dense.weight, {})
            counters.append(float(state.get("step", 0)))

        training = Training(
            model=model,
            data=Whole(num_rows=70, batch_size=32),
            losses=label_losses(model),
            before_step=before,
            keep={"scores": scores},
        )
        with run.stage(f"width-{number}", final=until is None) as stage:
            result = fit(training, recipe, stage, run, progress=progress, until=until)
        progress = result.progress
        if until is not None:
            kept = top(scores.scores(model), 1 if number else 2, 6 - 2 * number)
            model = cut(model, heads=kept.heads, neurons=kept.neurons)
    assert progress is not None
    assert (progress.step, progress.total_steps) == (20, 20)
    line = [1e-3 * (1 - t / 20 if schedule == "linear" else 1) for t in range(20)]
    assert lrs == pytest.approx(line)
    assert counters == [*range(4), *range(5), *range(11)]


def test_gates_are_a_group_with_their_own_rate_decay_and_clipping(tmp_path: Path) -> None:
    """LAD: student clipped to one norm, each gate to its own, other learning rates; against two optimizers."""

    def build() -> tuple[Bert, list[nn.Linear], Losses]:
        model = tiny_bert()
        gates = [nn.Linear(8, 8) for _ in range(2)]
        for number, gate in enumerate(gates):
            nn.init.eye_(gate.weight).data.mul_(number + 1.0)
            nn.init.zeros_(gate.bias)

        def losses(batch: Batch) -> Iterator[Sequence[Term]]:
            output = model(batch, hidden=True)
            pairs = zip(gates, output.hidden[1:], strict=True)
            hidden = torch.stack(
                [(gate(output.hidden[0]) - state).square().mean(-1).sum() for gate, state in pairs]
            ).sum()
            yield [hard_cross_entropy(output.logits, batch.labels), Term("hidden", hidden, "positions", 50.0)]

        return model, gates, losses

    model, gates, losses = build()
    recipe = Recipe(epochs=1, batch_size=8, lr=1e-3, schedule="constant", clip="group", weight_decay=0.01)
    groups = [Group(name="student", parameters=named(model))]
    groups += [
        Group(name=f"gate-{i}", parameters=named(gate), lr=5e-3, weight_decay=0.1, clip_norm=0.25)
        for i, gate in enumerate(gates)
    ]
    run = LocalRun(tmp_path)
    with run.stage("lad") as stage:
        fit(Training(model=model, data=Rows(), losses=losses, groups=groups), recipe, stage, run)

    plain, plain_gates, plain_losses = build()
    no_decay = [p for n, p in plain.named_parameters() if "bias" in n or "LayerNorm" in n]
    decay = [p for n, p in plain.named_parameters() if "bias" not in n and "LayerNorm" not in n]
    student = adamw(decay, no_decay, 1e-3, 0.01)
    gate_optimizer = adamw([gate.weight for gate in plain_gates], [gate.bias for gate in plain_gates], 5e-3, 0.1)
    for step in range(3):
        (batch,) = Rows().step(step)
        ((label, hidden),) = plain_losses(batch)
        loss = label.sum / len(batch.labels) + 50.0 * hidden.sum / batch.input_ids.numel()
        for optimizer in (student, gate_optimizer):
            optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norms = [torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)]
        norms += [torch.nn.utils.clip_grad_norm_(gate.parameters(), 0.25) for gate in plain_gates]
        assert all(norm > 1.0 for norm in norms)  # every limit is at work
        student.step()
        gate_optimizer.step()
    torch.testing.assert_close(defined(model), defined(plain), rtol=1e-5, atol=1e-6)
    for mine, theirs in zip(gates, plain_gates, strict=True):
        torch.testing.assert_close(flat(mine), flat(theirs), rtol=1e-5, atol=1e-6)


def test_the_hook_sees_whole_gradients_before_clipping_and_may_edit_them(tmp_path: Path) -> None:
    model = tiny_bert()
    seen: list[tuple[int, float]] = []
    frozen = model.layers[0].output.dense.weight.detach().clone()

    def before(step: int, optimizer: Optimizer) -> None:
        norms = [parameter.grad.norm() for parameter in model.parameters() if parameter.grad is not None]
        seen.append((step, float(torch.stack(norms).norm())))
        model.layers[0].output.dense.weight.grad = None

    run = LocalRun(tmp_path)
    training = Training(model=model, data=Rows(), losses=label_losses(model), before_step=before)
    recipe = replace(RECIPE, clip_norm=1e-4, weight_decay=0.5)
    with run.stage("s") as stage:
        fit(training, recipe, stage, run)
    assert [step for step, _ in seen] == list(range(6))
    assert all(norm > 0.01 for _, norm in seen)
    assert torch.equal(model.layers[0].output.dense.weight, frozen)


class Scripted:
    """An evaluation that gives set numbers, and remembers the weights it saw."""

    def __init__(self, numbers: Sequence[Mapping[str, float]]) -> None:
        self.numbers = iter(numbers)
        self.seen: list[Tensor] = []

    def __call__(self, model: nn.Module) -> Mapping[str, float]:
        model.eval()
        self.seen.append(flat(model))
        return next(self.numbers)


def evaluated(
    tmp_path: Path, numbers: Sequence[Mapping[str, float]], recipe: Recipe, best: Mapping[str, str]
) -> tuple[Fitted, Scripted, LocalRun]:
    run, model, script = LocalRun(tmp_path), tiny_bert(dropout=0.1), Scripted(numbers)
    training = Training(
        model=model, data=Rows(), losses=label_losses(model), evaluate=script, best=best, report_every=2
    )
    with run.stage("s", final=True) as stage:
        return fit(training, recipe, stage, run), script, run


def test_the_best_weights_are_kept_for_every_metric(tmp_path: Path) -> None:
    numbers = [{"score": 0.1, "loss": 3.0}, {"score": 0.3, "loss": 2.0}, {"score": 0.2, "loss": 1.0}]
    recipe = replace(RECIPE, epochs=3)
    result, script, run = evaluated(tmp_path, numbers, recipe, {"score": "max", "loss": "min"})
    bests = result.progress.bests
    assert {name: (best.value, best.step) for name, best in bests.items()} == {"score": (0.3, 6), "loss": (1.0, 9)}
    assert torch.equal(flat(result.model), script.seen[1])
    assert not result.model.training
    load_best(result.model, bests["loss"], run)
    assert torch.equal(flat(result.model), script.seen[2])
    stored = sorted(path.name for path in (tmp_path / "stages" / "s").iterdir())
    assert stored == ["best-00000006.safetensors", "best-00000009.safetensors", "done"]
    told = [(report.step, "score" in report.metrics, report.comparable) for report in run.reports]
    assert told == [(step, step % 3 == 0, True) for step in (2, 3, 4, 6, 8, 9)]
    assert {"train/loss", "train/label", "grad_norm", "lr", "epoch"} <= set(run.reports[0].metrics)


def test_without_a_metric_to_select_by_the_last_state_stays(tmp_path: Path) -> None:
    result, script, _ = evaluated(tmp_path, [{"score": 0.9}, {"score": 0.1}], RECIPE, {})
    assert result.progress.bests == {}
    assert torch.equal(flat(result.model), script.seen[-1])


def test_nan_is_never_the_best(tmp_path: Path) -> None:
    numbers = [{"score": float("nan")}, {"score": 0.1}, {"score": float("nan")}]
    result, script, _ = evaluated(tmp_path, numbers, replace(RECIPE, epochs=3), {"score": "max"})
    assert result.progress.bests["score"].step == 6
    assert torch.equal(flat(result.model), script.seen[1])


def test_patience_ends_training(tmp_path: Path) -> None:
    scores = [{"score": value} for value in (0.1, 0.5, 0.5, 0.4, 0.9)]
    recipe = replace(RECIPE, epochs=10, evaluate_every=2, patience=2)
    result, script, _ = evaluated(tmp_path, scores, recipe, {"score": "max"})
    assert result.progress.stopped
    assert (result.progress.step, result.progress.since_best) == (8, 2)
    assert torch.equal(flat(result.model), script.seen[1])


def test_the_last_step_is_always_evaluated(tmp_path: Path) -> None:
    numbers = [{"score": 0.1}] * 3
    result, _, run = evaluated(tmp_path, numbers, replace(RECIPE, evaluate_every=4), {"score": "max"})
    assert [report.step for report in run.reports if "score" in report.metrics] == [4, 6]
    assert result.progress.step == 6


def test_no_step_at_all_is_an_evaluation(tmp_path: Path) -> None:
    result, script, run = evaluated(tmp_path, [{"score": 0.1}], replace(RECIPE, epochs=0), {"score": "max"})
    assert [report.step for report in run.reports] == [0]
    assert torch.equal(flat(result.model), script.seen[0])


def test_a_metric_that_evaluate_does_not_give_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Training.best: found 'acc', allowed are what evaluate gives: \['score'\]"):
        evaluated(tmp_path, [{"score": 0.1}], RECIPE, {"acc": "max"})
    with pytest.raises(ValueError, match="found 'up', allowed are max, min"):
        evaluated(tmp_path, [], RECIPE, {"score": "up"})


def test_a_loss_that_is_not_finite_is_an_error(tmp_path: Path) -> None:
    model, run = tiny_bert(), LocalRun(tmp_path)

    def losses(batch: Batch) -> Iterator[Sequence[Term]]:
        yield [Term("bad", weights(model).sum() * float("nan"), "examples")]

    with pytest.raises(Diverged, match=r"update 0 \(lr 0, fp32\): found loss nan and gradient norm nan"):
        fitted(run, model, losses)
    assert torch.isfinite(flat(model)).all()


def test_an_unknown_count_is_named(tmp_path: Path) -> None:
    model = tiny_bert()

    def losses(batch: Batch) -> Iterator[Sequence[Term]]:
        yield [Term("x", weights(model).sum(), "words")]

    with pytest.raises(ValueError, match=r"term 'x': per: found 'words', allowed are examples, tokens, positions"):
        fitted(LocalRun(tmp_path), model, losses)


def test_one_fit_for_each_stage(tmp_path: Path) -> None:
    run, model = LocalRun(tmp_path), tiny_bert()
    training = Training(model=model, data=Rows(), losses=label_losses(model))
    with run.stage("s") as stage:
        fit(training, RECIPE, stage, run)
        with pytest.raises(ValueError, match="two fits in one stage"):
            fit(training, RECIPE, stage, run)


def test_parameters_outside_all_groups_stay_and_gather_no_gradient(tmp_path: Path) -> None:
    run, model = LocalRun(tmp_path), tiny_bert()
    before = flat(model.bert.embeddings)
    group = Group(name="head", parameters=named(model.classifier))  # type: ignore[arg-type]
    with run.stage("s") as stage:
        fit(Training(model=model, data=Rows(), losses=label_losses(model), groups=[group]), RECIPE, stage, run)
    assert torch.equal(flat(model.bert.embeddings), before)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_zero_learning_rate_changes_nothing(tmp_path: Path, optimizer: str) -> None:
    """So that scores of frozen weights can be gathered by the same loop."""
    run, model = LocalRun(tmp_path), tiny_bert()
    before = flat(model)
    fitted(run, model, label_losses(model), replace(RECIPE, lr=0.0, optimizer=optimizer))
    assert torch.equal(flat(model), before)


def test_bf16_runs_and_stays_near(tmp_path: Path) -> None:
    plain, half = tiny_bert(), tiny_bert()
    fitted(LocalRun(tmp_path / "a"), plain, label_losses(plain))
    fitted(LocalRun(tmp_path / "b"), half, label_losses(half), replace(RECIPE, precision="bf16"))
    assert not torch.equal(flat(half), flat(plain))
    torch.testing.assert_close(flat(half), flat(plain), rtol=0.2, atol=0.05)


def test_dropout_is_on_while_training_and_differs_by_seed(tmp_path: Path) -> None:
    def trained(folder: str, seed: int) -> Tensor:
        model = tiny_bert(dropout=0.3).eval()
        fitted(LocalRun(tmp_path / folder, seed=seed), model, label_losses(model))
        return flat(model)

    first = trained("a", 0)
    torch.rand(7)  # what was drawn outside does not matter
    assert torch.equal(first, trained("b", 0))
    assert not torch.equal(first, trained("c", 1))


def ranked_draws(rank: int, world_size: int, folder: Path, before: int) -> list[float]:
    model, run = tiny_bert(), LocalRun(folder / str(before), rank=rank, world_size=world_size)
    draws: list[float] = []

    def hook(step: int, optimizer: Optimizer) -> None:
        draws.append(float(torch.rand(())))

    data = Rows(rank=rank, world_size=world_size)
    with run.stage("s") as stage:
        torch.rand(before)
        fit(Training(model=model, data=data, losses=label_losses(model), before_step=hook), RECIPE, stage, run)
    return draws


def test_each_rank_draws_its_own_numbers_and_only_from_seed_and_stage(tmp_path: Path) -> None:
    first, second = run_ranks(ranked_draws, tmp_path, 1)
    assert not set(first) & set(second)
    assert run_ranks(ranked_draws, tmp_path, 5) == [first, second]


def test_progress_defaults_name_the_line() -> None:
    progress = Progress(total_steps=4, steps_per_epoch=2)
    assert (progress.step, progress.bests, progress.stopped) == (0, {}, False)
