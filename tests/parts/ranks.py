"""Real ranks for tests: processes joined by gloo, forked from a server that has imported torch already."""

import multiprocessing
import os
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
import torch.distributed as dist

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["pytest", "torch._dynamo", "methods.parts.loop"])


def start(work: Callable[..., Any], *args: object) -> tuple[Any, Connection]:
    """Start `work(*args)` in a process of its own; the connection gives ("done", value) or ("failed", traceback)."""
    ours, theirs = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=_alone, args=(theirs, work, args), daemon=True)
    process.start()
    theirs.close()
    return process, ours


def _alone(pipe: Connection, work: Callable[..., Any], args: tuple[object, ...]) -> None:
    torch.set_num_threads(1)
    try:
        pipe.send(("done", work(*args)))
    except BaseException:
        pipe.send(("failed", traceback.format_exc()))
    pipe.close()


def run_ranks(work: Callable[..., Any], folder: Path, *args: object, world_size: int = 2) -> list[Any]:
    """What `work(rank, world_size, folder, *args)` returns on each rank of a gloo group.

    A rank that raises leaves the group, as on a cluster, so that its peers fail too instead of waiting. Raises a
    RuntimeError with every traceback.
    """
    outcomes = outcomes_of_ranks(work, folder, *args, world_size=world_size)
    failures = [str(value) for kind, value in outcomes if kind == "failed"]
    if failures:
        raise RuntimeError("\n".join(failures))
    return [value for _, value in outcomes]


def outcomes_of_ranks(
    work: Callable[..., Any], folder: Path, *args: object, world_size: int = 2
) -> list[tuple[str, Any]]:
    """As `run_ranks`, but failures are returned: ("done", value) or ("failed", traceback) by rank."""
    meeting = folder / f"meeting-{uuid4().hex}"
    started = [start(_ranked, work, rank, world_size, meeting, folder, args) for rank in range(world_size)]
    outcomes = [pipe.recv() for _, pipe in started]
    for process, _ in started:
        process.join(10)
    return outcomes


def _ranked(
    work: Callable[..., Any], rank: int, world_size: int, meeting: Path, folder: Path, args: tuple[object, ...]
) -> object:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    url, limit = f"file://{meeting}", timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=url, rank=rank, world_size=world_size, timeout=limit)
    try:
        return work(rank, world_size, folder, *args)
    finally:
        dist.destroy_process_group()
