"""What the configurations of all detectors share: fields, checks, and how overrides are merged."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, TypeVar

from tenfold.lidar.anchors import KNOWN_ANCHORS, AnchorClass
from tenfold.lidar.models.anchor_head import LossWeights
from tenfold.lidar.models.bev import bev_stride
from tenfold.lidar.postprocess import PostProcess

Config = TypeVar("Config", bound="DetectorConfig")


def _tuples(value: Any) -> Any:
    """Lists, as configuration files hold them, become tuples."""
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


@dataclass(frozen=True)
class DetectorConfig:
    """Settings that every detector has.

    Args:
        class_names: detected classes, in the order of labels.
        point_range: x, y, z of the lower corner, then of the upper, metres.
        point_features: features of a point, x, y, z first.
        velocity: whether ground truth carries vx, vy before the label, and detections too where the detector
            can tell them.
        post: see `PostProcess`.
    """

    class_names: tuple[str, ...] = ("Car", "Pedestrian", "Cyclist")
    point_range: tuple[float, ...] = (0.0, -40.0, -3.0, 70.4, 40.0, 1.0)
    point_features: int = 4
    velocity: bool = False
    post: PostProcess = field(default_factory=PostProcess)

    def __post_init__(self) -> None:
        for item in fields(self):
            object.__setattr__(self, item.name, _tuples(getattr(self, item.name)))
        self.require_lengths(point_range=6)
        self.require(
            bool(self.class_names) and len(set(self.class_names)) == len(self.class_names),
            f"class_names: got {self.class_names}; expected distinct names",
        )
        self.require(
            self.point_features >= 3,
            f"point_features: got {self.point_features}; expected 3 or more (x, y, z first)",
        )

    def require(self, ok: bool, message: str) -> None:
        """Raise ValueError under the configuration's name unless ok."""
        if not ok:
            raise ValueError(f"{type(self).__name__}: {message}")

    def require_lengths(self, **lengths: int) -> None:
        """Raise unless each named field is a tuple of that length."""
        for name, length in lengths.items():
            value = getattr(self, name)
            fine = isinstance(value, tuple) and len(value) == length
            self.require(fine, f"{name}: got {value!r}; expected {length} numbers")

    @property
    def gt_columns(self) -> int:
        """Columns of ground truth: box, velocity if any, 1-based label."""
        return 10 if self.velocity else 8


@dataclass(frozen=True)
class AnchorConfig(DetectorConfig):
    """Settings of detectors that place anchors on a bird's-eye grid.

    Args:
        anchors: one entry per class, in the same order; None takes KITTI's or nuScenes' by name.
        voxel_size: x, y, z, metres.
        voxels: "hard" (capped, in the order of the points) or "dynamic" (all points, no cap).
        max_points: stored points of a voxel.
        max_voxels: per frame, in training and in evaluation.
        bev_layers, bev_strides, bev_channels, up_strides, up_channels: see `BEVBackbone`.
        head: "single" (`AnchorHead`) or "multi" (`MultiHead`).
        head_groups: classes of each head of "multi"; None gives every class its own.
        head_channels: width of the shared layer and of the branches of "multi".
        direction: whether "single" classifies the direction of headings.
        loss_weights: see `LossWeights`.
    """

    anchors: tuple[AnchorClass, ...] | None = None
    voxel_size: tuple[float, ...] = (0.05, 0.05, 0.1)
    voxels: str = "hard"
    max_points: int = 5
    max_voxels: tuple[int, int] = (16000, 40000)
    bev_layers: tuple[int, ...] = (5, 5)
    bev_strides: tuple[int, ...] = (1, 2)
    bev_channels: tuple[int, ...] = (128, 256)
    up_strides: tuple[float, ...] = (1, 2)
    up_channels: tuple[int, ...] = (256, 256)
    head: str = "single"
    head_groups: tuple[tuple[str, ...], ...] | None = None
    head_channels: int = 64
    direction: bool = True
    loss_weights: LossWeights = field(default_factory=LossWeights)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_lengths(voxel_size=3, max_voxels=2)
        counts = (*self.bev_channels, *self.up_channels, self.max_points, *self.max_voxels)
        self.require(
            min(*counts, self.head_channels) >= 1, "got a width or a cap below 1; expected 1 or more"
        )
        for name, known in (("voxels", ("hard", "dynamic")), ("head", ("single", "multi"))):
            value = getattr(self, name)
            self.require(value in known, f"{name}: got {value!r}; expected one of {', '.join(known)}")
        self._check_classes()
        self._check_groups()
        self._check_code_weights()
        self._check_grid()

    def _check_classes(self) -> None:
        if self.anchors is None:
            known = self.known_anchors
            unknown = [name for name in self.class_names if name not in known]
            self.require(
                not unknown,
                f"class_names: no anchors known for {', '.join(unknown)}; pass anchors "
                f"(known: {', '.join(known)})",
            )
            object.__setattr__(self, "anchors", tuple(known[name] for name in self.class_names))
        names = tuple(a.name for a in self.anchor_classes)
        self.require(
            names == self.class_names,
            f"anchors: got anchors for {names}; expected {self.class_names}, in this order",
        )

    def _check_groups(self) -> None:
        self.require(
            not self.velocity or self.head == "multi",
            "velocity: is told by head 'multi' only; got head 'single'",
        )
        if self.head != "multi":
            return
        if self.head_groups is None:
            object.__setattr__(self, "head_groups", tuple((name,) for name in self.class_names))
        joined = tuple(name for group in self.head_groups or () for name in group)
        self.require(
            joined == self.class_names,
            f"head_groups: got {joined} in all; expected {self.class_names}, in this order",
        )

    def _check_code_weights(self) -> None:
        codes, multi = self.loss_weights.codes, self.head == "multi"
        columns = (10 if self.velocity else 8) if multi else 7
        # "multi" leaves the weights of a velocity that it does not tell out.
        self.require(
            codes is None or len(codes) == columns or (multi and len(codes) > columns),
            f"loss_weights: codes: got {len(codes or ())} numbers; head {self.head!r} has {columns} codes",
        )

    def _check_grid(self) -> None:
        step = self.feature_stride * self.coarsest_bev_stride()
        for axis, cells in zip("xy", self.grid, strict=False):
            self.require(
                cells % step == 0,
                f"voxel_size: the grid has {cells} cells along {axis}; expected a multiple of {step} "
                f"({self.feature_stride} before, {step // self.feature_stride} in the bird's-eye backbone)",
            )

    def coarsest_bev_stride(self) -> int:
        """Stride of the last block of the bird's-eye backbone, after a check of its lists."""
        bev_stride(self.bev_layers, self.bev_strides, self.bev_channels, self.up_strides, self.up_channels)
        return math.prod(self.bev_strides)

    @property
    def feature_stride(self) -> int:
        """Voxels per cell of the bird's-eye map, along x and y."""
        raise NotImplementedError

    @property
    def bev_input_channels(self) -> int:
        """Channels of the bird's-eye map."""
        raise NotImplementedError

    @property
    def known_anchors(self) -> Mapping[str, AnchorClass]:
        """Anchors of classes that need none given."""
        return KNOWN_ANCHORS

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
            self.require(
                size > 0 and low < high,
                f"voxel_size, point_range: got {size} and {low} to {high} along "
                f"{'xyz'[axis]}; expected a positive size and lower < upper",
            )
            exact = (high - low) / size
            self.require(
                round(exact) >= 1 and abs(exact - round(exact)) <= 1e-3,
                f"voxel_size: the range along {'xyz'[axis]} is {exact:.4g} voxels; expected a whole number",
            )
            cells.append(round(exact))
        return cells[0], cells[1], cells[2]

    @property
    def bev_grid(self) -> tuple[int, int]:
        """(ny, nx) of the head's feature map."""
        stride = self.feature_stride * bev_stride(
            self.bev_layers, self.bev_strides, self.bev_channels, self.up_strides, self.up_channels
        )
        return self.grid[1] // stride, self.grid[0] // stride


def configure(op: str, bases: Mapping[str, Config], dataset: str, overrides: Mapping[str, Any]) -> Config:
    """The configuration of a data set with some fields replaced.

    A field that is itself a configuration takes a mapping of its own fields; the others of it stay.

    Args:
        op: for messages.
        bases: by data set.
        dataset: one of its keys.
        overrides: fields, as `build_detector` or a recipe gives them.

    Raises:
        ValueError: an unknown data set, field or value.
    """
    if dataset not in bases:
        raise ValueError(f"{op}: dataset: got {dataset!r}; expected {' or '.join(map(repr, bases))}")
    base = bases[dataset]
    changes = dict(overrides)
    if "class_names" in changes:
        changes = {**_without_classes(base), **changes}
    if changes.get("anchors") is not None:
        changes["anchors"] = tuple(_anchor(op, item) for item in changes["anchors"])
    merged: Config = _merged(op, base, changes)
    return merged


def _without_classes(base: DetectorConfig) -> dict[str, Any]:
    """Fields that belong to the classes of the base, as they are before anybody sets them."""
    names = {item.name for item in fields(base)}
    return {name: None for name in ("anchors", "head_groups", "mean_sizes") if name in names}


def _anchor(op: str, item: Any) -> AnchorClass:
    if isinstance(item, AnchorClass):
        return item
    if not isinstance(item, Mapping):
        raise ValueError(f"{op}: anchors: got {item!r}; expected an AnchorClass or a mapping of its fields")
    try:
        return AnchorClass(**{name: _tuples(value) for name, value in item.items()})
    except TypeError as error:
        raise ValueError(f"{op}: anchors: {error}") from error


def _merged(op: str, base: Any, changes: Mapping[str, Any]) -> Any:
    known = [item.name for item in fields(base)]
    unknown = [name for name in changes if name not in known]
    if unknown:
        raise ValueError(
            f"{op}: unknown option {', '.join(map(repr, unknown))}; known are {', '.join(known)}"
        )
    settled = {}
    for name, value in changes.items():
        present = getattr(base, name)
        nested = is_dataclass(present) and isinstance(value, Mapping)
        settled[name] = _merged(f"{op}: {name}", present, value) if nested else _tuples(value)
    return replace(base, **settled)


def mean_sizes_of(classes: Sequence[AnchorClass]) -> tuple[tuple[float, float, float], ...]:
    """(dx, dy, dz) of each class's first anchor, as point coders need them."""
    return tuple(item.sizes[0] for item in classes)
