"""Is a view wired up, and is it any good? Hit rates, the purity of cells, the effect of every branch."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tenfold.lidar.models.point_input import in_xy_range
from tenfold.ops._checks import require_shape, require_tensor
from tenfold.sparse import SparseTensor
from xview3d.fusion import Views
from xview3d.view import View

__all__ = [
    "BranchEffect",
    "Extent",
    "Occupancy",
    "Purity",
    "assert_branches_work",
    "branch_effect",
    "cell_extent",
    "cell_purity",
    "cell_width",
    "hit_rate",
    "occupancy",
]

#: Cells of the small-scale geometry: 0.4 m, 0.08 rad, 0.16 rad, as the fused features have them.
FUSED_CELL = (0.4, 0.08, 0.16)
RANGE_EDGES = (0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0)


class Purity(NamedTuple):
    """How often objects share a cell, by distance.

    Args:
        edges: (K + 1,) metres from the sensor, on the ground.
        shared: (K,) share of the object points of a bin whose cell holds points of two or more objects; NaN
            without points.
        points: (K,) object points.
        impure: (N,) bool, for each point.
    """

    edges: Tensor
    shared: Tensor
    points: Tensor
    impure: Tensor


def cell_purity(
    points: Tensor,
    instance_ids: Tensor,
    view: View,
    cell: Sequence[float] = FUSED_CELL,
    edges: Sequence[float] = RANGE_EDGES,
    frame: Tensor | None = None,
) -> Purity:
    """Share of object points that share a view's cell with another object: the paper's argument in a number.

    Args:
        points: (N, 3 or more) x, y, z first, metres.
        instance_ids: (N,) integers; below 0 is no object.
        view: its centre and kind; cells are counted from 0 along every local axis.
        cell: extents in local coordinates; the default is what the released strides leave.
        edges: of the bins of distance from the sensor, metres.
        frame: (N,) integers that keep the points of several frames apart.

    Raises:
        ValueError: shapes or edges that do not fit.

    Example:
        >>> two_cars = torch.tensor([[60.0, 0.2, -1.0], [60.0, 2.5, -1.0]])
        >>> [cell_purity(two_cars, torch.tensor([0, 1]), View(c)).shared[6].item() for c in ((0, 0, 0), (40, 0, 0))]
        [1.0, 0.0]
    """
    op = "cell_purity"
    require_tensor(op, "points", points)
    if points.dim() != 2 or points.shape[1] < 3:
        raise ValueError(f"{op}: points: got shape {tuple(points.shape)}; expected (N, 3 or more)")
    require_tensor(op, "instance_ids", instance_ids)
    require_shape(op, "instance_ids", instance_ids, (len(points),))
    if len(edges) < 2 or any(not a < b for a, b in itertools.pairwise(edges)):
        raise ValueError(f"{op}: edges: got {tuple(edges)}; expected increasing distances")
    xyz = points[:, :3].double()
    impure = torch.zeros(len(points), dtype=torch.bool, device=points.device)
    of_object = (instance_ids >= 0).nonzero()[:, 0]
    if len(of_object):
        local = view.to_local(xyz[of_object])
        key = (local / local.new_tensor(cell)).floor().long()
        own = torch.zeros_like(instance_ids[of_object]) if frame is None else frame[of_object]
        key = torch.cat((own.long()[:, None], key), 1)
        cells, inverse = key.unique(dim=0, return_inverse=True)
        pairs = torch.stack((inverse, instance_ids[of_object].long()), 1).unique(dim=0)
        objects = torch.bincount(pairs[:, 0], minlength=len(cells))
        impure[of_object] = objects[inverse] > 1
    bounds = torch.tensor(list(edges), dtype=torch.float64, device=points.device)
    distance = torch.linalg.vector_norm(xyz[:, :2], dim=1)[of_object]
    place = torch.bucketize(distance, bounds, right=True) - 1
    valid = (place >= 0) & (place < len(edges) - 1)
    number = torch.bincount(place[valid], minlength=len(edges) - 1).double()
    hit = torch.bincount(place[valid], weights=impure[of_object][valid].double(), minlength=len(edges) - 1)
    return Purity(bounds, hit / number, number.long(), impure)


class Extent(NamedTuple):
    """How far apart the points of a cell lie, by distance.

    Args:
        edges: (K + 1,) metres from the sensor, on the ground.
        mean: (K,) metres, over the points of a bin; NaN without points.
        points: (N,) metres, for each point: the diagonal, from above, of what its cell holds.
    """

    edges: Tensor
    mean: Tensor
    points: Tensor


def cell_extent(
    points: Tensor,
    view: View,
    cell: Sequence[float] = FUSED_CELL,
    edges: Sequence[float] = RANGE_EDGES,
) -> Extent:
    """How coarse a view's cells are where a scanner measures: as `cell_purity`, without any label.

    Args:
        points: (N, 3 or more) of one frame, x, y, z first, metres.
        view: its centre and kind.
        cell: extents in local coordinates.
        edges: of the bins of distance from the sensor, metres.

    Example:
        >>> rows = torch.tensor([[60.0, 0.2, -1.0], [60.0, 2.5, -1.0]])
        >>> [round(cell_extent(rows, View(c)).mean[6].item(), 2) for c in ((0, 0, 0), (40, 0, 0))]
        [2.3, 0.0]
    """
    xyz = points[:, :3].double()
    key = (view.to_local(xyz) / xyz.new_tensor(cell)).floor().long()
    cells, inverse = key.unique(dim=0, return_inverse=True)
    where = inverse[:, None].expand(-1, 2)
    low = xyz.new_full((len(cells), 2), math.inf).scatter_reduce(0, where, xyz[:, :2], "amin")
    high = xyz.new_full((len(cells), 2), -math.inf).scatter_reduce(0, where, xyz[:, :2], "amax")
    own = torch.linalg.vector_norm(high - low, dim=1)[inverse]
    bounds = torch.tensor(list(edges), dtype=torch.float64, device=points.device)
    place = torch.bucketize(torch.linalg.vector_norm(xyz[:, :2], dim=1), bounds, right=True) - 1
    valid = (place >= 0) & (place < len(edges) - 1)
    number = torch.bincount(place[valid], minlength=len(edges) - 1).double()
    total = torch.bincount(place[valid], weights=own[valid], minlength=len(edges) - 1)
    return Extent(bounds, total / number, own)


def cell_width(xyz: Tensor, views: Sequence[View], psi: float = FUSED_CELL[1]) -> Tensor:
    """(N,) width across the line of sight of the finest perspective cell at places (N, 3): distance times angle.

    Example:
        >>> cell_width(torch.tensor([[60.0, 0.0, 0.0]]), [View(), View((40.0, 0.0, 0.0))], 0.1).item()
        2.0
    """
    xy = torch.stack([xyz[:, :2] - xyz.new_tensor(view.center[:2]) for view in views])
    width: Tensor = torch.linalg.vector_norm(xy, dim=-1).amin(0) * psi
    return width


@torch.no_grad()
def hit_rate(model: nn.Module, batch: Mapping[str, Any]) -> list[float]:
    """Share of a detector's sites that find something in each view; by chance, few do.

    A wrong axis order, sign or stride shows here at once. Released grids hit 0.84 to 0.98 of the sites.

    Args:
        model: of `add_xview`, on voxels or pillars.
        batch: ``points`` and ``batch_size``.

    Raises:
        ValueError: no views, or a detector on points, whose rows belong together without a look-up.
    """
    views = _views("hit_rate", model)
    if not len(views.projectors):
        raise ValueError("hit_rate: model: fuses points row by row; there is no look-up that could miss")
    seen: list[Tensor] = []
    name = "out" if "out" in views.projectors else "sites"
    projector: Any = views.projectors[name]

    def look(_module: nn.Module, args: tuple[Any, ...]) -> None:
        main, found = args[:2]
        seen.append(projector.hits(main, found))

    hook = projector.register_forward_pre_hook(look)
    try:
        _encode(views, batch)
    finally:
        hook.remove()
    return [float(v) for v in seen[0]]


class Occupancy(NamedTuple):
    """What one grid takes of the points.

    Args:
        name: "main", or the view's number.
        voxels: occupied cells.
        outside: points beyond the range.
        over_voxels: points without a cell because there were too many cells.
        over_points: points beyond the cap of their cell.
    """

    name: str
    voxels: int
    outside: int
    over_voxels: int
    over_points: int


@torch.no_grad()
def occupancy(model: nn.Module, batch: Mapping[str, Any]) -> list[Occupancy]:
    """Cells and dropped points of the detector's grid and of every view: caps drop points silently otherwise.

    Args:
        model: of `add_xview`, on voxels.
        batch: ``points`` and ``batch_size``.

    Raises:
        ValueError: no views, or another detector.
    """
    views: Any = _views("occupancy", model)
    if not hasattr(views, "voxel_features"):
        raise ValueError("occupancy: model: has no voxels of its own")
    from tenfold.lidar.models.detector import frame_offsets

    points, frames = batch["points"], int(batch["batch_size"])
    points = in_xy_range(points, views.config.point_range)
    grids = [("main", views.voxel_features(points[:, 1:], frame_offsets(points, frames)))]
    for k, local in enumerate(views.local_points(points)):
        grids.append((str(k), views.view_encoders[k].voxelise(local, frames)))
    return [Occupancy(name, len(v.coords), *(int(n) for n in v.dropped)) for name, v in grids]


class BranchEffect(NamedTuple):
    """What a view does.

    Args:
        view: its number.
        change: relative change of the fused features, L2, when the view is left out.
        gradient: L2 norm of the loss's gradient in the view's parameters, or NaN where it has none.
    """

    view: int
    change: float
    gradient: float


def branch_effect(model: nn.Module, batch: Mapping[str, Any]) -> list[BranchEffect]:
    """Effect and gradient of every view on a batch; the model is left as it is.

    A branch of the released code had no effect at all, and nothing said so.

    Args:
        model: of `add_xview`.
        batch: as in training, with ``gt_boxes``.

    Raises:
        ValueError: no views.
    """
    views = _views("branch_effect", model)
    changes = _changes(views, batch)
    trained: Any = copy.deepcopy(model).train()
    trained.zero_grad(set_to_none=True)
    losses = trained(batch)
    losses["loss"].backward()
    return [BranchEffect(k, change, _gradient(trained.view_encoders[k])) for k, change in enumerate(changes)]


def assert_branches_work(model: nn.Module, batch: Mapping[str, Any]) -> None:
    """Raise unless every view changes what is fused and receives a gradient.

    Raises:
        RuntimeError: a dead branch, with its number.
    """
    for effect in branch_effect(model, batch):
        if not effect.change > 0:
            raise RuntimeError(f"view {effect.view} changes nothing: it is not wired up, or sees no point")
        if not math.isnan(effect.gradient) and not effect.gradient > 0:
            raise RuntimeError(f"view {effect.view} receives no gradient")


@torch.no_grad()
def _changes(views: Views, batch: Mapping[str, Any]) -> list[float]:
    training = views.training
    views.eval()
    try:
        whole = _encode(views, batch)
        found = []
        for k in range(len(views.views)):
            with views.without(k):
                rest = _encode(views, batch)
            norm = max(float(torch.linalg.vector_norm(whole)), 1e-30)
            found.append(float(torch.linalg.vector_norm(whole - rest)) / norm)
        return found
    finally:
        views.train(training)


def _encode(views: Any, batch: Mapping[str, Any]) -> Tensor:
    """All fused features of a batch in a row."""
    points, frames = batch["points"], int(batch["batch_size"])
    if not len(views.projectors):
        drawn = points
        if hasattr(views, "draw_points"):
            drawn, _ = views.draw_points(in_xy_range(points, views.config.point_range), frames)
        features: Tensor = getattr(views, views.seam)(drawn)
        views.plain_features = None
        return features.flatten()
    encoded = getattr(views, views.seam)(points, frames)
    views.plain_features = None
    if isinstance(encoded, SparseTensor):
        return encoded.features.flatten()
    parts = [
        getattr(encoded, "out", None),
        getattr(encoded, "sites", None),
        getattr(encoded, "features", None),
    ]
    tensors = [p.features if isinstance(p, SparseTensor) else p for p in parts if p is not None]
    return torch.cat([t.flatten() for t in tensors])


def _gradient(module: nn.Module) -> float:
    grads = [p.grad for p in module.parameters()]
    if not grads:
        return math.nan
    return math.sqrt(sum(float(g.double().square().sum()) for g in grads if g is not None))


def _views(op: str, model: nn.Module) -> Views:
    if not isinstance(model, Views):
        raise ValueError(f"{op}: model: {type(model).__name__} has no views; see add_xview")
    return model
