"""A hub that is not there is told at once, and one that answers is left to the hub's own client."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from orchestrator.hubcache import check_data_reachable, check_reachable, tokenizer_at_hand
from tests.conftest import ROOT

ASK = """
import sys
from orchestrator.hubcache import check_data_reachable, check_reachable
for check, name in ((check_reachable, "bert-base-uncased"), (check_data_reachable, "sst2")):
    try:
        check(name)
    except ValueError as error:
        print(error)
"""


def ask(endpoint: str, home: Path) -> subprocess.CompletedProcess[str]:
    """Looks for a checkpoint and a data set in a process that believes the hub to be elsewhere."""
    env = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(home)}
    env.pop("HF_HUB_OFFLINE", None)
    command = [sys.executable, "-c", ASK]
    return subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=100, check=True)


@pytest.mark.process
def test_no_hub_is_one_line_within_seconds(tmp_path: Path) -> None:
    began_s = time.monotonic()
    lines = ask("http://127.0.0.1:9", tmp_path).stdout.splitlines()
    assert time.monotonic() - began_s < 30, "two seconds, and the start of the process"
    nowhere = "nothing in the hub's cache, and no answer from http://127.0.0.1:9: "
    assert [line[: line.index(nowhere)] for line in lines] == [
        "bert-base-uncased: found no such folder, ",
        "sst2: found no `data`, ",
    ]


class Unknown(BaseHTTPRequestHandler):
    """A hub that knows nothing."""

    def do_HEAD(self) -> None:
        self.send_response(404)
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        """Says nothing."""


@pytest.fixture
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Unknown)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.process
def test_a_hub_that_answers_is_not_judged(hub: str, tmp_path: Path) -> None:
    assert ask(hub, tmp_path).stdout == ""


def test_a_folder_needs_no_hub(tmp_path: Path) -> None:
    for name in (str(tmp_path), str(tmp_path / "nowhere"), "./nowhere"):
        check_reachable(name)
    check_data_reachable("agreement")


def test_a_tokenizer_is_found_where_it_lies(tmp_path: Path) -> None:
    assert tokenizer_at_hand("") is None
    assert tokenizer_at_hand(str(tmp_path)) is None
    (tmp_path / "vocab.txt").touch()
    assert tokenizer_at_hand(str(tmp_path)) == tmp_path
    assert tokenizer_at_hand("no-such/model-of-this-name") is None
    assert tokenizer_at_hand("no name of a model") is None
