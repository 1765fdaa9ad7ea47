"""A progress bar for loops that take more than a few seconds."""

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

T = TypeVar("T")

__all__ = ["bar"]

_WIDTH = 30


def bar(items: Iterable[T], title: str) -> Iterator[T]:
    """Iterates over `items` (with a length), drawing a bar on stderr; silent when that is no terminal."""
    total = len(items) if isinstance(items, Sized) else 0
    shown = sys.stderr.isatty() and total > 0
    start = drawn = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if shown and now - drawn > 0.2:
            drawn = now
            left = (now - start) / max(done, 1) * (total - done)
            filled = "#" * (_WIDTH * done // total)
            sys.stderr.write(f"\r{title} [{filled:{_WIDTH}}] {done}/{total}, {left:.0f} s left ")
            sys.stderr.flush()
        yield item
    if shown:
        sys.stderr.write(f"\r{title} [{'#' * _WIDTH}] {total}/{total} in {time.monotonic() - start:.0f} s\n")
