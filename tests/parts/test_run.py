import random
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from methods.parts.claims import Pace
from methods.parts.files import JsonValue, publish, read_json, read_tensors, remove, wait_for, write_json, write_tensors
from methods.parts.reduce import total
from methods.parts.rng import borrowed, capture, derive, restore
from methods.parts.run import LocalRun, Run, Stopped
from methods.parts.stages import Snapshot, Stage
from methods.parts.weights import describe, load, save
from tests.parts.ranks import outcomes_of_ranks, run_ranks, start
from tests.parts.tiny import flat, tiny_bert

CPU = torch.device("cpu")
QUICK = Pace(poll_s=0.01, beat_s=0.05, stale_s=1.0)


def as_run(run: LocalRun) -> Run:
    """Typed proof that a LocalRun is a Run."""
    return run


def test_reports_know_their_stage(tmp_path: Path) -> None:
    run = as_run(LocalRun(tmp_path))
    with run.stage("depth"):
        run.report(1, {"score": 0.5})
        with run.stage("width-1", final=True):
            run.report(2, {"score": 0.6})
        run.report(3, {"score": 0.7})
    assert isinstance(run, LocalRun)
    found = [(report.stage, report.step, report.metrics["score"], report.comparable) for report in run.reports]
    assert found == [("depth", 1, 0.5, False), ("width-1", 2, 0.6, True), ("depth", 3, 0.7, False)]


def test_a_stage_has_random_state_of_its_own(tmp_path: Path) -> None:
    def drawn(seed: int, name: str, before: int) -> tuple[float, float]:
        torch.manual_seed(before)
        with LocalRun(tmp_path, seed=seed).stage(name):
            inside = float(torch.rand(()))
        return inside, float(torch.rand(()))

    torch.manual_seed(5)
    untouched = float(torch.rand(()))
    assert drawn(0, "a", 5) == (drawn(0, "a", 6)[0], untouched)
    assert len({drawn(0, "a", 5)[0], drawn(1, "a", 5)[0], drawn(0, "b", 5)[0]}) == 3


def test_a_stage_name_is_a_file_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="stage name: found 'a/b'"), LocalRun(tmp_path).stage("a/b"):
        pass


def test_random_state_round_trips_through_bytes() -> None:
    random.seed(3)
    random.gauss(0, 1)  # leaves a second number waiting
    state = capture(CPU)
    assert state.dtype == torch.uint8
    first = [random.gauss(0, 1), random.random(), float(torch.rand(()))]
    restore(state, CPU)
    assert [random.gauss(0, 1), random.random(), float(torch.rand(()))] == first
    with borrowed(1, CPU):
        borrowed_number = random.random()
    with borrowed(1, CPU):
        assert random.random() == borrowed_number


def test_derived_seeds_differ_by_every_name() -> None:
    seeds = {derive(0), derive(1), derive(0, "a"), derive(0, "a", 0), derive(0, "a", 1), derive(0, "a0")}
    assert len(seeds) == 6
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive(0, "a", 1) == derive(0, "a", 1)


def test_a_stored_bert_comes_back_whole(tmp_path: Path) -> None:
    model = tiny_bert(seed=3, dropout=0.2)
    save(model, tmp_path / "bert")
    back = load(tmp_path / "bert")
    assert describe(back) == describe(model)
    assert torch.equal(flat(back), flat(model))


def test_a_folder_without_a_bert_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "values.json", {})
    with pytest.raises(ValueError, match="holds no Bert"):
        load(tmp_path)


def test_files_are_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"x": [1, 2.5, None, "ü"]})
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(path, {"x": float("inf")})
    assert read_json(path) == {"x": [1, 2.5, None, "ü"]}
    path.write_text("{")
    with pytest.raises(ValueError, match=r"a\.json: not a JSON file"):
        read_json(path)


def test_tensors_that_share_memory_are_written(tmp_path: Path) -> None:
    table = torch.arange(6.0).view(2, 3)
    tensors = {"a": table, "tied": table, "transposed": table.t(), "empty": torch.zeros(0), "step": torch.tensor(3)}
    write_tensors(tmp_path / "t.safetensors", tensors)
    back = read_tensors(tmp_path / "t.safetensors")
    assert all(torch.equal(back[name], tensor) for name, tensor in tensors.items())


def test_publishing_twice_keeps_the_first(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "who").write_text(name)
    assert publish(tmp_path / "one", tmp_path / "final")
    assert not publish(tmp_path / "two", tmp_path / "final")
    assert (tmp_path / "final" / "who").read_text() == "one"
    with pytest.raises(FileNotFoundError):
        publish(tmp_path / "missing", tmp_path / "other")
    remove(tmp_path / "two")
    remove(tmp_path / "two")
    assert [path.name for path in tmp_path.iterdir()] == ["final"]
    with pytest.raises(ValueError, match="not visible here after"):
        wait_for(tmp_path / "never", 0.1)


def test_a_stage_stores_its_result_and_forgets_its_checkpoints(tmp_path: Path) -> None:
    run = LocalRun(tmp_path)
    with run.stage("scores") as stage:
        assert not stage.finished()
        assert stage.resume() is None
        best = stage.keep_best(3, {"w": torch.ones(1)})
        old = stage.keep_best(1, {"w": torch.zeros(1)})
        stage.checkpoint(3, Snapshot({"x": 1}, {"sums": {"a": torch.ones(2)}}), [best])
        assert not old.exists()
        stage.checkpoint(4, Snapshot({"x": 2}, {"sums": {"a": torch.ones(2)}}), [best])
        assert sorted(path.name for path in stage.folder.iterdir()) == [best.name, "step-00000004"]
        found = stage.resume()
        assert found is not None
        assert found.values == {"x": 2}
        stage.finish(Snapshot({"x": 3}, {"sums": {"a": torch.ones(2)}}), [best])
    with run.stage("scores") as stage:
        assert stage.finished()
        assert stage.result().values == {"x": 3}
        assert sorted(path.name for path in stage.folder.iterdir()) == [best.name, "done"]


def test_a_builder_that_lost_its_claim_writes_nothing(tmp_path: Path) -> None:
    stage = Stage(folder=tmp_path / "s", name="s", ranks=LocalRun(tmp_path), seed=0, owned=lambda: False)
    stage.checkpoint(1, Snapshot({}, {}), ())
    stage.finish(Snapshot({}, {}))
    assert not stage.finished()
    assert not stage.folder.exists()


def test_a_build_has_its_own_run(tmp_path: Path) -> None:
    seen: list[object] = []

    def part(folder: Path, run: Run) -> None:
        (folder / "x").write_text("x")

    def build(folder: Path, run: Run) -> None:
        with run.stage("inner", final=True) as stage:
            run.report(1, {"score": 1.0})
            run.poll()
            seen.append((run.seed, float(torch.rand(())), stage.folder.parent.name, stage.final))
            stage.finish(Snapshot({}, {}))
        inner = run.once("part", {}, part)
        (folder / "part").write_text(inner.name)

    one, two = LocalRun(tmp_path / "one", seed=1), LocalRun(tmp_path / "two", seed=2)
    first = one.once("whole", {"a": 1}, build)
    two.once("whole", {"a": 1}, build)
    assert one.reports == []
    assert seen[0] == seen[1]  # the artifact's seed, not the trial's
    assert seen[0][2:] == (f"{first.name}.work", False)  # type: ignore[index]
    assert (first / "part").read_text().startswith("part-")


def crew(rank: int, world_size: int, folder: Path, inputs: Mapping[str, JsonValue], fault: str) -> str:
    run = LocalRun(folder, rank=rank, world_size=world_size)
    run.pace = QUICK

    def build(place: Path, inner: Run) -> None:
        if fault == "all" or (fault == "second" and rank == 1):
            raise ValueError(f"fault on rank {rank}")
        (sum_of_ranks,) = total([inner.rank + 1.0], inner)
        (place / f"rank-{rank}").write_text(f"{sum_of_ranks} {float(torch.rand(()))}")

    path = run.once("shared", inputs, build)
    return (path / "rank-0").read_text() + (path / "rank-1").read_text()


def test_every_rank_takes_part_in_a_build(tmp_path: Path) -> None:
    texts = run_ranks(crew, tmp_path, {"a": 1}, "")
    assert texts[0] == texts[1]
    assert texts[0].startswith("3.0 ")
    assert run_ranks(crew, tmp_path, {"a": 1}, "all") == texts  # stored: the faulty build is not asked


@pytest.mark.parametrize("fault", ["all", "second"])
def test_a_build_that_raises_ends_the_call_on_all_ranks(tmp_path: Path, fault: str) -> None:
    outcomes = outcomes_of_ranks(crew, tmp_path, {}, fault)
    assert [kind for kind, _ in outcomes] == ["failed", "failed"]
    told = outcomes[0][1] + outcomes[1][1]
    assert "fault on rank" in told  # the other may meet the broken group first
    assert "not visible here" not in told, "no rank waits for a folder that another has removed"
    assert not list((tmp_path / "store").glob("*.claim"))
    assert run_ranks(crew, tmp_path, {}, "")[0].startswith("3.0 ")


def waiting(rank: int, world_size: int, folder: Path, polls: int) -> str:
    class Impatient(LocalRun):
        polled = 0

        def poll(self) -> None:
            self.polled += 1
            if total([1.0], self) and self.polled >= polls:
                raise Stopped

    run = Impatient(folder, rank=rank, world_size=world_size)
    run.pace = QUICK
    try:
        run.once("held", {}, lambda place, _: None)
    except Stopped:
        return f"stopped after {run.polled}"
    return "built"


def holder(folder: str, seconds: float) -> None:
    import time

    run = LocalRun(Path(folder))
    run.pace = QUICK
    run.once("held", {}, lambda place, _: time.sleep(seconds))


def test_waiting_ranks_poll_in_step_and_leave_together(tmp_path: Path) -> None:
    process, _ = start(holder, str(tmp_path), 60.0)
    wait_for(tmp_path / "store", 30)
    while not list((tmp_path / "store").glob("*.claim")):
        pass
    assert run_ranks(waiting, tmp_path, 7) == ["stopped after 7"] * 2
    process.kill()


def test_a_build_sees_quota_and_artifacts_of_its_trial(tmp_path: Path) -> None:
    run, seen = as_run(LocalRun(tmp_path, quota_bytes=7)), []
    part = run.once("part", {"a": 1}, lambda folder, _: None)

    def build(folder: Path, inner: Run) -> None:
        seen.append((inner.quota_bytes, inner.find("part", lambda inputs: inputs["a"] == 1)))
        spoilt = inner.once("part", {"a": 1}, lambda folder, _: None, check=refuse_first)
        assert spoilt == part

    checks = []

    def refuse_first(folder: Path) -> None:
        checks.append(folder)
        if len(checks) == 1:
            raise ValueError("spoilt")

    run.once("whole", {}, build)
    assert seen == [(7, part)]
    assert checks
    assert len(list((tmp_path / "store").glob("part-*.aside"))) == 1
    assert LocalRun(tmp_path).quota_bytes is None


def finding(rank: int, world_size: int, folder: Path, wanted: int) -> str:
    run = LocalRun(folder, rank=rank, world_size=world_size)
    found = run.find("part", lambda inputs: rank == 0 and inputs["a"] == wanted)
    return found.name if found else ""


def test_every_rank_finds_what_rank_0_finds(tmp_path: Path) -> None:
    part = LocalRun(tmp_path).once("part", {"a": 1}, lambda folder, _: None)
    assert run_ranks(finding, tmp_path, 1) == [part.name] * 2
    assert run_ranks(finding, tmp_path, 2) == [""] * 2
