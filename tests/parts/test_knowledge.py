import errno
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from methods.parts.batches import Batch, Batches, collate, evaluation_rows
from methods.parts.bert import HEADS
from methods.parts.checkpoint import load, save
from methods.parts.claims import Pace
from methods.parts.knowledge import Knowledge, Lesson, knowledge_bytes, live, open_knowledge
from methods.parts.run import LocalRun, Stopped
from methods.parts.selection import Selection
from methods.parts.shards import BATCH
from methods.parts.shelf import SCRATCH, Shelf
from methods.parts.tokens import Encoded
from tests.parts.ranks import run_ranks, start
from tests.parts.taught import ATTENTIVE, FULL, sentences, taught

pytestmark = pytest.mark.long

QUICK = Pace(poll_s=0.01, beat_s=0.05, stale_s=1.0)

SELECTIONS = {
    "logits": Selection(),
    "full": FULL,
    "half precision": replace(FULL, dtype="float16"),
    "attentive": ATTENTIVE,
    "numbered": replace(ATTENTIVE, width=0.02),
    "by token": replace(ATTENTIVE, threshold="token"),
    "uniform": replace(ATTENTIVE, width_scheme="uniform", dtype="float16"),
    "random left": Selection(
        logits=False, states=(3,), token_scheme="left_first", tokens=14, width_scheme="random", width=0.5, seed=3
    ),
    "last": Selection(states=(2,), token_scheme="right_first", tokens=2),
    "first": Selection(states=(4,), token_scheme="cls", tokens=1),
    "wide, by token": replace(FULL, width_scheme="importance", width=0.3, threshold="token"),
    "wide, by example": replace(FULL, width_scheme="importance", width=0.3),
    "wide, a few by token": replace(FULL, width_scheme="importance", width=0.02, threshold="token"),
    "wide, uniform": replace(FULL, width_scheme="uniform", width=0.4),
}


def own_batches(data: Encoded) -> list[Batch]:
    """The batches of the build."""
    return [collate(data, rows) for rows in evaluation_rows(data, BATCH)]


def differences(one: Lesson, two: Lesson, mask: torch.Tensor) -> Iterator[float]:
    """The largest difference of each tensor, relative to its largest entry; padding is left out."""
    assert (one.logits is None) == (two.logits is None)
    assert len(one.states) == len(two.states)
    pairs = [] if one.logits is None or two.logits is None else [(one.logits, two.logits)]
    for mine, theirs in zip(one.states, two.states, strict=True):
        assert (mine.positions is None) == (theirs.positions is None)
        if mine.positions is not None and theirs.positions is not None:
            assert torch.equal(mine.positions, theirs.positions)
        assert mine.values.dtype == theirs.values.dtype == torch.float32
        assert torch.equal(mine.real, theirs.real)
        whole = mask.bool() if mine.positions is None else torch.ones_like(mine.real)
        pairs.append((mine.values[whole], theirs.values[whole]))
    for left, right in pairs:
        assert left.shape == right.shape
        yield float((left - right).abs().max() / right.abs().max().clamp(min=1e-9))


def worst(one: Knowledge, two: Knowledge, batches: list[Batch]) -> float:
    return max(part for batch in batches for part in differences(one(batch), two(batch), batch.attention_mask))


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a store but the manifest, which holds times."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "manifest.json"}


def stores(run: LocalRun) -> list[Path]:
    return [path for path in run.store.glob("knowledge-*") if "." not in path.name]


def stored_in(folder: Path, run: LocalRun, selection: Selection = ATTENTIVE) -> Shelf:
    """The store of the test's teacher and rows."""
    shelf = open_knowledge(taught(folder), [sentences()], selection, run, mode="stored")
    assert isinstance(shelf, Shelf)
    return shelf


@pytest.mark.parametrize("name", SELECTIONS)
def test_a_store_gives_what_the_teacher_says(name: str, tmp_path: Path) -> None:
    data, selection, run = sentences(), SELECTIONS[name], LocalRun(tmp_path)
    stored = stored_in(tmp_path, run, selection)
    asked = live(load(tmp_path / "teacher"), selection)
    assert worst(stored, asked, own_batches(data)) == 0.0
    (folder,) = stores(run)
    arrays = [np.load(path, mmap_mode="r") for path in folder.glob("*.npy")]
    assert sum(array.nbytes for array in arrays) == knowledge_bytes(selection, taught(tmp_path).layout, data.lengths)
    if selection.dtype == "float32":
        others = Batches(data, batch_size=24, seed=1, pad_to=16)
        assert worst(stored, asked, [others.step(step)[0] for step in range(8)]) < 1e-5


def test_padding_comes_back_as_zero(tmp_path: Path) -> None:
    stored = stored_in(tmp_path, LocalRun(tmp_path), FULL)
    batch = collate(sentences(), np.arange(40), 16)
    for state in stored(batch).states:
        assert state.values.shape == (40, 16, 16)
        assert not state.values[~batch.attention_mask.bool()].any()


@pytest.mark.parametrize(
    ("stored", "wanted"),
    [
        (FULL, Selection()),
        (FULL, Selection(logits=False, states=(2,))),
        (replace(FULL, dtype="float16"), Selection(logits=False, states=(0, 4), dtype="float16")),
        (ATTENTIVE, replace(ATTENTIVE, logits=False, states=(2,), attention=(4,))),
        (replace(ATTENTIVE, threshold="token"), replace(ATTENTIVE, threshold="token", tokens=2)),
        (replace(ATTENTIVE, width_scheme="all", width=1.0), replace(ATTENTIVE, width=1.0, tokens=3, logits=False)),
        (
            replace(ATTENTIVE, width_scheme="random", seed=4),
            replace(ATTENTIVE, width_scheme="random", seed=4, tokens=1, states=(1,), attention=(1,)),
        ),
        (
            replace(FULL, width_scheme="importance", width=0.3),
            replace(FULL, width_scheme="importance", width=0.3, states=(0, 2)),
        ),
    ],
)
def test_a_larger_store_serves_bit_for_bit(stored: Selection, wanted: Selection, tmp_path: Path) -> None:
    run, alone = LocalRun(tmp_path, seed=1), LocalRun(tmp_path / "alone", seed=2)
    stored_in(tmp_path, run, stored)
    nested = stored_in(tmp_path, run, wanted)
    assert len(stores(run)) == 1
    direct = open_knowledge(taught(tmp_path), [sentences()], wanted, alone, mode="stored")
    assert len(stores(alone)) == 1
    assert worst(nested, direct, own_batches(sentences())) == 0.0


def test_another_teacher_data_set_or_head_is_another_store(tmp_path: Path) -> None:
    run, teacher, data = LocalRun(tmp_path), taught(tmp_path), sentences()
    plain = open_knowledge(teacher, [data], Selection(), run)
    relu = open_knowledge(teacher, [data], Selection(), run, head=HEADS[1])
    assert worst(plain, relu, own_batches(data)) > 0.01
    open_knowledge(replace(teacher, fingerprint="other"), [data], Selection(), run)
    open_knowledge(teacher, [sentences(seed=1)], Selection(), run)
    assert len(stores(run)) == 4
    states = replace(FULL, logits=False)
    open_knowledge(teacher, [data], FULL, run, head=HEADS[1])
    open_knowledge(teacher, [data], states, run)  # the head has no say in states
    assert len(stores(run)) == 5


def test_shards_number_their_rows_on_and_subsets_keep_them(tmp_path: Path) -> None:
    whole = [sentences(70, seed=1), sentences(50, seed=2, start=70)]
    some = whole[1].subset([7, 3, 40])
    teacher, run = taught(tmp_path), LocalRun(tmp_path)
    asked = live(load(teacher.tuned), ATTENTIVE)
    stored = open_knowledge(teacher, whole, ATTENTIVE, run, mode="stored")
    assert worst(stored, asked, [batch for part in whole for batch in own_batches(part)]) == 0.0
    few = open_knowledge(teacher, [some], ATTENTIVE, run, mode="stored")
    assert worst(few, asked, own_batches(some)) == 0.0
    with pytest.raises(ValueError, match="row 74 is not stored, allowed are the 3 rows"):
        few(collate(whole[1], np.array([3, 4])))
    with pytest.raises(ValueError, match="found a row twice"):
        open_knowledge(teacher, [whole[0], whole[0]], ATTENTIVE, run, mode="stored")


def test_rows_of_another_length_are_refused(tmp_path: Path) -> None:
    stored = stored_in(tmp_path, LocalRun(tmp_path), FULL)
    with pytest.raises(ValueError, match="a row's length is not the stored one"):
        stored(collate(sentences(seed=1), np.arange(5)))


def test_readers_map_what_they_read(tmp_path: Path) -> None:
    shelf = stored_in(tmp_path, LocalRun(tmp_path))
    assert isinstance(shelf.ids, np.memmap)
    assert isinstance(shelf.places, np.memmap)
    assert isinstance(shelf.shard(0, "rows"), np.memmap)


def ranked(rank: int, world_size: int, folder: Path) -> list[float]:
    run = LocalRun(folder, rank=rank, world_size=world_size, store=folder / f"store-{world_size}")
    stored = open_knowledge(taught(folder), [sentences()], FULL, run, mode="stored")
    batch = collate(sentences(), np.arange(4))
    return [float(state.values.sum()) for state in stored(batch).states]


@pytest.mark.process
def test_any_number_of_ranks_writes_the_same_bytes(tmp_path: Path) -> None:
    taught(tmp_path)
    alone = ranked(0, 1, tmp_path)
    assert run_ranks(ranked, tmp_path, world_size=2) == [alone] * 2
    (one,), (two,) = ((tmp_path / f"store-{size}").iterdir() for size in (1, 2))
    assert one.name == two.name
    assert len(contents(one)) > 20
    assert contents(one) == contents(two)


class Interrupted(LocalRun):
    """A run that kills its process, or is stopped, at its sixth poll."""

    num_polls = 0
    fatal = False

    def poll(self) -> None:
        self.num_polls += 1
        if self.num_polls == 6 and self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.num_polls == 6:
            raise Stopped


def killed(folder: str) -> None:
    run = Interrupted(Path(folder))
    run.fatal, run.pace = True, QUICK
    stored_in(Path(folder), run)


@pytest.mark.process
@pytest.mark.parametrize("fatal", [True, False])
def test_an_interrupted_build_is_continued_to_the_same_bytes(fatal: bool, tmp_path: Path) -> None:
    taught(tmp_path)
    if fatal:
        process, _ = start(killed, str(tmp_path))
        process.join(240)
        assert process.exitcode == -signal.SIGKILL
    else:
        with pytest.raises(Stopped):
            stored_in(tmp_path, Interrupted(tmp_path))
    run, alone = LocalRun(tmp_path), LocalRun(tmp_path / "alone")
    run.pace = QUICK
    done = {path.name: path.stat().st_ino for path in run.store.glob("knowledge-*.work/shards/*.npy")}
    assert len(done) == 5
    open_knowledge(taught(tmp_path), [sentences()], ATTENTIVE, run)
    open_knowledge(taught(tmp_path), [sentences()], ATTENTIVE, alone)
    (one,), (two,) = stores(run), stores(alone)
    assert contents(one) == contents(two)
    assert {name: (one / name).stat().st_ino for name in done} == done  # taken over, not written again
    assert not list(run.store.glob("*.work"))


@pytest.mark.parametrize("fault", ["cut", "changed", "missing", "index cut", "index changed"])
def test_a_spoilt_store_is_put_aside_and_built_anew(fault: str, tmp_path: Path) -> None:
    run = LocalRun(tmp_path)
    shelf = stored_in(tmp_path, run)
    whole = contents(shelf.folder)
    path = shelf.folder / ("index.json" if "index" in fault else "00003.rows.npy")
    raw = bytearray(path.read_bytes())
    raw[-9] ^= 1
    path.unlink()
    if fault != "missing":
        path.write_bytes(raw if "changed" in fault else raw[:-5])
    os.utime(shelf.folder / "index.json")  # as a process that has not verified it sees it
    again = stored_in(tmp_path, run)
    assert contents(again.folder) == whole
    assert len(list(run.store.glob("*.aside"))) == 1
    asked = live(load(tmp_path / "teacher"), ATTENTIVE)
    assert worst(again, asked, own_batches(sentences())) == 0.0


def test_a_spoilt_larger_store_is_passed_over(tmp_path: Path) -> None:
    run = LocalRun(tmp_path)
    shelf = stored_in(tmp_path, run)
    (shelf.folder / "00000.rows.npy").write_bytes(b"")
    smaller = stored_in(tmp_path, run, Selection())
    assert smaller.folder != shelf.folder


def test_of_several_stores_the_smallest_is_read(tmp_path: Path) -> None:
    run = LocalRun(tmp_path)
    small = stored_in(tmp_path, run, Selection())
    large = stored_in(tmp_path, run)
    assert small.folder != large.folder
    assert stored_in(tmp_path, run, Selection()).folder == small.folder
    assert stored_in(tmp_path, run, replace(ATTENTIVE, logits=False)).folder == large.folder


def test_what_others_wish_for_is_stored_with_it_where_that_fits(tmp_path: Path) -> None:
    wanted, wide = replace(FULL, states=(4,)), replace(FULL, states=(2, 4))
    size = knowledge_bytes(wide, taught(tmp_path).layout, sentences().lengths)
    for quota, held in ((size, wide), (size - 1, wanted)):
        run = LocalRun(tmp_path / str(quota), quota_bytes=quota, wishes=(replace(FULL, states=(1,)), wide))
        shelf = stored_in(tmp_path, run, wanted)
        assert shelf.form.selection == held.canonical()
        assert shelf.selection == wanted
    outputs = LocalRun(tmp_path / "outputs", wishes=(wide,))
    assert stored_in(tmp_path, outputs, Selection()).form.selection == Selection()


def test_stores_stay_within_the_quota(tmp_path: Path) -> None:
    teacher, data = taught(tmp_path), [sentences()]
    size = knowledge_bytes(FULL, teacher.layout, data[0].lengths)

    def opened(quota: int, selection: Selection, mode: Literal["auto", "stored"] = "auto") -> bool:
        run = LocalRun(tmp_path, quota_bytes=quota)
        return isinstance(open_knowledge(teacher, data, selection, run, mode=mode), Shelf)

    assert not opened(size - 1, FULL)
    with pytest.raises(ValueError, match=rf"'stored': found {size} bytes to store, allowed are {size - 1} for all"):
        opened(size - 1, FULL, "stored")
    assert opened(size, FULL)
    assert opened(0, FULL)  # what is there may be read
    assert opened(0, replace(FULL, states=(2,)))
    more = knowledge_bytes(ATTENTIVE, teacher.layout, data[0].lengths)
    assert not opened(size + more - 1, ATTENTIVE)
    assert opened(size + more, ATTENTIVE)


@pytest.mark.parametrize(
    "changes",
    [{"scores": (1,)}, {"width_scheme": "random_dynamic", "width": 0.5}, {"threshold": "batch"}],
)
def test_what_cannot_be_stored_is_asked_live(changes: dict[str, Any], tmp_path: Path) -> None:
    selection, run = replace(ATTENTIVE, **changes), LocalRun(tmp_path)
    lesson = open_knowledge(taught(tmp_path), [sentences()], selection, run)(collate(sentences(), np.arange(4)))
    assert [tuple(state.values.shape) for state in lesson.states] == [(4, 5, 16)] * 3
    assert len(lesson.scores) == len(selection.scores)
    assert not stores(run)
    with pytest.raises(ValueError, match="knowledge mode 'stored': found Selection"):
        open_knowledge(taught(tmp_path), [sentences()], selection, run, mode="stored")


def test_a_teacher_with_dropout_is_always_live(tmp_path: Path) -> None:
    teacher, run, batch = taught(tmp_path), LocalRun(tmp_path), collate(sentences(), np.arange(4))
    noisy = open_knowledge(teacher, [sentences()], FULL, run, dropout=True)
    assert not torch.equal(noisy(batch).states[0].values, noisy(batch).states[0].values)
    with pytest.raises(ValueError, match="'stored': found a teacher with dropout"):
        open_knowledge(teacher, [sentences()], FULL, run, mode="stored", dropout=True)
    with pytest.raises(ValueError, match="knowledge mode: found 'never', allowed are auto, stored, live"):
        open_knowledge(teacher, [sentences()], FULL, run, mode="never")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="found layer 9, allowed are the teacher's 0 to 4"):
        open_knowledge(teacher, [sentences()], Selection(states=(9,)), run)
    assert not stores(run)


def test_a_teacher_that_is_not_finite_is_not_stored(tmp_path: Path) -> None:
    run = LocalRun(tmp_path)
    teacher = taught(tmp_path)
    model = load(teacher.tuned)
    with torch.no_grad():
        model.layers[3].output.LayerNorm.weight.fill_(1e5)
    save(model, tmp_path / "large")
    large = replace(teacher, tuned=tmp_path / "large", fingerprint="large")
    with pytest.raises(ValueError, match="found NaN or infinity in the teacher's outputs"):
        open_knowledge(large, [sentences()], replace(FULL, dtype="float16"), run)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of half a megabyte, where the tests may mount one."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


class Crowded(LocalRun):
    """A run whose disk is filled by others while it builds."""

    num_polls = 0

    def poll(self) -> None:
        self.num_polls += 1
        if self.num_polls == 3:
            with suppress(OSError), (self.store / "others").open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(1024))


def crowded(rank: int, world_size: int, folder: Path, disk: Path, mode: Literal["auto", "stored"]) -> str:
    run = Crowded(folder, rank=rank, world_size=world_size, store=disk / "store")
    try:
        knowledge = open_knowledge(taught(folder), [sentences()], FULL, run, mode=mode)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    finally:
        assert run.num_polls >= 3
    return "stored" if isinstance(knowledge, Shelf) else "live"


@pytest.mark.process
def test_a_disk_that_fills_up_leaves_the_teacher_live(tmp_path: Path, small_disk: Path) -> None:
    taught(tmp_path)
    assert run_ranks(crowded, tmp_path, small_disk, "auto") == ["live"] * 2
    assert [path.name for path in (small_disk / "store").iterdir() if path.suffix != ".work"] == ["others"]
    assert not list((small_disk / "store").glob("*/*"))
    (small_disk / "store" / "others").unlink()
    assert crowded(0, 1, tmp_path, small_disk, "stored") == "ENOSPC"


def test_a_store_that_cannot_fit_is_not_begun(tmp_path: Path, small_disk: Path) -> None:
    run = Interrupted(tmp_path, store=small_disk)
    knowledge = open_knowledge(taught(tmp_path), [sentences(3000)], FULL, run)
    assert not isinstance(knowledge, Shelf)
    assert run.num_polls == 0


def test_a_disk_without_any_room_leaves_the_teacher_live(tmp_path: Path, small_disk: Path) -> None:
    with suppress(OSError), (small_disk / "others").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    run = LocalRun(tmp_path, store=small_disk)
    assert not isinstance(open_knowledge(taught(tmp_path), [sentences()], FULL, run), Shelf)
    assert [path.name for path in small_disk.iterdir()] == ["others"]


def test_a_node_keeps_a_copy_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SCRATCH, str(tmp_path / "scratch"))
    run = LocalRun(tmp_path)
    shelf = stored_in(tmp_path, run)
    (folder,) = stores(run)
    assert shelf.folder == tmp_path / "scratch" / folder.name
    assert contents(shelf.folder) == contents(folder)
    (shelf.folder / "00001.rows.npy").write_bytes(b"")
    assert contents(stored_in(tmp_path, run).folder) == contents(folder)
