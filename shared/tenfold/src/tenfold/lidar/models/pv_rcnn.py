"""PV-RCNN (Shi et al. 2020): key points gather features of voxels, points and the bird's-eye map."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tenfold.geometry import points_from_box_frame
from tenfold.lidar.models.config import configure
from tenfold.lidar.models.detector import Detector, PointFeatures, frame_offsets, plain_boxes
from tenfold.lidar.models.layers import fc_block, full_precision, shared_layers
from tenfold.lidar.models.part_a2 import anchor_losses
from tenfold.lidar.models.point_heads import PointHead, PointOutputs, PointWeights
from tenfold.lidar.models.point_input import in_xy_range
from tenfold.lidar.models.roi_head import RoIHead, RoIOutputs, SecondStageConfig
from tenfold.lidar.models.second import (
    ENCODER_STRIDE,
    NUSCENES_FIELDS,
    SecondConfig,
    VoxelStages,
    make_encoder,
    measured,
)
from tenfold.lidar.models.two_stage import FirstStage, TwoStage
from tenfold.lidar.models.voxel_backbone import SparseFeatures, site_centres
from tenfold.lidar.postprocess import PostProcess
from tenfold.lidar.roi_targets import RoISampling
from tenfold.ops import bilinear_sample, farthest_point_sample, offsets_from_batch_index, pad
from tenfold.ops._checks import as_compute
from tenfold.pointnet import SetAbstraction

Scales = tuple[tuple[float, int, tuple[int, ...]], ...]
#: Source -> for each scale (radius in metres, neighbours, widths).
KEYPOINT_SCALES: dict[str, Scales] = {
    "raw": ((0.4, 16, (16, 16)), (0.8, 16, (16, 16))),
    "conv1": ((0.4, 16, (16, 16)), (0.8, 16, (16, 16))),
    "conv2": ((0.8, 16, (32, 32)), (1.2, 32, (32, 32))),
    "conv3": ((1.2, 16, (64, 64)), (2.4, 32, (64, 64))),
    "conv4": ((2.4, 16, (64, 64)), (4.8, 32, (64, 64))),
}
SOURCES = ("bev", *KEYPOINT_SCALES)


@dataclass(frozen=True)
class PVRCNNConfig(SecondConfig):
    """Everything that shapes a `PVRCNN`; the defaults are OpenPCDet's three-class KITTI model.

    Further fields: `SecondConfig`.

    Args:
        keypoints: per frame.
        sources: what key points gather, out of "bev", "raw", "conv1" to "conv4".
        keypoint_scales: for each source but "bev" its (radius, neighbours, widths) per scale; None takes
            `KEYPOINT_SCALES`, where a fourth stage of 128 channels has widths of 128 too.
        fused_channels: of a key point.
        point_widths: widths of the point head's hidden layers.
        point_weights: see `PointWeights`.
        pool_grid: grid points of a region along each axis.
        pool_scales: (radius, neighbours, widths) per scale of the pooling around grid points.
        second: see `SecondStageConfig`.
    """

    keypoints: int = 2048
    sources: tuple[str, ...] = SOURCES
    keypoint_scales: tuple[tuple[str, Scales], ...] | None = None
    fused_channels: int = 128
    point_widths: tuple[int, ...] = (256, 256)
    point_weights: PointWeights = field(default_factory=PointWeights)
    pool_grid: int = 6
    pool_scales: Scales = ((0.8, 16, (64, 64)), (1.6, 16, (64, 64)))
    second: SecondStageConfig = field(
        default_factory=lambda: SecondStageConfig(sampling=RoISampling(reg_fg=0.55))
    )
    post: PostProcess = field(default_factory=lambda: PostProcess(iou_threshold=0.1))

    def __post_init__(self) -> None:
        if isinstance(self.keypoint_scales, Mapping):
            object.__setattr__(self, "keypoint_scales", tuple(self.keypoint_scales.items()))
        super().__post_init__()
        unknown = [name for name in self.sources if name not in SOURCES]
        self.require(
            bool(self.sources) and not unknown and len(set(self.sources)) == len(self.sources),
            f"sources: got {self.sources}; expected distinct ones of {', '.join(SOURCES)}",
        )
        object.__setattr__(self, "sources", tuple(name for name in SOURCES if name in self.sources))
        self.require(
            min(self.keypoints, self.fused_channels, self.pool_grid) >= 1,
            "keypoints, fused_channels, pool_grid: got a number below 1; expected 1 or more",
        )
        missing = [name for name in self.sources if name != "bev" and name not in self.scales]
        self.require(not missing, f"keypoint_scales: none for {', '.join(missing)}")

    @property
    def scales(self) -> dict[str, Scales]:
        """Scales of each source."""
        if self.keypoint_scales is not None:
            return dict(self.keypoint_scales)
        wide = self.channels[3]
        last = tuple((r, k, (128, 128)) for r, k, _ in KEYPOINT_SCALES["conv4"])
        return {**KEYPOINT_SCALES, "conv4": last} if wide == 128 else KEYPOINT_SCALES

    @classmethod
    def nuscenes(cls) -> PVRCNNConfig:
        """The same on nuScenes' ten classes; no published model to compare with."""
        return cls(**{**NUSCENES_FIELDS, "post": PostProcess(0.1, 0.1, total_max=500)})


def _aggregation(c_in: int, scales: Scales) -> SetAbstraction:
    radii, ks, widths = zip(*scales, strict=True)
    layer = SetAbstraction(c_in, widths, radii=radii, nsamples=ks)
    for module in layer.modules():
        if isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight)
    return layer


def _gather(layer: nn.Module, points: PointFeatures, centres: Tensor, centre_offsets: Tensor) -> Tensor:
    """What a set abstraction finds around stacked centres."""
    found = layer(
        points.xyz, points.features, centers=centres, offsets=points.offsets, center_offsets=centre_offsets
    )
    features: Tensor = found.feats
    return features


class VoxelSetAbstraction(nn.Module):
    """Key points and what lies around them in every source.

    Args:
        config: see `PVRCNNConfig`.
    """

    def __init__(self, config: PVRCNNConfig) -> None:
        super().__init__()
        self.config = c = config
        stages = [name for name in c.sources if name.startswith("conv")]
        self.SA_layers = nn.ModuleList(
            _aggregation(c.channels[int(name[-1]) - 1], c.scales[name]) for name in stages
        )
        self.SA_rawpoints = (
            _aggregation(c.point_features - 3, c.scales["raw"]) if "raw" in c.sources else None
        )
        width = c.bev_input_channels if "bev" in c.sources else 0
        layers = [*self.SA_layers, *([self.SA_rawpoints] if self.SA_rawpoints else [])]
        self.out_channels = width + sum(layer.out_channels for layer in layers)  # type: ignore[misc, operator]
        self.vsa_point_feature_fusion = nn.Sequential(*fc_block(self.out_channels, c.fused_channels))

    @full_precision
    def forward(
        self, points: Tensor, batch_size: int, encoded: SparseFeatures, bev: Tensor
    ) -> tuple[PointFeatures, Tensor]:
        """Key points with fused features, and their features (K, out_channels) before the fusion.

        Args:
            points: (N, 1 + F), batch index first.
            batch_size: B.
            encoded: of the encoder.
            bev: (B, C, H, W) map before the 2D backbone.
        """
        offsets = frame_offsets(points, batch_size)
        xyz = points[:, 1:4].contiguous()
        keypoints, key_offsets = choose_keypoints(xyz, offsets, self.config.keypoints)
        parts = {
            "bev": lambda: self._from_bev(as_compute(bev), keypoints, key_offsets),
            "raw": lambda: self._from_points(points, offsets, keypoints, key_offsets),
        }
        stages = iter(self.SA_layers)
        found = []
        for name in self.config.sources:
            if name in parts:
                found.append(parts[name]())
            else:
                stage = int(name[-1])
                found.append(self._from_stage(next(stages), encoded, stage, keypoints, key_offsets))
        joined = torch.cat(found, 1)
        fused = self.vsa_point_feature_fusion(joined)
        return PointFeatures(keypoints, fused, key_offsets), joined

    def _from_bev(self, bev: Tensor, keypoints: Tensor, offsets: Tensor) -> Tensor:
        c = self.config
        cell = keypoints.new_tensor(c.voxel_size[:2]) * ENCODER_STRIDE
        uv, lengths = pad((keypoints[:, :2] - keypoints.new_tensor(c.point_range[:2])) / cell, offsets)
        valid = torch.arange(uv.shape[1], device=uv.device) < lengths[:, None]
        return bilinear_sample(bev, uv, valid, border="parity")[valid]

    def _from_points(self, points: Tensor, offsets: Tensor, keypoints: Tensor, key_offsets: Tensor) -> Tensor:
        assert self.SA_rawpoints is not None
        raw = PointFeatures(points[:, 1:4].contiguous(), points[:, 4:], offsets)
        return _gather(self.SA_rawpoints, raw, keypoints, key_offsets)

    def _from_stage(
        self, layer: nn.Module, encoded: SparseFeatures, stage: int, keypoints: Tensor, key_offsets: Tensor
    ) -> Tensor:
        sites = encoded.stages[stage - 1]
        xyz = site_centres(sites, self.config.voxel_size, self.config.point_range, 2 ** (stage - 1))
        offsets = offsets_from_batch_index(sites.coords[:, 0], sites.batch_size)
        at = PointFeatures(xyz.to(keypoints.dtype), sites.features, offsets)
        return _gather(layer, at, keypoints, key_offsets)


def choose_keypoints(xyz: Tensor, offsets: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Farthest points of every frame; a frame with too few repeats them in turn, one without has none.

    Args:
        xyz: (N, 3) stacked.
        offsets: (B + 1,).
        number: per frame.

    Returns:
        (K, 3) and their offsets (B + 1,).

    Example:
        >>> points, offsets = choose_keypoints(torch.eye(3), torch.tensor([0, 3, 3]), 4)
        >>> points.tolist() == torch.eye(3)[[0, 1, 2, 0]].tolist(), offsets.tolist()
        (True, [0, 4, 4])
    """
    sizes = (offsets[1:] - offsets[:-1]).tolist()
    wanted = [min(number, size) for size in sizes]
    chosen = farthest_point_sample(xyz.detach(), wanted, offsets=offsets).split(wanted)
    rows = [part.repeat(-(-number // max(1, len(part))))[:number] for part in chosen]
    lengths = torch.tensor([0, *map(len, rows)], device=xyz.device)
    return xyz[torch.cat(rows)], lengths.cumsum(0)


class PVRCNNHead(RoIHead):
    """Grid points of each region gather key points.

    Args:
        in_channels: of the key points.
        config: see `PVRCNNConfig`.
    """

    def __init__(self, in_channels: int, config: PVRCNNConfig) -> None:
        second = config.second
        super().__init__(second.shared[-1], second)
        self.grid = config.pool_grid
        self.roi_grid_pool_layer = _aggregation(in_channels, config.pool_scales)
        width = self.roi_grid_pool_layer.out_channels * self.grid**3
        self.shared_fc_layer = shared_layers(width, second.shared, second.dropout)
        self.reset_parameters()

    def forward(self, points: PointFeatures, point_outputs: PointOutputs, rois: Tensor) -> RoIOutputs:
        """Outputs of regions (B, R, 7)."""
        # The score is not detached: the second stage teaches the point head what matters.
        weighted = points.features * point_outputs.scores[:, None].to(points.features.dtype)
        frames, room = rois.shape[:2]
        grid = grid_points(rois, self.grid).flatten(0, 2)
        offsets = torch.arange(frames + 1, device=rois.device) * room * self.grid**3
        centres = grid.to(points.xyz.dtype).contiguous()
        weighted_points = points._replace(features=weighted)
        pooled = _gather(self.roi_grid_pool_layer, weighted_points, centres, offsets)
        # Channels first: so published weights lie.
        flat = pooled.view(frames * room, self.grid**3, -1).transpose(1, 2).flatten(1)
        return self.branches(self.shared_fc_layer(flat))


def grid_points(rois: Tensor, grid: int) -> Tensor:
    """Centres (..., grid^3, 3) of the cells of boxes (..., 7), x slowest.

    Example:
        >>> grid_points(torch.tensor([0.0, 0, 0, 4, 2, 2, 0]), 2)[:2].tolist()
        [[-1.0, -0.5, -0.5], [-1.0, -0.5, 0.5]]
    """
    step = (torch.arange(grid, device=rois.device, dtype=rois.dtype) + 0.5) / grid - 0.5
    local = torch.cartesian_prod(step, step, step).view(-1, 3) * rois[..., None, 3:6]
    points: Tensor = points_from_box_frame(local, rois[..., None, :])
    return points


class PVRCNN(VoxelStages, TwoStage):
    """PV-RCNN; see `Detector` for what goes in and out.

    Args:
        config: see `PVRCNNConfig`.

    Raises:
        ValueError: as `Second`.
        TypeError: no tensors.
    """

    config: PVRCNNConfig

    def __init__(self, config: PVRCNNConfig | None = None) -> None:
        Detector.__init__(self, config or PVRCNNConfig())
        c = self.config
        self.make_stages(make_encoder(c))
        self.pfe = VoxelSetAbstraction(c)
        self.point_head = PointHead(self.pfe.out_channels, 1, c.point_widths, weights=c.point_weights)
        self.roi_head = PVRCNNHead(c.fused_channels, c)

    def first_stage(self, points: Tensor, batch_size: int, batch: Mapping[str, Any]) -> FirstStage:
        """Encode, propose boxes by anchors, gather key points."""
        points = in_xy_range(points, self.config.point_range)
        encoded = self.encode(points, batch_size)
        bev = self.bev(encoded)
        outputs = self.dense(bev)
        keypoints, before = self.pfe(points, batch_size, encoded, bev)
        head: Any = self.dense_head
        told = self.point_head(before)
        return FirstStage(
            head.boxes(outputs), head.logits(outputs), keypoints, told, outputs, measured(encoded)
        )

    def first_losses(self, first: FirstStage, gt_boxes: Tensor) -> dict[str, Tensor]:
        """Losses of anchors and key points."""
        points = self.point_head.losses(first.point_outputs, first.points, plain_boxes(gt_boxes))
        return {**anchor_losses(self.dense_head, first, gt_boxes), **points}


def build_pv_rcnn(dataset: str = "kitti", **overrides: Any) -> PVRCNN:
    """Build PV-RCNN.

    Args:
        dataset: "kitti" or "nuscenes".
        overrides: fields of `PVRCNNConfig`.

    Raises:
        ValueError: an unknown data set or field, or a configuration that does not fit together.
    """
    bases = {"kitti": PVRCNNConfig(), "nuscenes": PVRCNNConfig.nuscenes()}
    return PVRCNN(configure("build_pv_rcnn", bases, dataset, overrides))


__all__ = [
    "KEYPOINT_SCALES",
    "PVRCNN",
    "PVRCNNConfig",
    "PVRCNNHead",
    "VoxelSetAbstraction",
    "build_pv_rcnn",
    "choose_keypoints",
    "grid_points",
]
