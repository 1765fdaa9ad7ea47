"""Progress bars for loops that take more than a few seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from types import TracebackType
from typing import TypeVar

T = TypeVar("T")

__all__ = ["Bar", "bar"]

_WIDTH = 30


class Bar:
    """Counts steps on stderr; silent when that is no terminal.

    Args:
        title: printed before it.
        total: expected steps, which may turn out to be more or fewer; 0 for a silent bar.

    >>> with Bar("frames", 0) as bar:
    ...     bar.step()
    """

    def __init__(self, title: str, total: int) -> None:
        self.title, self.total, self.done = title, total, 0
        self._shown = total > 0 and sys.stderr.isatty()
        self._start = self._drawn = time.monotonic()

    def __enter__(self) -> Bar:
        """Nothing is drawn yet."""
        return self

    def step(self) -> None:
        """One more is done."""
        self.done += 1
        now = time.monotonic()
        if self._shown and now - self._drawn > 0.2:
            self._drawn = now
            left = (now - self._start) / self.done * max(0, self.total - self.done)
            self._write(f"{self.done}/{self.total}, {left:.0f} s left ")

    def _write(self, words: str) -> None:
        filled = "#" * min(_WIDTH, _WIDTH * self.done // self.total)
        sys.stderr.write(f"\r{self.title} [{filled:{_WIDTH}}] {words}")
        sys.stderr.flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the line."""
        if self._shown:
            self._write(f"{self.done} in {time.monotonic() - self._start:.0f} s\n")


def bar(items: Iterable[T], title: str) -> Iterator[T]:
    """Iterates over `items` and counts them with a `Bar`, which is silent where they have no length.

    >>> list(bar([1, 2], "numbers"))
    [1, 2]
    """
    with Bar(title, len(items) if isinstance(items, Sized) else 0) as shown:
        for item in items:
            yield item
            shown.step()
