"""SECOND: voxel means, sparse 3D encoder, bird's-eye backbone, anchor head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from tenfold._validation import checks_content
from tenfold.lidar.anchors import KITTI_ANCHORS, AnchorClass
from tenfold.lidar.models.anchor_head import AnchorHead, AnchorOutputs, LossWeights
from tenfold.lidar.models.bev import BEVBackbone, bev_stride
from tenfold.lidar.models.voxel_backbone import (
    MeanVoxelFeatures,
    SparseFeatures,
    VoxelBackBone8x,
    VoxelResBackBone8x,
    encoder_depths,
    height_compression,
)
from tenfold.lidar.postprocess import PostProcess
from tenfold.ops import offsets_from_batch_index
from tenfold.ops._checks import require_float, require_shape, require_tensor
from tenfold.sparse import SparseTensor

ENCODERS = {"plain": VoxelBackBone8x, "residual": VoxelResBackBone8x}
ENCODER_STRIDE = 8


def _tuples(value: Any) -> Any:
    """Lists, as configuration files hold them, become tuples."""
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


@dataclass(frozen=True)
class SecondConfig:
    """Everything that shapes a `Second`; the defaults are OpenPCDet's three-class KITTI model.

    Args:
        class_names: detected classes, in the order of labels.
        anchors: one entry per class, in the same order; None takes KITTI's by name.
        point_range: x, y, z of the lower corner, then of the upper, metres.
        voxel_size: x, y, z, metres. The grid needs a multiple of 8 times the coarsest bird's-eye stride along
            x and y, and along z 40 cells or another number whose top cells the encoder reaches (24, 56).
        max_points: stored points of a voxel.
        max_voxels: per frame, in training and in evaluation.
        point_features: features of a point, x, y, z first.
        encoder: "plain" or "residual".
        channels: widths of the encoder's four stages.
        blocks: layers or residual blocks of the four stages; None takes the encoder's own.
        out_channels: of the encoder's output.
        bev_layers, bev_strides, bev_channels, up_strides, up_channels: see `BEVBackbone`.
        direction: whether to classify the direction of headings.
        loss_weights: see `LossWeights`.
        post: see `PostProcess`.

    Raises:
        ValueError: whatever does not fit together, before any training.

    Example:
        >>> SecondConfig().bev_grid, SecondConfig().bev_input_channels
        ((200, 176), 256)
    """

    class_names: tuple[str, ...] = ("Car", "Pedestrian", "Cyclist")
    anchors: tuple[AnchorClass, ...] | None = None
    point_range: tuple[float, ...] = (0.0, -40.0, -3.0, 70.4, 40.0, 1.0)
    voxel_size: tuple[float, ...] = (0.05, 0.05, 0.1)
    max_points: int = 5
    max_voxels: tuple[int, int] = (16000, 40000)
    point_features: int = 4
    encoder: str = "plain"
    channels: tuple[int, int, int, int] = (16, 32, 64, 64)
    blocks: tuple[int, int, int, int] | None = None
    out_channels: int = 128
    bev_layers: tuple[int, ...] = (5, 5)
    bev_strides: tuple[int, ...] = (1, 2)
    bev_channels: tuple[int, ...] = (128, 256)
    up_strides: tuple[int, ...] = (1, 2)
    up_channels: tuple[int, ...] = (256, 256)
    direction: bool = True
    loss_weights: LossWeights = field(default_factory=LossWeights)
    post: PostProcess = field(default_factory=PostProcess)

    def __post_init__(self) -> None:
        for item in fields(self):
            object.__setattr__(self, item.name, _tuples(getattr(self, item.name)))
        self._check_lists()
        self._check_classes()
        self._check_grid()

    def _check_lists(self) -> None:
        lengths = {"point_range": 6, "voxel_size": 3, "max_voxels": 2, "channels": 4}
        for name, length in lengths.items():
            value = getattr(self, name)
            if not isinstance(value, tuple) or len(value) != length:
                raise ValueError(f"SecondConfig: {name}: got {value!r}; expected {length} numbers")
        if self.blocks is not None and len(self.blocks) != 4:
            raise ValueError(f"SecondConfig: blocks: got {self.blocks!r}; expected 4 numbers, one per stage")
        counts = (*self.channels, self.out_channels, *self.bev_channels, *self.up_channels)
        if min(*counts, self.max_points, *self.max_voxels) < 1:
            raise ValueError("SecondConfig: got a width or a cap below 1; expected 1 or more")
        if self.point_features < 3:
            raise ValueError(
                f"SecondConfig: point_features: got {self.point_features}; expected 3 or more (x, y, z first)"
            )
        if self.encoder not in ENCODERS:
            raise ValueError(
                f"SecondConfig: encoder: got {self.encoder!r}; expected one of {', '.join(ENCODERS)}"
            )

    def _check_classes(self) -> None:
        if not self.class_names or len(set(self.class_names)) != len(self.class_names):
            raise ValueError(f"SecondConfig: class_names: got {self.class_names}; expected distinct names")
        if self.anchors is None:
            known = {a.name: a for a in KITTI_ANCHORS}
            unknown = [name for name in self.class_names if name not in known]
            if unknown:
                raise ValueError(
                    f"SecondConfig: class_names: no anchors known for {', '.join(unknown)}; "
                    f"pass anchors (known: {', '.join(known)})"
                )
            object.__setattr__(self, "anchors", tuple(known[name] for name in self.class_names))
        names = tuple(a.name for a in self.anchor_classes)
        if names != self.class_names:
            raise ValueError(
                f"SecondConfig: anchors: got anchors for {names}; expected {self.class_names}, in this order"
            )

    def _check_grid(self) -> None:
        nx, ny, nz = self.grid
        step = ENCODER_STRIDE * self._coarsest_bev_stride()
        for axis, cells in (("x", nx), ("y", ny)):
            if cells % step:
                raise ValueError(
                    f"SecondConfig: voxel_size: the grid has {cells} cells along {axis}; expected a multiple "
                    f"of {step} (8 in the encoder, {step // ENCODER_STRIDE} in the bird's-eye backbone)"
                )
        depths = encoder_depths(nz)
        reached = depths[4] >= 1 and depths[2] % 2 and depths[3] % 2
        if not reached:
            raise ValueError(
                f"SecondConfig: voxel_size: the grid has {nz} cells along z, and the encoder's extents "
                f"{depths} leave cells out; expected 40 (or 24, 56)"
            )

    def _coarsest_bev_stride(self) -> int:
        bev_stride(self.bev_layers, self.bev_strides, self.bev_channels, self.up_strides, self.up_channels)
        return int(torch.tensor(self.bev_strides).prod())

    @property
    def anchor_classes(self) -> tuple[AnchorClass, ...]:
        """The anchors in use."""
        return self.anchors or ()

    @property
    def grid(self) -> tuple[int, int, int]:
        """Voxels along x, y, z.

        Raises:
            ValueError: the range is no whole number of voxels.
        """
        cells = []
        for axis in range(3):
            size, low, high = self.voxel_size[axis], self.point_range[axis], self.point_range[axis + 3]
            if not (size > 0 and low < high):
                raise ValueError(
                    f"SecondConfig: voxel_size, point_range: got {size} and {low} to {high} along "
                    f"{'xyz'[axis]}; expected a positive size and lower < upper"
                )
            exact = (high - low) / size
            if round(exact) < 1 or abs(exact - round(exact)) > 1e-3:
                raise ValueError(
                    f"SecondConfig: voxel_size: the range along {'xyz'[axis]} is {exact:.4g} voxels; "
                    "expected a whole number"
                )
            cells.append(round(exact))
        return cells[0], cells[1], cells[2]

    @property
    def bev_input_channels(self) -> int:
        """Channels of the bird's-eye map: encoder channels times its remaining height."""
        return self.out_channels * encoder_depths(self.grid[2])[4]

    @property
    def bev_grid(self) -> tuple[int, int]:
        """(ny, nx) of the head's feature map."""
        stride = ENCODER_STRIDE * bev_stride(
            self.bev_layers, self.bev_strides, self.bev_channels, self.up_strides, self.up_channels
        )
        return self.grid[1] // stride, self.grid[0] // stride

    @classmethod
    def author(cls) -> SecondConfig:
        """The model of the paper's author (second.pytorch, car.fhd): cars only, a single bird's-eye block."""
        return cls(
            class_names=("Car",),
            blocks=(1, 2, 3, 3),
            out_channels=64,
            bev_layers=(5,),
            bev_strides=(1,),
            bev_channels=(128,),
            up_strides=(1,),
            up_channels=(128,),
            post=PostProcess(0.3, 0.01, 1000, 100, (0.0, -40.0, -2.2, 70.4, 40.0, 0.8)),
        )


class Second(nn.Module):
    """SECOND (Yan, Mao and Li 2018).

    ``model(batch)`` takes a dict with ``points`` (N, 1 + F) float32, batch index first and ascending;
    ``batch_size``; and in training ``gt_boxes`` (B, M, 8), zero padded, 1-based label last. In training it
    returns a dict of losses (see `AnchorHead.losses`), else a list of dicts ``boxes`` (n, 7), ``scores`` (n,)
    and ``labels`` (n,), 0-based into ``class_names``; a frame without a point in range has no detections.

    Submodules carry the names under which OpenPCDet's checkpoints hold them; see `load_openpcdet`.

    Args:
        config: see `SecondConfig`.

    Raises:
        ValueError: a batch of wrong shapes; at validation level "cheap" also points or boxes that are not
            finite, and labels beyond the classes.
        TypeError: no tensors.

    Example:
        >>> import torch
        >>> config = SecondConfig(point_range=(0, -6.4, -3, 12.8, 6.4, 1), voxel_size=(0.1, 0.1, 0.1))
        >>> model = Second(config).eval()
        >>> points = torch.cat((torch.zeros(99, 1), torch.rand(99, 4)), 1)
        >>> model({"points": points, "batch_size": 1})[0]["boxes"].shape
        torch.Size([0, 7])
    """

    def __init__(self, config: SecondConfig | None = None) -> None:
        super().__init__()
        self.config = c = config or SecondConfig()
        self.voxel_features = MeanVoxelFeatures(c.voxel_size, c.point_range, c.max_points, c.max_voxels)
        blocks = {} if c.blocks is None else {"blocks": c.blocks}
        self.backbone_3d = ENCODERS[c.encoder](
            c.point_features, c.channels, out_channels=c.out_channels, **blocks
        )
        self.backbone_2d = BEVBackbone(
            c.bev_input_channels, c.bev_layers, c.bev_strides, c.bev_channels, c.up_strides, c.up_channels
        )
        self.dense_head = AnchorHead(
            self.backbone_2d.out_channels,
            c.anchor_classes,
            c.point_range,
            c.bev_grid,
            direction=c.direction,
            weights=c.loss_weights,
        )

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of labels 0, 1, ..."""
        return self.config.class_names

    def encode(self, points: Tensor, batch_size: int) -> SparseFeatures:
        """Sparse features of points (N, 1 + F)."""
        offsets = offsets_from_batch_index(points[:, 0].long(), batch_size)
        voxels = self.voxel_features(points[:, 1:], offsets)
        nx, ny, nz = self.config.grid
        return self.encode_voxels(SparseTensor(voxels.voxels, voxels.coords, (nz + 1, ny, nx), batch_size))

    def encode_voxels(self, voxels: SparseTensor) -> SparseFeatures:
        """Sparse features of voxels; the grid has one empty layer on top."""
        features: SparseFeatures = self.backbone_3d(voxels)
        return features

    def dense(self, bev: Tensor) -> AnchorOutputs:
        """The dense half: raw outputs of a bird's-eye map (B, C, H, W)."""
        outputs: AnchorOutputs = self.dense_head(self.backbone_2d(bev))
        return outputs

    def forward(self, batch: Mapping[str, Any]) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Losses in training, detections otherwise; see the class."""
        points, batch_size = self._checked_points(batch)
        gt_boxes = self._checked_boxes(batch, batch_size) if self.training else None
        encoded = self.encode(points, batch_size)
        outputs = self.dense(height_compression(encoded.out))
        if gt_boxes is not None:
            return self.dense_head.losses(outputs, gt_boxes)
        return self._without_empty(self.dense_head.detect(outputs, self.config.post), encoded)

    def _without_empty(
        self, found: list[dict[str, Tensor]], encoded: SparseFeatures
    ) -> list[dict[str, Tensor]]:
        """Biases alone can detect something in an empty frame; nothing was measured there."""
        seen = torch.bincount(encoded.stages[0].coords[:, 0], minlength=len(found)).tolist()
        return [f if n else {k: v[:0] for k, v in f.items()} for f, n in zip(found, seen, strict=True)]

    def _checked_points(self, batch: Mapping[str, Any]) -> tuple[Tensor, int]:
        for key in ("points", "batch_size"):
            if key not in batch:
                raise ValueError(f"Second: batch: has no {key!r}; its keys are {', '.join(map(repr, batch))}")
        points, batch_size = batch["points"], int(batch["batch_size"])
        require_float("Second", "points", points)
        width = 1 + self.config.point_features
        require_shape(
            "Second", "points", points, ("N", width), "columns are batch index, x, y, z and further features"
        )
        if batch_size < 1:
            raise ValueError(f"Second: batch_size: got {batch_size}; expected 1 or more")
        return points, batch_size

    def _checked_boxes(self, batch: Mapping[str, Any], batch_size: int) -> Tensor:
        if "gt_boxes" not in batch:
            raise ValueError(
                "Second: batch: has no 'gt_boxes'; training needs them (evaluate with model.eval())"
            )
        boxes: Tensor = batch["gt_boxes"]
        require_tensor("Second", "gt_boxes", boxes)
        require_shape(
            "Second",
            "gt_boxes",
            boxes,
            (batch_size, "M", 8),
            "x, y, z, dx, dy, dz, heading, 1-based label; slice velocities off",
        )
        if checks_content(boxes.is_cpu):
            self._check_box_content(boxes)
        return boxes

    def _check_box_content(self, boxes: Tensor) -> None:
        label = boxes[..., 7]
        finite = boxes.isfinite().all(-1)
        valid = finite & (label >= 0) & (label <= len(self.class_names)) & (label == label.round())
        valid &= (label > 0) | (boxes == 0).all(-1)
        if not bool(valid.all()):
            frame, row = (~valid).nonzero()[0].tolist()
            raise ValueError(
                f"Second: gt_boxes: row {row} of frame {frame} is {boxes[frame, row].tolist()}; expected "
                f"finite numbers and a label from 1 to {len(self.class_names)}, or zeros as padding"
            )


def build_second(dataset: str = "kitti", *, second_author: bool = False, **overrides: Any) -> Second:
    """Build SECOND.

    Args:
        dataset: "kitti".
        second_author: the author's variant instead of OpenPCDet's; see `SecondConfig.author`.
        overrides: fields of `SecondConfig`.

    Raises:
        ValueError: an unknown data set or field, or a configuration that does not fit together.
    """
    if dataset != "kitti":
        raise ValueError(f"build_second: dataset: got {dataset!r}; expected 'kitti'")
    known = [item.name for item in fields(SecondConfig)]
    unknown = [name for name in overrides if name not in known]
    if unknown:
        raise ValueError(
            f"build_second: unknown option {', '.join(map(repr, unknown))}; known are {', '.join(known)}"
        )
    base = SecondConfig.author() if second_author else SecondConfig()
    if "class_names" in overrides:
        overrides = {"anchors": None, **overrides}
    return Second(replace(base, **overrides))
