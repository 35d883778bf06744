"""The inside of a slot: every rank of a long-lived Ray Train gang takes job after job from the broker.

Control and data go different ways. What to do comes from the broker, to each rank by itself, so a broken collective can
never leave the ranks with different jobs. What ranks exchange while training goes through a process group made for one
attempt and destroyed after it, from a key-value store that rank 0 opens once.

A rank that fails says so to the broker first and leaves the process group second: the other order lets its peers,
thrown out of their collectives, be recorded as the cause.
"""

import importlib
import itertools
import json
import logging
import traceback
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import ray
import ray.train
import ray.train.collective
import ray.train.torch
import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]  # not in its __all__

from methods.parts.run import Run, Stopped
from orchestrator.broker import Ask, until_answered
from orchestrator.guard import Guard
from orchestrator.jobqueue import LOST, QUIT
from orchestrator.logfile import logged
from orchestrator.rayrun import Abandoned, Beats, Post, RayRun, Seat, SlotSettings, describe

log = logging.getLogger(__name__)

Body = Callable[[Mapping[str, Any], Run], Mapping[str, Any]]
"""What a slot does with a job: JSON in, JSON out."""


def slot_loop(config: Mapping[str, Any]) -> None:
    """Serves a slot until the broker sends the gang away; runs on every rank of a TorchTrainer.

    Raises:
        Abandoned: the broker gave this gang up; Ray Train starts another.
    """
    settings: SlotSettings = config["settings"]
    broker = config["broker"]
    body = resolve(settings.body)

    def ask(verb: str, *arguments: Any) -> Any:  # noqa: ANN401
        return ray.get(broker.ask.remote(verb, *arguments))

    torch.set_num_threads(settings.num_threads)
    seat = join(ask, int(config["slot"]))
    beats = Beats(ask, seat, settings)
    beats.start()
    try:
        serve(ask, seat, beats, body, settings)
    finally:
        beats.close()


def resolve(dotted: str) -> Body:
    """The function of that name, `module:function`."""
    module, _, name = dotted.partition(":")
    body: Body = getattr(importlib.import_module(module), name)
    return body


def join(ask: Ask, slot: int) -> Seat:
    """Takes this rank's place: rank 0 opens the gang's store and says hello, the others hear of it from Ray Train."""
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    if dist.is_initialized():
        dist.destroy_process_group()
    store, card = None, None
    if rank == 0:
        host = ray.util.get_node_ip_address()
        store = TCPStore(host, 0, is_master=True, wait_for_workers=False) if world > 1 else None
        card = {"gang": uuid.uuid4().hex, "host": host, "port": store.port if store else 0}
        ask("hello", slot, card["gang"], world)
    card = ray.train.collective.broadcast_from_rank_zero(card)
    if rank > 0:
        store = TCPStore(card["host"], card["port"], is_master=False)
    device = ray.train.torch.get_device()
    return Seat(slot=slot, gang=card["gang"], rank=rank, world=world, device=device, store=store)


def serve(ask: Ask, seat: Seat, beats: Beats, body: Body, settings: SlotSettings) -> None:
    """Takes and runs jobs, one after the other."""
    guard = Guard(settings.jobs_per_gang, settings.rss_growth_bytes)
    for number in itertools.count():
        order = until_answered(ask, "take", seat.slot, seat.gang, number)
        if order == QUIT:
            return
        if order == LOST:
            raise Abandoned(f"slot {seat.slot}: the broker has given up this worker group")
        post = Post(order["trial"], order["attempt"], order["payload"], seat, beats, ask)
        beats.job = (post.trial, post.attempt)
        _work(post, body, guard, settings)
        beats.job, beats.building = ("", ""), None


def _work(post: Post, body: Body, guard: Guard, settings: SlotSettings) -> None:
    """Runs one attempt of a job and tells how it ended, before anything of it is torn down."""
    seat = post.seat
    _enter(post)
    guard.begin(int(post.payload.get("seed", 0)))
    path = settings.folder.log(post.trial)
    with logged(path, f"rank {seat.rank}"):
        ending = _ending(post, body, settings)
    if changed := guard.restore():
        log.info("%s: put back: %s", post.trial, ", ".join(changed))
    ending["retire"] = guard.retire()
    post.ask("finish", post.trial, post.attempt, seat.rank, {**ending, "log": str(path)})
    if dist.is_initialized():
        dist.destroy_process_group()


def _ending(post: Post, body: Body, settings: SlotSettings) -> dict[str, Any]:
    """Runs the body; whatever it raises ends the trial and not the gang."""
    try:
        result = dict(body(post.payload, RayRun(post, settings)))
        return {"status": "done", "result": json.loads(json.dumps(result))}
    except Stopped:
        return {"status": "stopped"}
    except BaseException as error:
        log.error("%s: rank %d failed\n%s", post.trial, post.seat.rank, traceback.format_exc())
        return {"status": "failed", "error": describe(error)}


def _enter(post: Post) -> None:
    """Makes the default process group of this attempt; a rank on its own needs none."""
    seat = post.seat
    if seat.store is None:
        return
    backend = "cpu:gloo,cuda:nccl" if seat.device.type == "cuda" else "gloo"
    store = PrefixStore(f"{post.trial}/{post.attempt}", seat.store)
    dist.init_process_group(backend, store=store, rank=seat.rank, world_size=seat.world)
