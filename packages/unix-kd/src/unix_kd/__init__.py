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

from typing import TYPE_CHECKING

from tenfold.lazy import lazy_names

if TYPE_CHECKING:
    from tenfold.distill.distillers import AT, CRD, KD, SP
    from unix_kd.cost import CostLedger, break_even, cost_ratio
    from unix_kd.losses import UnixLoss
    from unix_kd.sampling import MixBatch, UncertaintyMixup, correction_factor, uncertainty
    from unix_kd.stats import SelectionStats
    from unix_kd.step import DistillStep

__version__ = "0.1.0"

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

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        ".cost": ["CostLedger", "break_even", "cost_ratio"],
        ".losses": ["UnixLoss"],
        ".sampling": ["MixBatch", "UncertaintyMixup", "correction_factor", "uncertainty"],
        ".stats": ["SelectionStats"],
        ".step": ["DistillStep"],
        "tenfold.distill.distillers": ["AT", "CRD", "KD", "SP"],
    },
)
