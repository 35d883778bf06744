"""Files of JSON lines that survive a crash: a line that a dying process tore is cut off, the others stay."""

from pathlib import Path


def mend(path: Path) -> bytes:
    """Cuts off a last line without an end, so that the next one starts on its own; returns what the file then holds."""
    if not path.exists():
        return b""
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with path.open("r+b") as stream:
            stream.truncate(whole)
    return content[:whole]
