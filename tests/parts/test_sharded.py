"""A set in shards is the same set: every row once an epoch, on any number of ranks, in memory that does not grow."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tests.strategies  # noqa: F401  its hypothesis profile
from methods.parts.batches import Batches, collate
from methods.parts.encoding import EncodedFiles
from methods.parts.examples import CHUNK, Examples
from methods.parts.npyfile import GrowingArray
from methods.parts.recipe import Recipe
from methods.parts.run import LocalRun
from methods.parts.sharded import Sharded, encode_shards
from methods.parts.splits import Splits, distil_batches, open_splits, training_batches
from methods.parts.tasks import Task, open_task
from methods.parts.tokens import Encoded, encode
from methods.parts.wordpiece import load_pieces
from tests.parts.encoded import encoded, rows_of, word_tokenizer
from tests.parts.ranks import outcomes_of_ranks, run_ranks

pytestmark = pytest.mark.long

WORDS = ["a", "b", "c", "d", "e", "f", "g", "h"]


def lines(count: int) -> list[str]:
    """Rows that differ: the row's number in base 8, a word a digit."""
    return [f"{' '.join(WORDS[int(digit)] for digit in f'{number:o}')}\t{number % 2}\n" for number in range(count)]


def task_of(folder: Path, count: int, piece: int = 10**9) -> Task:
    """A task with an augmented set in files of `piece` rows."""
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "dev"):
        (folder / f"{split}.tsv").write_text("sentence\tlabel\n" + "".join(lines(6)))
    for number, start in enumerate(range(0, count, piece)):
        header = "" if number else "sentence\tlabel\n"
        text = header + "".join(lines(count)[start : start + piece])
        (folder / f"train_aug{number}.tsv").write_text(text)
    return open_task("sst2", folder, augmented=folder, max_length=16)


def shards_of(folder: Path, count: int, shard_rows: int) -> tuple[Encoded, ...]:
    words = word_tokenizer(folder / "words")
    return encode_shards(task_of(folder / "data", count), words, LocalRun(folder), shard_rows=shard_rows)


def whole(folder: Path, count: int) -> Encoded:
    """The same rows as one training set."""
    (folder / "one").mkdir()
    for split in ("train", "dev"):
        (folder / "one" / f"{split}.tsv").write_text("sentence\tlabel\n" + "".join(lines(count)))
    words = word_tokenizer(folder / "words")
    return encode(open_task("sst2", folder / "one", max_length=16), "train", words, LocalRun(folder))


@pytest.mark.parametrize(("count", "shard_rows"), [(23, 10), (20, 10), (9, 10), (3, 1)])
def test_shards_hold_the_rows_of_one_set_in_order(tmp_path: Path, count: int, shard_rows: int) -> None:
    shards = shards_of(tmp_path, count, shard_rows)
    assert [len(shard) for shard in shards[:-1]] == [shard_rows] * (len(shards) - 1)
    assert [shard.start for shard in shards] == list(range(0, count, shard_rows))
    assert [row for shard in shards for row in rows_of(shard)] == rows_of(whole(tmp_path, count))
    assert [label for shard in shards for label in shard.labels] == [number % 2 for number in range(count)]
    assert all(isinstance(shard.flat, np.memmap) for shard in shards)
    assert len({shard.fingerprint for shard in shards}) == len(shards)


def test_files_and_shards_are_cut_independently(tmp_path: Path) -> None:
    words, run = word_tokenizer(tmp_path / "words"), LocalRun(tmp_path)
    found = [
        [row for shard in encode_shards(task_of(tmp_path / str(piece), 30, piece), words, run, shard_rows=7)
         for row in rows_of(shard)]
        for piece in (4, 30)
    ]  # fmt: skip
    assert found[0] == found[1]


def test_a_set_is_tokenised_once_and_row_numbers_go_on_over_shards(tmp_path: Path) -> None:
    shards, again = shards_of(tmp_path, 23, 10), shards_of(tmp_path, 23, 10)
    assert [shard.fingerprint for shard in again] == [shard.fingerprint for shard in shards]
    assert len(list((tmp_path / "store").glob("tokens-*"))) == 1
    assert collate(shards[2], np.array([0, 2])).ids.tolist() == [20, 22]
    assert collate(shards[1].subset([9, 4]), np.array([0, 1])).ids.tolist() == [19, 14]


def test_tokenising_holds_a_chunk_however_long_the_file(tmp_path: Path) -> None:
    words, peaks = word_tokenizer(tmp_path / "words"), []
    encode_shards(task_of(tmp_path / "warm", 10), words, LocalRun(tmp_path))
    for times in (1, 8):
        task = task_of(tmp_path / str(times), times * 2 * CHUNK)
        tracemalloc.start()
        shards = encode_shards(task, words, LocalRun(tmp_path), shard_rows=2 * CHUNK)
        peaks.append(tracemalloc.get_traced_memory()[1] - 8 * sum(map(len, shards)))  # without the row numbers
        tracemalloc.stop()
    assert peaks[1] < 1.15 * peaks[0]


def bad_set(rank: int, world_size: int, folder: Path) -> None:
    task = open_task("sst2", folder / "data", augmented=folder / "data", max_length=16)
    encode_shards(task, folder / "words", LocalRun(folder, rank=rank, world_size=world_size), shard_rows=4)


@pytest.mark.process
def test_a_bad_row_fails_on_every_rank_and_nothing_is_published(tmp_path: Path) -> None:
    word_tokenizer(tmp_path / "words")
    task_of(tmp_path / "data", 6)
    (tmp_path / "data" / "train_aug1.tsv").write_text("a\t1\nb\t7\n")
    outcomes = outcomes_of_ranks(bad_set, tmp_path)
    assert all(kind == "failed" and "train_aug1.tsv:2: label: found '7'" in value for kind, value in outcomes)
    assert {path.suffix for path in (tmp_path / "store").iterdir()} == {".work"}


def steps_on_ranks(rank: int, world_size: int, folder: Path, count: int) -> list[list[int]]:
    run = LocalRun(folder, rank=rank, world_size=world_size, seed=3)
    task = open_task("sst2", folder / "data", augmented=folder / "data", max_length=16)
    shards = encode_shards(task, folder / "words", run, shard_rows=10)
    data = distil_batches(splits(shards), Recipe(batch_size=4, accumulation=2), run)
    return [[row for batch in data.step(step) for row in batch.ids.tolist()] for step in range(count)]


@pytest.mark.process
def test_one_and_two_ranks_see_the_same_global_batches(tmp_path: Path) -> None:
    word_tokenizer(tmp_path / "words")
    task_of(tmp_path / "data", 23)
    alone = steps_on_ranks(0, 1, tmp_path, 14)
    first, second = run_ranks(steps_on_ranks, tmp_path, 14)
    assert [sorted(a + b) for a, b in zip(first, second, strict=True)] == [sorted(rows) for rows in alone]


def splits(shards: tuple[Encoded, ...], train: Encoded | None = None) -> Splits:
    data = train or encoded([3, 4])
    return Splits(train=data, search=data, held=data, augmented=shards)


def numbered(sizes: list[int]) -> tuple[Encoded, ...]:
    """Shards of so many rows, numbered on."""
    starts = np.cumsum([0, *sizes])
    some = [encoded([2 + number % 5 for number in range(size)]) for size in sizes]
    return tuple(Encoded(**{name: getattr(data, name) for name in Encoded.__slots__} | {"start": int(start)})
                 for data, start in zip(some, starts, strict=False))  # fmt: skip


def sharded(sizes: list[int], folder: Path, recipe: Recipe, seed: int = 0) -> Sharded:
    found = distil_batches(splits(numbered(sizes)), recipe, LocalRun(folder, seed=seed))
    assert isinstance(found, Sharded)
    return found


@given(st.lists(st.integers(1, 30), min_size=1, max_size=4), st.integers(1, 9), st.integers(0, 3))
def test_an_epoch_is_every_row_once_shard_by_shard(sizes: list[int], batch_size: int, epoch: int) -> None:
    data = sharded(sizes, Path("unused"), Recipe(batch_size=batch_size))
    assert data.num_steps == sum(-(-size // batch_size) for size in sizes)
    steps = [data.rows(epoch * data.num_steps + step).tolist() for step in range(data.num_steps)]
    assert sorted(row for rows in steps for row in rows) == list(range(sum(sizes)))
    ends = np.cumsum(sizes)
    of = [{int(np.searchsorted(ends, row, side="right")) for row in rows} for rows in steps]
    assert all(len(shard) == 1 for shard in of)
    assert [min(shard) for shard in of] == sorted(min(shard) for shard in of)
    assert [sorted(data.step(step)[0].ids.tolist()) for step in range(3)] == [
        sorted(data.rows(step).tolist()) for step in range(3)
    ]


@given(st.lists(st.integers(1, 30), min_size=1, max_size=4), st.integers(1, 9), st.integers(0, 2))
def test_left_out_rows_fill_no_batch_and_a_small_shard_is_used_whole(
    sizes: list[int], batch_size: int, epoch: int
) -> None:
    data = sharded(sizes, Path("unused"), Recipe(batch_size=batch_size, drop_last=True))
    seen = [data.rows(epoch * data.num_steps + step).tolist() for step in range(data.num_steps)]
    used = [size // batch_size * batch_size or size for size in sizes]
    assert len({row for rows in seen for row in rows}) == sum(len(rows) for rows in seen) == sum(used)


def test_a_step_depends_on_seed_epoch_and_shard_alone(tmp_path: Path) -> None:
    recipe = Recipe(batch_size=4)
    data, resumed = sharded([20, 20], tmp_path, recipe), sharded([20, 20], tmp_path, recipe)
    forward = [data.rows(step).tolist() for step in range(20)]
    assert [resumed.rows(step).tolist() for step in reversed(range(20))] == forward[::-1]
    assert forward[:10] != forward[10:]
    assert [row + 20 for row in forward[0]] != forward[5]
    assert sharded([20, 20], tmp_path, recipe, seed=1).rows(0).tolist() != forward[0]


def test_without_an_augmented_set_students_see_the_training_rows(tmp_path: Path) -> None:
    train, run, recipe = encoded([3] * 20), LocalRun(tmp_path, seed=5), Recipe(batch_size=4)
    data, plain = distil_batches(splits((), train), recipe, run), training_batches(train, recipe, run)
    assert isinstance(data, Batches)
    assert [data.rows(step).tolist() for step in range(8)] == [plain.rows(step).tolist() for step in range(8)]


def test_rows_are_padded_to_a_length_that_all_shards_fit(tmp_path: Path) -> None:
    recipe, run = Recipe(batch_size=4), LocalRun(tmp_path)
    data = distil_batches(splits(numbered([7, 9])), recipe, run, pad_to=8)
    assert {batch.input_ids.shape[1] for step in range(data.num_steps) for batch in data.step(step)} == {8}
    with pytest.raises(ValueError, match="pad_to: found 4, allowed is at least 6"):
        distil_batches(splits(numbered([2, 9])), recipe, run, pad_to=4)


def test_splits_open_the_augmented_set_unless_told_otherwise(tmp_path: Path) -> None:
    task, words, run = task_of(tmp_path / "data", 11), word_tokenizer(tmp_path / "words"), LocalRun(tmp_path)
    found = open_splits(task, words, run)
    assert ([len(shard) for shard in found.augmented], found.distil) == ([11], found.augmented)
    without = open_splits(task, words, run, augmented=False)
    assert (without.augmented, len(without.distil[0])) == ((), 6)
    assert encode_shards(open_task("sst2", tmp_path / "data"), words, run) == ()


def test_growing_files_are_what_numpy_saves(tmp_path: Path) -> None:
    for count in (0, 1, 1000):
        values = np.arange(count, dtype=np.int32)
        np.save(tmp_path / "saved.npy", values)
        array = GrowingArray(tmp_path / "grown.npy", np.int32)
        for part in np.array_split(values, 3):
            array.append(part)
        array.close()
        assert (tmp_path / "grown.npy").read_bytes() == (tmp_path / "saved.npy").read_bytes()


def test_a_set_added_in_parts_is_the_set_added_at_once(tmp_path: Path) -> None:
    pieces, folders = load_pieces(word_tokenizer(tmp_path / "words")), [tmp_path / "one", tmp_path / "two"]
    examples = Examples(texts=["a b", "c", "d e f"], pairs=None, labels=np.array([0, 1, 0]), sites=[[(0, 1)], [], []])
    for folder, parts in zip(folders, ([[0, 1, 2]], [[0], [1, 2]]), strict=True):
        folder.mkdir()
        files = EncodedFiles(folder, pieces, 8)
        for part in parts:
            files.add(examples.take(part))
        files.close()
    one, two = map(Encoded.open, folders)
    assert (one.fingerprint, rows_of(one)) == (two.fingerprint, rows_of(two))
