"""Work that one rank does while the others keep step with it."""

from collections.abc import Iterator
from itertools import islice

from methods.parts.reduce import agree, agree_text
from methods.parts.run import Run

_MORE, _DONE, _FAILED = range(3)


def led(work: Iterator[object], run: Run, *, pieces: int = 1) -> None:
    """Do `work` on rank 0, a few pieces at a time, while all ranks stay alive; collective.

    Args:
        work: each item is a piece that is done; the other ranks leave it alone.
        run: the world, polled between the pieces.
        pieces: how many are done between two polls.

    Raises:
        ValueError: the work raised it, or met an OSError; on all ranks.
    """
    while True:
        state, message = _MORE, ""
        if run.rank == 0:
            try:
                state = _MORE if sum(1 for _ in islice(work, pieces)) == pieces else _DONE
            except (ValueError, OSError) as error:
                state, message = _FAILED, str(error)
        state = int(agree([state], run)[0])
        if state == _FAILED:
            raise ValueError(agree_text(message, run))
        if state == _DONE:
            return
        run.poll()
