"""Designs and refusals, and how much of a space is feasible."""

import dataclasses
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from methods.parts.layout import Layout
from methods.parts.selection import Selection, merged_all
from orchestrator.space import Sample, Scalar, Space, draw, grid

MOST_LISTED = 3000
"""Spaces up to this size are counted design by design."""
NUM_DRAWN = 300
"""Designs drawn to estimate how much of a larger space is feasible."""


KNOWLEDGE = "knowledge_bytes"
"""The cost that belongs to the training and not to the model."""


def layout_costs(layout: Layout, length: int, knowledge_bytes: float = 0) -> dict[str, float]:
    """What a design costs.

    Args:
        layout: of the model it ends with.
        length: tokens at which FLOPs are counted.
        knowledge_bytes: predicted size on disk of the teacher outputs that its trial stores, 0 without.

    Returns:
        `params`; `bytes` (fp32); `flops` of one forward pass; `knowledge_bytes`.
    """
    model = {"params": layout.params(), "bytes": layout.bytes(), "flops": layout.flops(length)}
    return {**model, KNOWLEDGE: knowledge_bytes}


@dataclass(frozen=True, kw_only=True, slots=True)
class Design:
    """A sample made complete: everything a worker needs to run it, and what it will cost."""

    method: str
    sample: Sample
    config: Mapping[str, Any]
    """Every field of the method's Config, as JSON values."""
    layout: Layout
    costs: Mapping[str, float]
    """See `layout_costs`."""
    key: str
    """Hash of method, configuration, task and teacher; equal keys are equal designs."""
    knowledge: Selection | None = None
    """What of the teacher's outputs its trial would store."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """A sample that will not run, and why."""

    method: str
    sample: Sample
    reason: str
    layout: Layout | None = None
    costs: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Feasible:
    """How much of a method's space is possible and within the budget."""

    total: float
    """Samples in the space; infinite with a range of real numbers."""
    tried: int
    fitting: int
    smallest: Design | None
    """The fewest parameters among the tried."""
    refusal: str
    """One reason for which a sample was refused, or nothing."""
    knowledge: tuple[float, ...] = ()
    """Predicted bytes of stored knowledge of each feasible design among the tried."""
    selections: tuple[Selection, ...] = ()
    """Few selections that cover what these designs would store."""

    @property
    def exact(self) -> bool:
        """Whether every sample was tried."""
        return self.tried == self.total

    def describe(self) -> str:
        """Says in words how many samples are feasible."""
        if self.exact:
            return f"{self.fitting} of {self.tried} designs feasible"
        size = "a continuous space" if self.total == math.inf else f"{self.total:.0f} designs"
        return f"about {100 * self.fitting / self.tried:.0f} % of {size} feasible ({self.tried} drawn)"


def complete(space: Space, start: Sample, rng: random.Random | None = None) -> dict[str, Scalar]:
    """Fills the gaps of a partial sample with drawn values."""
    return draw(space, rng or random.Random(0), start)


def estimate(space: Space, starts: Sequence[Sample], resolve: Callable[[Sample], Design | Refusal]) -> Feasible:
    """Resolves all samples of a small space, or the start points and some drawn ones of a large space."""
    size, rng = space.size(), random.Random(0)
    samples = [*grid(space)] if size <= MOST_LISTED else [complete(space, start, rng) for start in starts]
    if size > MOST_LISTED:
        samples += [draw(space, rng) for _ in range(NUM_DRAWN)]
    resolved = [resolve(sample) for sample in samples]
    designs = [design for design in resolved if isinstance(design, Design)]
    refusals = [refusal for refusal in resolved if isinstance(refusal, Refusal)]
    # The cheapest refusal names the distance to the budget; one without costs is an impossible design.
    closest = min(refusals, key=lambda refusal: refusal.costs.get("params", math.inf), default=None)
    return Feasible(
        total=size,
        tried=len(samples),
        fitting=len(designs),
        smallest=min(designs, key=lambda design: design.costs["params"], default=None),
        refusal=closest.reason if closest else "",
        knowledge=tuple(design.costs[KNOWLEDGE] for design in designs),
        selections=merged_all({design.knowledge: None for design in designs if design.knowledge}),
    )
