"""GloVe-format files: what is read, what is skipped, what is refused; nearest words against plain arithmetic."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.parts.wordvectors import WordVectors, open_vectors, read_vectors
from tests.parts.mlm import write_vectors


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "glove.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_words_and_directions_are_read(tmp_path: Path) -> None:
    found = read_vectors(written(tmp_path, "the 3 4\ncafé 0 -2\nof 1e-3 0\n"))
    assert found.words == ("the", "café", "of")
    assert found.vectors.dtype == np.float32
    np.testing.assert_allclose(found.vectors, [[0.6, 0.8], [0, -1], [1, 0]], rtol=1e-6)
    assert found.skipped == 0


def test_the_first_words_count_and_a_short_file_is_fine(tmp_path: Path) -> None:
    path = written(tmp_path, "a 1 0\nb 0 1\nc 1 1")
    assert read_vectors(path, limit=2).words == ("a", "b")
    assert read_vectors(path, limit=100_000).words == ("a", "b", "c")
    with pytest.raises(ValueError, match="limit: found 0, allowed is at least 1"):
        read_vectors(path, limit=0)


def test_what_is_left_out(tmp_path: Path) -> None:
    text = "4 2\na 1 0\n. . . 1 0\na 0 1\n\nnothing 0 0\nb 0 1\r\n\u2028 1 1\n"
    found = read_vectors(written(tmp_path, text))
    assert found.words == ("a", "b", "\u2028"), "only spaces part the numbers, only line feeds the lines"
    assert found.vectors[0].tolist() == [1, 0], "the first of two"
    assert found.skipped == 3


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a 1 0\nb 1\n", r"glove.txt:2: numbers: found 1, expected 2, as in the first line"),
        ("a 1 0\nb 1 0 1\n", r"glove.txt:2: numbers: found 3, expected 2"),
        ("a\n", r"glove.txt:1: numbers: found 0, expected 1"),
        ("a 1 0\n\nb nan 0\n", r"glove.txt:3: vector: found 'nan', expected finite numbers"),
        ("a 1 0\nb 0 inf\n", r"glove.txt:2: vector: found 'inf', expected finite numbers"),
        ("a 1 0\nb 0 x\n", r"glove.txt:2: vector: found 'x', expected finite numbers"),
        (b"a 1 0\nb\xff 1 0\n", r"glove.txt:2: bytes: found b'\\xff.*', expected UTF-8"),
        ("", r"glove.txt: found no word vectors"),
    ],
)
def test_broken_files_are_refused_with_their_line(tmp_path: Path, text: str | bytes, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        read_vectors(written(tmp_path, text))


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none.txt: no such file"):
        read_vectors(tmp_path / "none.txt")


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 90), st.integers(0, 100))
def test_nearest_words_are_those_of_the_largest_cosine(seed: int, count: int, k: int) -> None:
    raw = np.random.default_rng(seed).normal(size=(count, 5))
    vectors = (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float32)
    words = tuple(f"w{number}" for number in range(count))
    found = WordVectors(words=words, vectors=vectors)
    asked = [*words, "unknown", "w0"]
    near = found.nearest_to(asked, k)
    assert set(near) == set(words)
    for number, word in enumerate(words):
        cosines = {other: float(vectors[number] @ vectors[i]) for i, other in enumerate(words) if other != word}
        assert len(near[word]) == min(k, count - 1)
        best = sorted(cosines.values(), reverse=True)[: len(near[word])]
        np.testing.assert_allclose([cosines[other] for other in near[word]], best, atol=1e-6)
    assert found.nearest("w0", k) == near["w0"]
    assert found.nearest("unknown", k) == ()


def test_stored_vectors_are_mapped_and_equal(tmp_path: Path) -> None:
    found = read_vectors(write_vectors(tmp_path / "v.txt", ("dog", "cat", "cow", "hen")))
    found.save(tmp_path / "stored")
    found.save(tmp_path / "stored")
    again = open_vectors(tmp_path / "stored")
    assert isinstance(again.vectors, np.memmap)
    assert (again.words, again.skipped, again.fingerprint) == (found.words, found.skipped, found.fingerprint)
    assert again.nearest("dog", 2) == found.nearest("dog", 2)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["stored"], "nothing is left beside it"
    with pytest.raises(ValueError, match=r"found no words\.json"):
        open_vectors(tmp_path)
    assert read_vectors(tmp_path / "v.txt", limit=3).fingerprint != found.fingerprint
