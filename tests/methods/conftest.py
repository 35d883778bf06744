"""One tiny canonical setting for every method: a table of sentences, a teacher trained on it in a second."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from methods import finetune
from methods.parts.bert import Bert, initialise
from methods.parts.checkpoint import save
from methods.parts.layout import Layout
from methods.parts.run import LocalRun
from methods.parts.tasks import Task, open_task
from methods.parts.teacher import Teacher, checkpoint_fingerprint
from methods.parts.wordpiece import train_wordpiece

WORDS = ("sun", "moon", "star", "sky", "rain", "snow", "wind", "cloud")
LAYOUT = Layout.uniform(vocab=64, positions=24, hidden=16, num_layers=3, heads=4, head_width=4, ffn=24, labels=2)


@dataclass(frozen=True)
class Setting:
    """A task, its teacher, and the store they share."""

    task: Task
    teacher: Teacher
    store: Path


def sentence(number: int) -> tuple[str, int]:
    """A sentence that is positive exactly if it holds the sun or the moon."""
    chosen = [WORDS[(number * 7 + step * (number % 5 + 1)) % len(WORDS)] for step in range(3 + number % 6)]
    return " ".join(chosen), int("sun" in chosen or "moon" in chosen)


def write_table(folder: Path, regression: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for split, numbers in (("train", range(160)), ("dev", range(200, 280))):
        rows = [f"{text},{label / 2 + 0.25 if regression else label}" for text, label in map(sentence, numbers)]
        (folder / f"{split}.csv").write_text("text,label\n" + "\n".join(rows) + "\n", encoding="utf-8")


def make_setting(folder: Path, regression: bool = False) -> Setting:
    write_table(folder / "data", regression)
    task = open_task("weather", folder / "data", max_length=16, metric="pearson" if regression else None)
    tokenizer, base = folder / "tokenizer", folder / "base"
    train_wordpiece(WORDS, LAYOUT.vocab, tokenizer)
    layout = LAYOUT if not regression else Layout.from_json({**LAYOUT.to_json(), "labels": 1})
    model = Bert(layout, dropout=0.05)
    initialise(model, 0, 0.2)
    save(model, base, tokenizer=tokenizer, labels=task.labels or None)
    untrained = opened(base, base, layout, task)
    run = LocalRun(folder / "teacher", store=folder / "store")
    outcome = finetune.compress(task, untrained, finetune.Config(epochs=12.0, lr=5e-3, batch_size=16), run)
    save(outcome.model, folder / "tuned", tokenizer=tokenizer, labels=task.labels or None)
    return Setting(task, opened(base, folder / "tuned", layout, task), folder / "store")


def opened(base: Path, tuned: Path, layout: Layout, task: Task) -> Teacher:
    return Teacher(
        base=base,
        tuned=tuned,
        layout=layout,
        labels=task.labels,
        tokenizer=base,
        head="plain",
        fingerprint=checkpoint_fingerprint(tuned),
    )


@pytest.fixture(scope="session")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return make_setting(tmp_path_factory.mktemp("setting"))


@pytest.fixture(scope="session")
def regression_setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return make_setting(tmp_path_factory.mktemp("regression"), regression=True)
