"""UNIX: computation-efficient knowledge distillation via uncertainty-aware mixup (Xu, Liu, Loy 2020).

The names below load on first use; importing this file loads nothing.

Example:
    >>> import torch, unix_kd
    >>> from tenfold.distill import create_model
    >>> student, teacher = create_model("plain3", 10), create_model("resnet8", 10)
    >>> step = unix_kd.DistillStep(student, teacher, unix_kd.UncertaintyMixup(keep=0.75, b=0.5))
    >>> losses = step(torch.randn(64, 3, 16, 16))
    >>> losses["loss"].backward(); tuple(losses["logits"].shape)
    (48, 10)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tenfold.distill.distillers import AT, CRD, KD, SP
    from unix_kd.cost import CostLedger, break_even, cost_ratio
    from unix_kd.losses import UnixLoss
    from unix_kd.sampling import MixBatch, UncertaintyMixup, correction_factor, uncertainty
    from unix_kd.stats import SelectionStats
    from unix_kd.step import DistillStep

__version__ = "0.1.0"

_EXPORTS = {
    **dict.fromkeys(("AT", "CRD", "KD", "SP"), "tenfold.distill.distillers"),
    **dict.fromkeys(("CostLedger", "break_even", "cost_ratio"), "unix_kd.cost"),
    "UnixLoss": "unix_kd.losses",
    **dict.fromkeys(("MixBatch", "UncertaintyMixup", "correction_factor", "uncertainty"), "unix_kd.sampling"),
    "SelectionStats": "unix_kd.stats",
    "DistillStep": "unix_kd.step",
}

__all__ = [
    "AT",
    "CRD",
    "KD",
    "SP",
    "CostLedger",
    "DistillStep",
    "MixBatch",
    "SelectionStats",
    "UncertaintyMixup",
    "UnixLoss",
    "break_even",
    "correction_factor",
    "cost_ratio",
    "uncertainty",
]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
