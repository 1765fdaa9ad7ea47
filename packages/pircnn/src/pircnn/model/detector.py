"""PI-RCNN: PointRCNN whose second stage pools point features fused with image features (Xie et al., AAAI 2020)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pircnn.calibration import KittiCalib
from pircnn.data.columns import CAMERA_COLUMNS, SEEN, STORED, with_camera
from pircnn.losses import IGNORE, point_segmentation_loss, segmentation_sums
from pircnn.model.config import PIRCNNConfig, make_config
from pircnn.model.pacf import PACF, PointImageFusion, PointPainting
from pircnn.model.unet import SegUNet, image_tensor
from pircnn.sampling import sample_image_features
from tenfold.lidar.models.detector import PointFeatures, plain_boxes
from tenfold.lidar.models.layers import full_precision
from tenfold.lidar.models.point_input import in_xy_range
from tenfold.lidar.models.pointrcnn import PointRCNN
from tenfold.lidar.models.two_stage import FirstStage
from tenfold.lidar.point_targets import assign_points
from tenfold.losses import mean_count

__all__ = ["PIRCNN", "ImageFeatures", "build"]


class ImageFeatures(NamedTuple):
    """What the camera says of drawn points.

    Args:
        features: (B, N, C), 0 where nothing is seen or stored.
        seen: (B, N) bool, read from the image.
    """

    features: Tensor
    seen: Tensor


class PIRCNN(PointRCNN):
    """PI-RCNN; see `tenfold.lidar.models.Detector` for what goes in and out.

    Points carry camera columns (`pircnn.data.with_camera`). A batch holds besides ``images``, a list of normalised
    (3, H, W) tensors (`image_tensor`), None where an image is missing, or with the branch "cached" ``maps``, a list of
    (Cs, H, W) tensors; sizes may differ. In training with the branch "joint": ``label_maps``, a list of (H, W) labels
    of these images (or None), and ``semantics``, a pair of lists, other images and their labels. Without images
    every point is unseen, and the detector still works.

    Args:
        config: see `PIRCNNConfig`.

    Raises:
        ValueError: settings or a batch that do not fit.
    """

    config: PIRCNNConfig

    def __init__(self, config: PIRCNNConfig | None = None) -> None:
        c = config or PIRCNNConfig()
        super().__init__(c)
        self.image_net = SegUNet(3, c.seg_classes, c.seg_widths) if c.branch != "cached" else None
        if self.image_net is not None and c.branch == "frozen":
            self.image_net.requires_grad_(False)
        self.fusion = self._make_fusion(self.backbone_3d.out_channels) if c.fusion.fuses else None
        self.train(self.training)

    @classmethod
    def from_config(cls, variant: str = "pacf", **overrides: Any) -> PIRCNN:
        """The detector of a row of the ablation.

        Args:
            variant: name in `pircnn.VARIANTS`.
            overrides: fields of `PIRCNNConfig`.

        Example:
            >>> model = PIRCNN.from_config(branch="cached")
            >>> sum(p.numel() for p in model.fusion.parameters())
            61572
        """
        return cls(make_config(variant, overrides=overrides))

    def _make_fusion(self, width: int) -> PointImageFusion:
        c, f = self.config.image_channels, self.config.fusion
        fuse: PACF | PointPainting = PointPainting(c, width)
        if f.kind == "pacf":
            fuse = PACF(
                c,
                width,
                f.k,
                f.hidden,
                f.point_pooling,
                f.attention,  # type: ignore[arg-type]
                f.activation,  # type: ignore[arg-type]
                f.norm,
            )
        return PointImageFusion(width, fuse, f.combine)  # type: ignore[arg-type]

    def input_channels(self) -> int:
        """Features beside the coordinates, and image features with the fusion "input"."""
        extra = self.config.image_channels if self.config.fusion.kind == "input" else 0
        return super().input_channels() + extra

    def pooled_channels(self, width: int) -> int:
        """Twice as many where features are concatenated."""
        f = self.config.fusion
        return 2 * width if f.fuses and f.combine == "concat" and f.stage == "stage2" else width

    @property
    def point_columns(self) -> int:
        """Features of a point, its camera columns, stored semantics."""
        return self.config.point_features + CAMERA_COLUMNS + self.config.stored_channels

    def train(self, mode: bool = True) -> Self:
        """A frozen image network stays in evaluation mode, or its statistics would move."""
        super().train(mode)
        if getattr(self, "image_net", None) is not None and self.config.branch == "frozen":
            self.image_net.eval()  # type: ignore[union-attr]
        return self

    # ---- the image ---------------------------------------------------------------------------------------

    def image_maps(self, images: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Feature maps (C, H, W) of images (3, H, W); those of one size run together."""
        if self.image_net is None:
            raise ValueError("PIRCNN: images: the branch 'cached' has no image network; pass maps")
        sizes: dict[tuple[int, ...], list[int]] = {}
        for row, image in enumerate(images):
            if image is not None:
                sizes.setdefault(tuple(image.shape), []).append(row)
        found: list[Tensor | None] = [None] * len(images)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.config.branch == "joint"):
            for rows in sizes.values():
                maps = self.image_features(torch.stack([images[k] for k in rows]))  # type: ignore[misc]
                for row, one in zip(rows, maps, strict=True):
                    found[row] = one
        return found

    def image_features(self, images: Tensor) -> Tensor:
        """What the fusion reads, (B, C, H, W), of images of one size (B, 3, H, W)."""
        assert self.image_net is not None
        if self.config.fusion.features == "penultimate":
            return self.image_net.features(images)
        logits: Tensor = self.image_net(images)
        return logits.softmax(1) if self.config.fusion.features == "prob" else logits

    def _maps(self, batch: Mapping[str, Any], frames: int) -> list[Tensor | None]:
        if self.config.fusion.zeros or self.config.fusion.kind == "none":
            return [None] * frames
        key = "maps" if self.config.branch == "cached" else "images"
        given = batch.get(key)
        if given is None:
            return [None] * frames
        if len(given) != frames:
            raise ValueError(f"PIRCNN: {key}: got {len(given)} for {frames} frames; expected one for each")
        return list(given) if key == "maps" else self.image_maps(given)

    def look(self, drawn: Tensor, batch: Mapping[str, Any]) -> ImageFeatures:
        """Image features at drawn points (B, N, columns)."""
        c = self.config
        first = c.point_features
        uv, state = drawn[..., first : first + 2], drawn[..., first + 2]
        parts, sees = [], []
        for frame, one in enumerate(self._maps(batch, len(drawn))):
            dropped = self.training and c.fusion.drop and float(torch.rand(())) < c.fusion.drop
            if one is None or dropped:
                parts.append(drawn.new_zeros(drawn.shape[1], c.image_channels))
                sees.append(torch.zeros_like(state[frame], dtype=torch.bool))
                continue
            if one.ndim != 3 or one.shape[0] != c.image_channels:
                raise ValueError(
                    f"PIRCNN: maps: got {tuple(one.shape)} for frame {frame}; expected ({c.image_channels}, H, W)"
                )
            valid = state[frame] == SEEN
            read = sample_image_features(
                one[None].float(),
                uv[frame][None],
                valid[None],
                c.fusion.sampling,  # type: ignore[arg-type]
            )
            parts.append(read[0].to(drawn.dtype))
            sees.append(valid)
        features = torch.stack(parts)
        if c.stored and not c.fusion.zeros:
            stored = drawn[..., first + CAMERA_COLUMNS :]
            features = torch.where((state == STORED)[..., None], stored, features)
        return ImageFeatures(features, torch.stack(sees))

    # ---- the detector ------------------------------------------------------------------------------------

    def first_stage(self, points: Tensor, batch_size: int, batch: Mapping[str, Any]) -> FirstStage:
        """PointRCNN's, on LiDAR alone unless the fusion is before it."""
        drawn, counts = self.draw_points(in_xy_range(points, self.config.point_range), batch_size)
        image = self.look(drawn, batch)
        own, f = drawn[..., : self.config.point_features], self.config.fusion
        if f.kind == "input":
            own = torch.cat((own, image.features), -1)
        features = self.features(own)
        if f.fuses and f.stage == "both":
            features = self.fuse(features, image.features, drawn[..., :3])
        return self.told_by(features, drawn, counts, image)

    @full_precision
    def fuse(self, features: Tensor, image: Tensor, xyz: Tensor) -> Tensor:
        """Fused features (B, N, C) of point features, image features and coordinates."""
        assert self.fusion is not None
        fused: Tensor = self.fusion(features, image.to(features.dtype), xyz)
        return fused if self.config.fusion.trained else fused.detach()

    def refine(self, first: FirstStage, batch: Mapping[str, Any]) -> PointFeatures:
        """The point features that the second stage pools."""
        f = self.config.fusion
        if not f.fuses or f.stage == "both":
            return first.points
        image: ImageFeatures = first.extra
        frames = len(image.features)
        own = first.points.features.view(frames, -1, first.points.features.shape[1])
        fused = self.fuse(own, image.features, first.points.xyz.view(frames, -1, 3))
        return first.points._replace(features=fused.flatten(0, 1))

    def first_losses(self, first: FirstStage, gt_boxes: Tensor) -> dict[str, Tensor]:
        """Losses of the points, and where asked for of the image features at them."""
        losses = super().first_losses(first, gt_boxes)
        weight = self.config.point_seg_weight
        if weight:
            image: ImageFeatures = first.extra
            enlarge = self.point_head.weights.enlarge
            targets = assign_points(
                first.points.xyz, first.points.offsets, plain_boxes(gt_boxes), enlarge=enlarge
            )
            labels = torch.where(image.seen.flatten(), targets.labels, -1)
            losses["point_seg"] = weight * point_segmentation_loss(image.features.flatten(0, 1), labels)
        return losses

    def train_step(self, points: Tensor, gt_boxes: Tensor, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Losses of both stages and of the image network."""
        losses = super().train_step(points, gt_boxes, batch)
        seg = self._segmentation(batch)
        if seg is not None:
            losses["seg"] = self.config.seg_weight * seg
            losses["loss"] = losses["loss"] + losses["seg"]
        return losses

    def _segmentation(self, batch: Mapping[str, Any]) -> Tensor | None:
        """Loss on labelled images: mean over all their labelled pixels; None where no process has any."""
        if self.config.branch != "joint" or not self.config.seg_weight:
            return None
        images, labels = list(batch.get("images") or ()), list(batch.get("label_maps") or ())
        pairs = list(zip(images, labels, strict=True)) if labels else []
        more = batch.get("semantics")
        if more is not None:
            pairs += list(zip(*more, strict=True))
        parts = []
        for image, label in pairs:
            if image is None or label is None or bool((label == IGNORE).all()):
                continue
            if image.shape[1:] != label.shape:
                raise ValueError(
                    f"PIRCNN: label_maps: got {tuple(label.shape)}; expected {tuple(image.shape[1:])}, the image's"
                )
            parts.append((image, label))
        # Every process takes part, also one without labels: else the others would wait for it.
        known = mean_count(
            next(self.parameters()).new_tensor(sum(int((p[1] != IGNORE).sum()) for p in parts)), 0.0
        )
        return self._focal(parts) / known if known > 0 else None

    def _focal(self, pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Summed loss; images of one size run together."""
        assert self.image_net is not None
        by_size: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}
        for pair in pairs:
            by_size.setdefault(pair[0].shape, []).append(pair)
        # Zero, with a gradient for every weight, for a process without labels.
        total = torch.stack([p.sum() for p in self.image_net.parameters()]).sum() * 0
        for alike in by_size.values():
            images, labels = (torch.stack(column) for column in zip(*alike, strict=True))
            total = total + segmentation_sums(self.image_net(images), labels)[0]
        return total

    def predict(
        self,
        points: npt.ArrayLike,
        image: npt.NDArray[np.uint8] | None = None,
        calib: KittiCalib | None = None,
        semantics: npt.NDArray[Any] | None = None,
    ) -> dict[str, Tensor]:
        """Detections of one frame, best first.

        Args:
            points: (N, point_features) x, y, z in metres, intensity in [0, 1].
            image: (H, W, 3) uint8 RGB; None is a missing image.
            calib: of that image.
            semantics: (Cs, H, W) map, instead of an image, for the branch "cached".

        Returns:
            ``boxes_3d`` (M, 7), ``scores`` (M,), ``labels`` (M,) 0-based into ``class_names``.

        Raises:
            ValueError: an image without a calibration.
        """
        picture = image if image is not None else semantics
        if picture is not None and calib is None:
            raise ValueError("PIRCNN.predict: calib: an image needs the calibration of its camera")
        shape = None if picture is None else picture.shape[:2] if image is not None else picture.shape[1:]
        rows = with_camera(np.asarray(points, np.float32), calib, shape, self.config.stored_channels)
        reference = next(self.parameters())
        batch: dict[str, Any] = {
            "points": torch.from_numpy(np.insert(rows, 0, 0, axis=1)).to(reference.device),
            "batch_size": 1,
        }
        if semantics is not None:
            batch["maps"] = [torch.from_numpy(np.asarray(semantics, np.float32)).to(reference.device)]
        elif image is not None:
            batch["images"] = [image_tensor(torch.from_numpy(np.ascontiguousarray(image))).to(reference)]
        mode = self.training
        self.eval()
        try:
            with torch.inference_mode():
                found = self(batch)[0]
        finally:
            self.train(mode)
        order = torch.argsort(found["scores"], descending=True, stable=True)
        return {
            "boxes_3d": found["boxes"][order],
            "scores": found["scores"][order],
            "labels": found["labels"][order],
        }


def build(settings: Mapping[str, Any]) -> nn.Module:
    """The detector that a recipe or a checkpoint's hyper-parameters describe.

    Raises:
        UserInputError: an unknown variant, data set or override.
    """
    from tenfold._errors import UserInputError

    try:
        overrides = dict(settings.get("overrides") or {})
        overrides.setdefault("branch", settings.get("branch") or "frozen")
        if settings.get("fusion"):
            overrides["fusion"] = {**settings["fusion"], **(overrides.get("fusion") or {})}
        return PIRCNN(
            make_config(settings.get("variant") or "pacf", settings.get("dataset") or "kitti", overrides)
        )
    except (TypeError, ValueError) as error:
        raise UserInputError(f"model: {error}") from error
