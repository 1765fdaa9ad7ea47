import pytest

from tenfold.host import _backend

LOADERS = {"pybind": _backend.load_pybind, "ctypes": _backend.load_ctypes}


@pytest.fixture(params=list(LOADERS))
def binding(request, monkeypatch):
    """Run the test once with each binding."""
    loaded = LOADERS[request.param]()
    assert loaded is not None
    monkeypatch.setattr(_backend, "_backend", loaded)


@pytest.fixture
def both_bindings(monkeypatch):
    """Call a function with each binding and return the two results."""

    def call(function):
        results = []
        for load in LOADERS.values():
            loaded = load()
            assert loaded is not None
            monkeypatch.setattr(_backend, "_backend", loaded)
            results.append(function())
        return results

    return call
