import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from methods.parts import weights as stored_weights
from methods.parts.batches import Batch
from methods.parts.bert import Bert
from methods.parts.claims import Pace
from methods.parts.importance import TaylorScores
from methods.parts.loop import Fitted, Recipe, Training, fit
from methods.parts.optim import Group, named
from methods.parts.recipe import OPTIMIZERS
from methods.parts.run import LocalRun, Run, Stopped
from methods.parts.stages import Cadence
from tests.parts.ranks import outcomes_of_ranks, run_ranks, start
from tests.parts.tiny import Rows, flat, three_losses, tiny_bert, tiny_layout

pytestmark = pytest.mark.long

RECIPE = Recipe(epochs=3, batch_size=8, lr=0.01, warmup=0.2, weight_decay=0.01, evaluate_every=3)
CADENCE = Cadence(seconds=0, steps=2)


class Interrupted(Exception):
    pass


@dataclass
class Faulty(Rows):
    """Rows that end the process's life at one step."""

    fatal_step: int = -1
    kill: bool = False

    def step(self, step: int) -> list[Batch]:
        if step == self.fatal_step:
            if self.kill:
                os.kill(os.getpid(), signal.SIGKILL)
            raise Interrupted
        return super().step(step)


class Everything:
    """A training with dropout, a side module, scores, an evaluation that draws numbers, and two bests."""

    def __init__(self, run: Run, data: Rows) -> None:
        self.run = run
        self.model = tiny_bert(dropout=0.2)
        self.gate = nn.Linear(8, 8)
        nn.init.eye_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)
        self.scores = TaylorScores("final")
        self.steps: list[int] = []
        losses = three_losses(self.model)

        def gated(batch: Batch):  # type: ignore[no-untyped-def]  # noqa: ANN202 - a generator of terms
            for terms in losses(batch):
                scaled = [replace(term, sum=term.sum * self.gate.weight.diagonal().mean()) for term in terms]
                yield scaled

        def before(step: int, optimizer: Optimizer) -> None:
            self.scores.observe(self.model)
            self.steps.append(step)

        def evaluate(model: nn.Module) -> Mapping[str, float]:
            noise = float(torch.rand(()))
            return {"score": float(flat(model).square().sum().sin()), "noise": noise}

        self.training = Training(
            model=self.model,
            data=data,
            losses=gated,
            groups=[
                Group(name="model", parameters=named(self.model)),
                Group(name="gate", parameters=named(self.gate), lr=1e-3),
            ],
            before_step=before,
            evaluate=evaluate,
            best={"score": "max", "noise": "min"},
            keep={"gate": self.gate, "scores": self.scores},
            report_every=5,
        )

    def fit(self, recipe: Recipe) -> Fitted:
        with self.run.stage("s", final=True) as stage:
            return fit(self.training, recipe, stage, self.run)

    def state(self) -> list[Tensor]:
        return [flat(self.model), flat(self.gate), *(value for _, value in sorted(self.scores.state_dict().items()))]


def local(folder: Path, cadence: Cadence = CADENCE) -> LocalRun:
    run = LocalRun(folder)
    run.cadence = cadence
    return run


def equal(one: Everything, two: Everything) -> bool:
    return all(torch.equal(mine, theirs) for mine, theirs in zip(one.state(), two.state(), strict=True))


def interrupted_and_resumed(folder: Path, recipe: Recipe, fatal_step: int, cadence: Cadence = CADENCE) -> Everything:
    doomed = Everything(local(folder, cadence), Faulty(fatal_step=fatal_step))
    with pytest.raises(Interrupted):
        doomed.fit(recipe)
    resumed = Everything(local(folder, cadence), Rows())
    resumed.result = resumed.fit(recipe)  # type: ignore[attr-defined]
    return resumed


@pytest.mark.parametrize("fatal_step", [0, 1, 4, 5, 8])
def test_a_stage_interrupted_anywhere_ends_bit_equal(tmp_path: Path, fatal_step: int) -> None:
    whole = Everything(local(tmp_path / "whole"), Rows())
    expected = whole.fit(RECIPE)
    resumed = interrupted_and_resumed(tmp_path / "cut", RECIPE, fatal_step)
    assert equal(whole, resumed)
    found = resumed.result.progress  # type: ignore[attr-defined]
    assert found.to_json() == expected.progress.to_json()
    assert isinstance(whole.run, LocalRun)
    assert isinstance(resumed.run, LocalRun)
    after = [(report.step, report.metrics) for report in resumed.run.reports]
    assert after == [(report.step, report.metrics) for report in whole.run.reports][-len(after) :]
    assert resumed.steps == list(range(fatal_step // 2 * 2, 9))  # only what came after the last checkpoint


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("accumulation", [1, 3])
def test_every_optimizer_resumes_bit_equal(tmp_path: Path, optimizer: str, accumulation: int) -> None:
    recipe = replace(RECIPE, optimizer=optimizer, accumulation=accumulation, clip="group", lr=1e-3)
    whole = Everything(local(tmp_path / "whole"), Rows(micro_batches=accumulation))
    whole.fit(recipe)
    folder = tmp_path / "cut"
    for fatal_step in (3, 5, 8):  # interrupted again and again
        data = Faulty(fatal_step=fatal_step, micro_batches=accumulation)
        with pytest.raises(Interrupted):
            Everything(local(folder, Cadence(seconds=0, steps=1)), data).fit(recipe)
    resumed = Everything(local(folder), Rows(micro_batches=accumulation))
    resumed.fit(recipe)
    assert equal(whole, resumed)


def test_checkpoints_by_the_clock_change_nothing(tmp_path: Path) -> None:
    whole = Everything(local(tmp_path / "whole", Cadence(seconds=0, steps=0)), Rows())
    whole.fit(RECIPE)
    assert equal(whole, interrupted_and_resumed(tmp_path / "often", RECIPE, 5, Cadence(seconds=1e-9)))
    assert equal(whole, interrupted_and_resumed(tmp_path / "never", RECIPE, 5, Cadence(seconds=0, steps=0)))


def never(batch: Batch) -> NoReturn:
    raise AssertionError("a finished stage trains no more")


def test_a_finished_stage_answers_from_storage(tmp_path: Path) -> None:
    first = Everything(local(tmp_path), Rows())
    before = first.fit(RECIPE)
    again = Everything(local(tmp_path), Faulty(fatal_step=0))
    again.training = replace(again.training, losses=never, evaluate=never)  # type: ignore[arg-type]
    after = again.fit(RECIPE)
    assert equal(first, again)
    assert after.progress == before.progress
    assert not after.model.training
    opened = stored_weights.load(tmp_path / "stages" / "s" / "done")
    assert torch.equal(flat(opened), flat(first.model))
    names = {path.name for path in (tmp_path / "stages" / "s").iterdir()}
    assert names == {"done", *(best.file.name for best in before.progress.bests.values())}


def test_what_follows_a_stage_does_not_depend_on_how_it_was_answered(tmp_path: Path) -> None:
    def after() -> float:
        torch.manual_seed(0)
        Everything(local(tmp_path), Rows()).fit(RECIPE)
        return float(torch.rand(()))

    assert after() == after()


def test_a_stage_of_other_settings_is_refused(tmp_path: Path) -> None:
    Everything(local(tmp_path), Rows()).fit(RECIPE)
    with pytest.raises(ValueError, match="holds a stage with settings"):
        Everything(local(tmp_path), Rows()).fit(replace(RECIPE, lr=0.02))


def test_a_stage_of_another_architecture_is_refused(tmp_path: Path) -> None:
    def train(model: Bert) -> None:
        run = local(tmp_path)
        training = Training(model=model, data=Rows(), losses=three_losses(model))
        with run.stage("s") as stage:
            fit(training, RECIPE, stage, run)

    train(tiny_bert())
    with pytest.raises(ValueError, match="stored weights are of another architecture"):
        train(tiny_bert(layout=tiny_layout(ffn=6)))


def test_a_stopped_run_leaves_the_stage_resumable(tmp_path: Path) -> None:
    class Impatient(LocalRun):
        def report(self, step: int, metrics: Mapping[str, float]) -> None:
            super().report(step, metrics)
            if step == 6:
                raise Stopped

    whole = Everything(local(tmp_path / "whole"), Rows())
    whole.fit(RECIPE)
    run = Impatient(tmp_path / "cut")
    run.cadence = CADENCE
    with pytest.raises(Stopped):
        Everything(run, Rows()).fit(RECIPE)
    resumed = Everything(local(tmp_path / "cut"), Rows())
    resumed.fit(RECIPE)
    assert equal(whole, resumed)


@dataclass
class Halted:
    """What a run's poll does: raise at one call."""

    polls: int
    resumable: bool

    def __call__(self) -> None:
        self.polls -= 1
        if self.polls == 0:
            raise Stopped("later", resumable=self.resumable)


@pytest.mark.parametrize(("resumable", "first"), [(True, 7), (False, 0)])
@pytest.mark.parametrize("inside_a_build", [True, False])
def test_a_run_that_is_to_be_continued_leaves_a_checkpoint(
    tmp_path: Path, resumable: bool, first: int, inside_a_build: bool
) -> None:
    class Halting(LocalRun):
        poll = staticmethod(Halted(7, resumable))

    def work(run: LocalRun, steps: list[int]) -> None:
        def build(place: Path, inner: Run) -> None:
            everything = Everything(inner, Rows())
            everything.steps = steps
            everything.fit(RECIPE)

        if inside_a_build:
            run.once("supernet", {}, build)
        else:
            build(run.folder, run)

    with pytest.raises(Stopped, match="later"):
        work(Halting(tmp_path), [])
    steps: list[int] = []
    work(LocalRun(tmp_path), steps)
    assert steps == list(range(first, 9))


def killed(folder: str, fatal_step: int) -> None:
    Everything(local(Path(folder)), Faulty(fatal_step=fatal_step, kill=True)).fit(RECIPE)


def test_a_killed_process_is_resumed_bit_equal(tmp_path: Path) -> None:
    process, pipe = start(killed, str(tmp_path / "cut"), 5)
    with pytest.raises(EOFError):
        pipe.recv()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    whole, resumed = Everything(local(tmp_path / "whole"), Rows()), Everything(local(tmp_path / "cut"), Rows())
    whole.fit(RECIPE)
    resumed.fit(RECIPE)
    assert equal(whole, resumed)
    assert resumed.steps == list(range(4, 9))


def ranked(rank: int, world_size: int, folder: Path, name: str, fatal_step: int) -> list[list[float]]:
    run = LocalRun(folder / name, rank=rank, world_size=world_size)
    run.cadence = CADENCE
    everything = Everything(run, Faulty(fatal_step=fatal_step, rank=rank, world_size=world_size))
    everything.fit(RECIPE)
    return [tensor.flatten().tolist() for tensor in everything.state()]


def test_two_ranks_resume_bit_equal_each_with_its_own_randomness(tmp_path: Path) -> None:
    whole = run_ranks(ranked, tmp_path, "whole", -1)
    outcomes = outcomes_of_ranks(ranked, tmp_path, "cut", 5)
    assert [kind for kind, _ in outcomes] == ["failed", "failed"]
    assert run_ranks(ranked, tmp_path, "cut", -1) == whole
    assert whole[0] == whole[1]
    states = stored_states(tmp_path)
    assert states is None  # no checkpoint outlives its stage


def stored_states(folder: Path) -> list[Path] | None:
    return list(folder.glob("*/stages/s/step-*")) or None


def test_another_number_of_ranks_may_take_over(tmp_path: Path) -> None:
    outcomes_of_ranks(ranked, tmp_path, "cut", 5)
    alone = Everything(local(tmp_path / "cut"), Rows())
    result = alone.fit(RECIPE)
    assert result.progress.step == 9
    assert alone.steps == list(range(4, 9))


def builder(folder: str, fatal_step: int) -> None:
    shared(LocalRun(Path(folder)), Path(folder), Faulty(fatal_step=fatal_step, kill=True))


def shared(run: LocalRun, folder: Path, data: Rows) -> tuple[Path, list[int]]:
    run.pace = Pace(poll_s=0.01, beat_s=0.05, stale_s=0.5)
    steps: list[int] = []

    def build(place: Path, inner: Run) -> None:
        everything = Everything(inner, data)
        everything.steps = steps
        everything.fit(RECIPE)
        stored_weights.save(everything.model, place)

    run.cadence = CADENCE
    return run.once("supernet", {"x": 1}, build), steps


def test_a_killed_build_is_taken_over_from_its_last_checkpoint(tmp_path: Path) -> None:
    process, _ = start(builder, str(tmp_path / "shared"), 5)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    folder, steps = shared(LocalRun(tmp_path / "shared"), tmp_path / "shared", Rows())
    alone, all_steps = shared(LocalRun(tmp_path / "alone"), tmp_path / "alone", Rows())
    assert steps == [4, 5, 6, 7, 8]
    assert all_steps == list(range(9))
    assert torch.equal(flat(stored_weights.load(folder)), flat(stored_weights.load(alone)))
