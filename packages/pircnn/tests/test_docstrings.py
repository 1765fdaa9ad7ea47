"""Every example in a docstring of the package runs and prints what it says."""

import pytest

import pircnn
from tenfold.testing import assert_docstrings_hold


def test_examples(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_docstrings_hold("pircnn")


def test_every_public_name_exists():
    assert [name for name in pircnn.__all__ if getattr(pircnn, name) is None] == []
    assert set(pircnn.__all__) <= set(dir(pircnn))
    with pytest.raises(AttributeError, match="no attribute 'yolo'"):
        pircnn.yolo
