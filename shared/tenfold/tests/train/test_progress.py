import io
import sys
import time

import pytest

from tenfold.train.progress import Bar, bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


def terminal(monkeypatch):
    """Standard error of a terminal; every look at the clock takes a second."""
    clock = iter(range(100))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(sys, "stderr", Terminal())
    return sys.stderr


def test_the_bar_passes_items_on_and_is_silent_in_files(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert list(bar([1, 2, 3], "x")) == [1, 2, 3]
    assert sys.stderr.getvalue() == ""


def test_the_bar_on_a_terminal(monkeypatch):
    shown = terminal(monkeypatch)
    assert list(bar(range(4), "work")) == [0, 1, 2, 3]
    lines = shown.getvalue().split("\r")
    assert lines[1] == f"work [{'#' * 7:30}] 1/4, 3 s left "
    assert lines[-1] == f"work [{'#' * 30}] 4 in 5 s\n"
    assert list(bar([], "none")) == []
    assert list(bar(iter([1]), "of unknown length")) == [1]
    assert shown.getvalue().split("\r") == lines


def test_a_stream_may_be_longer_or_end_with_an_error(monkeypatch):
    shown = terminal(monkeypatch)

    def broken():
        with Bar("frames", 1) as found:
            found.step()
            found.step()
            raise RuntimeError("damaged")

    with pytest.raises(RuntimeError, match="damaged"):
        broken()
    lines = shown.getvalue().split("\r")
    assert lines[2] == f"frames [{'#' * 30}] 2/1, 0 s left "
    assert lines[-1] == f"frames [{'#' * 30}] 2 in 3 s\n"
