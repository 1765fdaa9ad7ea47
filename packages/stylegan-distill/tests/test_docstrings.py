"""Every example in a docstring of the package runs and prints what it says."""

import pytest

import stylegan_distill
from tenfold.testing import assert_docstrings_hold


def test_examples(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_docstrings_hold("stylegan_distill")


def test_every_public_name_exists():
    assert [name for name in stylegan_distill.__all__ if getattr(stylegan_distill, name) is None] == []
    assert set(stylegan_distill.__all__) <= set(dir(stylegan_distill))
    with pytest.raises(AttributeError, match="no attribute 'biggan'"):
        stylegan_distill.biggan
