"""What `add_xview` puts into a detector's class: views beside its encoder, fused at its seam."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tenfold._validation import checks_content
from tenfold.lidar.models import PartA2, PointRCNN
from tenfold.lidar.models.detector import frame_offsets
from tenfold.lidar.models.point_input import in_xy_range
from tenfold.lidar.models.pointpillars import PillarFeatures, Pillars
from tenfold.sparse import SparseTensor
from xview3d.projector import FUSIONS
from xview3d.view import PerspectiveTransform, View

__all__ = ["STAGES", "Views", "XViewOptions", "class_with_views", "has_views"]

#: Of the sparse encoder.
STAGES = (1, 2, 3, 4)


@dataclass(frozen=True)
class XViewOptions:
    """How views are fused; see `add_xview`."""

    fuse: str = "add"
    interpolation: str = "nearest"
    fuse_into: str = "both"
    index_mode: str = "official"
    fuse_multiscale: bool = False
    zero_init_views: bool = False
    trainable_centers: bool = False
    shuffle_gather: bool = False
    nus_drop_time: bool = False
    view_point_scale: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        if self.fuse not in FUSIONS:
            raise ValueError(f"add_xview: fuse: got {self.fuse!r}; expected one of {', '.join(FUSIONS)}")
        if self.fuse_into not in ("head", "both"):
            raise ValueError(f"add_xview: fuse_into: got {self.fuse_into!r}; expected 'head' or 'both'")


class Found(NamedTuple):
    """What views have found in a batch.

    Args:
        features: of every view that is not muted, `SparseFeatures` on its grid, or (B, N, C) for points.
        views: their indices.
    """

    features: list[Any]
    views: list[int]


class Views(nn.Module):
    """What `add_xview` adds to a detector's class. The parameters lie below ``view_encoders``."""

    view_encoders: nn.ModuleList
    perspective: PerspectiveTransform
    projectors: nn.ModuleDict
    xview: XViewOptions
    seam: str
    muted: frozenset[int]

    @property
    def views(self) -> tuple[View, ...]:
        """The views with their ranges written out."""
        return self.perspective.views

    @contextmanager
    def without(self, *views: int) -> Iterator[None]:
        """Leave views out; without all of them the detector is the one it was before."""
        before = self.muted
        self.muted = before | frozenset(views)
        try:
            yield
        finally:
            self.muted = before

    def active(self) -> list[int]:
        """Indices of the views that are not left out."""
        return [k for k in range(len(self.views)) if k not in self.muted]

    def local_points(self, points: Tensor) -> list[Tensor]:
        """Points of every view; rows stay."""
        return list(self.perspective(points))

    def find_in_views(self, points: Tensor, batch_size: int) -> Found:
        """Features of every view for points (N, 1 + F) or (B, N, F)."""
        local = self.local_points(points)
        active = self.active()
        return Found([self.view_encoders[k](local[k], batch_size) for k in active], active)

    def fused(
        self, name: str, main: SparseTensor, tensors: Sequence[SparseTensor], found: Found
    ) -> SparseTensor:
        """Features of `main` fused with what the views' tensors hold at its sites."""
        projector: Any = self.projectors[name]
        blanks = self._blanks(main, tensors)
        at = dict(zip(found.views, tensors, strict=True))
        every = [at.get(k, blanks) for k in range(len(self.views))]
        centers = [self.perspective.center(k) for k in range(len(self.views))]
        result: SparseTensor = projector(main, every, centers)
        return result

    def _blanks(self, main: SparseTensor, tensors: Sequence[SparseTensor]) -> SparseTensor:
        """What a view that is left out has found: nothing."""
        channels = tensors[0].features.shape[1] if tensors else main.features.shape[1]
        return SparseTensor(main.features.new_zeros(0, channels), main.coords[:0], (1, 1, 1), main.batch_size)

    def forward(self, batch: Mapping[str, Any]) -> Any:
        """The detector's own; under ``nus_drop_time`` without the last feature of the points.

        Raises:
            ValueError: as the detector; at validation level "cheap" also points that are not finite.
        """
        points = batch.get("points") if isinstance(batch, Mapping) else None
        if isinstance(points, Tensor) and checks_content(points.is_cpu) and not bool(points.isfinite().all()):
            row = (~points.isfinite().all(-1)).nonzero()[0].tolist()
            raise ValueError(f"{type(self).__name__}: points: row {row[0]} is not finite")
        if self.xview.nus_drop_time:
            batch = {**batch, "points": batch["points"][:, :-1]}
        return super().forward(batch)


def _of_sites(inner: Callable[..., Any]) -> Callable[..., Any]:
    """The seam ``encode(points, batch_size)`` of a detector on voxels, with views."""

    def encode(self: Any, points: Tensor, batch_size: int) -> Any:
        encoded = inner(self, points, batch_size)
        kept = points if self.range_mask is None else in_xy_range(points, self.range_mask)
        found = self.find_in_views(kept, batch_size)
        if isinstance(encoded, SparseTensor):
            return self.fused(
                "out", encoded, [f.out if hasattr(f, "out") else f for f in found.features], found
            )
        changes: dict[str, Any] = {}
        if "out" in self.projectors:
            changes["out"] = self.fused("out", encoded.out, [f.out for f in found.features], found)
        if "stage1" in self.projectors:
            changes["stages"] = tuple(
                self.fused(
                    f"stage{k}", encoded.stages[k - 1], [f.stages[k - 1] for f in found.features], found
                )
                for k in STAGES
            )
        if "sites" in self.projectors:
            self.plain_features = encoded.sites.features
            changes["sites"] = self.fused("sites", encoded.sites, [f.sites for f in found.features], found)
        return encoded._replace(**changes)

    return encode


def _of_pillars(inner: Callable[..., Any]) -> Callable[..., Any]:
    """The seam of `PointPillars`: every view uses the detector's own pillar layers, and no network of its own."""

    def encode(self: Any, points: Tensor, batch_size: int) -> Pillars:
        pillars: Pillars = inner(self, points, batch_size)
        nx, ny, _ = self.config.grid
        main = SparseTensor(pillars.features, pillars.coords, (1, ny, nx), batch_size)
        local = self.local_points(in_xy_range(points, self.config.point_range))
        active = self.active()
        tensors = []
        for k in active:
            twin: PillarFeatures = self.twins[k]
            twin.training = self.training
            seen: Pillars = twin(local[k][:, 1:], frame_offsets(local[k], batch_size))
            first, psi, _ = self.views[k].grid
            features = (
                seen.features * self.view_encoders[k].gate if self.xview.zero_init_views else seen.features
            )
            tensors.append(SparseTensor(features, seen.coords, (1, psi, first), batch_size))
        return Pillars(self.fused("out", main, tensors, Found([], active)).features, pillars.coords)

    return encode


def _of_points(inner: Callable[..., Any]) -> Callable[..., Any]:
    """The seam ``features(points)`` of a detector on points (B, N, F), with views: rows belong together."""

    def features(self: Any, points: Tensor) -> Tensor:
        plain: Tensor = inner(self, points)
        self.plain_features = plain.flatten(0, 1)
        if self.training and not getattr(self, "backbone_3d", self).training:
            self.view_encoders.eval()  # a frozen first stage: its views are part of it
        found = self.find_in_views(points, len(points))
        parts = [self._shuffled_points(part) for part in found.features]
        if self.xview.fuse == "cat":
            at = dict(zip(found.views, parts, strict=True))
            return torch.cat(
                (plain, *(at.get(k, torch.zeros_like(plain)) for k in range(len(self.views)))), -1
            )
        total = plain
        for part in parts:
            total = total + part
        return total

    return features


def _first_stage(inner: Callable[..., Any]) -> Callable[..., Any]:
    """Under ``fuse_into="head"`` the second stage pools what the detector alone has found."""

    def first_stage(self: Any, points: Tensor, batch_size: int, batch: Mapping[str, Any]) -> Any:
        first = inner(self, points, batch_size, batch)
        plain, self.plain_features = self.plain_features, None
        if self.xview.fuse_into == "both":
            return first
        return replace(first, points=first.points._replace(features=plain))

    return first_stage


def _shuffled_points(self: Any, part: Tensor) -> Tensor:
    if not self.xview.shuffle_gather:
        return part
    generator = None if self.training else torch.Generator().manual_seed(0)
    order = torch.randperm(part.shape[1], generator=generator).to(part.device)
    return part[:, order]


@cache
def class_with_views(base: Any, seam: str, kind: str) -> Any:
    """A subclass of a detector's class whose seam fuses views."""
    wrap = {"sites": _of_sites, "pillars": _of_pillars, "points": _of_points}[kind]
    members: dict[str, Any] = {
        seam: wrap(getattr(base, seam)),
        "_shuffled_points": _shuffled_points,
        "__doc__": f"`{base.__name__}` with views; see `xview3d.add_xview`.",
    }
    if issubclass(base, PartA2 | PointRCNN):
        members["first_stage"] = _first_stage(base.first_stage)
    return type(f"XView{base.__name__}", (Views, base), members)


def has_views(model: nn.Module) -> bool:
    """Whether `add_xview` made it."""
    return isinstance(model, Views)
