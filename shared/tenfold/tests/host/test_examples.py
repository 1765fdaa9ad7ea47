import doctest

import pytest

from tenfold.host import _greedy, _grouping, _iou, _points, _precision


@pytest.mark.parametrize("module", [_greedy, _grouping, _iou, _points, _precision], ids=lambda m: m.__name__)
def test_docstring_examples(module):
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0
