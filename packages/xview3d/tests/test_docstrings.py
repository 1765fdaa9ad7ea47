"""Every example in a docstring of the package runs and prints what it says."""

import pytest

import xview3d
from tenfold.testing import assert_docstrings_hold


def test_examples(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_docstrings_hold("xview3d")


def test_every_public_name_exists():
    assert [name for name in xview3d.__all__ if getattr(xview3d, name) is None] == []
    assert callable(xview3d.add_xview)
    assert set(xview3d.__all__) <= set(dir(xview3d))
    with pytest.raises(AttributeError, match="no attribute 'yolo'"):
        xview3d.yolo
