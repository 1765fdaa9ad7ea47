"""The card, and the examples in the documentation strings."""

import doctest
import importlib
import pkgutil

import pytest

import bound_prop
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


def modules():
    found = pkgutil.walk_packages(bound_prop.__path__, "bound_prop.")
    return ["bound_prop", *(m.name for m in found if not m.name.endswith("__main__"))]


@pytest.mark.parametrize("name", modules())
def test_examples(name):
    outcome = doctest.testmod(
        importlib.import_module(name), optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    )
    assert outcome.failed == 0
