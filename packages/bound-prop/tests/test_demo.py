"""The card."""

import pytest

from bound_prop.demo import run_demo
from tenfold.train.demo import read_demo

pytest.importorskip("lightning.pytorch")


@pytest.mark.filterwarnings("ignore")
def test_demo(tmp_path):
    result = run_demo(tmp_path, epochs=2)
    assert result.passed
    assert result.pictures[0].stat().st_size > 1000
    assert read_demo(tmp_path).rows == result.rows
    assert len(result.rows) == 4
