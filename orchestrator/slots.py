"""The slots of a sweep: threads of the driver, each of which keeps one TorchTrainer gang alive.

Slots follow the cluster: where nodes come, slots are added, where they go, slots without a gang are drained first. A
gang that dies is rebuilt by Ray Train; one that cannot even say hello, three times in a row, ends the slot with its
error, because it never will.
"""

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from orchestrator.broker import BrokerActor
from orchestrator.jobqueue import Limits
from orchestrator.rayrun import SlotSettings
from orchestrator.sections import ResourcesSection
from orchestrator.trial import patient
from orchestrator.worker import slot_loop

log = logging.getLogger(__name__)

HEAD = "node:__internal_head__"
"""Resource of Ray's head node; proxies take a share of it, no CPU from the workers, and outlive other nodes."""
RESTARTS = 2
"""Failures of a gang that Ray Train repairs, before the slot asks whether any of its gangs ever said hello."""


def start_broker(limits: Limits) -> Any:  # noqa: ANN401  an actor handle
    """Starts the broker on the head node; it comes back empty when its process dies."""
    actor = ray.remote(BrokerActor)
    options = actor.options(num_cpus=0, resources={HEAD: 0.001}, max_restarts=-1, max_task_retries=0)
    return options.remote(limits)


def _cause(error: Exception) -> str:
    """The last line of an error: Ray Train quotes the traceback of the worker, whose last line says what it was."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


class Slot(threading.Thread):
    """One place where a trial can run."""

    def __init__(self, number: int, launch: Callable[[int], None], num_hellos: Callable[[int], int]) -> None:
        super().__init__(name=f"slot {number}", daemon=True)
        self.number = number
        self.error = ""
        self._launch, self._num_hellos = launch, num_hellos
        self._closing = threading.Event()

    def close(self) -> None:
        """Starts no further gang."""
        self._closing.set()

    def run(self) -> None:
        """Runs gang after gang until closed, or until none of a series of starts came to life."""
        while not self._closing.is_set():
            before = self._hellos()
            try:
                self._launch(self.number)
            except Exception as error:
                if not self._closing.is_set() and self._hellos() == before:
                    log.exception("slot %d: none of its worker groups came up", self.number)
                    self.error = _cause(error)
                    return

    def _hellos(self) -> int:
        try:
            return self._num_hellos(self.number)
        except Exception:  # no broker to ask, so no hello either
            return -1


class Slots:
    """All slots of a sweep; `resize` follows the cluster."""

    def __init__(
        self,
        broker: Any,  # noqa: ANN401  an actor handle
        resources: ResourcesSection,
        settings: SlotSettings,
        scratch: Path,
    ) -> None:
        self._broker, self._resources, self._settings, self._scratch = broker, resources, settings, scratch
        self._ask = patient(broker)
        self._live: dict[int, Slot] = {}
        self._gone: list[Slot] = []
        self._next = 0

    def __len__(self) -> int:
        return len(self._working())

    def _working(self) -> dict[int, Slot]:
        """The slots that have not given up."""
        return {number: slot for number, slot in self._live.items() if not slot.error}

    def resize(self, num_slots: int) -> bool:
        """Starts or drains slots; true if there are more than before. One that gave up is not replaced."""
        wanted = num_slots - (len(self._live) - len(self))
        grown = len(self) < wanted
        while len(self) < wanted:
            slot = Slot(self._next, self._launch, self._num_hellos)
            self._live[self._next] = slot
            self._next += 1
            slot.start()
        serving = self._ask("status")["slots"]
        spare = sorted(self._working(), key=lambda number: (number in serving, serving.get(number, "") != "", -number))
        for number in spare[: max(0, len(self) - max(wanted, 0))]:
            self._drain(number)
        return grown

    def error(self) -> str:
        """What the workers said if no slot could start any; empty as long as one may still serve."""
        return "" if self._working() else next((slot.error for slot in self._live.values()), "")

    @property
    def busy(self) -> bool:
        """Whether a slot's thread still runs."""
        return any(slot.is_alive() for slot in (*self._live.values(), *self._gone))

    def close(self, wait_s: float) -> None:
        """Sends all gangs away and waits for them."""
        for number in list(self._live):
            self._drain(number)
        for slot in self._gone:
            slot.join(wait_s)

    def _drain(self, number: int) -> None:
        slot = self._live.pop(number)
        slot.close()
        self._ask("drain", number)
        self._gone.append(slot)

    def _num_hellos(self, number: int) -> int:
        return int(self._ask("status")["hellos"].get(number, 0))

    def _launch(self, number: int) -> None:
        """Runs one TorchTrainer to its end: drained, retired, or failed for good."""
        wanted = self._resources
        per_worker = {"CPU": wanted.cpus, **({"GPU": wanted.gpus} if wanted.gpus else {})}
        TorchTrainer(
            slot_loop,
            train_loop_config={"broker": self._broker, "slot": number, "settings": self._settings},
            scaling_config=ScalingConfig(
                num_workers=wanted.workers, use_gpu=wanted.gpus > 0, resources_per_worker=per_worker
            ),
            run_config=RunConfig(
                name=f"slot-{number}",
                storage_path=str(self._scratch),
                failure_config=FailureConfig(max_failures=RESTARTS, controller_failure_limit=RESTARTS),
            ),
        ).fit()
