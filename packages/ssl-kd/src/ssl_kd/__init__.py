"""SSKD: knowledge distillation meets self-supervision (Xu, Liu, Li, Loy; ECCV 2020).

The names below load on first use; importing this file loads nothing.

Example:
    >>> import torch, ssl_kd
    >>> from tenfold.distill import create_model
    >>> student = ssl_kd.SSWrapper(create_model("plain3", 10))
    >>> teacher = ssl_kd.SSWrapper(create_model("resnet8", 10)).eval()
    >>> step = ssl_kd.SSKDStep(student, teacher)
    >>> losses = step(torch.randn(8, 4, 3, 16, 16), torch.arange(8))
    >>> losses["loss"].backward(); sorted(losses)[:5]
    ['ce', 'kd', 'logits', 'loss', 'n_ss']
"""

from typing import TYPE_CHECKING

from tenfold.lazy import lazy_names

if TYPE_CHECKING:
    from ssl_kd import metrics, tasks
    from ssl_kd.heads import (
        ContrastiveHeadLoss,
        SSWrapper,
        cosine_scores,
        load_head,
        positives,
        save_head,
        train_ss_head,
    )
    from ssl_kd.losses import PRESETS, SSKDLoss
    from ssl_kd.selection import error_level, select
    from ssl_kd.step import SSKDStep
    from ssl_kd.views import MixedViews, RotationViews
    from tenfold.distill.distillers import build
    from tenfold.distill.protocols import few_shot_indices, noisy_labels

__version__ = "0.1.0"

__all__ = [
    "PRESETS",
    "ContrastiveHeadLoss",
    "MixedViews",
    "RotationViews",
    "SSKDLoss",
    "SSKDStep",
    "SSWrapper",
    "build",
    "cosine_scores",
    "error_level",
    "few_shot_indices",
    "load_head",
    "metrics",
    "noisy_labels",
    "positives",
    "save_head",
    "select",
    "tasks",
    "train_ss_head",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        ".": ["metrics", "tasks"],
        ".heads": [
            "ContrastiveHeadLoss",
            "SSWrapper",
            "cosine_scores",
            "load_head",
            "positives",
            "save_head",
            "train_ss_head",
        ],
        ".losses": ["PRESETS", "SSKDLoss"],
        ".selection": ["error_level", "select"],
        ".step": ["SSKDStep"],
        ".views": ["MixedViews", "RotationViews"],
        "tenfold.distill.distillers": ["build"],
        "tenfold.distill.protocols": ["few_shot_indices", "noisy_labels"],
    },
)
