"""Plans over the toys, made from sweep files as users write them."""

from pathlib import Path
from typing import Any

from orchestrator.cluster import Cluster, Node
from orchestrator.plan import Plan, make_plan
from orchestrator.spec import load_spec
from orchestrator.yamlfile import dump

TOYS = "tests.doubles.toys"

SWEEP: dict[str, Any] = {
    "name": "toy",
    "task": {"name": "agreement", "limit": 100},
    "teacher": {
        "architecture": {"layers": 4, "heads": 4, "hidden": 32, "ffn_dim": 64, "positions": 64},
        "finetune": {"epochs": 1},
    },
    "method": "walker",
    "space": {"heads": {"int": [1, 4]}, "layers": {"int": [1, 4]}},
    "search": {"trials": 6},
    "stop": {"rule": "none"},
}


def toy_plan(folder: Path, *, cpus: int = 2, **changes: Any) -> Plan:
    """A plan over the toys; `changes` replace sections of SWEEP, None removes one."""
    data = {key: value for key, value in {**SWEEP, **changes}.items() if value is not None}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "toy.yaml"
    path.write_text(dump(data), encoding="utf-8")
    cluster = Cluster(name="test", nodes=(Node(cpus=cpus),))
    return make_plan(load_spec(path, package=TOYS), cluster, package=TOYS)
