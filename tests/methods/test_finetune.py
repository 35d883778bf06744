from pathlib import Path

import pytest

from methods import finetune
from methods.parts.run import LocalRun
from tests.methods.conftest import Setting

pytestmark = pytest.mark.long


def test_it_learns_the_task(setting: Setting, tmp_path: Path) -> None:
    run = LocalRun(tmp_path, store=setting.store)
    config = finetune.Config(epochs=12.0, lr=5e-3, batch_size=16)
    finetune.compress(setting.task, setting.teacher, config, run)
    assert run.reports[0].metrics["train/loss"] > 2 * run.reports[-1].metrics["train/loss"]
    assert run.reports[-1].metrics["score"] >= 0.9


def test_it_learns_a_regression(regression_setting: Setting, tmp_path: Path) -> None:
    run = LocalRun(tmp_path, store=regression_setting.store)
    config = finetune.Config(epochs=12.0, lr=5e-3, batch_size=16)
    finetune.compress(regression_setting.task, regression_setting.teacher, config, run)
    assert run.reports[-1].metrics["score"] >= 0.8


def test_the_token_loss_needs_marked_words(setting: Setting, tmp_path: Path) -> None:
    run = LocalRun(tmp_path, store=setting.store)
    with pytest.raises(ValueError, match="only the built-in task marks the words"):
        finetune.compress(setting.task, setting.teacher, finetune.Config(token_loss=1.0, batch_size=16), run)


@pytest.mark.parametrize("values", [{"layers": 0}, {"token_loss": -1.0}, {"epochs": -1.0}, {"schedule": "cosine"}])
def test_values_out_of_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(values))}"):
        finetune.Config(**values)  # type: ignore[arg-type]
