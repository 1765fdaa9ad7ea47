"""Operators beside a process that takes a core away: laptops and data-loader workers look like that."""

import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from kernels.model import Call, Goal, Row
from kernels.timing import Timing, interleave

_SPIN = """
import os, sys
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {int(sys.argv[1])})
print("running", flush=True)
while True:
    pass
"""


@contextmanager
def competitor() -> Iterator[None]:
    """A process that does nothing but keep one of this process's cores busy."""
    core = min(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    with subprocess.Popen([sys.executable, "-c", _SPIN, str(core)], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield
        finally:
            process.kill()


def alone_and_beside(call: Call, *, rounds: int, least: float) -> tuple[Timing, Timing]:
    """Times of a call with the present number of threads: alone, and beside a competing process."""
    calls = {"ours": call}
    alone = interleave(calls, rounds=rounds, least=least)["ours"]
    with competitor():
        return alone, interleave(calls, rounds=rounds, least=least)["ours"]


def rows_beside(rows: Iterable[Row]) -> tuple[Row, ...]:
    """For each operator with work for two threads its last row, beside a competing process."""
    chosen = {row.op: row for row in rows if row.parallel and row.measure == "time"}
    return tuple(
        replace(
            row,
            key=f"beside-{row.key}",
            title=f"beside a competing process: {row.title}",
            measure="slowdown",
            goal=Goal("slowdown", 3, 2),
            dtypes=("float32",),
            peers=(),
            ours_out=None,
            limit=None,
            growth=False,
            parallel=False,
            quick=False,
        )
        for row in chosen.values()
    )
