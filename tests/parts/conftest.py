import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Tiny tensors lose ten times more to waking threads than they gain by them, the more so on a busy machine."""
    torch.set_num_threads(1)
