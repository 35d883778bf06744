"""A corpus without labels: plain UTF-8 text, or the folder of blocks that the command `preprocess` made of such a text.

Text has one sentence a line and a blank line between documents, or one document a line; which of them is the reader's
affair.
"""

from collections import deque
from functools import lru_cache
from pathlib import Path

from methods.parts.blockfiles import BLOCKS, check_blocks, read_blocks
from methods.parts.examples import contents, digest, stream_lines


def open_corpus(path: Path) -> str:
    """Make sure that a corpus is there, and hash its content (of blocks, the list of all shards' hashes).

    Raises:
        ValueError: no such file or folder, or an empty one.
    """
    if (path / BLOCKS).is_file():
        read_blocks(path)
        return digest([path / BLOCKS])
    if not path.is_file():
        raise ValueError(
            f"corpus: looked for {path}, a text file with one sentence a line and a blank line between documents; "
            f"{contents(path if path.is_dir() else path.parent)}"
        )
    stat = path.stat()
    if not stat.st_size:
        raise ValueError(f"corpus: {path}: found an empty file, expected one sentence a line")
    return _hashed(path, stat.st_size, stat.st_mtime_ns)


def open_text(path: Path) -> str:
    """`open_corpus` for a reader that needs sentences.

    Raises:
        ValueError: the corpus is cut into blocks already; or see `open_corpus`.
    """
    if (path / BLOCKS).is_file():
        raise ValueError(f"corpus: {path}: found blocks of tokens, expected a text file, whose sentences are packed")
    return open_corpus(path)


def check_corpus(path: Path) -> None:
    """Read a corpus once; blocks are compared with their hashes.

    Raises:
        ValueError: `FILE:LINE:` of bytes that are not UTF-8, no line holds a sentence, or a shard is damaged.
    """
    if path.is_dir():
        deque(check_blocks(path), maxlen=0)
        return
    found = False
    for line in stream_lines(path):
        found = found or bool(line.strip())
    if not found:
        raise ValueError(f"corpus: {path}: found blank lines only, expected one sentence a line")


@lru_cache(maxsize=64)
def _hashed(path: Path, _size: int, _time_ns: int) -> str:
    """Hash a file once in a process as long as its size and time stay the same."""
    return digest([path])
