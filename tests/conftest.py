"""What all tests share: one thread for tiny tensors, an environment without the user's settings, the shared data."""

import os
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("DISTILSWEEP_SHARED", ROOT.parent / "shared"))


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Tiny tensors gain nothing from more threads, and tests that run beside each other lose by them."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_settings_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests see no variable that changes what the product does."""
    for name in ("DISTILSWEEP_HOME", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "RAY_ADDRESS", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def shared() -> Path:
    """The folder of real data and golden numbers; skips the test where it is not there."""
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is not there; DISTILSWEEP_SHARED names the folder of real data and golden numbers")
    return SHARED
