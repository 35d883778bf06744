"""Bodies for slots: what a worker does with a job in tests. Real code, only tiny; the job's `config` says what happens.

steps      reports to make
nap_s      seconds before each
score      of the last report, towards which those before it rise; negative: more heads and layers are better
crash      "how:rank:step" (how: raise, exit, kill); at that report, in the first attempt only; "...:always" in all
leak       change every piece of global state
"""

import logging
import math
import os
import random
import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from methods.parts.run import Run
from methods.parts.stages import Snapshot


def any_of_them(job: Mapping[str, Any], run: Run) -> dict[str, Any]:
    """The body that the job names."""
    bodies = {body.__name__: body for body in (walk, nothing, leave_thread, poll, stick, build)}
    return bodies[job.get("body", "walk")](job, run)


def walk(job: Mapping[str, Any], run: Run) -> dict[str, Any]:
    """Counts its steps in a final stage, checkpoints each, sums the ranks by all_reduce, and tells what it met."""
    config = job["config"]
    steps, score = int(config.get("steps", 3)), _score(config)
    first = _draws()
    seen = globals_seen()
    if config.get("leak"):
        _leak()
    with run.stage("walk", final=True) as stage:
        snapshot = stage.resume()
        start = int(str(snapshot.values["step"])) if snapshot else 0
        for step in range(start + 1, steps + 1):
            time.sleep(float(config.get("nap_s", 0.0)))
            _crash(config.get("crash", ""), step, run, Path(job["folder"]))
            total = torch.tensor([float(run.rank + 1)], dtype=torch.float64)
            if run.world_size > 1:
                dist.all_reduce(total)
            run.report(step, {"score": score * step / steps, "score_se": 0.001, "sum": total.item()})
            stage.checkpoint(step, Snapshot({"step": step}, {}), ())  # after the report, or a dying driver misses one
            run.poll()
    notes = {**seen, "started_at": start, "draws": first, "seed": run.seed, "world": run.world_size}
    return {"layout": None, "metrics": {"score": score, "score_se": 0.001}, "notes": notes, "model": None}


def nothing(job: Mapping[str, Any], run: Run) -> dict[str, Any]:
    """Trains nothing and reports three times: what is left is the overhead."""
    score = _score(job["config"])
    with run.stage("nothing", final=True):
        for step in (1, 2, 3):
            run.report(step, {"score": score * step / 3, "score_se": 0.0, "loss": 1 - score})
            run.poll()
    return {"layout": None, "metrics": {"score": score, "score_se": 0.0}, "notes": {}, "model": None}


def leave_thread(job: Mapping[str, Any], run: Run) -> dict[str, Any]:
    """Leaves a thread behind that cannot be taken back."""
    threading.Thread(target=time.sleep, args=(5,), name="left behind").start()
    return walk(job, run)


def poll(job: Mapping[str, Any], run: Run) -> dict[str, Any]:
    """Takes small steps for half a minute and reports nothing."""
    for _ in range(1500):
        time.sleep(0.02)
        run.poll()
    return {"layout": None, "metrics": {}, "notes": {}, "model": None}


def stick(job: Mapping[str, Any], run: Run) -> dict[str, Any]:
    """Fails on rank 1 and is stuck on rank 0, outside any collective."""
    if run.rank == 1:
        raise ValueError("planned failure beside a stuck rank")
    time.sleep(120)
    return {}


def build(job: Mapping[str, Any], run: Run) -> dict[str, Any]:
    """Builds something for all, with reports of its own, then walks."""

    def construct(folder: Path, inner: Run) -> None:
        with inner.stage("dig"):
            for step in range(1, 31):
                inner.report(step, {"score": step / 100})
                time.sleep(0.02)

    run.once("pyramid", {"trial": job["folder"]}, construct)
    return walk(job, run)


def refuse_teacher(job: Mapping[str, Any], run: Run) -> dict[str, Any]:
    """Fails whatever it is given."""
    raise ValueError(f"no such {job['kind']}")


def diverge(job: Mapping[str, Any], run: Run) -> dict[str, Any]:
    """Ends with a score that is no number."""
    return {"layout": None, "metrics": {"score": math.nan, "loss": math.inf}, "notes": {}, "model": None}


def _score(config: Mapping[str, Any]) -> float:
    score = float(config.get("score", -1.0))
    if score >= 0:
        return score
    heads = config.get("heads", 1)
    return 0.5 + 0.04 * (heads if isinstance(heads, int) else len(heads)) + 0.03 * int(config.get("layers", 1))


def _draws() -> list[float]:
    """What the generators give first: equal for equal seeds, whatever ran before in this process."""
    return [random.random(), float(np.random.rand()), torch.rand((), dtype=torch.float64).item()]


def globals_seen() -> dict[str, Any]:
    """The global state a trial finds."""
    return {
        "cwd": os.getcwd(),
        "leaked": os.environ.get("LEAKED", ""),
        "threads": torch.get_num_threads(),
        "dtype": str(torch.get_default_dtype()),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "pid": os.getpid(),
    }


def _crash(crash: str, step: int, run: Run, folder: Path) -> None:
    """Dies or raises as told; marks in the trial's folder count how often."""
    how, rank, at, *often = crash.split(":") if crash else ("", "-1", "-1")
    if run.rank != int(rank) or step != int(at):
        return
    marks = folder / "crashes"
    marks.mkdir(parents=True, exist_ok=True)
    number = len(list(marks.iterdir()))
    if number and not often:
        return
    (marks / str(number)).touch()
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "exit":
        raise SystemExit(3)
    raise ValueError(f"planned failure at step {step} on rank {run.rank}")


def _leak() -> None:
    """Changes everything that a trial can change for those after it."""
    os.chdir("/")
    os.environ["LEAKED"] = "yes"
    torch.set_num_threads(torch.get_num_threads() + 1)
    torch.set_default_dtype(torch.float64)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(987)
    logging.getLogger().setLevel(logging.CRITICAL)
