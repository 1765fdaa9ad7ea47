import doctest

import pytest

from tenfold.geometry import boxes, calibration, coders, convert


@pytest.mark.parametrize("module", [boxes, calibration, coders, convert], ids=lambda m: m.__name__)
def test_docstring_examples(module):
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0
