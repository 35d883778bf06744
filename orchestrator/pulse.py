"""The driver's heartbeat, once a second, and the status file that it writes."""

import json
import logging
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.front import front, value
from orchestrator.ledger import Ledger, Live
from orchestrator.records import TEACHER, write_text
from orchestrator.status import FILE

log = logging.getLogger(__name__)

EVERY_S = 1.0


class Pulse(threading.Thread):
    """Calls `beat` every second until closed; an error in it is logged, and the next beat tries again."""

    def __init__(self, beat: Callable[[], None]) -> None:
        super().__init__(name="pulse", daemon=True)
        self._beat = beat
        self._closed = threading.Event()

    def run(self) -> None:
        """Beats."""
        while not self._closed.wait(EVERY_S):
            try:
                self._beat()
            except Exception:
                log.exception("a beat of the driver failed")

    def close(self) -> None:
        """Ends after the present beat."""
        self._closed.set()
        if self.is_alive():
            self.join(10 * EVERY_S)


def write_status(ledger: Ledger, state: str, reason: str, broker: Mapping[str, Any], num_slots: int) -> None:
    """Puts what is known now where others read it.

    Args:
        ledger: The driver's memory.
        state: `starting`, `running`, `stopping`, `complete`, `stopped` or `failed`.
        reason: Why, in words; may be empty.
        broker: The broker's status; empty if there is none.
        num_slots: How many trials run at a time.
    """
    status = {"state": state, "reason": reason, **snapshot(ledger, broker, num_slots)}
    write_text(ledger.folder.file(FILE), json.dumps(status, indent=1) + "\n")


def snapshot(ledger: Ledger, broker: Mapping[str, Any], num_slots: int) -> dict[str, Any]:
    """What runs, waits and why, failed and why, is done and to come, the time left, and the front so far."""
    with ledger.lock:
        records, live = dict(ledger.records), dict(ledger.live)
    spec = ledger.plan.spec
    students = [record for record in records.values() if record.trial != TEACHER]
    counts = Counter(record.status for record in students)
    begun = counts["done"] + counts["stopped"] + counts["failed"] + len(live.keys() - {TEACHER})
    to_come = max(0, spec.search.trials - begun)
    serving = {trial: slot for slot, trial in broker.get("slots", {}).items() if trial}
    now = time.time()
    return {
        "updated_s": now,
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "planned": spec.search.trials,
        **{status: counts[status] for status in ("done", "stopped", "failed", "refused")},
        "to_come": to_come,
        "slots": num_slots,
        "quota_bytes": ledger.plan.quota_bytes,
        "running": [_running(trial, live[trial], serving[trial], broker) for trial in live if trial in serving],
        "waiting": [{"trial": trial, "why": _why(broker, num_slots)} for trial in live if trial not in serving],
        "failures": [{"trial": one.trial, "reason": one.reason} for one in students if one.status == "failed"],
        "eta_s": _eta_s(
            [record.wall_s for record in students if record.wall_s and record.status != "refused"],
            [now - item.started_s for item in live.values()],
            to_come,
            num_slots,
        ),
        "front": [
            {"trial": record.trial, **{name: value(record, name) for name in spec.objectives}}
            for record in front(students, spec.objectives)
        ],
    }


def _running(trial: str, live: Live, slot: int, broker: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "trial": trial,
        "method": live.design.method,
        "slot": slot,
        "attempt": broker["attempts"].get(trial, 1),
        "stage": live.stage,
        "building": live.building,
        "step": max(0, live.at[1]),
        "score": live.curve.last.get("score"),
        "since_s": live.started_s,
    }


def _why(broker: Mapping[str, Any], num_slots: int) -> str:
    """Why a trial that has been launched is not served."""
    missing = num_slots - len(broker.get("slots", {}))
    return f"{missing} of {num_slots} slots are starting their workers" if missing > 0 else "every slot is busy"


def _eta_s(walls: list[float], running: list[float], to_come: int, num_slots: int) -> float | None:
    """Seconds to the end, guessed from the trials that have ended; None before the first has."""
    if not walls:
        return None
    mean = sum(walls) / len(walls)
    left = sum(max(0.0, mean - spent) for spent in running) + mean * to_come
    return left / max(1, num_slots)
