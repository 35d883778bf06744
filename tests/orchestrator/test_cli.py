"""The command line without Ray: words, JSON, exit codes, and never a traceback."""

import json
import sys
from pathlib import Path

import pytest

from orchestrator import cli, console, records
from orchestrator.errors import SpecError
from orchestrator.folder import SweepFolder
from tests.methods.conftest import write_table
from tests.orchestrator.test_records import record

SWEEP = """
name: tiny
task: {name: weather, data: data, max_length: 16}
teacher:
  architecture: {layers: 2, heads: 2, hidden: 8, ffn_dim: 12, vocab: 48, positions: 20}
  finetune: {epochs: 1, lr: 3.0e-3, batch_size: 16}
method: rosita
fixed: {epochs: 1, batch_size: 16, ffn_dim: 6, layers: 1}
space: {heads: {int: [1, 2]}, embedding_rank: {choice: [4, 6]}}
search: {sampler: random, trials: 3, seed: 0}
stop: {rule: none}
"""


@pytest.fixture
def sweep_file(tmp_path: Path) -> Path:
    write_table(tmp_path / "data")
    path = tmp_path / "tiny.yaml"
    path.write_text(SWEEP, encoding="utf-8")
    return path


class Told:
    """Calls the command line as a shell would, and keeps what it said."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, *words: str | Path) -> tuple[int, str, str]:
        self._monkeypatch.setattr(sys, "argv", ["distilsweep", *map(str, words)])
        try:
            cli.main()
            code = 0
        except SystemExit as ending:
            code = int(ending.code or 0)
        said = self._capsys.readouterr()
        assert "Traceback" not in said.out + said.err
        return code, said.out, said.err


@pytest.fixture
def distilsweep(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Told:
    return Told(monkeypatch, capsys)


def test_a_doctor_with_a_complaint_ends_with_1(distilsweep: Told) -> None:
    code, said, _ = distilsweep("doctor", "--folder", "/dev/null/sweeps")
    assert code == 1
    assert "NO " in said


def test_methods_are_listed(distilsweep: Told) -> None:
    assert distilsweep("methods") == (0, "dynabert\nfinetune\nhsk\nlad\nrosita\ntinybert\nwid\n", "")
    assert json.loads(distilsweep("methods", "--json")[1]) == [
        "dynabert",
        "finetune",
        "hsk",
        "lad",
        "rosita",
        "tinybert",
        "wid",
    ]


def test_init_copies_a_shipped_file_and_overwrites_nothing(
    distilsweep: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert distilsweep("init", "quickstart")[0] == 0
    code, _, error = distilsweep("init", "quickstart")
    assert (code, error) == (2, "quickstart.yaml: exists already; name another file\n")
    code, _, error = distilsweep("init", "quikstart")
    assert code == 2
    assert "there are: " in error
    assert "did you mean 'quickstart'?" in error
    assert distilsweep("init", "quickstart", "other.yaml")[0] == 0
    assert distilsweep("validate", "other.yaml")[0] == 0


def test_plan_and_validate_tell_what_will_run(distilsweep: Told, sweep_file: Path) -> None:
    code, told, _ = distilsweep("plan", sweep_file, "budget.params=1K")
    assert code == 0
    assert "params <= 1,000" in told
    planned = json.loads(distilsweep("plan", sweep_file, "--json")[1])
    assert planned["trials"] == 3
    assert distilsweep("validate", sweep_file)[1].endswith("in order (tiny)\n")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("validate", "FILE", "space.widht={int: [1, 2]}"), "widht"),
        (("plan", "FILE", "budget.params=0"), "budget.params"),
        (("plan", "FILE", "budget.params=10"), "no design of rosita is feasible"),
        (("run", "FILE", "resources.workers=500"), "500 workers"),
        (("validate", "nowhere.yaml"), "nowhere.yaml: cannot be read"),
        (("status", "nowhere"), "no sweep named 'nowhere'"),
        (("export", "../x", "t0000"), "is not a sweep's name"),
        (("validate",), "Missing argument"),
        (("frobnicate",), "No such command"),
        (("run", "FILE", "--colour"), "No such option"),
    ],
)
def test_what_is_wrong_is_one_clear_line_and_exit_code_2(
    distilsweep: Told, sweep_file: Path, tmp_path: Path, words: tuple[str, ...], says: str
) -> None:
    folder = () if words[0] in ("validate", "plan", "frobnicate") else ("--folder", tmp_path / "sweeps")
    code, told, error = distilsweep(*(str(sweep_file) if word == "FILE" else word for word in words), *folder)
    assert code == 2
    assert told == ""
    assert says in error
    assert len(error.splitlines()) == 1


def test_an_unforeseen_failure_is_one_line_with_the_path_of_its_log(
    distilsweep: Told, sweep_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("the sky fell")

    monkeypatch.setattr(cli, "planned", broken)
    code, _, error = distilsweep("plan", sweep_file)
    assert code == 1
    assert error.startswith("distilsweep failed: the sky fell (traceback: ")
    log = Path(error.strip().removesuffix(")").split("traceback: ")[1])
    assert "RuntimeError: the sky fell" in log.read_text(encoding="utf-8")
    log.unlink()


def test_pick_chooses_from_records(distilsweep: Told, tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path, "sweep")
    for number, (score, params) in enumerate([(0.90, 400.0), (0.89, 200.0), (0.60, 50.0)]):
        records.write(folder, record(f"t{number:04d}", score, params))
    root = ("--folder", tmp_path)
    assert json.loads(distilsweep("pick", "sweep", "--json", *root)[1])["trial"] == "t0000"
    assert distilsweep("pick", "sweep", "--budget", "params=0.3K", *root)[1].startswith("t0001")
    code, _, error = distilsweep("pick", "sweep", "--rule", "bets", *root)
    assert (code, "did you mean 'best'?" in error) == (2, True)
    code, _, error = distilsweep("pick", "sweep", "--budget", "parms=3", *root)
    assert (code, "did you mean 'params'?" in error) == (2, True)
    code, _, error = distilsweep("pick", "sweep", "--budget", "params=3", *root)
    assert (code, "no finished trial satisfies" in error) == (1, True)


def test_stop_leaves_a_request_for_the_driver(distilsweep: Told, tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path, "sweep")
    folder.path.mkdir(parents=True)
    assert distilsweep("stop", "sweep", "--folder", tmp_path)[0] == 0
    assert folder.file("stop").exists()


def test_a_record_is_found_by_name(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path, "sweep")
    records.write(folder, record("t0000"))
    assert console.find_record(folder, "t0000") == record("t0000")
    with pytest.raises(SpecError, match="no trial 't9'; there are: t0000"):
        console.find_record(folder, "t9")
