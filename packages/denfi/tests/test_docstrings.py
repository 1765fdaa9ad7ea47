"""Every example in a docstring of the package runs and prints what it says."""

import pytest

import denfi
from tenfold.testing import assert_docstrings_hold


def test_examples(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_docstrings_hold("denfi")


def test_every_public_name_exists():
    assert [name for name in denfi.__all__ if getattr(denfi, name) is None] == []
    assert callable(denfi.decode_boundary)
    assert set(denfi.__all__) <= set(dir(denfi))
    with pytest.raises(AttributeError, match="no attribute 'yolo'"):
        denfi.yolo
