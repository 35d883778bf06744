import pytest

from tests.parts import lad_parity

PARITY = pytest.mark.skipif(not lad_parity.GOLDEN.exists(), reason="no golden_lad.npz under $DISTILSWEEP_SHARED")


@pytest.mark.shared
@PARITY
def test_every_item_of_the_original_code_is_reproduced() -> None:
    rows = list(lad_parity.parity())
    assert len(rows) > 170
    wrong = [row for row in rows if not row.error <= row.tolerance]
    assert not wrong
