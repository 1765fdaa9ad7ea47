"""Every example in a docstring of the package runs and prints what it says."""

import doctest
import importlib
import pkgutil

import pytest

import denfi

OPTIONS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


def modules():
    yield "denfi"
    for info in pkgutil.walk_packages(denfi.__path__, "denfi."):
        if not info.name.endswith("__main__"):
            yield info.name


@pytest.mark.parametrize("name", list(modules()))
def test_examples(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert doctest.testmod(importlib.import_module(name), optionflags=OPTIONS).failed == 0


def test_every_public_name_exists():
    assert [name for name in denfi.__all__ if getattr(denfi, name) is None] == []
    assert callable(denfi.decode_boundary)
    assert set(denfi.__all__) <= set(dir(denfi))
    with pytest.raises(AttributeError, match="no attribute 'yolo'"):
        denfi.yolo
