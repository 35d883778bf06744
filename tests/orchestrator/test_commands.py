"""The commands as a user types them, on a real Ray: a tiny sweep from its file to an exported model, and again."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from orchestrator import records
from orchestrator.folder import SweepFolder
from tests.methods.conftest import write_table
from tests.orchestrator.test_cli import SWEEP

ROOT = Path(__file__).resolve().parent.parent.parent

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


class Place:
    """A folder with a sweep file, its data and its sweeps."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        write_table(folder / "data")
        (folder / "tiny.yaml").write_text(SWEEP, encoding="utf-8")
        self.environment = {**os.environ, "CI": "1"}

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Starts `distilsweep`, in a process group of its own."""
        command = [sys.executable, "-m", "orchestrator", *words]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(
            command, cwd=self.folder, env=self.environment, text=True, start_new_session=True, **pipes
        )

    def run(self, *words: str) -> tuple[int, str, str]:
        """Runs `distilsweep` to its end."""
        process = self.start(*words)
        told, error = process.communicate(timeout=500)
        assert "Traceback" not in told + error
        return process.returncode, told, error


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("place"))


def test_a_sweep_from_its_file_to_an_exported_model_and_again(place: Place) -> None:
    code, told, error = place.run("run", "tiny.yaml", "name=quickstart")
    assert code == 0, error
    folder = SweepFolder(place.folder / "sweeps", "quickstart")
    found = {record.trial: record for record in records.read(folder)}
    assert [found[name].status for name in ("teacher", "t0000", "t0001", "t0002")] == ["done"] * 4
    assert len(list(folder.store.glob("teacher-*/manifest.json"))) == 1
    assert "report: " in told
    assert "exported to " in told
    assert folder.file("report.html").stat().st_size > 10_000

    before = {name: record.started_s for name, record in found.items()}
    code, again, error = place.run("run", "tiny.yaml", "name=quickstart")
    assert code == 0, error
    assert again.startswith("quickstart: complete in ")
    assert {record.trial: record.started_s for record in records.read(folder)} == before

    status = json.loads(place.run("status", "quickstart", "--json")[1])
    assert (status["state"], status["done"]) == ("complete", 3)
    picked = json.loads(place.run("pick", "quickstart", "--json")[1])
    assert f"winner: {picked['trial']}" in told
    exported = json.loads(place.run("export", "quickstart", "t0001", "--out", "mine", "--json")[1])
    assert exported["max_difference"] <= 1e-5
    assert (place.folder / "mine" / "model.safetensors").is_file()
    measured = json.loads(place.run("evaluate", "quickstart", "t0001", "--json")[1])
    assert measured["found"] == pytest.approx(measured["recorded"], abs=1e-6)
    assert place.run("report", "quickstart")[0] == 0

    code, _, error = place.run("run", "tiny.yaml", "name=quickstart", "search.trials=4")
    assert code == 2
    assert "--accept-changes" in error
    assert "+  trials: 4" in error
    code, told, error = place.run("run", "tiny.yaml", "name=quickstart", "search.trials=4", "--accept-changes")
    assert code == 0, error
    assert {record.trial for record in records.read(folder)} >= {"t0000", "t0001", "t0002", "t0003"}


def test_the_five_commands_of_the_readme(place: Place) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8").split("## Five more")[1]
    block = text.split("```bash\n")[1].split("```")[0]
    commands = [shlex.split(line, comments=True) for line in block.splitlines()]
    assert [words[:2] for words in commands] == [
        ["distilsweep", name] for name in ("init", "plan", "status", "pick", "ui")
    ]
    for words in commands[:-1]:
        code, told, error = place.run(*words[1:])
        assert code == 0, error
        assert told
    served = place.start(*commands[-1][1:])
    assert served.stdout is not None
    try:
        url = served.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(url, timeout=30) as page:
            assert page.status == 200
    finally:
        served.send_signal(signal.SIGTERM)
        try:
            served.communicate(timeout=60)
        finally:
            served.kill()
    assert served.returncode == 0
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(url, timeout=5)


def test_a_killed_sweep_goes_on_with_the_same_command(tmp_path: Path) -> None:
    place = Place(tmp_path)
    process = place.start("run", "tiny.yaml", "fixed.epochs=40")
    folder = SweepFolder(tmp_path / "sweeps", "tiny")
    until_s = time.monotonic() + 240
    while not list(folder.path.glob("history/t*.jsonl")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until_s, "no trial reported in time"
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert json.loads(folder.file("status.json").read_text())["state"] == "running"
    code, _, error = place.run("run", "tiny.yaml", "fixed.epochs=40")
    assert code == 0, error
    found = records.read(folder)
    assert [record.status for record in found] == ["done"] * 4
    for record in found[1:]:
        lines = [json.loads(line) for line in folder.history(record.trial).read_text().splitlines()]
        positions = [tuple(line["at"]) for line in lines]
        assert positions == sorted(set(positions)), f"{record.trial} has reports twice or out of order"
