import pytest

from tests.parts import wid_parity


@pytest.mark.shared
@pytest.mark.skipif(not wid_parity.GOLDEN.exists(), reason=f"no {wid_parity.GOLDEN.name} under $DISTILSWEEP_SHARED")
def test_every_item_of_the_original_code_is_reproduced() -> None:
    rows = list(wid_parity.parity())
    assert len(rows) > 400
    wrong = [row for row in rows if not row.error <= row.tolerance]
    assert not wrong
