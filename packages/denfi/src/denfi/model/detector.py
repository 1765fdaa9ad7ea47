"""DenfiDet: a single-stage detector with the plug-in between its backbone and its head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from denfi.grid import BevGrid
from denfi.model.denfi import Denfi, DenfiHead
from denfi.model.free_head import AnchorFreeHead
from denfi.model.tiny import TinyBev, TinyConfig
from denfi.model.variants import DenfiConfig
from denfi.targets import split_truth
from tenfold.lidar import build_detector
from tenfold.lidar.models import AnchorHead
from tenfold.lidar.models.config import configure

__all__ = ["CONFIGS", "DenfiDet", "bev_grid", "build", "plug_in"]

_CAR = {"class_names": ("Car",), "post": {"score_threshold": 0.3}}
#: Name -> detector below and the fields of its configuration that differ from its published one.
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "denfidet_second_car": ("second", _CAR),
    "denfidet_second_3class": ("second", {}),
    "denfidet_pillars_3class": ("pointpillars", {}),
    "denfidet_tiny": ("tiny", {}),
}


def bev_grid(model: Any) -> BevGrid:
    """Where the pixels of a detector's bird's-eye features lie.

    Raises:
        ValueError: a detector without such features, or with cells that are not square.

    Example:
        >>> bev_grid(TinyBev()).cell
        0.4
    """
    config = model.config
    if isinstance(config, TinyConfig):
        return config.bev_grid
    if not hasattr(config, "bev_grid"):
        raise ValueError(f"bev_grid: model: {type(model).__name__} has no bird's-eye features")
    height, width = config.bev_grid
    x0, y0, _, x1, y1, _ = config.point_range
    cell, across = (x1 - x0) / width, (y1 - y0) / height
    if abs(cell - across) > 1e-4:
        raise ValueError(f"bev_grid: voxel_size: got cells of {cell:g} x {across:g} m; expected square ones")
    return BevGrid(x0, y0, round(cell, 6), height, width)


def plug_in(
    detector: nn.Module,
    config: DenfiConfig | None = None,
    head: Literal["own", "free"] = "own",
) -> nn.Module:
    """Put a `Denfi` between the bird's-eye backbone and the head of a detector, in place.

    Any detector with ``backbone_2d`` and a ``dense_head`` whose two branches can be fed apart: SECOND,
    PointPillars, the first stages of Part-A2 and PV-RCNN, `TinyBev`, or one of your own.

    Args:
        detector: changed and returned.
        config: see `DenfiConfig`; the variant "base" changes nothing.
        head: "own", or "free" for an `AnchorFreeHead` in its place.

    Raises:
        ValueError: a detector without such a head (PointRCNN, the six heads of nuScenes).

    Example:
        >>> from tenfold.lidar import build_detector
        >>> second = plug_in(build_detector("second"))
        >>> sum(p.numel() for p in second.parameters()) == 5325576 + 551480
        True
    """
    model: Any = detector
    own = getattr(model, "dense_head", None)
    if not isinstance(own, AnchorHead | AnchorFreeHead):
        raise ValueError(
            f"plug_in: detector: {type(detector).__name__} has no head whose branches can be fed apart; "
            "expected one with a single-resolution anchor head or an anchor-free head"
        )
    c = config or DenfiConfig()
    grid, classes = bev_grid(model), len(model.class_names)
    if head == "free":
        own = AnchorFreeHead(model.backbone_2d.out_channels, classes, grid, sigma1=c.sigma1, sigma2=c.sigma2)
    model.dense_head = own
    if c.variant != "base":
        model.dense_head = DenfiHead(Denfi(model.backbone_2d.out_channels, classes, grid, c), own)
    return detector


class DenfiDet(nn.Module):
    """A detector with boundary-aware features; ``model(batch)`` as `tenfold.lidar.models.Detector` says.

    Args:
        detector: SECOND, PointPillars, `TinyBev` or another one that `plug_in` takes.
        denfi: settings and variant of the plug-in.
        head: "own" (the detector's) or "free".

    Example:
        >>> model = DenfiDet.from_config("denfidet_tiny").eval()
        >>> found = model.predict(torch.rand(50, 3))
        >>> sorted(found[0]), found[0]["boxes_3d"].shape[1]
        (['boxes_3d', 'labels', 'scores'], 7)
    """

    def __init__(
        self, detector: nn.Module, denfi: DenfiConfig | None = None, head: Literal["own", "free"] = "own"
    ) -> None:
        super().__init__()
        self.denfi_config = denfi or DenfiConfig()
        self.detector: Any = plug_in(detector, self.denfi_config, head)

    @classmethod
    def from_config(
        cls,
        name: str,
        variant: str = "denfi",
        *,
        head: Literal["own", "free"] = "own",
        denfi: Mapping[str, Any] | None = None,
        **overrides: Any,
    ) -> DenfiDet:
        """A reference model.

        Args:
            name: a key of `CONFIGS`.
            variant: a key of `VARIANTS`; "base" is the detector without the plug-in.
            head: "own" or "free".
            denfi: further fields of `DenfiConfig`.
            overrides: fields of the detector's configuration, such as `SecondConfig`.

        Raises:
            ValueError: an unknown name or field, or a configuration that does not fit together.

        Example:
            >>> sum(p.numel() for p in DenfiDet.from_config("denfidet_second_car").parameters())
            5849354
        """
        if name not in CONFIGS:
            raise ValueError(f"DenfiDet: name: got {name!r}; expected one of {', '.join(CONFIGS)}")
        below, usual = CONFIGS[name]
        settings = {**usual, **overrides}
        if below == "tiny":
            detector: nn.Module = TinyBev(
                configure("denfidet_tiny", {"tiny": TinyConfig()}, "tiny", settings)
            )
        else:
            detector = build_detector(below, **settings)
        plug = configure(  # type: ignore[type-var]
            "denfi", {"denfi": DenfiConfig()}, "denfi", {**(denfi or {}), "variant": variant}
        )
        return cls(detector, plug, head)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of labels 0, 1, ..."""
        names: tuple[str, ...] = self.detector.class_names
        return names

    @property
    def config(self) -> Any:
        """Settings of the detector below."""
        return self.detector.config

    @config.setter
    def config(self, value: Any) -> None:
        self.detector.config = value

    @property
    def plug(self) -> DenfiHead | None:
        """The head with the plug-in; None for the variant "base"."""
        head = self.detector.dense_head
        return head if isinstance(head, DenfiHead) else None

    def forward(self, batch: Mapping[str, Any]) -> Any:
        """Losses in training, detections otherwise; the oracle reads ``gt_boxes`` in evaluation too."""
        plug = self.plug
        if plug is None or plug.denfi.config.row.source != "oracle":
            return self.detector(batch)
        if "gt_boxes" not in batch:
            raise ValueError(
                "DenfiDet: batch: has no 'gt_boxes'; the variant 'denfi-oracle' needs them always"
            )
        plug.truth = split_truth(batch["gt_boxes"])
        try:
            return self.detector(batch)
        finally:
            plug.truth = None

    @torch.inference_mode()
    def predict(self, points: Tensor | Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """Detections of frames, best first.

        Args:
            points: (N, F) x, y, z and features of one frame, or a list of them.

        Returns:
            For each frame ``boxes_3d`` (M, 7) x, y, z, dx, dy, dz, heading, ``scores`` (M,) and ``labels`` (M,).

        Raises:
            ValueError: in training mode, no frame, or shapes that do not fit.
        """
        if self.training:
            raise ValueError("DenfiDet.predict: the model is in training mode; call model.eval() first")
        frames = [points] if isinstance(points, Tensor) else list(points)
        if not frames:
            raise ValueError("DenfiDet.predict: points: got no frame; expected one or more")
        rows = [torch.cat((p.new_full((len(p), 1), k), p), 1) for k, p in enumerate(frames)]
        found = self({"points": torch.cat(rows), "batch_size": len(rows)})
        order = [torch.argsort(f["scores"], descending=True, stable=True) for f in found]
        return [
            {"boxes_3d": f["boxes"][k], "scores": f["scores"][k], "labels": f["labels"][k]}
            for f, k in zip(found, order, strict=True)
        ]


def build(settings: Mapping[str, Any]) -> nn.Module:
    """The detector that a recipe or a checkpoint's hyper-parameters describe.

    Args:
        settings: ``detector`` (a key of `CONFIGS`), ``variant``, ``head``, ``denfi`` and ``overrides``.

    Raises:
        UserInputError: an unknown name or field.
    """
    from tenfold._errors import UserInputError

    try:
        return DenfiDet.from_config(
            settings["detector"],
            settings.get("variant", "denfi"),
            head=settings.get("head", "own"),
            denfi=settings.get("denfi"),
            **dict(settings.get("overrides") or {}),
        )
    except (TypeError, ValueError) as error:
        raise UserInputError(f"model: {error}") from error
