"""Every example in a docstring of the package runs and prints what it says."""

import pytest

import moviescenes
from tenfold.testing import assert_docstrings_hold


def test_examples(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_docstrings_hold("moviescenes")


def test_every_public_name_exists():
    assert [name for name in moviescenes.__all__ if getattr(moviescenes, name) is None] == []
    assert callable(moviescenes.group_scenes)
    assert set(moviescenes.__all__) <= set(dir(moviescenes))
    with pytest.raises(AttributeError, match="no attribute 'yolo'"):
        moviescenes.yolo
