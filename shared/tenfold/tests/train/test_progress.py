import io
import sys
import time

from tenfold.lidar.progress import bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_bar_passes_items_on_and_is_silent_in_files(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert list(bar([1, 2, 3], "x")) == [1, 2, 3]
    assert sys.stderr.getvalue() == ""


def test_the_bar_on_a_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    clock = iter(range(100))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    assert list(bar(range(4), "work")) == [0, 1, 2, 3]
    lines = sys.stderr.getvalue().split("\r")
    assert "] 1/4, " in lines[2]
    assert lines[-1].startswith("work [##############################] 4/4 in ")
    assert list(bar([], "none")) == []
