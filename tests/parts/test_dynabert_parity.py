import pytest

from tests.parts import dynabert_parity

PARITY = pytest.mark.skipif(
    not dynabert_parity.GOLDEN.exists(), reason="no golden_dynabert.npz under $DISTILSWEEP_SHARED"
)


@pytest.mark.shared
@PARITY
def test_every_item_of_the_original_code_is_reproduced() -> None:
    rows = list(dynabert_parity.parity())
    assert len(rows) > 350
    wrong = [(item, largest, limit) for item, largest, limit in rows if not largest <= limit]
    assert not wrong
