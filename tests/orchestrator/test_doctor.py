"""The doctor looks at real things and says what to do about those that are not well."""

import tomllib
from pathlib import Path

import pytest

from orchestrator import doctor
from orchestrator.doctor import FLOORS, GIB, check, numbers
from tests.conftest import ROOT


def rows(root: Path) -> dict[str, doctor.Check]:
    return {row.name: row for row in check(root)}


def test_this_machine_is_looked_at_and_nothing_is_made(tmp_path: Path) -> None:
    root = tmp_path / "not" / "yet"
    found = rows(root)
    assert {*FLOORS, "python", "cpu", "memory", "shared memory", "gpu", "sweeps folder", "disk"} == found.keys()
    assert all(found[name].ok for name in ("python", "torch", "ray", "optuna", "mlflow", "transformers"))
    assert found["sweeps folder"].ok
    assert list(tmp_path.iterdir()) == []


def test_a_cure_is_given_exactly_where_one_is_needed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for root in (tmp_path, tmp_path / "file" / "below", Path("/proc/nowhere")):
        for row in check(root):
            assert bool(row.cure) != row.ok, row
    assert not rows(Path("/proc/nowhere"))["sweeps folder"].ok
    assert "--folder" in rows(Path("/proc/nowhere"))["sweeps folder"].cure


def test_a_missing_or_old_package_is_named_with_the_command_that_helps() -> None:
    row = doctor._package("no-such-package-at-all", "1.2")
    assert (row.found, row.ok, row.cure) == ("not installed", False, "pip install 'no-such-package-at-all>=1.2'")
    assert doctor._package("pytest", "999.0").cure == "pip install --upgrade 'pytest>=999.0'"
    assert doctor._package("pytest", "1.0").ok


def test_little_memory_and_an_old_python_are_told() -> None:
    assert doctor._memory(GIB).cure == "free some memory: at least 4 GiB are needed"
    assert doctor._memory(8 * GIB).ok
    assert doctor._python((3, 10, 4)).cure == "use Python 3.11 or newer"
    assert doctor._shared(Path("/nowhere")).ok


@pytest.mark.parametrize(
    ("version", "parts"),
    [("2.13.0+cpu", (2, 13, 0)), ("5.0rc1", (5, 0)), ("3.11", (3, 11)), ("1.0.dev3", (1, 0)), ("main", ())],
)
def test_versions_compare_by_their_numbers(version: str, parts: tuple[int, ...]) -> None:
    assert numbers(version) == parts


def test_the_floors_are_those_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = dict(line.split(">=") for line in project["dependencies"])
    floors = {name.partition("[")[0]: floor for name, floor in declared.items()}
    assert {name: floors[name] for name in FLOORS} == dict(FLOORS)
    assert project["requires-python"] == ">=" + ".".join(map(str, doctor.PYTHON))
