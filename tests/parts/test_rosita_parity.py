import json
import math

import pytest
import torch

from tests.parts import rosita_parity


@pytest.mark.shared
@pytest.mark.skipif(
    not rosita_parity.GOLDEN.exists(), reason=f"no {rosita_parity.GOLDEN.name} under $DISTILSWEEP_SHARED"
)
def test_every_item_of_the_original_code_is_reproduced() -> None:
    rows = list(rosita_parity.parity())
    assert len(rows) > 100
    wrong = [(item, largest, limit) for item, largest, limit in rows if not largest <= limit]
    assert not wrong


def test_the_chain_gives_the_frozen_numbers() -> None:
    frozen = json.loads(rosita_parity.FROZEN.read_text(encoding="utf-8"))
    found = rosita_parity.frozen_items()
    assert found.keys() == frozen.keys()
    for name, wanted in frozen.items():
        if rosita_parity.tolerance(name) == 0.0:
            assert found[name] == wanted, name
        else:
            torch.testing.assert_close(torch.tensor(found[name]), torch.tensor(wanted), rtol=1e-4, atol=1e-5, msg=name)


def test_a_wrong_number_is_seen() -> None:
    exact, close = torch.tensor([1, 2]), torch.tensor([1.0, 2.0])
    assert rosita_parity.error(exact, torch.tensor([2, 1]).numpy()) == 2.0
    assert math.isclose(rosita_parity.error(close, torch.tensor([1.0, 2.5]).numpy()), 0.2)
