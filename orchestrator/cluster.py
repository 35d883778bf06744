"""Where a sweep runs, as a value: nodes with CPUs and GPUs, and how many trials they hold at a time.

A trial's workers may stand on different nodes, one worker never does. What does not fit is told with numbers before
anything starts, because a cluster that is asked for too much waits without a word.
"""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from orchestrator.sections import ResourcesSection
from orchestrator.wording import found, listed, nearest, shown
from orchestrator.yamlfile import Document, read

KEYS = ("kind", "cpus", "gpus")
KINDS = ("local",)
ELSEWHERE = {"available_node_types": "`ray up`", "apiVersion": "Kubernetes"}
"""Keys that give away a cluster file of Ray's own tools."""
AUTO = "auto"
ROUNDING = 1e-9
"""Fractions of a CPU are summed as floats."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """One machine."""

    cpus: float
    gpus: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """Machines that a sweep may use."""

    name: str
    nodes: tuple[Node, ...]

    @property
    def cpus(self) -> float:
        """CPUs of all nodes."""
        return sum(node.cpus for node in self.nodes)

    @property
    def gpus(self) -> float:
        """GPUs of all nodes."""
        return sum(node.gpus for node in self.nodes)

    def num_workers(self, resources: ResourcesSection) -> int:
        """Counts the workers that fit at a time, each on one node."""
        return sum(_room(node, resources) for node in self.nodes)

    def num_trials(self, resources: ResourcesSection) -> int:
        """Counts the trials that fit at a time."""
        return self.num_workers(resources) // resources.workers

    def misfit(self, resources: ResourcesSection) -> str:
        """Says with numbers why not even one trial fits, or nothing."""
        if self.num_trials(resources) > 0:
            return ""
        need = f"{_number(resources.cpus)} CPUs and {_number(resources.gpus)} GPUs"
        return (
            f"a trial needs {resources.workers} workers of {need} each; cluster '{self.name}' has {self.describe()}, "
            f"room for {self.num_workers(resources)} such workers"
        )

    def scarce(self, resources: ResourcesSection) -> str:
        """Names the key of the resources that keeps a trial from fitting: `workers`, `gpus` or `cpus`."""
        if self.num_workers(resources) > 0:
            return "workers"
        return "cpus" if all(node.cpus < resources.cpus for node in self.nodes) else "gpus"

    def describe(self) -> str:
        """Says in words what there is, nodes that are alike together."""
        kinds = {node: self.nodes.count(node) for node in self.nodes}
        return " + ".join(
            f"{count} node{'s' if count > 1 else ''} with {_number(node.cpus)} CPUs and {_number(node.gpus)} GPUs"
            for node, count in kinds.items()
        )

    def to_json(self) -> dict[str, Any]:
        """Returns a JSON-able dict."""
        return {"name": self.name, "nodes": [asdict(node) for node in self.nodes]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Cluster":
        """Reads what `to_json` wrote."""
        return cls(name=data["name"], nodes=tuple(Node(**node) for node in data["nodes"]))


def _room(node: Node, resources: ResourcesSection) -> int:
    """Counts the workers that fit on one node."""
    rooms = [int(node.cpus / resources.cpus + ROUNDING)]
    if resources.gpus > 0:
        rooms.append(_gpu_room(node.gpus, resources.gpus))
    return min(rooms)


def _gpu_room(gpus: float, share: float) -> int:
    """Counts the workers that GPUs hold: a part of a GPU never spans two of them."""
    if share >= 1:
        return int(gpus / share + ROUNDING)
    return int(gpus) * int(1 / share + ROUNDING)


def _number(value: float) -> str:
    return f"{value:g}"


def this_machine(name: str = "local") -> Cluster:
    """Returns the machine this process runs on as a cluster of one node."""
    return Cluster(name=name, nodes=(Node(cpus=available_cpus(), gpus=torch.cuda.device_count()),))


def available_cpus(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Counts the CPUs this process may use: its affinity, and the quota of its container where there is one."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        limit, _, period = quota.read_text(encoding="ascii").strip().partition(" ")
    except OSError:
        return count
    return count if limit == "max" else max(1, min(count, int(limit) // int(period or 100_000)))


def load_cluster(path: Path | None = None) -> Cluster:
    """Reads a cluster file; without one, the cluster is this machine.

    Raises:
        SpecError: the file is wrong; carries every problem found.
    """
    if path is None:
        return this_machine()
    document = read(path)
    if document.data or not document.problems:
        _check(document)
    document.check()
    here = this_machine(path.stem)
    cpus, gpus = document.data.get("cpus", AUTO), document.data.get("gpus", AUTO)
    node = Node(cpus=here.cpus if cpus == AUTO else cpus, gpus=here.gpus if gpus == AUTO else gpus)
    return Cluster(name=path.stem, nodes=(node,))


def _check(document: Document) -> None:
    """Notes what is wrong with a cluster file."""
    data = document.data
    if foreign := [key for key in ELSEWHERE if key in data]:
        text = f"this is a cluster file for {ELSEWHERE[foreign[0]]}; start that cluster with its own tool"
        document.problem((foreign[0],), f"{text}, and give this command a file with kind: local")
        return
    for key in data:
        if key not in KEYS:
            document.problem((key,), f"no such key; allowed: {listed(KEYS)}{nearest(key, KEYS)}")
    kind = data.get("kind")
    if kind not in KINDS:
        document.problem(("kind",), f"found {shown(kind)}; allowed: {listed(KINDS)}{nearest(kind, KINDS)}")
    for key, least in (("cpus", 1), ("gpus", 0)):
        value = data.get(key, AUTO)
        whole = isinstance(value, int) and not isinstance(value, bool) and value >= least
        if value != AUTO and not whole:
            document.problem((key,), found(value, f"auto or a whole number of at least {least}"))
