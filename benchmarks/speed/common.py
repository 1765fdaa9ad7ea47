"""What the speed rows of several packages share."""

from typing import Any

import numpy as np
import torch

from kernels.model import Call, Case, Verdict

__all__ = ["another_network", "finite", "nothing", "without_gradient"]


def without_gradient(call: Call) -> Call:
    """The call in inference mode."""

    @torch.inference_mode()
    def run() -> Any:
        return call()

    return run


def another_network(_ours: Any, _other: Any) -> Verdict:
    """For rows whose peers compute something else: only times stand beside each other."""
    return Verdict(True, "another network")


def nothing(_raw: Any, _case: Case) -> tuple[Any, ...]:
    """The normal form of a result that is compared with no other."""
    return ()


def finite(ours: Any, _other: Any) -> Verdict:
    """The one property of an untrained network's outputs."""
    return Verdict(bool(np.isfinite(ours).all()), "finite")
