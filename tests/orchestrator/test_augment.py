"""Augmenting a training set: chunks that survive, files that our readers read, complaints in one line."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from methods.parts import glue
from methods.parts.augmenting import Augmentation, Augmenter
from methods.parts.checkpoint import save
from methods.parts.masked_lm import load_masked_lm
from methods.parts.tasks import open_task
from methods.parts.wordpiece import load_pieces
from methods.parts.wordvectors import read_vectors
from orchestrator import cli
from orchestrator.augment import Worker
from orchestrator.augmentorder import CHUNK_ROWS, Order, prepare
from orchestrator.chunks import PARTS, Chunks, Shape
from orchestrator.errors import SpecError
from tests.orchestrator.clusters import environment
from tests.parts.mlm import SENTENCES, random_checkpoint, tokenizer, write_vectors
from tests.parts.tiny import tiny_bert

INPUTS = {"seed": 0, "probability": 0.4, "vectors": None}


def filled(out: Path, count: int, rows: int) -> Chunks:
    chunks = Chunks(out, count)
    assert chunks.begin(INPUTS, restart=False) == {}
    for number in chunks.pending():
        chunks.write(number, [f"row {number}.{row}\t\u2028x\ry" for row in range(rows)])
    return chunks


@pytest.mark.parametrize(("shard_rows", "sizes"), [(4, [4, 4, 4, 3]), (5, [5, 5, 5]), (100, [15]), (None, [15])])
def test_files_hold_all_rows_in_order_each_with_the_header(
    shard_rows: int | None, sizes: list[int], tmp_path: Path
) -> None:
    chunks = filled(tmp_path, 5, 3)
    outputs = chunks.assemble(Shape(ending=".tsv", header="text\tlabel", shard_rows=shard_rows))
    names = ["train_aug.tsv"] if shard_rows is None else [f"train_aug{number}.tsv" for number in range(len(sizes))]
    assert outputs == dict(zip(names, sizes, strict=True))
    found = [(tmp_path / name).read_bytes().decode().removesuffix("\n").split("\n") for name in names]
    assert all(lines[0] == "text\tlabel" for lines in found)
    rows = [line for lines in found for line in lines[1:]]
    assert rows == [f"row {number}.{row}\t\u2028x\ry" for number in range(5) for row in range(3)]
    assert sorted(path.name for path in (tmp_path / PARTS).iterdir()) == ["manifest.json"]


def test_finished_chunks_are_kept_and_a_result_is_final(tmp_path: Path) -> None:
    first = Chunks(tmp_path, 4)
    first.begin(INPUTS, restart=False)
    first.write(2, ["two"])
    (tmp_path / PARTS / ".chunk-000003.txt.123.aside").write_text("half")
    second = Chunks(tmp_path, 4)
    assert second.begin(INPUTS, restart=False) == {}
    assert second.pending() == [0, 1, 3]
    for number in second.pending():
        second.write(number, [str(number)])
    outputs = second.assemble(Shape(ending=".jsonl"))
    assert (tmp_path / "train_aug.jsonl").read_text() == "0\n1\ntwo\n3\n"
    assert Chunks(tmp_path, 4).begin(INPUTS, restart=False) == outputs == {"train_aug.jsonl": 4}
    (tmp_path / "train_aug.jsonl").unlink()
    lost = Chunks(tmp_path, 4)
    assert lost.begin(INPUTS, restart=False) == {}
    assert lost.pending() == [0, 1, 2, 3]


def test_other_settings_and_other_files_need_a_restart(tmp_path: Path) -> None:
    chunks = filled(tmp_path, 2, 3)
    other = {**INPUTS, "probability": 0.5, "vectors": "abc"}
    with pytest.raises(
        SpecError, match=r"holds work with probability 0\.4, asked is 0\.5; vectors null, asked is \"abc"
    ):
        Chunks(tmp_path, 2).begin(other, restart=False)
    assert chunks.pending() == []
    chunks.assemble(Shape(ending=".tsv", shard_rows=2))
    again = Chunks(tmp_path, 2)
    assert again.begin(other, restart=True) == {}
    assert again.pending() == [0, 1]
    assert list(tmp_path.glob("train_aug*")) == []
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "train_aug7.tsv").write_text("mine")
    with pytest.raises(SpecError, match=r"holds train_aug7\.tsv already; --restart replaces it, --out names another"):
        Chunks(tmp_path / "mine", 2).begin(INPUTS, restart=False)
    assert (tmp_path / "mine" / "train_aug7.tsv").read_text() == "mine"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, a masked LM, a classifier and word vectors."""
    folder = tmp_path_factory.mktemp("augment")
    random_checkpoint(folder, hidden=64, heads=4, num_layers=4, ffn=128)  # some seconds for all rows
    save(tiny_bert().eval(), folder / "classifier", tokenizer=tokenizer(folder / "words"))
    write_vectors(folder / "glove.txt", ("lighthouse", "tower", "mill", "barn"))
    (folder / "broken.txt").write_text("dog 1 2\ncat 1\n")
    (folder / "SST-2").mkdir()
    rows = [f'{SENTENCES[7 * n % 1200 % len(SENTENCES)]} "lighthouse {n}\t{n % 2}' for n in range(14 * CHUNK_ROWS + 5)]
    text = "".join(f"{row}\n" for row in ["sentence\tlabel", *rows])
    for name in ("train.tsv", "dev.tsv"):
        (folder / "SST-2" / name).write_text(text, encoding="utf-8")
    return folder


def order(folder: Path, **changes: object) -> Order:
    given = {"task": "sst2", "data": folder, "model": str(folder / "model"), "settings": Augmentation(variants=3)}
    return Order(**{**given, **changes})


def test_an_order_is_read_and_cut_into_chunks(folder: Path) -> None:
    job = prepare(order(folder))
    assert job.out == (folder / "SST-2").resolve()
    assert job.num_chunks == 15
    assert [number for number, _ in job.chunk(14)] == list(range(14 * CHUNK_ROWS, 14 * CHUNK_ROWS + 5))
    assert prepare(order(folder)).inputs == job.inputs
    assert prepare(order(folder, vectors=folder / "glove.txt")).inputs != job.inputs


def test_a_limit_keeps_the_rows_that_a_sweep_keeps(folder: Path) -> None:
    job = prepare(order(folder, limit=50))
    task = open_task("sst2", folder, limit=50, seed=0)
    assert [row.texts[0] for _, row in job.chunk(0)] == list(task.read("train").texts)
    assert prepare(order(folder, limit=50)).numbers == job.numbers
    assert prepare(order(folder, limit=50, settings=Augmentation(seed=1))).numbers != job.numbers
    with pytest.raises(ValueError, match="limit: found 0, allowed is at least 1"):
        prepare(order(folder, limit=0))


GLUE = Path(__file__).resolve().parent.parent / "fixtures" / "glue"


@pytest.mark.parametrize("task", ["rte", "stsb", "qqp", "boolq", "mine"])
def test_a_task_opens_the_result_as_its_augmented_set(task: str, folder: Path, tmp_path: Path) -> None:
    """Labels and scores are copied, the original comes first, and every shard is read whole."""
    data, columns = GLUE, None
    if task == "mine":
        data, columns = tmp_path / "tables", {"text": "a", "text_pair": "b", "label": "c"}
        data.mkdir()
        for split in ("train", "dev"):
            (data / f"{split}.csv").write_text('a,b,c\n"the, old\ndog",the cat,0.5\nbig fox,"a ""hen""",1.25\n')
    job = prepare(order(folder, task=task, data=data, columns=columns, out=tmp_path / "out"))
    chunks = Chunks(job.out, job.num_chunks)
    chunks.begin(job.inputs, restart=False)
    worker = Worker(str(job.model), None, job.order.settings, 1)
    for number in chunks.pending():
        chunks.write(*worker.make(number, job.chunk(number)))
    outputs = chunks.assemble(Shape(ending=job.source.ending, header=job.source.header, shard_rows=7))
    assert len(outputs) > 1
    opened = open_task(task, data, columns=columns, augmented=job.out)
    train = opened.read("train")
    (found,) = opened.augmented.chunks(10_000) if opened.augmented else ()
    assert len(found) == sum(outputs.values()) > 3 * len(train)
    place = -1
    rows = list(zip(train.texts, train.pairs or (), train.labels.tolist(), strict=True))
    for first, second, label in zip(found.texts, found.pairs or (), found.labels.tolist(), strict=True):
        place += (first, second, label) == rows[min(place + 1, len(rows) - 1)]
        assert label == rows[place][2]
        assert first == rows[place][0] or second == rows[place][1]
    assert place == len(rows) - 1


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--model", "{}/classifier"], "classifier: found no masked-LM head"),
        (["--model", "{}/nowhere"], "nowhere', expected a folder, or a name on a hub that can be reached: there is no"),
        (["--model", "no/where"], "model: found 'no/where', expected a folder, or a name on a hub"),
        (["--vectors", "{}/none.txt"], "none.txt: no such file"),
        (["--vectors", "{}/broken.txt"], "broken.txt:2: numbers: found 1, expected 2, as in the first line"),
        (["--probability", "2"], "probability: found 2.0, allowed is 0 to 1"),
        (["--variants", "0"], "variants: found 0, allowed is at least 1"),
        (["--workers", "0"], "'--workers'"),
        (["--data", "{}/words"], "task sst2: looked for"),
        (["--column", "sentence"], '--column: found "sentence"; allowed: text=NAME, text_pair=NAME, label=NAME'),
        (["--compat", "original"], "compat: found 'original', allowed is 'in-place'"),
    ],
)
def test_wrong_requests_end_with_one_line(
    options: list[str],
    complaint: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    given = [option.format(folder) for option in options]
    basis = ["augment", "SST-2", "--data", str(folder), "--model", str(folder / "model")]
    monkeypatch.setattr(sys, "argv", ["distilsweep", *basis, *given])
    with pytest.raises(SystemExit) as ending:
        cli.main()
    said = capsys.readouterr().err.strip()
    assert ending.value.code == 2, said
    assert complaint in said
    assert len(said.splitlines()) == 1


VARIANTS = 20


def command(folder: Path, out: Path) -> list[str]:
    files = ["--data", folder, "--model", folder / "model", "--vectors", folder / "glove.txt", "--out", out]
    numbers = ["--variants", VARIANTS, "--seed", 4, "--workers", 1]
    return [sys.executable, "-m", "orchestrator", "augment", "sst2", *map(str, [*files, *numbers])]


@pytest.mark.ray
@pytest.mark.timeout(280)
def test_a_killed_run_goes_on_to_the_result_of_one_process(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """SIGKILL after the first chunk, then to the end; a finished result is left alone, and no Ray started for it."""
    out = tmp_path / "out"
    with environment() as env:
        broken_off(folder, out, env, signal.SIGKILL)
        last = subprocess.run([*command(folder, out), "--json"], env=env, capture_output=True, text=True, check=True)
    outcome = json.loads(last.stdout)
    assert (outcome["rows"], list(outcome["files"])) == (14 * CHUNK_ROWS + 5, ["train_aug0.tsv"])

    source = prepare(order(folder)).source
    words = read_vectors(folder / "glove.txt")
    model, pieces = load_masked_lm(folder / "model"), load_pieces(folder / "model")
    augmenter = Augmenter(model, pieces, Augmentation(variants=VARIANTS, seed=4), words)
    made = augmenter.rows([row.texts for row in source.rows], range(len(source.rows)))
    expected = [row.line(texts) for row, new in zip(source.rows, made, strict=True) for texts in new]
    found = (out / "train_aug0.tsv").read_text(encoding="utf-8").split("\n")
    assert found == ["sentence\tlabel", *expected, ""]
    assert outcome["files"]["train_aug0.tsv"] == len(expected)
    examples = glue.read_file(glue.CATALOGUE["sst2"], out / "train_aug0.tsv", test=False)
    assert examples.texts == [texts[0] for new in made for texts in new]
    assert sorted(path.name for path in (out / PARTS).iterdir()) == ["driver", "manifest.json"]

    stamp = (out / "train_aug0.tsv").stat().st_mtime_ns
    assert answer(command(folder, out), monkeypatch) == 0
    assert f"augmented: {len(expected):,} rows from {len(source.rows):,}" in capsys.readouterr().out
    assert answer([*command(folder, out), "--seed", "5"], monkeypatch) == 2
    assert "holds work with seed 4, asked is 5; --restart begins anew" in capsys.readouterr().err
    assert (out / "train_aug0.tsv").stat().st_mtime_ns == stamp


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(280)
def test_an_interrupted_run_keeps_its_chunks(folder: Path, tmp_path: Path) -> None:
    with environment() as env:
        kept = broken_off(folder, tmp_path / "out", env, signal.SIGINT)
    assert not list((tmp_path / "out").glob("train_aug*"))
    assert kept < 15


def broken_off(folder: Path, out: Path, env: dict[str, str], number: signal.Signals) -> int:
    """Sends the signal after the first chunk; how many chunks were left behind."""
    driver = subprocess.Popen(command(folder, out), env=env, stderr=subprocess.DEVNULL)

    def there() -> int:
        return len(list((out / PARTS).glob("chunk-*.txt")))

    try:
        end_s = time.monotonic() + 150
        while not there():
            assert driver.poll() is None, "the driver has ended"
            assert time.monotonic() < end_s
            time.sleep(0.02)
        driver.send_signal(number)
        assert driver.wait(60) == (130 if number == signal.SIGINT else -number)
    finally:
        driver.kill()
        driver.wait()
    return there()


def answer(words: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """Runs the command line in this process."""
    monkeypatch.setattr(sys, "argv", ["distilsweep", *words[3:]])
    try:
        cli.main()
    except SystemExit as ending:
        return int(ending.code or 0)
    return 0
