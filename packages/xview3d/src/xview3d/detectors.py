"""How each detector of `tenfold.lidar` takes views: default grids, view networks, look-ups, wider layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from tenfold.lidar.models import PVRCNN, PartA2, PointPillars, PointRCNN
from tenfold.lidar.models.pointpillars import PillarFeatures
from tenfold.lidar.models.pointrcnn import sa_level
from tenfold.lidar.models.second import VoxelStages
from xview3d.encoder import ViewEncoder
from xview3d.fusion import STAGES, XViewOptions
from xview3d.projector import MainGrid, ViewProjector, ViewStride
from xview3d.view import View

__all__ = ["cylindrical_views", "default_views", "encoder_of", "pillars_of_view", "projectors", "widened"]

#: The egocentric view and one 40 m ahead.
DEFAULT_VIEWS = (View(), View(center=(40.0, 0.0, 0.0)))


def default_views(config: Any) -> tuple[View, ...]:
    """Spherical views from the car and 40 m ahead, with the caps of a configuration."""
    caps = tuple(getattr(config, "max_voxels", (16000, 40000)))
    return tuple(replace(view, max_voxels=caps) for view in DEFAULT_VIEWS)


def cylindrical_views(config: Any) -> tuple[View, ...]:
    """Cylindrical views of PointPillars from the car and 40 m ahead."""
    high = config.point_range[5] - config.point_range[2]
    shared: dict[str, Any] = {
        "kind": "cylindrical",
        "voxel": (0.2, 0.01, high),
        "max_points": config.max_points,
        "max_voxels": config.max_voxels,
    }
    return View(**shared), View(center=(40.0, 0.0, 0.0), **shared)


def encoder_of(detector: nn.Module, options: XViewOptions) -> Callable[[View, int], nn.Module] | None:
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


def pillars_of_view(detector: Any, view: View) -> PillarFeatures:
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


def projectors(
    detector: nn.Module, kind: str, views: tuple[View, ...], options: XViewOptions, grid: MainGrid | None
) -> dict[str, ViewProjector]:
    """Look-ups by what they fuse: "out", Part-A2's "sites", and "stage1" to "stage4" of PV-RCNN."""
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
        for stage in STAGES:
            s = float(2 ** (stage - 1))
            stride = ViewStride((s, s, s), (0.0, 0.0, 4.0 if stage == 4 else 0.0))
            found[f"stage{stage}"] = make(MainGrid.stage(*place, stage), stride)
    return found


def widened(detector: Any, options: XViewOptions, views: int) -> Any:
    """For "cat": the detector rebuilt for wider fused features, on the same encoder; else the detector."""
    if options.fuse != "cat":
        return detector
    times = 1 + views
    config: Any = getattr(detector, "config", None)
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
