"""Every example in a docstring of the package runs and prints what it says."""

import pytest

import sparsepoint
from tenfold.testing import assert_docstrings_hold


def test_examples(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_docstrings_hold("sparsepoint")


def test_every_public_name_exists():
    assert [name for name in sparsepoint.__all__ if getattr(sparsepoint, name) is None] == []
    assert set(sparsepoint.__all__) <= set(dir(sparsepoint))
    with pytest.raises(AttributeError, match="no attribute 'yolo'"):
        sparsepoint.yolo
