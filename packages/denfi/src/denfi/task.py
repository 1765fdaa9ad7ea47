"""Training and evaluation with Lightning: the LiDAR detectors' own, with this package's detectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from denfi.model import build
from denfi.recipe import parameter_groups
from tenfold.lidar.task import LidarData, LidarTask

__all__ = ["DenfiTask", "LidarData"]


class DenfiTask(LidarTask):
    """A single-stage detector with boundary-aware features in training, by the recipe of its baseline.

    Args:
        detector: Name of a reference model, such as denfidet_second_3class.
        variant: Row of the ablation; denfi is the paper, base the detector without the plug-in.
        head: The detector's own head, or an anchor-free one.
        denfi: Settings of the plug-in that differ from the usual ones.
        overrides: Settings of the detector that differ from the published ones.
        lr: Peak learning rate.
        offset_lr: Peak learning rate of the offset layers; lr by default.
        weight_decay: Decoupled, on all parameters but the offset layers'.
        div: The learning rate starts at lr / div.
        warm_fraction: Share of the run in which it rises.
        bn_momentum: Of all normalisations; short runs want 0.1, since 0.01 lags behind for some hundred steps.
        start_from: Checkpoint of the same detector whose weights a new run starts from.
        results: Folder for the result files of validation and test; none are written without it.
        tta_flips: Test-time augmentation: mirror images besides the frame itself, of x, y and xy.
        tta_rotations: Test-time augmentation: further rotations, radians.
        tta_scales: Test-time augmentation: further scales.
    """

    build = staticmethod(build)

    def __init__(
        self,
        detector: str = "denfidet_second_3class",
        variant: str = "denfi",
        head: Literal["own", "free"] = "own",
        denfi: dict[str, Any] | None = None,
        overrides: dict[str, Any] | None = None,
        lr: float = 0.003,
        offset_lr: float | None = None,
        weight_decay: float = 0.01,
        div: float = 10.0,
        warm_fraction: float = 0.4,
        bn_momentum: float | None = None,
        start_from: str | None = None,
        results: str | None = None,
        tta_flips: Sequence[str] = (),
        tta_rotations: Sequence[float] = (),
        tta_scales: Sequence[float] = (),
    ) -> None:
        super().__init__(
            detector=detector,
            overrides=overrides,
            lr=lr,
            weight_decay=weight_decay,
            div=div,
            warm_fraction=warm_fraction,
            start_from=start_from,
            results=results,
            tta_flips=tta_flips,
            tta_rotations=tta_rotations,
            tta_scales=tta_scales,
        )
        if bn_momentum is not None:
            for module in self.model.modules():
                if hasattr(module, "momentum") and hasattr(module, "running_mean"):
                    module.momentum = bn_momentum

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Offset layers apart, see `denfi.recipe`."""
        settings = self.hparams
        return parameter_groups(self.model, settings["lr"], settings["weight_decay"], settings["offset_lr"])
