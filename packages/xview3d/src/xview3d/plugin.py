"""Views for a detector: `add_xview`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from tenfold.io import load_strict
from tenfold.lidar.models import PointPillars
from xview3d.detectors import (
    cylindrical_views,
    default_views,
    encoder_of,
    pillars_of_view,
    projectors,
    widened,
)
from xview3d.fusion import XViewOptions, class_with_views, has_views
from xview3d.projector import MainGrid
from xview3d.view import PerspectiveTransform, View

__all__ = ["add_xview", "load_base"]


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
    base: Any = type(detector)
    model = _shared(widened(detector, options, len(resolved)), class_with_views(base, seam, kind))
    model.xview, model.muted, model.plain_features = options, frozenset(), None
    model.seam = seam
    config = getattr(detector, "config", None)
    width = int(getattr(config, "point_features", 4)) if getattr(config, "use_features", True) else 3
    model.perspective = PerspectiveTransform(resolved, width - 3, trainable=trainable_centers)
    make = encoder or encoder_of(detector, options)
    if make is None:
        raise ValueError("add_xview: encoder: another module than tenfold.lidar's needs one for its views")
    model.view_encoders = nn.ModuleList(make(view, width) for view in resolved)
    model.projectors = nn.ModuleDict(projectors(detector, kind, resolved, options, grid))
    model.range_mask = None if config is None else getattr(config, "point_range", None)
    if kind == "pillars":
        model.twins = tuple(pillars_of_view(detector, view) for view in resolved)
    _match(model, detector)
    result: nn.Module = model
    return result


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
        views = cylindrical_views(config) if kind == "pillars" else default_views(config)
    if limits is None:
        return tuple(views)
    return tuple(view.resolved(limits) for view in views)


def _shared(detector: nn.Module, cls: Any) -> Any:
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
