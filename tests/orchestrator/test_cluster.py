"""Cluster files become nodes; the room for trials is arithmetic, and what does not fit is told in numbers."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tests.strategies  # noqa: F401  its hypothesis profile
from orchestrator.cluster import Cluster, Node, available_cpus, load_cluster, this_machine
from orchestrator.errors import SpecError
from orchestrator.sections import ResourcesSection
from tests.conftest import ROOT


def needs(workers: int = 1, cpus: float = 1, gpus: float = 0) -> ResourcesSection:
    return ResourcesSection(workers=workers, cpus=cpus, gpus=gpus)


def machines(*nodes: tuple[float, float]) -> Cluster:
    return Cluster(name="test", nodes=tuple(Node(cpus=cpus, gpus=gpus) for cpus, gpus in nodes))


@pytest.mark.parametrize(
    ("nodes", "resources", "trials"),
    [
        ([(4, 0)], needs(), 4),
        ([(4, 0)], needs(workers=2), 2),
        ([(4, 0)], needs(workers=3), 1),
        ([(3, 0), (3, 0)], needs(cpus=2), 2),
        ([(3, 0), (3, 0)], needs(workers=2, cpus=2), 1),
        ([(3, 0), (3, 0)], needs(cpus=4), 0),
        ([(8, 2)], needs(gpus=1), 2),
        ([(8, 2), (8, 0)], needs(gpus=1), 2),
        ([(1, 4)], needs(gpus=1), 1),
        ([(8, 2)], needs(gpus=0.5), 4),
        ([(8, 1)], needs(gpus=0.4), 2),
        ([(8, 2)], needs(gpus=0.6), 2),
        ([(8, 3)], needs(gpus=2), 1),
        ([(2, 0)], needs(cpus=0.1), 20),
        ([(1, 0)], needs(cpus=0.3), 3),
    ],
)
def test_room_is_counted_worker_by_worker(
    nodes: list[tuple[float, float]], resources: ResourcesSection, trials: int
) -> None:
    cluster = machines(*nodes)
    assert cluster.num_trials(resources) == trials
    assert (cluster.misfit(resources) == "") == (trials > 0)


@given(
    st.lists(st.tuples(st.integers(0, 16), st.integers(0, 8)), min_size=1, max_size=4),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(0, 2),
)
def test_no_node_is_ever_overbooked(nodes: list[tuple[float, float]], workers: int, cpus: int, gpus: int) -> None:
    resources = needs(workers, cpus, gpus)
    for cpu, gpu in nodes:
        room = machines((cpu, gpu)).num_workers(resources)
        assert room * cpus <= cpu
        assert room * gpus <= gpu
        assert (room + 1) * cpus > cpu or (room + 1) * gpus > gpu
    rooms = [machines(node).num_workers(resources) for node in nodes]
    assert machines(*nodes).num_workers(resources) == sum(rooms)


def test_a_misfit_is_told_in_numbers() -> None:
    text = machines((4, 0), (4, 0), (2, 1)).misfit(needs(workers=3, cpus=2, gpus=1))
    assert text == (
        "a trial needs 3 workers of 2 CPUs and 1 GPUs each; cluster 'test' has 2 nodes with 4 CPUs and 0 GPUs + "
        "1 node with 2 CPUs and 1 GPUs, room for 1 such workers"
    )


def test_the_shipped_file_is_this_machine() -> None:
    assert load_cluster(ROOT / "clusters" / "local.yaml") == load_cluster() == this_machine()
    assert this_machine().cpus >= 1


def test_a_part_of_a_machine(tmp_path: Path) -> None:
    path = tmp_path / "half.yaml"
    path.write_text("kind: local\ncpus: 1\ngpus: 0\n")
    assert load_cluster(path) == Cluster(name="half", nodes=(Node(cpus=1, gpus=0),))


def test_json_brings_back_an_equal_cluster() -> None:
    cluster = machines((4, 1), (2, 0))
    assert Cluster.from_json(json.loads(json.dumps(cluster.to_json()))) == cluster
    assert (cluster.cpus, cluster.gpus) == (6, 1)


@pytest.mark.parametrize(
    ("quota", "most"), [("max 100000", 10**6), ("100000 100000", 1), ("50000 100000", 1), ("250000 100000", 2)]
)
def test_the_quota_of_a_container_counts(tmp_path: Path, quota: str, most: int) -> None:
    (tmp_path / "cpu.max").write_text(f"{quota}\n")
    unlimited = available_cpus(tmp_path / "none")
    assert available_cpus(tmp_path / "cpu.max") == min(unlimited, most)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("kind: locale\n", "c.yaml:1: kind: found \"locale\"; allowed: local; did you mean 'local'?"),
        ("cpus: 2\n", "c.yaml:1: kind: found null; allowed: local"),
        ("kind: local\ncpu: 2\n", "c.yaml:2: cpu: no such key; allowed: kind, cpus, gpus; did you mean 'cpus'?"),
        ("kind: local\ncpus: 0\n", "c.yaml:2: cpus: found 0; auto or a whole number of at least 1 is due"),
        ("kind: local\ncpus: two\n", 'c.yaml:2: cpus: found "two"; auto or a whole number'),
        ("kind: local\ngpus: -1\n", "c.yaml:2: gpus: found -1; auto or a whole number of at least 0 is due"),
        ("kind: local\ncpus: true\n", "c.yaml:2: cpus: found true"),
        ("cluster_name: x\navailable_node_types: {}\n", "c.yaml:2: available_node_types: this is a cluster file for"),
        ("apiVersion: ray.io/v1\nkind: RayCluster\n", "c.yaml:1: apiVersion: this is a cluster file for Kubernetes"),
        ("", "c.yaml: the file is empty"),
    ],
)
def test_a_wrong_file_is_refused_with_its_line(tmp_path: Path, text: str, line: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(SpecError) as caught:
        load_cluster(path)
    assert len(caught.value.problems) == 1
    assert line in caught.value.problems[0]
