"""Every example in a docstring of the package runs and prints what it says."""

import pytest

import ttfnet
from tenfold.testing import assert_docstrings_hold


def test_examples(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_docstrings_hold("ttfnet")


def test_every_public_name_exists():
    assert [name for name in ttfnet.__all__ if getattr(ttfnet, name) is None] == []
    assert callable(ttfnet.decode)
    assert set(ttfnet.__all__) <= set(dir(ttfnet))
    with pytest.raises(AttributeError, match="no attribute 'yolo'"):
        ttfnet.yolo
