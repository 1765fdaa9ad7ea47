"""Interleaved timing: every round runs each candidate once, so that a busy moment hits all of them."""

import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Clock = Callable[[], float]


@dataclass(frozen=True)
class Timing:
    """Seconds per call in each round, by process CPU time and by wall clock."""

    cpu: tuple[float, ...]
    wall: tuple[float, ...]
    repeats: int

    def score(self, threads: int) -> float:
        """The number that ratios use: median CPU time for one thread, least wall time for more."""
        return statistics.median(self.cpu) if threads == 1 else min(self.wall)

    def record(self, threads: int) -> dict[str, Any]:
        """Median and minimum in milliseconds on the clock that belongs to the thread count."""
        samples = self.cpu if threads == 1 else self.wall
        return {
            "median_ms": 1e3 * statistics.median(samples),
            "min_ms": 1e3 * min(samples),
            "clock": "process CPU" if threads == 1 else "wall",
            "rounds": len(samples),
            "repeats": self.repeats,
        }


# A call of this many seconds needs no second warm-up.
_LONG = 0.1


def _once(call: Callable[[], Any], wall: Clock) -> float:
    start = wall()
    call()
    return wall() - start


def repeats_for(seconds: float, least: float) -> int:
    """Inner repeats that make a round last at least `least` seconds."""
    return max(1, min(100_000, math.ceil(least / max(seconds, 1e-9))))


def interleave(
    calls: Mapping[str, Callable[[], Any]],
    *,
    rounds: int,
    least: float = 0.02,
    most: float = math.inf,
    known: Mapping[str, float] | None = None,
    cpu: Clock = time.process_time,
    wall: Clock = time.perf_counter,
) -> dict[str, Timing]:
    """Time the calls round-robin; the order rotates by one each round.

    Args:
        calls: name to function; each is called before timing starts, short ones twice.
        rounds: samples a call.
        least: shortest duration of one sample, seconds; short calls are repeated inside it.
        most: seconds that one call may take over all rounds; slower calls get fewer rounds, at least one.
        known: seconds of a call made before, which replaces the first one here.
        cpu: clock of the processor time of all threads.
        wall: clock of real time.
    """
    repeats, turns = {}, {}
    for name, call in calls.items():
        once = (known or {}).get(name) or _once(call, wall)
        if once < _LONG:  # the first call of a short one is mostly set-up
            once = _once(call, wall)
        repeats[name] = repeats_for(once, least)
        turns[name] = max(1, min(rounds, int(most / max(once, 1e-9)) if math.isfinite(most) else rounds))
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    names = list(calls)
    collecting = gc.isenabled()
    gc.disable()
    try:
        for turn in range(rounds):
            shift = turn % max(len(names), 1)
            for name in names[shift:] + names[:shift]:
                if turn < turns[name]:
                    samples[name].append(_sample(calls[name], repeats[name], cpu, wall))
    finally:
        if collecting:
            gc.enable()
    return {
        name: Timing(tuple(s[0] for s in taken), tuple(s[1] for s in taken), repeats[name])
        for name, taken in samples.items()
    }


def _sample(call: Callable[[], Any], repeats: int, cpu: Clock, wall: Clock) -> tuple[float, float]:
    start_cpu, start_wall = cpu(), wall()
    for _ in range(repeats):
        call()
    return (cpu() - start_cpu) / repeats, (wall() - start_wall) / repeats
