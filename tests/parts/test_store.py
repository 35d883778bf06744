import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from methods.parts.claims import Claim, Pace, Watch, _remove_if, read_claim
from methods.parts.store import Crew, Request, Site, find, once, sweep
from tests.parts.ranks import start

pytestmark = pytest.mark.long

QUICK = Pace(poll_s=0.01, beat_s=0.05, stale_s=1.0)
REQUEST = Request(name="teacher", inputs={"data": "abc", "layers": [1, 2]})


def number(site: Site) -> None:
    (site.folder / "number.json").write_text(json.dumps(torch.rand(2).tolist()))


def test_built_once_then_read(tmp_path: Path) -> None:
    builds = []

    def build(site: Site) -> None:
        builds.append(site)
        number(site)

    first = once(tmp_path, REQUEST, build)
    assert once(tmp_path, REQUEST, build) == first == tmp_path / REQUEST.label
    assert len(builds) == 1
    manifest = json.loads((first / "manifest.json").read_text())
    assert manifest.pop("created").endswith("+00:00")
    assert manifest.pop("seconds") >= 0
    assert manifest == {
        "name": "teacher",
        "version": 1,
        "inputs": {"data": "abc", "layers": [1, 2]},
        "key": REQUEST.key,
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == [REQUEST.label]


def test_the_key_depends_on_the_content_and_nothing_else() -> None:
    same = Request(name="teacher", inputs={"layers": (1, 2), "data": "abc"})
    assert same.key == REQUEST.key
    others = [
        Request(name="teachers", inputs=REQUEST.inputs),
        Request(name="teacher", inputs={**REQUEST.inputs, "data": "abd"}),
        Request(name="teacher", inputs=REQUEST.inputs, version=2),
    ]
    assert len({REQUEST.key, *(other.key for other in others)}) == 4


@pytest.mark.parametrize("inputs", [{"x": float("nan")}, {"x": Path("a")}, {"x": {1}}])
def test_inputs_must_be_json(inputs: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"once\('a'\): inputs: found .* allowed are JSON values"):
        once(tmp_path, Request(name="a", inputs=inputs), number)  # type: ignore[arg-type]


def test_a_name_is_a_file_name() -> None:
    with pytest.raises(ValueError, match=r"once: name: found '\.\./a'"):
        Request(name="../a", inputs={})


def test_random_state_comes_from_the_key_and_the_callers_is_given_back(tmp_path: Path) -> None:
    drawn: list[list[float]] = []

    def build(site: Site) -> None:
        drawn.append([random.random(), float(np.random.rand()), float(torch.rand(()))])

    def after(store: Path, seed: int) -> list[float]:
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        once(store, REQUEST, build)
        return [random.random(), float(np.random.rand()), float(torch.rand(()))]

    builder = after(tmp_path / "a", 1)
    assert after(tmp_path / "a", 1) == builder  # a reader goes on as the builder did
    after(tmp_path / "b", 2)
    assert drawn[0] == drawn[1]
    assert drawn[0] != builder


def test_a_build_that_raises_releases_its_claim_and_leaves_its_work(tmp_path: Path) -> None:
    def fails(site: Site) -> None:
        (site.work / "checkpoint").write_text("half")
        raise ValueError("no data")

    with pytest.raises(ValueError, match="no data"):
        once(tmp_path, REQUEST, fails)
    assert [path.name for path in tmp_path.iterdir()] == [f"{REQUEST.label}.work"]

    def resumes(site: Site) -> None:
        (site.folder / "result").write_text((site.work / "checkpoint").read_text() + " and half")

    assert (once(tmp_path, REQUEST, resumes) / "result").read_text() == "half and half"
    assert not (tmp_path / f"{REQUEST.label}.work").exists()


def test_a_build_that_asks_for_itself_is_refused(tmp_path: Path) -> None:
    crew = Crew(pace=QUICK)

    def recurse(site: Site) -> None:
        once(tmp_path, REQUEST, number, crew)

    with pytest.raises(ValueError, match=r"once\('teacher'\): its build asks for itself"):
        once(tmp_path, REQUEST, recurse, crew)


def test_another_artifact_under_the_same_name_is_refused(tmp_path: Path) -> None:
    folder = once(tmp_path, REQUEST, number)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "key": "0" * 64}))
    with pytest.raises(ValueError, match="holds the artifact with key '000"):
        once(tmp_path, REQUEST, number)


def test_a_waiter_ticks_and_can_be_stopped(tmp_path: Path) -> None:
    holder = Claim.take(tmp_path / f"{REQUEST.label}.claim", "other", QUICK)
    assert holder is not None
    ticks = []

    def tick() -> None:
        ticks.append(time.monotonic())
        if len(ticks) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        once(tmp_path, REQUEST, number, Crew(tick=tick, pace=QUICK))
    assert holder.owned()
    holder.release()
    assert (once(tmp_path, REQUEST, number) / "number.json").exists()


def racer(store: str, log: str) -> str:
    def build(site: Site) -> None:
        with open(log, "a") as file:
            file.write(f"{os.getpid()}\n")
        (site.folder / "a").write_text("1")
        time.sleep(0.1)
        (site.folder / "b").write_text("2")

    whole = ""
    for key in range(5):
        folder = once(Path(store), Request(name="race", inputs={"key": key}), build, Crew(pace=QUICK))
        whole += (folder / "a").read_text() + (folder / "b").read_text()
    return whole


def test_eight_racing_processes_build_each_artifact_once(tmp_path: Path) -> None:
    log = tmp_path / "builds"
    racers = [start(racer, str(tmp_path / "store"), str(log)) for _ in range(8)]
    assert [pipe.recv() for _, pipe in racers] == [("done", "12" * 5)] * 8
    assert len(log.read_text().split()) == 5
    assert len(list((tmp_path / "store").iterdir())) == 5


def slow_builder(store: str, begun: str) -> None:
    def build(site: Site) -> None:
        (site.work / "step").write_text("7")
        Path(begun).write_text("x")
        time.sleep(60)

    once(Path(store), REQUEST, build, Crew(pace=QUICK))


def heir(store: str, log: str) -> str:
    def build(site: Site) -> None:
        with open(log, "a") as file:
            file.write("built\n")
        (site.folder / "step").write_text((site.work / "step").read_text())

    return (once(Path(store), REQUEST, build, Crew(pace=QUICK)) / "step").read_text()


def wait_until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_killed_builder_is_taken_over_from_its_work(tmp_path: Path) -> None:
    store, begun, log = tmp_path / "store", tmp_path / "begun", tmp_path / "log"
    process, _ = start(slow_builder, str(store), str(begun))
    wait_until(begun.exists)
    heirs = [start(heir, str(store), str(log)) for _ in range(3)]
    time.sleep(1.4)
    assert not log.exists()  # a living builder is left alone, however long it takes
    os.kill(process.pid, signal.SIGKILL)
    assert [pipe.recv() for _, pipe in heirs] == [("done", "7")] * 3
    assert log.read_text() == "built\n"
    leftovers = [path.name for path in store.iterdir() if path.name != REQUEST.label]
    assert len(leftovers) == 1
    assert leftovers[0].startswith(f"{REQUEST.label}.tmp-")
    assert sweep(store) == []  # a day old at least, unless told otherwise
    assert len(sweep(store, older_s=-1.0)) == 1
    assert [path.name for path in store.iterdir()] == [REQUEST.label]


def test_a_builder_that_was_only_asleep_finds_the_artifact_published(tmp_path: Path) -> None:
    written: list[bool] = []

    def quick(site: Site) -> None:
        (site.folder / "who").write_text("heir")

    def sleepy(site: Site) -> None:
        (site.folder / "who").write_text("sleepy")
        claim = tmp_path / f"{REQUEST.label}.claim"
        claim.unlink()  # as a waiter that judged it stale would
        once(tmp_path, REQUEST, quick)
        written.append(site.owned())

    folder = once(tmp_path, REQUEST, sleepy)
    assert (folder / "who").read_text() == "heir"
    assert written == [False]
    assert sorted(path.name for path in tmp_path.iterdir()) == [REQUEST.label]


def test_a_claim_beats_and_is_not_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "a.claim"
    claim = Claim.take(path, "us", QUICK)
    assert claim is not None
    assert Claim.take(path, "them", QUICK) is None
    watch = Watch(path, QUICK.stale_s)
    deadline = time.monotonic() + 1.0
    while time.monotonic() < deadline:
        assert not watch.take_over()
        time.sleep(0.02)
    assert read_claim(path)["group"] == "us"
    assert int(str(read_claim(path)["beat"])) >= 5
    claim.release()
    assert list(tmp_path.iterdir()) == []
    assert watch.take_over()


def test_a_silent_claim_falls_after_its_time_even_if_it_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "a.claim"
    path.touch()
    watch = Watch(path, 0.1)
    assert not watch.take_over()
    time.sleep(0.15)
    assert watch.take_over()
    assert list(tmp_path.iterdir()) == []


def test_a_claim_that_spoke_since_it_was_judged_is_put_back(tmp_path: Path) -> None:
    path = tmp_path / "a.claim"
    path.write_bytes(b"beat 2")
    assert not _remove_if(path, b"beat 1")
    assert path.read_bytes() == b"beat 2"
    assert _remove_if(path, b"beat 2")
    assert list(tmp_path.iterdir()) == []


def test_release_leaves_the_claim_of_a_successor(tmp_path: Path) -> None:
    path = tmp_path / "a.claim"
    first = Claim.take(path, "first", QUICK)
    assert first is not None
    path.unlink()
    second = Claim.take(path, "second", QUICK)
    assert second is not None
    time.sleep(0.2)
    first.release()
    assert second.owned()
    assert not first.owned()
    second.release()
    assert not any(thread.name.startswith("claim") for thread in threading.enumerate())


def test_a_long_build_keeps_its_empty_folder(tmp_path: Path) -> None:
    def build(site: Site) -> None:
        long_ago = time.time() - 1000
        os.utime(site.folder, (long_ago, long_ago))
        orphan = tmp_path / "other-0123.tmp-dead"
        orphan.mkdir()
        os.utime(orphan, (long_ago, long_ago))
        assert sweep(tmp_path, older_s=500) == [orphan]
        number(site)

    assert (once(tmp_path, REQUEST, build, Crew(pace=QUICK)) / "number.json").exists()


def test_an_artifact_that_fails_its_check_is_put_aside_and_built_anew(tmp_path: Path) -> None:
    checks: list[Path] = []

    def check(folder: Path) -> None:
        checks.append(folder)
        if (folder / "number.json").read_text() == "spoilt":
            raise ValueError("spoilt")

    first = once(tmp_path, REQUEST, number, check=check)
    assert checks == []  # what was written just now is believed
    whole = (first / "number.json").read_text()
    assert once(tmp_path, REQUEST, number, check=check) == first
    assert len(checks) == 1
    (first / "number.json").write_text("spoilt")
    assert once(tmp_path, REQUEST, number) == first  # unchecked
    assert (once(tmp_path, REQUEST, number, check=check) / "number.json").read_text() == whole
    (aside,) = tmp_path.glob("*.aside")
    assert (aside / "number.json").read_text() == "spoilt"
    assert sweep(tmp_path, older_s=-1.0) == [aside]
    assert [path.name for path in tmp_path.iterdir()] == [REQUEST.label]


def test_a_spoilt_artifact_is_waited_for_while_another_builds_it(tmp_path: Path) -> None:
    folder = once(tmp_path, REQUEST, number)
    (folder / "number.json").write_text("spoilt")
    holder = Claim.take(tmp_path / f"{REQUEST.label}.claim", "other", QUICK)
    assert holder is not None
    checks, ticks = [], []

    def check(found: Path) -> None:
        checks.append(found)
        if (found / "number.json").read_text() == "spoilt":
            raise ValueError("spoilt")

    def tick() -> None:
        ticks.append(1)
        if len(ticks) == 3:  # the other has done it
            folder.rename(tmp_path / "old")
            folder.mkdir()
            (folder / "number.json").write_text("[1]")
            (folder / "manifest.json").write_text((tmp_path / "old" / "manifest.json").read_text())

    assert once(tmp_path, REQUEST, number, Crew(tick=tick, pace=QUICK), check=check) == folder
    assert (folder / "number.json").read_text() == "[1]"
    assert len(checks) == 2  # each artifact once, however often it is looked at
    holder.release()


def test_published_artifacts_are_found_by_their_inputs(tmp_path: Path) -> None:
    def unfinished(site: Site) -> None:
        assert find(tmp_path, "teacher", lambda inputs: True) is None
        number(site)

    first = once(tmp_path, REQUEST, unfinished)
    other = once(tmp_path, Request(name="teacher-2", inputs={"layers": [3]}), number)
    (tmp_path / "teacher-stray").mkdir()
    (tmp_path / "teacher-torn").mkdir()
    (tmp_path / "teacher-torn" / "manifest.json").write_text("{")
    assert find(tmp_path, "teacher", lambda inputs: inputs["layers"] == [1, 2]) == first
    assert find(tmp_path, "teacher", lambda inputs: inputs["layers"] == [3]) is None
    assert find(tmp_path, "teacher-2", lambda inputs: True) == other
    assert find(tmp_path / "nowhere", "teacher", lambda inputs: True) is None
