"""Settings of the detector, and the rows of the ablation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pircnn.sampling import MODES
from tenfold.lidar.models.config import configure
from tenfold.lidar.models.pointrcnn import PointRCNNConfig

__all__ = ["BRANCHES", "VARIANTS", "FusionConfig", "PIRCNNConfig", "make_config"]

BRANCHES = ("frozen", "cached", "joint")


@dataclass(frozen=True)
class FusionConfig:
    """How image features meet points.

    Args:
        kind: "pacf"; "paint", a linear map of a point's own image features between the stages (PointPainting-like);
            "input", image features beside the raw points (PointPainting); "none", LiDAR alone.
        stage: "stage2", between the stages; "both", before the first one.
        k, hidden, point_pooling, attention, activation, norm: see `PACF`.
        combine: "add" or "concat".
        trained: False stops the gradient behind the fusion, which then stays as it was drawn: the released code.
        zeros: control: image features are 0.
        features: "prob", probabilities of the image network; "logits"; or "penultimate", its last but one map.
        sampling: "bilinear", "nearest" or "floor".
        drop: probability in training that a frame's image is missing.
    """

    kind: str = "pacf"
    stage: str = "stage2"
    k: int = 3
    hidden: tuple[int, ...] = (32, 64)
    point_pooling: bool = True
    attention: str | None = "rank"
    activation: str | None = "relu"
    norm: bool = False
    combine: str = "add"
    trained: bool = True
    zeros: bool = False
    features: str = "prob"
    sampling: str = "bilinear"
    drop: float = 0.0

    def __post_init__(self) -> None:
        known: dict[str, tuple[str, ...]] = {
            "kind": ("pacf", "paint", "input", "none"),
            "stage": ("stage2", "both"),
            "combine": ("add", "concat"),
            "features": ("prob", "logits", "penultimate"),
            "sampling": MODES,
        }
        for name, allowed in known.items():
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"FusionConfig: {name}: got {getattr(self, name)!r}; expected one of {', '.join(allowed)}"
                )
        if not 0 <= self.drop <= 1:
            raise ValueError(f"FusionConfig: drop: got {self.drop}; expected a probability")

    @property
    def fuses(self) -> bool:
        """Whether there is a module between image features and point features."""
        return self.kind in ("pacf", "paint")


@dataclass(frozen=True)
class PIRCNNConfig(PointRCNNConfig):
    """Everything that shapes a `PIRCNN`. Further fields: `PointRCNNConfig`.

    Args:
        fusion: see `FusionConfig`.
        branch: "frozen", a pretrained image network without gradient; "cached", maps from disk and no network;
            "joint", trained with the detector.
        seg_classes: Cs of the image network.
        seg_widths: of the image network.
        seg_weight: of its loss on label maps, in "joint".
        point_seg_weight: of its loss on 3-D boxes ("joint", features "logits", Cs = 1 + classes); 0 switches it off.
        stored: points carry Cs columns of stored semantics (ground-truth sampling).

    Raises:
        ValueError: whatever does not fit together.
    """

    fusion: FusionConfig = field(default_factory=FusionConfig)
    branch: str = "frozen"
    seg_classes: int = 10
    seg_widths: tuple[int, ...] = (64, 128, 256, 512)
    seg_weight: float = 1.0
    point_seg_weight: float = 0.0
    stored: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(
            self.branch in BRANCHES, f"branch: got {self.branch!r}; expected one of {', '.join(BRANCHES)}"
        )
        self.require(
            self.branch != "cached" or self.fusion.features != "penultimate",
            "branch: cached maps hold probabilities or logits, not the penultimate map",
        )
        if self.point_seg_weight:
            self.require(
                self.branch == "joint" and self.fusion.features == "logits",
                "point_seg_weight: needs branch 'joint' and fusion.features 'logits'",
            )
            self.require(
                self.seg_classes == 1 + len(self.class_names),
                f"point_seg_weight: needs seg_classes {1 + len(self.class_names)}: background and every class",
            )

    @property
    def image_channels(self) -> int:
        """Channels of image features."""
        return self.seg_widths[0] if self.fusion.features == "penultimate" else self.seg_classes

    @property
    def stored_channels(self) -> int:
        """Columns of stored semantics behind a point's camera columns."""
        return self.image_channels if self.stored else 0


#: Row of the ablation -> settings of the fusion.
VARIANTS: dict[str, dict[str, Any]] = {
    "pacf": {},
    "pointrcnn": {"kind": "none"},
    "pointrcnn+params": {"zeros": True},
    "paint": {"kind": "paint"},
    "paint-input": {"kind": "input"},
    "cc": {"point_pooling": False, "attention": None},
    "cc+pp": {"attention": None},
    "cc+aa": {"point_pooling": False},
    "pacf-k1": {"k": 1},
    "pacf-k5": {"k": 5},
    "pacf-k9": {"k": 9},
    "pacf-content": {"attention": "content"},
    "pacf-concat": {"combine": "concat"},
    "pacf-both": {"stage": "both"},
    "pacf-linear": {"activation": None},
    "pacf-frozen": {"trained": False},
    "released": {
        "trained": False,
        "activation": None,
        "point_pooling": False,
        "attention": None,
        "sampling": "floor",
    },
}


def make_config(
    variant: str = "pacf", dataset: str = "kitti", overrides: Mapping[str, Any] | None = None
) -> PIRCNNConfig:
    """Settings of a row of the ablation.

    Args:
        variant: name in `VARIANTS`.
        dataset: "kitti".
        overrides: fields of `PIRCNNConfig`; those of ``fusion`` win over the variant's.

    Raises:
        ValueError: an unknown name or field, or settings that do not fit together.

    Example:
        >>> make_config("cc", overrides={"branch": "joint"}).fusion.attention is None
        True
    """
    if variant not in VARIANTS:
        raise ValueError(f"variant: got {variant!r}; expected one of {', '.join(VARIANTS)}")
    changes = dict(overrides or {})
    changes["fusion"] = {**VARIANTS[variant], **(changes.get("fusion") or {})}
    return configure("make_config", {"kitti": PIRCNNConfig()}, dataset, changes)
