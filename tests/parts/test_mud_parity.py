import pytest

from tests.parts import mud_parity

golden = pytest.mark.skipif(
    not mud_parity.GOLDEN.exists(), reason=f"no {mud_parity.GOLDEN.name} under $DISTILSWEEP_SHARED"
)


@pytest.mark.shared
@golden
def test_every_item_of_the_original_code_is_reproduced() -> None:
    rows = list(mud_parity.parity())
    assert len(rows) > 350
    wrong = [row for row in rows if not row.error <= row.tolerance]
    assert not wrong


@pytest.mark.shared
@golden
def test_a_narrow_layout_is_that_of_the_original_students() -> None:
    for wanted, found in mud_parity.narrow_shapes():
        assert found == wanted
