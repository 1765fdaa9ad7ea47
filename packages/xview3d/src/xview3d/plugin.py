"""Views for a detector: `add_xview`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tenfold._validation import checks_content
from tenfold.io import load_strict
from tenfold.lidar.models import PVRCNN, PartA2, PointPillars, PointRCNN
from tenfold.lidar.models.detector import frame_offsets
from tenfold.lidar.models.point_input import in_xy_range
from tenfold.lidar.models.pointpillars import PillarFeatures, Pillars
from tenfold.lidar.models.pointrcnn import sa_level
from tenfold.lidar.models.second import VoxelStages
from tenfold.sparse import SparseTensor
from xview3d.encoder import ViewEncoder
from xview3d.projector import FUSIONS, MainGrid, ViewProjector, ViewStride
from xview3d.view import PerspectiveTransform, View

__all__ = ["DEFAULT_VIEWS", "Views", "XViewOptions", "add_xview", "has_views", "load_base"]

#: The egocentric view and one 40 m ahead.
DEFAULT_VIEWS = (View(), View(center=(40.0, 0.0, 0.0)))
_STAGES = (1, 2, 3, 4)


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
                for k in _STAGES
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
def _class_with_views(base: type, seam: str, kind: str) -> type:
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


def add_xview(
    detector: nn.Module,
    views: Sequence[View] | None = None,
    fuse: str = "add",
    interpolation: str = "nearest",
    fuse_into: str = "both",
    *,
    index_mode: str = "official",
    fuse_multiscale: bool = False,
    zero_init_views: bool = False,
    trainable_centers: bool = False,
    shuffle_gather: bool = False,
    nus_drop_time: bool = False,
    view_point_scale: Sequence[float] = (1.0, 1.0, 1.0),
    seam: str | None = None,
    grid: MainGrid | None = None,
    encoder: Callable[[View, int], nn.Module] | None = None,
) -> nn.Module:
    """Add views to a detector.

    `Second`, `PVRCNN`, `PartA2`, `PointRCNN` and `PointPillars` of `tenfold.lidar`, and subclasses of them, need no
    more than `views`. Another module needs a method (the seam) that gives its features: ``encode(points, batch_size)
    -> SparseTensor`` (or a named tuple with such an ``out``), which needs `grid` and `encoder`; or ``features(points
    (B, N, F)) -> (B, N, C)``, which needs `encoder`.

    The result shares its parts with the detector, which itself stays as it was. Parameters of views lie below
    ``view_encoders.{v}``; a checkpoint of the detector lacks exactly these (`load_base`). With ``fuse="cat"`` the
    layers behind the fusion are wider, and those whose shape changes start anew.

    Args:
        detector: the module.
        views: see `View`; None takes the egocentric view and one 40 m ahead, cylindrical for PointPillars.
        fuse: "add", or "cat" behind the detector's channels.
        interpolation: of the look-up on sites, "nearest" or "linear".
        fuse_into: detectors whose second stage pools points (PointRCNN, Part-A2): "both" stages see fused features,
            or the point "head" alone.
        index_mode: see `ViewProjector`.
        fuse_multiscale: PV-RCNN: fuse the encoder's four stages too, from which key points gather.
        zero_init_views: a learnt factor per view that starts at 0.
        trainable_centers: centres learn (experimental): through the coordinates of cells, and with "linear" through
            the weights of the look-up.
        shuffle_gather: control: sites get what belongs to other sites.
        nus_drop_time: drop the last feature of points (the age on nuScenes) everywhere; the detector's configuration
            then has one feature less than the data.
        view_point_scale: PointRCNN: factors of r, psi, theta in the views' own neighbourhoods.
        seam: name of the method, by default "encode" where there is one, else "features".
        grid: where the sites of another module lie.
        encoder: makes the network of a view for another module, given the view and the columns of a point.

    Raises:
        ValueError: options that do not fit, no seam, or a view that does not cover the detector's range.
        TypeError: no module.

    Example:
        >>> from tenfold.lidar import build_detector
        >>> model = add_xview(build_detector("second"))
        >>> sum(p.numel() for p in model.parameters())
        6749320
    """
    if not isinstance(detector, nn.Module):
        raise TypeError(f"add_xview: detector: got {type(detector).__name__}; expected a torch.nn.Module")
    if has_views(detector):
        raise ValueError("add_xview: detector: has views already; start from the detector without them")
    options = XViewOptions(
        fuse,
        interpolation,
        fuse_into,
        index_mode,
        fuse_multiscale,
        zero_init_views,
        trainable_centers,
        shuffle_gather,
        nus_drop_time,
        tuple(view_point_scale),  # type: ignore[arg-type]
    )
    kind, seam = _seam(detector, seam)
    resolved = _resolved(detector, kind, views, grid)
    model = _shared(_widened(detector, options, len(resolved)), _class_with_views(type(detector), seam, kind))
    model.xview, model.muted, model.plain_features = options, frozenset(), None
    model.seam = seam
    config = getattr(detector, "config", None)
    width = int(getattr(config, "point_features", 4)) if getattr(config, "use_features", True) else 3
    model.perspective = PerspectiveTransform(resolved, width - 3, trainable=trainable_centers)
    make = encoder or _encoder_of(detector, options)
    if make is None:
        raise ValueError("add_xview: encoder: another module than tenfold.lidar's needs one for its views")
    model.view_encoders = nn.ModuleList(make(view, width) for view in resolved)
    model.projectors = nn.ModuleDict(_projectors(detector, kind, resolved, options, grid))
    model.range_mask = None if config is None else getattr(config, "point_range", None)
    if kind == "pillars":
        model.twins = tuple(_twin(detector, view) for view in resolved)
    _match(model, detector)
    return model


def has_views(model: nn.Module) -> bool:
    """Whether `add_xview` made it."""
    return isinstance(model, Views)


def load_base(model: nn.Module, state: Mapping[str, Tensor], source: str = "checkpoint") -> None:
    """Load the state dict of a detector without views into one with them, whose views stay as they are.

    Raises:
        CheckpointMismatchError: keys of the detector are missing, unexpected or of another shape.

    Example:
        >>> from tenfold.lidar import build_detector
        >>> model = add_xview(build_detector("second"))
        >>> load_base(model, build_detector("second").state_dict())
    """
    prefixes = ("view_encoders.", "perspective.")
    own = {key: value for key, value in model.state_dict().items() if key.startswith(prefixes)}
    load_strict(model, {**own, **state}, source=source)


# ---- how each detector is taken --------------------------------------------------------------------------


def _seam(detector: nn.Module, name: str | None) -> tuple[str, str]:
    """("sites", "pillars" or "points", name of the method)."""
    if isinstance(detector, PointPillars):
        return "pillars", "encode"
    found = name or next((n for n in ("encode", "features") if callable(getattr(detector, n, None))), None)
    if found is None or not callable(getattr(type(detector), found, None)):
        raise ValueError(
            f"add_xview: detector: {type(detector).__name__} has no method {found or 'encode or features'}; "
            "expected encode(points, batch_size) -> SparseTensor or features(points) -> (B, N, C)"
        )
    arguments = len(inspect.signature(getattr(type(detector), found)).parameters) - 1
    return ("sites" if arguments > 1 else "points"), found


def _resolved(
    detector: nn.Module, kind: str, views: Sequence[View] | None, grid: MainGrid | None
) -> tuple[View, ...]:
    config: Any = getattr(detector, "config", None)
    limits = getattr(config, "point_range", None) if grid is None else grid.point_range
    if views is None:
        views = _cylindrical_views(config) if kind == "pillars" else _default_views(config)
    if limits is None:
        return tuple(views)
    return tuple(view.resolved(limits) for view in views)


def _default_views(config: Any) -> tuple[View, ...]:
    caps = tuple(getattr(config, "max_voxels", (16000, 40000)))
    return tuple(replace(view, max_voxels=caps) for view in DEFAULT_VIEWS)


def _cylindrical_views(config: Any) -> tuple[View, ...]:
    high = config.point_range[5] - config.point_range[2]
    shared: dict[str, Any] = {
        "kind": "cylindrical",
        "voxel": (0.2, 0.01, high),
        "max_points": config.max_points,
        "max_voxels": config.max_voxels,
    }
    return View(**shared), View(center=(40.0, 0.0, 0.0), **shared)


def _encoder_of(detector: nn.Module, options: XViewOptions) -> Callable[[View, int], nn.Module] | None:
    """What makes the view encoders of our detectors; plain encoders, whatever the main one is."""
    config: Any = getattr(detector, "config", None)
    shared: dict[str, Any] = {"gate": options.zero_init_views}
    if isinstance(detector, PointPillars):
        return lambda view, _: _Gate(options.zero_init_views)
    if isinstance(detector, PointRCNN):
        backbone = {"levels": [sa_level(level) for level in config.levels], "fp_mlps": config.up_widths}
        shared["point_scale"] = options.view_point_scale
        return lambda view, columns: ViewEncoder("points", view, columns, **shared, **backbone)
    if not isinstance(detector, VoxelStages):
        return None
    plain = config.encoder == "plain"
    backbone = {
        "channels": config.channels if plain else (*config.channels[:3], config.channels[2]),
        "out_channels": config.out_channels,
    }
    if plain and config.blocks is not None:
        backbone["blocks"] = config.blocks
    kind = "unet" if isinstance(detector, PartA2) else "voxel"
    if isinstance(detector, PartA2) and config.free:
        backbone["out_channels"] = None
    return lambda view, columns: ViewEncoder(kind, view, columns, **shared, **backbone)


class _Gate(nn.Module):
    """All that a view of PointPillars may own: the factor of `zero_init_views`."""

    def __init__(self, gate: bool) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.zeros(())) if gate else None


@dataclass(frozen=True)
class _PillarGrid:
    """What `PillarFeatures` reads of a configuration, for the grid of a view."""

    voxels: str
    max_voxels: tuple[int, int]
    voxel_size: tuple[float, ...]
    point_range: tuple[float, ...]
    max_points: int
    point_features: int
    pillar_channels: int


def _twin(detector: Any, view: View) -> PillarFeatures:
    """The detector's pillar layers on the cells of a view; the layers are the same objects."""
    c = detector.config
    if view.grid[2] != 1:
        raise ValueError(
            f"add_xview: views: a view of PointPillars has one cell along {view.axes[2]}; got {view.grid[2]}"
        )
    twin = PillarFeatures.__new__(PillarFeatures)
    nn.Module.__init__(twin)
    settings: Any = _PillarGrid(
        c.voxels,
        view.max_voxels,
        view.voxel,
        view.bounds,
        view.max_points,
        c.point_features,
        c.pillar_channels,
    )
    twin.config = settings
    twin.pfn_layers = detector.vfe.pfn_layers
    return twin


def _projectors(
    detector: nn.Module, kind: str, views: tuple[View, ...], options: XViewOptions, grid: MainGrid | None
) -> dict[str, ViewProjector]:
    if kind == "points":
        return {}
    config: Any = getattr(detector, "config", None)

    def make(main: MainGrid, stride: ViewStride) -> ViewProjector:
        return ViewProjector(
            views,
            main,
            stride,
            options.interpolation,
            options.fuse,
            options.index_mode,
            shuffle=options.shuffle_gather,
        )

    if grid is not None:
        return {"out": make(grid, ViewStride())}
    if not isinstance(detector, VoxelStages | PointPillars):
        raise ValueError(
            "add_xview: grid: another module than tenfold.lidar's needs one: where its sites lie"
        )
    place = (config.point_range, config.voxel_size)
    single = ViewStride((1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    if kind == "pillars":
        return {"out": make(MainGrid(*place), single)}
    found = {}
    if not getattr(config, "free", False):
        found["out"] = make(MainGrid.encoder(*place), ViewStride())
    if isinstance(detector, PartA2):
        found["sites"] = make(MainGrid(*place), single)
    if options.fuse_multiscale:
        if not isinstance(detector, PVRCNN) or options.fuse != "add" or config.encoder != "plain":
            raise ValueError(
                "add_xview: fuse_multiscale: is for PV-RCNN with the plain encoder and fuse='add'"
            )
        for stage in _STAGES:
            s = float(2 ** (stage - 1))
            stride = ViewStride((s, s, s), (0.0, 0.0, 4.0 if stage == 4 else 0.0))
            found[f"stage{stage}"] = make(MainGrid.stage(*place, stage), stride)
    return found


def _widened(detector: Any, options: XViewOptions, views: int) -> Any:
    """For "cat": the detector rebuilt for wider fused features, on the same encoder; else the detector."""
    if options.fuse != "cat":
        return detector
    config, times = getattr(detector, "config", None), 1 + views
    kept = ["backbone_3d", "vfe"]
    if isinstance(detector, PointPillars):
        wide = replace(config, pillar_channels=config.pillar_channels * times)
    elif isinstance(detector, PointRCNN):
        finest = (*config.up_widths[0][:-1], config.up_widths[0][-1] * times)
        wide = replace(config, up_widths=(finest, *config.up_widths[1:]))
    elif isinstance(detector, PartA2):
        channels = (config.channels[0] * times, *config.channels[1:])
        wide = replace(config, channels=channels, out_channels=config.out_channels * times)
    elif isinstance(detector, VoxelStages):
        wide = replace(config, out_channels=config.out_channels * times)
    else:
        return detector  # another module: what follows its seam is its owner's
    if options.fuse_into == "head" and isinstance(detector, PartA2 | PointRCNN):
        kept.append("roi_head")
    model = type(detector)(wide)
    for name in kept:
        if hasattr(detector, name):
            setattr(model, name, getattr(detector, name))
    own, theirs = model.state_dict(), detector.state_dict()
    same = {
        key: theirs[key] for key, value in own.items() if key in theirs and theirs[key].shape == value.shape
    }
    model.load_state_dict(same, strict=False)
    return model


def _shared(detector: nn.Module, cls: type) -> Any:
    """An object of another class with the same parts; what is added to one does not show in the other."""
    model = cls.__new__(cls)
    model.__dict__.update(detector.__dict__)
    for name in ("_parameters", "_buffers", "_modules"):
        model.__dict__[name] = dict(detector.__dict__[name])
    return model


def _match(model: nn.Module, detector: nn.Module) -> None:
    """Device, dtype and mode of the detector."""
    reference = next(detector.parameters(), None)
    if reference is not None:
        model.to(device=reference.device)
    model.train(detector.training)
