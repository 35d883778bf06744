"""The driver's hold on Ray, in a process of its own: whatever it leaves behind, its exit code is its own."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.orchestrator.clusters import environment

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

HEAD = """
import sys, threading, time
from pathlib import Path
import ray
from orchestrator.cli import leave
from orchestrator.cluster import Cluster, Node
from orchestrator.session import ray_up

CLUSTER = Cluster(name="one", nodes=(Node(cpus=1.0),))
"""
LITTERING = """
def litter(references):
    while references:
        for reference in (references.pop(), *[None] * 99):
            knot = [reference]
            knot.append(knot)  # only a collection of garbage ends it, and this thread will be the one that collects
        time.sleep(1e-3)

with ray_up(CLUSTER, Path(sys.argv[1])):
    references = [ray.put(number) for number in range(4_000)]
    threading.Thread(target=litter, args=(references,), daemon=True).start()
    time.sleep(0.1)
assert references, "all was collected before Ray went down: nothing was tested"
print("the end")
"""

ASKING = """
@ray.remote(num_cpus=0)
class Never:
    def answer(self):
        time.sleep(3600)

def ask(never):
    while True:
        try:
            ray.get(never.answer.remote(), timeout=0.1)
        except Exception:
            continue

with ray_up(CLUSTER, Path(sys.argv[1]), in_use=lambda: True):
    for _ in range(8):
        threading.Thread(target=ask, args=(Never.remote(),), daemon=True).start()
    time.sleep(5)
print("the end")
leave(7)
"""


def driver(script: str, folder: Path) -> tuple[int, str, str]:
    """Runs a driver to its end."""
    with environment() as around:
        command = [sys.executable, "-c", HEAD + script, str(folder / "ray.log")]
        ended = subprocess.run(command, env=around, capture_output=True, text=True, timeout=200, check=False)
    return ended.returncode, ended.stdout, ended.stderr


def test_garbage_that_another_thread_collects_while_ray_goes_down_does_not_end_the_process(tmp_path: Path) -> None:
    code, told, error = driver(LITTERING, tmp_path)
    assert (code, told) == (0, "the end\n"), error


def test_a_thread_that_still_asks_ray_does_not_change_the_exit_code(tmp_path: Path) -> None:
    code, told, error = driver(ASKING, tmp_path)
    assert (code, told) == (7, "the end\n"), error
