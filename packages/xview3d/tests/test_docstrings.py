"""Every example in a docstring of the package runs and prints what it says."""

import doctest
import importlib
import pkgutil

import pytest

import xview3d

OPTIONS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


def modules():
    yield "xview3d"
    for info in pkgutil.walk_packages(xview3d.__path__, "xview3d."):
        if not info.name.endswith("__main__"):
            yield info.name


@pytest.mark.parametrize("name", list(modules()))
def test_examples(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert doctest.testmod(importlib.import_module(name), optionflags=OPTIONS).failed == 0


def test_every_public_name_exists():
    assert [name for name in xview3d.__all__ if getattr(xview3d, name) is None] == []
    assert callable(xview3d.add_xview)
    assert set(xview3d.__all__) <= set(dir(xview3d))
    with pytest.raises(AttributeError, match="no attribute 'yolo'"):
        xview3d.yolo
