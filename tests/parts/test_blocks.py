"""A corpus as blocks: every token once and in order, the same whoever cuts it, damage noticed, documents held out."""

import shutil
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tests.strategies  # noqa: F401  its hypothesis profile
from methods.parts.blocks import corpus_blocks, hold_out, open_blocks
from methods.parts.corpus import check_corpus, open_corpus
from methods.parts.documents import Survey, lines_of, survey
from methods.parts.packed import tokenised
from methods.parts.recipe import Recipe
from methods.parts.run import LocalRun
from methods.parts.splits import shard_batches
from tests.parts.encoded import encoded, rows_of, word_tokenizer
from tests.parts.ranks import run_ranks

pytestmark = pytest.mark.long

CLS, SEP, FIRST = 2, 3, 5
LETTERS = "a b c d e f g h ."


def surveyed(path: Path, form: str = "auto", part_bytes: int | None = None) -> Survey:
    work = survey(path, form, part_bytes)
    while True:
        try:
            next(work)
        except StopIteration as end:
            found: Survey = end.value
            return found


def cut(folder: Path, text: str, length: int = 8, **options: object) -> list[list[int]]:
    """The rows of all shards."""
    (folder / "corpus.txt").write_text(text, encoding="utf-8", newline="")
    words = word_tokenizer(folder / "words", LETTERS)
    run = LocalRun(folder / "run")
    shards = corpus_blocks(folder / "corpus.txt", words, length, run, **options)  # type: ignore[arg-type]
    return [row for shard in shards for row in rows_of(shard)]


documents = st.lists(
    st.lists(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=9), min_size=1, max_size=4),
    min_size=2,
    max_size=9,
)


def ids_of(sentences: Sequence[Sequence[str]]) -> list[int]:
    return [FIRST + "abcdefgh".index(word) for sentence in sentences for word in sentence]


@given(documents, st.integers(4, 12), st.booleans(), st.booleans(), st.sampled_from([None, 1, 40]))
def test_every_token_of_every_document_appears_once_in_order(
    found: list[list[list[str]]], length: int, sentences: bool, full: bool, part_bytes: int | None
) -> None:
    inner, outer = ("\n", "\n\n") if sentences else (" ", "\n")
    text = outer.join(inner.join(" ".join(sentence) for sentence in document) for document in found)
    with TemporaryDirectory() as folder:
        rows = cut(Path(folder), text, length, full_sentences=full, part_bytes=part_bytes)
    assert all(len(row) <= length for row in rows)
    assert all(set(row) - {CLS, SEP} for row in rows), "every block has a word to hide"
    stream = [token for row in rows for token in row]
    assert [token for token in stream if token not in (CLS, SEP)] == [ids for doc in found for ids in ids_of(doc)]
    assert stream.count(CLS) == len(found)
    if not full:
        expected = []
        for document in found:
            tokens = [CLS, *ids_of(document), SEP]
            blocks = [tokens[first : first + length] for first in range(0, len(tokens), length)]
            expected += [block for block in blocks if block != [SEP]]
        assert rows == expected
    elif part_bytes is None:
        assert all(len(row) == length for row in rows[:-1])
        assert len(stream) in (len(ids_of([s for d in found for s in d])) + 2 * len(found) - less for less in (0, 1))


def test_a_cut_of_the_published_code_keeps_blocks_without_words(tmp_path: Path) -> None:
    text = "a b c d e f\n\na b c d e f g\nh\n"
    assert cut(tmp_path, text, form="lines") == [
        [CLS, 5, 6, 7, 8, 9, 10, SEP],
        [CLS, 5, 6, 7, 8, 9, 10, 11],
        [CLS, 12, SEP],
    ]
    assert cut(tmp_path, text, form="lines", compat="published") == [
        [CLS, 5, 6, 7, 8, 9, 10, SEP],
        [0],
        [CLS, SEP],
        [CLS, 5, 6, 7, 8, 9, 10, 11],
        [SEP],
        [CLS, 12, SEP],
    ]


def test_forms_are_told_apart_by_a_blank_line_between_others(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"\xef\xbb\xbf\n a b\nc d\n\n  \n")
    assert (surveyed(path).form, surveyed(path).documents) == ("lines", 2)
    path.write_bytes(b"a b\r\nc d\r\n \r\n\r\ne\r\n")
    assert (surveyed(path).form, surveyed(path).documents) == ("sentences", 2)
    assert surveyed(path, "lines").documents == 3
    assert [list(lines_of(path, part)) for part in surveyed(path, part_bytes=1).parts] == [
        ["a b", "c d", " ", ""],
        ["e"],
    ]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "found an empty file"),
        (b"\n \n", "found blank lines only"),
        (b"a b\n\nc \xff d\n", r"corpus\.txt:3: bytes: found"),
        (b"\x01\n\x01\n", "found no words"),
    ],
)
def test_what_is_no_corpus_is_refused(content: bytes, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_bytes(content)
    words = word_tokenizer(tmp_path / "words", LETTERS)
    with pytest.raises(ValueError, match=complaint):
        corpus_blocks(tmp_path / "corpus.txt", words, 8, LocalRun(tmp_path / "run"))
    with pytest.raises(ValueError, match="length: found 3, allowed is at least 4"):
        corpus_blocks(tmp_path / "corpus.txt", words, 3, LocalRun(tmp_path / "run"))
    with pytest.raises(ValueError, match="form: found 'line', allowed are auto, lines, sentences"):
        corpus_blocks(tmp_path / "corpus.txt", words, 8, LocalRun(tmp_path / "run"), form="line")


LONG = "\n".join(" ".join("abcdefgh"[(3 * row + step) % 8] for step in range(1 + row % 17)) for row in range(60)) + "\n"


def rows_on_ranks(rank: int, world_size: int, folder: Path) -> list[list[int]]:
    run = LocalRun(folder / "ranked", rank=rank, world_size=world_size)
    shards = corpus_blocks(folder / "corpus.txt", folder / "words", 8, run, part_bytes=200)
    return [row for shard in shards for row in rows_of(shard)]


def test_ranks_read_what_one_rank_writes(tmp_path: Path) -> None:
    alone = cut(tmp_path, LONG)
    assert run_ranks(rows_on_ranks, tmp_path) == [alone, alone]


def prepared(folder: Path) -> Path:
    """A folder of blocks, and beside it the words that they are made of."""
    cut(folder, LONG, part_bytes=200)
    (stored,) = (folder / "run" / "store").glob("blocks-*")
    shutil.copytree(stored, folder / "cut")
    return folder / "cut"


def test_a_folder_of_blocks_is_opened_if_it_fits(tmp_path: Path) -> None:
    folder, words, run = prepared(tmp_path), tmp_path / "words", LocalRun(tmp_path / "other")
    shards = corpus_blocks(folder, words, 8, run)
    assert len(shards) > 2
    assert [row for shard in shards for row in rows_of(shard)] == cut(tmp_path, LONG)
    sizes = [len(shard) for shard in shards]
    assert [shard.start for shard in shards] == [sum(sizes[:number]) for number in range(len(sizes))]
    seen = shard_batches(shards, Recipe(batch_size=7), run)
    assert sorted(row for step in range(seen.num_steps) for row in seen.rows(step)) == list(range(sum(sizes)))
    with pytest.raises(ValueError, match="found blocks with length 8, asked is 16"):
        corpus_blocks(folder, words, 16, run)
    with pytest.raises(ValueError, match="found blocks with full_sentences False, asked is True"):
        corpus_blocks(folder, words, 8, run, full_sentences=True)
    with pytest.raises(ValueError, match="found blocks of another tokenizer"):
        corpus_blocks(folder, word_tokenizer(tmp_path / "fewer", "a b"), 8, run)
    with pytest.raises(ValueError, match="found blocks of tokens, expected a text file"):
        tokenised(folder, words, run)


def test_a_damaged_shard_is_noticed(tmp_path: Path) -> None:
    folder = prepared(tmp_path)
    check_corpus(folder)
    before = open_corpus(folder)
    array = folder / "00001" / "tokens.npy"
    sound = array.read_bytes()
    array.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    with pytest.raises(ValueError, match=r"cut/00001: found content \w+, expected \w+: the files have changed"):
        check_corpus(folder)
    with pytest.raises(ValueError, match="preprocess anew"):
        corpus_blocks(folder, tmp_path / "words", 8, LocalRun(tmp_path / "other"))
    array.write_bytes(sound[:-2])
    with pytest.raises(ValueError, match="00001"):
        check_corpus(folder)
    shutil.rmtree(folder / "00001")
    with pytest.raises(ValueError, match="00001: found no arrays"):
        check_corpus(folder)
    assert open_corpus(folder) == before


def test_a_damaged_shard_of_the_store_is_built_anew(tmp_path: Path) -> None:
    rows = cut(tmp_path, LONG, part_bytes=200)
    (stored,) = (tmp_path / "run" / "store").glob("blocks-*")
    shutil.rmtree(stored / "00002")
    assert cut(tmp_path, LONG, part_bytes=200) == rows


def test_documents_are_held_out_whole(tmp_path: Path) -> None:
    text = "".join(f"{' '.join('abcdefgh'[int(digit)] for digit in f'{row:o}' * 6)}\n" for row in range(1, 400))
    cut(tmp_path, text, part_bytes=3000)
    (stored,) = (tmp_path / "run" / "store").glob("blocks-*")
    blocks = open_blocks(stored)
    train, held = hold_out(blocks, 0.1)
    counts = [sum(len(shard) for shard in side) for side in (blocks, train, held)]
    assert counts[0] == counts[1] + counts[2]
    assert 0.05 * counts[0] < counts[2] < 0.17 * counts[0]
    labels = [{label for shard in side for label in shard.labels.tolist()} for side in (train, held)]
    assert not labels[0] & labels[1]
    ids = [shard.rows + shard.start for side in (train, held) for shard in side]
    assert sorted(np.concatenate(ids)) == list(range(counts[0]))
    again = hold_out(open_blocks(stored), 0.1)[1]
    assert [rows_of(shard) for shard in again] == [rows_of(shard) for shard in held]


def test_of_a_small_corpus_single_blocks_are_held_out() -> None:
    train, held = hold_out([encoded([4] * 9), encoded([3] * 2)], 0.01)
    assert [len(shard) for shard in (*train, *held)] in ([8, 2, 1], [9, 1, 1], [9, 2, 1])
    assert sum(len(shard) for shard in held) == 1
    with pytest.raises(ValueError, match="found 1 blocks, expected at least 2"):
        hold_out([encoded([4])])
    with pytest.raises(ValueError, match="share"):
        hold_out([encoded([4])], 1.0)


def test_cutting_holds_a_batch_of_text_however_long_a_document(tmp_path: Path) -> None:
    words, peaks = word_tokenizer(tmp_path / "words", LETTERS), []
    for megabytes in (1, 3):
        path = tmp_path / f"{megabytes}.txt"
        path.write_text(f"{'abcdefgh ' * 100}\n" * (megabytes * 1200) + "\nb\n", encoding="utf-8")
        tracemalloc.start()
        corpus_blocks(path, words, 128, LocalRun(tmp_path))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0]
