from pathlib import Path

import numpy as np
import pytest

from methods.parts.batches import Batches
from methods.parts.packed import packed, tokenised
from methods.parts.run import LocalRun
from methods.parts.sequences import Packing
from tests.parts.encoded import rows_of, word_tokenizer
from tests.parts.ranks import run_ranks

PACKING = Packing(max_length=16)
TEXT = "a b c d\nb c\n\nc d e f\n\n\n  g h a  \nb b b\na\n"


def corpus(folder: Path, text: str = TEXT) -> Path:
    (folder / "corpus.txt").write_text(text, encoding="utf-8")
    return folder / "corpus.txt"


def letters(folder: Path) -> Path:
    return word_tokenizer(folder / "words", "a b c d e f g h .")


def long_text(documents: int = 30) -> str:
    words = "abcdefgh"
    sentences = [
        " ".join(words[(number * 3 + step) % 8] for step in range(2 + number % 5)) for number in range(documents * 4)
    ]
    return "\n\n".join("\n".join(sentences[first : first + 4]) for first in range(0, len(sentences), 4)) + "\n"


def test_blank_lines_part_documents(tmp_path: Path) -> None:
    found = tokenised(corpus(tmp_path), letters(tmp_path), LocalRun(tmp_path / "run"))
    assert found.documents.tolist() == [0, 2, 3, 6]
    assert found.sentences.tolist() == [0, 4, 6, 10, 13, 16, 17]
    assert found.tokens.tolist() == [5, 6, 7, 8, 6, 7, 7, 8, 9, 10, 11, 12, 5, 6, 6, 6, 5]
    assert found.full_stop.tolist() == [13]
    assert isinstance(found.tokens.base, np.memmap)


def test_a_last_line_without_an_end_and_lines_without_words(tmp_path: Path) -> None:
    path = corpus(tmp_path, "a b\n\x01\n\n\x01\n\nc\r\nd")
    found = tokenised(path, letters(tmp_path), LocalRun(tmp_path / "run"))
    assert found.documents.tolist() == [0, 1, 3]
    assert found.tokens.tolist() == [5, 6, 7, 8]


def test_rows_are_bert_s_and_shards_number_on(tmp_path: Path) -> None:
    run, path, words = LocalRun(tmp_path / "run"), corpus(tmp_path, long_text()), letters(tmp_path)
    (whole,) = packed(path, words, run, PACKING, 0)
    shards = packed(path, words, run, PACKING, 1, shard_rows=20)
    assert len(shards) > 2
    assert [shard.start for shard in shards] == [20 * number for number in range(len(shards))]
    assert all(len(shard) == 20 for shard in shards[:-1])
    for row, second in zip(rows_of(whole), whole.seconds, strict=True):
        assert (row[0], row[-1], row[second - 1]) == (2, 3, 3)
        assert row.count(3) == 2
        assert len(row) <= PACKING.max_length
    assert set(whole.labels.tolist()) == {0, 1}
    batch = Batches(shards[1], batch_size=20, seed=0).step(0)[0]
    assert sorted(batch.ids.tolist()) == list(range(20, 40))


def test_every_epoch_is_packed_anew_and_once_for_all_trials(tmp_path: Path) -> None:
    path, words, store = corpus(tmp_path, long_text()), letters(tmp_path), tmp_path / "store"
    rows = [
        rows_of(packed(path, words, LocalRun(tmp_path / str(number), store=store, seed=number), PACKING, epoch)[0])
        for number, epoch in enumerate((0, 0, 1))
    ]
    assert rows[0] == rows[1] != rows[2]
    assert len(list(store.glob("packed-*"))) == 2
    assert len(list(store.glob("corpus-*"))) == 1
    other = rows_of(packed(path, words, LocalRun(tmp_path / "other"), PACKING, 0)[0])
    assert other == rows[0]


def rows_on_ranks(rank: int, world_size: int, folder: Path) -> list[list[int]]:
    run = LocalRun(folder / "run", rank=rank, world_size=world_size)
    return rows_of(packed(folder / "corpus.txt", folder / "words", run, PACKING, 0)[0])


def test_ranks_read_what_one_rank_writes(tmp_path: Path) -> None:
    path, words = corpus(tmp_path, long_text()), letters(tmp_path)
    alone = rows_of(packed(path, words, LocalRun(tmp_path / "alone"), PACKING, 0)[0])
    assert run_ranks(rows_on_ranks, tmp_path) == [alone, alone]


def test_a_bad_corpus_fails_on_all_ranks(tmp_path: Path) -> None:
    letters(tmp_path)
    (tmp_path / "corpus.txt").write_bytes(b"a b\n\nc \xff d\n")
    with pytest.raises(RuntimeError) as caught:
        run_ranks(rows_on_ranks, tmp_path)
    assert str(caught.value).count("corpus.txt:3: bytes") == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "found an empty file"), ("\n \n", "found no words"), ("a b\nc d\n", "found 1 documents, allowed are 2")],
)
def test_what_is_no_corpus_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        packed(corpus(tmp_path, text), letters(tmp_path), LocalRun(tmp_path / "run"), PACKING, 0)


def test_a_single_document_will_do_for_continuations(tmp_path: Path) -> None:
    packing = Packing(max_length=16, one_sequence=True)
    run = LocalRun(tmp_path / "run")
    (data,) = packed(corpus(tmp_path, "a b\nc d\n"), letters(tmp_path), run, packing, 0)
    assert rows_of(data) == [[2, 5, 6, 3, 7, 8, 3]]
    assert data.labels.tolist() == [0]
