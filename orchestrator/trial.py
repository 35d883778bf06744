"""One Tune trial: a thin proxy that hands a job to a slot and relays what comes back.

The proxy does no work and holds no state that matters. A trial that fails is a result like any other (raising here
would cost Tune a process); what a result means is decided by the driver, which alone writes records.
"""

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import ray
from ray import tune
from ray.exceptions import RayActorError

from orchestrator.broker import Ask, until_answered
from orchestrator.jobqueue import GONE, MESSAGE, Position

BROKER_AWAY_S = 120.0
"""How long a proxy waits for a broker that is being restarted, s."""


def relay(ask: Ask, trial: str, payload: Mapping[str, Any], at: Position, deliver: Callable[[Any], None]) -> None:
    """Hands a job in and delivers its messages until the last; the job ends with this call, however it ends.

    Args:
        ask: The line to the broker.
        trial: Its name.
        payload: What the slot's body is given.
        at: Position of the last report that is known already.
        deliver: Takes a message; when it returns, the job may go on, when it raises, the job is stopped.
    """
    try:
        number = until_answered(ask, "submit", trial, payload, at)
        while True:
            message = until_answered(ask, "recv", trial, number)
            if message == GONE:
                number = until_answered(ask, "submit", trial, payload, at)
                continue
            number, at = number + 1, message.get("at", at)
            deliver(message)
            if "end" in message:
                return
    finally:
        ask("end", trial)


def patient(broker: Any, wait_s: float = BROKER_AWAY_S) -> Ask:  # noqa: ANN401  an actor handle
    """A line to the broker that outlasts its restart; a new broker says "gone", and the job is handed in again."""

    def ask(verb: str, *arguments: Any) -> Any:  # noqa: ANN401
        until_s = time.monotonic() + wait_s
        while True:
            try:
                return ray.get(broker.ask.remote(verb, *arguments))
            except RayActorError:
                if time.monotonic() > until_s:
                    raise
                time.sleep(0.5)

    return ask


def proxy(config: Mapping[str, Any], broker: Any = None) -> None:  # noqa: ANN401  an actor handle
    """The function that Tune calls for a trial; a decision to stop arrives inside `tune.report` and ends it."""
    job = json.loads(config["job"])
    at = (int(job["at"][0]), int(job["at"][1]))
    relay(
        patient(broker), job["trial"], job["payload"], at, lambda message: tune.report({MESSAGE: json.dumps(message)})
    )
