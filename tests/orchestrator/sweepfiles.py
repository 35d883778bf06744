"""Sweep files for tests: a small valid one, and ways to write it down and read it back."""

from pathlib import Path

from orchestrator.errors import SweepError
from orchestrator.plan import Plan, make_plan
from orchestrator.spec import SweepSpec, load_spec

PAPERS = "tests.doubles.papers"

VALID = """\
name: small
task: agreement
teacher:
  architecture: {layers: 4, heads: 4, hidden: 32, ffn_dim: 64, positions: 64}
  finetune: {epochs: 1}
method: shrink
fixed: {recipe: fast}
space:
  heads: {int: [1, 4]}
  layers: {choice: [1, 2, 4]}
  lr: {float: [1.0e-4, 1.0e-2], log: true}
budget: {params: 30K}
search: {trials: 4, start: [{heads: 2, layers: 2}]}
resources: {workers: 1, cpus: 1}
"""


def write(folder: Path, text: str = VALID, name: str = "sweep.yaml") -> Path:
    """Writes a sweep file."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def changed(*changes: tuple[str, str]) -> str:
    """The valid file with pieces replaced; each piece must be there."""
    text = VALID
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new, 1)
    return text


def load(folder: Path, text: str = VALID, *overrides: str) -> SweepSpec:
    """Writes and reads a sweep file, with the methods of the tests."""
    return load_spec(write(folder, text), overrides, package=PAPERS)


def plan(folder: Path, text: str = VALID, *overrides: str) -> Plan:
    """Writes, reads and plans a sweep file."""
    return make_plan(load(folder, text, *overrides), package=PAPERS)


def problems(folder: Path, text: str, *overrides: str) -> list[str]:
    """The complaints about a sweep file, without the folder's name; none if it can be planned."""
    try:
        plan(folder, text, *overrides)
    except SweepError as error:
        return "\n".join(error.lines()).replace(f"{folder}/", "").splitlines()
    return []
