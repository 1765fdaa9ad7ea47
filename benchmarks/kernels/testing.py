"""Made-up rows whose speed and mistakes are known, for the runner's own tests."""

import time
from typing import Any

import torch

from kernels.limits import Limits
from kernels.model import Call, Case, Peer, Row, bit_equal
from kernels.run import Plan

PLAN = Plan(rounds=7, least=0.0, most=5.0, threads=(1,), scales=())
LIMITS = dict.fromkeys((1, 2), Limits(dram_bytes=1e10, l2_bytes=1e11, gemm_flops=1e11))


def busy(seconds: float) -> None:
    """Burn processor time."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def make(scale: float, dtype: str) -> Case:
    n = round(1000 * scale)
    return Case(n, f"{n} numbers", {"x": torch.arange(n, dtype=getattr(torch, dtype))})


def doubled(milliseconds: float, wrong: float = 0.0) -> Any:
    """Builder of a call that doubles its input in the time given, off by `wrong`."""

    def build(case: Case) -> Call:
        def call() -> torch.Tensor:
            busy(milliseconds * 1e-3)
            return torch.add(case["x"] * 2, wrong)

        return call

    return build


def peer(name: str = "peer", milliseconds: float = 4.0, wrong: float = 0.0, **more: Any) -> Peer:
    return Peer(name, "torch", "torch", doubled(milliseconds, wrong), **more)


def row(peers: Any = (), milliseconds: float = 1.0, wrong: float = 0.0, **more: Any) -> Row:
    given: dict[str, Any] = {"key": "double", "op": "double", "title": "doubling", "make": make}
    given |= {"agree": bit_equal, "growth": False, **more}
    return Row(ours=doubled(milliseconds, wrong), peers=tuple(peers), **given)
