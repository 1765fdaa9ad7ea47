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

from importlib import import_module
from typing import TYPE_CHECKING, Any

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

_EXPORTS = {
    **dict.fromkeys(
        (
            "ContrastiveHeadLoss",
            "SSWrapper",
            "cosine_scores",
            "load_head",
            "positives",
            "save_head",
            "train_ss_head",
        ),
        "ssl_kd.heads",
    ),
    **dict.fromkeys(("PRESETS", "SSKDLoss"), "ssl_kd.losses"),
    **dict.fromkeys(("error_level", "select"), "ssl_kd.selection"),
    "SSKDStep": "ssl_kd.step",
    **dict.fromkeys(("MixedViews", "RotationViews"), "ssl_kd.views"),
    "build": "tenfold.distill.distillers",
    **dict.fromkeys(("few_shot_indices", "noisy_labels"), "tenfold.distill.protocols"),
}
_MODULES = ("metrics", "tasks")

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


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"ssl_kd.{name}")
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
