"""A progress bar for streams whose length is known only roughly."""

from __future__ import annotations

import sys
import time
from types import TracebackType

__all__ = ["Bar"]

_WIDTH = 30


class Bar:
    """Counts steps on stderr; silent when that is no terminal.

    Args:
        title: printed before it.
        total: expected steps; 0 for a silent bar.

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
