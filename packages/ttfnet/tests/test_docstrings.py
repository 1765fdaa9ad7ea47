"""Every example in a docstring of the package runs and prints what it says."""

import doctest
import importlib
import pkgutil

import pytest

import ttfnet

OPTIONS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


def modules():
    yield "ttfnet"
    for info in pkgutil.walk_packages(ttfnet.__path__, "ttfnet."):
        if not info.name.endswith("__main__"):
            yield info.name


@pytest.mark.parametrize("name", list(modules()))
def test_examples(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert doctest.testmod(importlib.import_module(name), optionflags=OPTIONS).failed == 0


def test_every_public_name_exists():
    assert [name for name in ttfnet.__all__ if getattr(ttfnet, name) is None] == []
    assert callable(ttfnet.decode)
    assert set(ttfnet.__all__) <= set(dir(ttfnet))
    with pytest.raises(AttributeError, match="no attribute 'yolo'"):
        ttfnet.yolo
