"""What this machine can do at best, measured in the run whose rows are judged by it."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Limits:
    """Rates per second: bytes read plus written by a copy, and floating-point operations.

    `vector_flops` is half of the matrix rate: kernels of ours may not contract a multiplication and an
    addition into one instruction.
    """

    dram_bytes: float
    l2_bytes: float
    gemm_flops: float

    @property
    def vector_flops(self) -> float:
        """Rate of separate additions, multiplications and comparisons."""
        return self.gemm_flops / 2

    def copy(self, moved: float) -> tuple[str, float]:
        """Limit of a row that must move so many bytes."""
        cached = moved <= 512 * 1024
        return ("L2 copy", moved / self.l2_bytes) if cached else ("memory copy", moved / self.dram_bytes)

    def vector(self, operations: float) -> tuple[str, float]:
        """Limit of a row that must do so many plain float operations."""
        return "vector operations", operations / self.vector_flops


def _best(call: Callable[[], object], repeats: int, rounds: int = 7) -> float:
    """Least seconds of a call, on the clock that the rows of this thread count use."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    call()
    times = []
    for _ in range(rounds):
        start = clock()
        for _ in range(repeats):
            call()
        times.append((clock() - start) / repeats)
    return min(times)


def _copy_rate(size: int, repeats: int) -> float:
    source = torch.zeros(size, dtype=torch.uint8)
    target = torch.ones_like(source)
    return 2 * size / _best(lambda: target.copy_(source), repeats)


def measure_limits() -> Limits:
    """Rates with torch's present number of threads."""
    n = 512
    a, b = torch.ones(n, n), torch.ones(n, n)
    out = torch.empty(n, n)
    gemm = 2 * n**3 / _best(lambda: torch.mm(a, b, out=out), 10)
    return Limits(_copy_rate(64 << 20, 2), _copy_rate(192 << 10, 500), gemm)
