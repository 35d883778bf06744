"""The command `preprocess`: shards that survive a kill, the blocks of one process, a folder that a sweep file names."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from methods.parts.blockfiles import BLOCKS, Cutting
from methods.parts.blocks import corpus_blocks, open_blocks
from methods.parts.documents import survey
from methods.parts.run import LocalRun
from orchestrator import cli
from orchestrator.chunks import PARTS, Parts
from orchestrator.errors import SpecError
from orchestrator.preprocess import SHARDS, Order, Worker, _labour, _last
from tests.orchestrator.clusters import environment
from tests.parts.encoded import word_tokenizer

SHARD_BYTES = 400_000
LETTERS = "a b c d e f g h ."
LINE = " ".join("abcdefgh"[step * step % 7] for step in range(300))
TEXT = "".join(f"{LINE[: 2 * (1 + row % 299)].strip()}\n" for row in range(300))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("preprocess")
    word_tokenizer(folder / "words", LETTERS)
    (folder / "corpus.txt").write_text(TEXT)
    (folder / "bad.txt").write_bytes(b"a b\nc d\n\xffe\n")
    (folder / "empty.txt").touch()
    (folder / "large.txt").write_text(TEXT * (12 * SHARD_BYTES // len(TEXT)))
    return folder


def answer(words: list[str | Path], monkeypatch: pytest.MonkeyPatch) -> int:
    """Runs the command line in this process."""
    monkeypatch.setattr(sys, "argv", ["distilsweep", *map(str, words)])
    try:
        cli.main()
    except SystemExit as ending:
        return int(ending.code or 0)
    return 0


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 1, 0, 2)])
def test_workers_write_the_blocks_of_one_process_in_any_order(
    order: tuple[int, ...], folder: Path, tmp_path: Path
) -> None:
    asked = Order(
        corpus=folder / "corpus.txt",
        tokenizer=folder / "words",
        cutting=Cutting(length=32, full_sentences=True),
        out=tmp_path,
        part_bytes=len(TEXT) // 4,
    )
    found = _last(survey(asked.corpus, asked.cutting.form, asked.part_bytes))
    labour = _labour(asked, found)
    assert labour.count == 4
    worker = Worker(*labour.arguments(1))
    for number in order:
        worker.make(number, labour.piece(number))
    run = LocalRun(tmp_path / "run")
    alone = corpus_blocks(asked.corpus, asked.tokenizer, 32, run, full_sentences=True, part_bytes=asked.part_bytes)
    (stored,) = (tmp_path / "run" / "store").glob("blocks-*")
    assert len(alone) == 4
    for number in range(4):
        for array in (stored / f"{number:05d}").iterdir():
            assert array.read_bytes() == (tmp_path / f"{number:05d}" / array.name).read_bytes()


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["bad.txt"], "bad.txt:3: bytes: found b'\\xffe\\n', expected UTF-8"),
        (["empty.txt"], "empty.txt: found an empty file"),
        (["none.txt"], "corpus: looked for"),
        (["corpus.txt", "--tokenizer", "{}/nowhere"], "nowhere', expected a folder, or a name on a hub"),
        (["corpus.txt", "--tokenizer", "{}"], "found no tokenizer.json and no vocab.txt"),
        (["corpus.txt", "--length", "3"], "length: found 3, allowed is at least 4"),
        (["corpus.txt", "--form", "line"], "form: found 'line', allowed are auto, lines, sentences (did you mean"),
        (["corpus.txt", "--compat", "old"], "compat: found 'old', allowed are published"),
        (["corpus.txt", "--workers", "0"], "'--workers'"),
    ],
)
def test_wrong_requests_end_with_one_line(
    words: list[str],
    complaint: str,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    basis = ["preprocess", folder / words[0], "--tokenizer", folder / "words", "--out", tmp_path / "out"]
    assert answer([*basis, *(word.format(folder) for word in words[1:]), "--json"], monkeypatch) == 2
    said = capsys.readouterr().err.strip()
    assert complaint in said
    assert len(said.splitlines()) == 1


def command(folder: Path, out: Path) -> list[str]:
    files = [folder / "large.txt", "--tokenizer", folder / "words", "--out", out]
    numbers = ["--shard-bytes", SHARD_BYTES, "--workers", 1]
    return [sys.executable, "-m", "orchestrator", "preprocess", *map(str, [*files, *numbers])]


@pytest.mark.ray
@pytest.mark.timeout(280)
def test_a_killed_run_goes_on_to_the_result_of_one_process(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """SIGKILL after the first shard, then to the end; a finished result is left alone, a damaged one noticed."""
    out = tmp_path / "out"
    with environment() as env:
        driver = subprocess.Popen(command(folder, out), env=env, stderr=subprocess.DEVNULL)
        try:
            end_s = time.monotonic() + 150
            while not list(out.glob("0000?")):
                assert driver.poll() is None, "the driver has ended"
                assert time.monotonic() < end_s
                time.sleep(0.02)
            driver.send_signal(signal.SIGKILL)
            driver.wait(60)
        finally:
            driver.kill()
            driver.wait()
        assert not (out / BLOCKS).exists()
        first = {path.name: path.stat().st_mtime_ns for path in (out / "00000").iterdir()}
        last = subprocess.run([*command(folder, out), "--json"], env=env, capture_output=True, text=True, check=True)
    assert {path.name: path.stat().st_mtime_ns for path in (out / "00000").iterdir()} == first
    outcome = json.loads(last.stdout)
    alone = corpus_blocks(
        folder / "large.txt", folder / "words", 128, LocalRun(tmp_path / "run"), part_bytes=SHARD_BYTES
    )
    assert [shard.fingerprint for shard in open_blocks(out)] == [shard.fingerprint for shard in alone]
    assert outcome["blocks"] == sum(len(shard) for shard in alone)
    assert (outcome["shards"], outcome["form"]) == (12, "lines")
    assert sorted(path.name for path in (out / PARTS).iterdir()) == ["driver", "manifest.json"]

    again = command(folder, out)[3:]
    assert answer(again, monkeypatch) == 0
    assert f"preprocessed: {outcome['blocks']:,} blocks" in capsys.readouterr().out
    assert answer([*again, "--length", "64"], monkeypatch) == 2
    assert "holds work with length 128, asked is 64; --restart begins anew" in capsys.readouterr().err
    array = out / "00001" / "tokens.npy"
    array.write_bytes(array.read_bytes()[:-2] + b"\x05\x01")
    assert answer(again, monkeypatch) == 1
    assert "preprocess: " in (said := capsys.readouterr().err)
    assert "00001: found content" in said
    assert "preprocess anew, with --restart" in said


def test_what_is_not_ours_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "00000").mkdir()
    (tmp_path / "mine.txt").touch()
    with pytest.raises(SpecError, match="holds 00000 already; --restart replaces it, --out names another folder"):
        Parts(tmp_path, SHARDS).begin({}, restart=False)
    assert Parts(tmp_path, SHARDS).begin({}, restart=True) == {}
    assert sorted(path.name for path in tmp_path.iterdir()) == [PARTS, "mine.txt"]
