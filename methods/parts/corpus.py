"""A corpus without labels: plain UTF-8 text, one sentence a line, a blank line between documents."""

from functools import lru_cache
from pathlib import Path

from methods.parts.examples import contents, digest, stream_lines


def open_corpus(path: Path) -> str:
    """Make sure that a corpus is there, and hash its content.

    Raises:
        ValueError: no such file, or an empty one.
    """
    if not path.is_file():
        raise ValueError(
            f"corpus: looked for {path}, a text file with one sentence a line and a blank line between documents; "
            f"{contents(path if path.is_dir() else path.parent)}"
        )
    stat = path.stat()
    if not stat.st_size:
        raise ValueError(f"corpus: {path}: found an empty file, expected one sentence a line")
    return _hashed(path, stat.st_size, stat.st_mtime_ns)


def check_corpus(path: Path) -> None:
    """Read a corpus once.

    Raises:
        ValueError: `FILE:LINE:` of bytes that are not UTF-8, or no line holds a sentence.
    """
    found = False
    for line in stream_lines(path):
        found = found or bool(line.strip())
    if not found:
        raise ValueError(f"corpus: {path}: found blank lines only, expected one sentence a line")


@lru_cache(maxsize=64)
def _hashed(path: Path, _size: int, _time_ns: int) -> str:
    """Hash a file once in a process as long as its size and time stay the same."""
    return digest([path])
