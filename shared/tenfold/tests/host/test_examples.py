import doctest

import pytest

from tenfold.host import _iou, _points


@pytest.mark.parametrize("module", [_iou, _points], ids=lambda m: m.__name__)
def test_docstring_examples(module):
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0
