"""The paper's module and every row that it is compared with, as one switch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from denfi.losses import BoundaryWeights
from denfi.targets import AngleRange

__all__ = ["VARIANTS", "DenfiConfig", "Variant"]

Refinement = Literal["none", "separable", "deformable", "anchor_guided", "denfi", "denfi_deformable"]


@dataclass(frozen=True)
class Variant:
    """One row of the ablation.

    Args:
        purpose: what it is there to tell.
        supervision: what is learnt beside the head: nothing, the "boundary" proposals, or the "shape" alone.
        cls: refinement of the classification branch.
        reg: refinement of the regression branch.
        shared: one refinement for both branches.
        encoding: see `DenfiConv`.
        source: whose proposals the refinements get: "predicted"; "shuffled" over the pixels of a frame; "oracle",
            the truth at positive pixels and the prediction elsewhere.
    """

    purpose: str
    supervision: Literal["none", "boundary", "shape"] = "boundary"
    cls: Refinement = "denfi"
    reg: Refinement = "denfi"
    shared: bool = False
    encoding: Literal["raw", "geometric"] = "raw"
    source: Literal["predicted", "shuffled", "oracle"] = "predicted"


def _both(purpose: str, supervision: Literal["none", "boundary", "shape"], kind: Refinement) -> Variant:
    return Variant(purpose, supervision, kind, kind)


#: Name -> variant.
VARIANTS: dict[str, Variant] = {
    "base": _both("the detector as it is", "none", "none"),
    "dsc": _both("capacity: the same convolutions, nothing moves", "none", "separable"),
    "dsc+dbpm": _both("auxiliary supervision without sampling", "boundary", "separable"),
    "dc": _both("plain deformable convolution (figure 2a)", "none", "deformable"),
    "ga": _both("anchor-guided convolution (figure 2b)", "shape", "anchor_guided"),
    "denfi": Variant("the paper (figure 2c)"),
    "denfi-shared": Variant("one refinement for both branches", shared=True),
    "denfi-cls": Variant("classification branch alone", reg="none"),
    "denfi-reg": Variant("regression branch alone", cls="none"),
    "denfi-dc": _both("nine offsets instead of one", "boundary", "denfi_deformable"),
    "denfi-geo": Variant("edge vectors instead of raw numbers", encoding="geometric"),
    "denfi-shuffled": Variant("control: proposals of other pixels", source="shuffled"),
    "denfi-geo-shuffled": Variant(
        "control: edge vectors of other pixels", encoding="geometric", source="shuffled"
    ),
    "denfi-oracle": Variant("upper bound: the truth at positive pixels", source="oracle"),
}


@dataclass(frozen=True)
class DenfiConfig:
    """Everything that shapes a `Denfi` besides the map it works on.

    Args:
        variant: a name of `VARIANTS`.
        num_angle_bins: bins of the heading.
        angle_range: "2pi", or "pi" where a heading and its opposite are one.
        sigma1: see `boundary_targets`.
        sigma2: see `boundary_targets`.
        detach_proposals: keep the head's gradient out of the proposals.
        norm: of the refinements, "bn" or "none".
        backend: of the sampling, "grid_sample" or "deform_conv".
        offset_std: of the offset layers' first weights.
        weights: of the losses.

    Raises:
        ValueError: an unknown variant.

    Example:
        >>> DenfiConfig("denfi-geo").row.encoding
        'geometric'
    """

    variant: str = "denfi"
    num_angle_bins: int = 12
    angle_range: AngleRange = "2pi"
    sigma1: float = 0.45
    sigma2: float = 0.70
    detach_proposals: bool = True
    norm: str = "bn"
    backend: Literal["grid_sample", "deform_conv"] = "grid_sample"
    offset_std: float = 0.1
    weights: BoundaryWeights = field(default_factory=BoundaryWeights)

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise ValueError(
                f"DenfiConfig: variant: got {self.variant!r}; expected one of {', '.join(VARIANTS)}"
            )
        if self.num_angle_bins < 1:
            raise ValueError(f"DenfiConfig: num_angle_bins: got {self.num_angle_bins}; expected 1 or more")

    @property
    def row(self) -> Variant:
        """What the variant switches."""
        return VARIANTS[self.variant]
