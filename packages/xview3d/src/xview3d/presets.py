"""Views of the published configurations, and the baselines and controls beside them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from torch import nn

from tenfold.lidar.models import PointPillars
from xview3d.mvf import add_mvf
from xview3d.plugin import add_xview
from xview3d.view import View

__all__ = [
    "CONTROLS",
    "from_settings",
    "kitti_views",
    "nuscenes_views",
    "pointpillars_views",
    "views_from",
]

# Centre -> largest r of the released KITTI grids, metres.
_KITTI = {
    1: {(0.0, 0.0, 0.0): 82.0},
    2: {(0.0, 0.0, 0.0): 82.0, (40.0, 0.0, 0.0): 57.6},
    3: {(0.0, 0.0, 0.0): 82.0, (40.0, -20.0, 0.0): 72.8, (40.0, 20.0, 0.0): 72.8},
    4: {
        (0.0, 0.0, 0.0): 82.0,
        (60.0, 0.0, 0.0): 74.0,
        (40.0, -20.0, 0.0): 72.8,
        (40.0, 20.0, 0.0): 72.8,
    },
}
_NUSCENES = {(0.0, 0.0, 0.0): 80.0, (40.0, 0.0, 0.0): 104.8, (-40.0, 0.0, 0.0): 104.8}


def kitti_views(number: int = 2) -> tuple[View, ...]:
    """The released KITTI grids of one to four spherical views.

    Raises:
        ValueError: another number.

    Example:
        >>> [view.grid for view in kitti_views(2)]
        [(1640, 320, 319), (1152, 640, 319)]
    """
    if number not in _KITTI:
        raise ValueError(f"kitti_views: number: got {number}; expected 1 to 4")
    return tuple(_kitti_view(center, r) for center, r in _KITTI[number].items())


def _kitti_view(center: tuple[float, float, float], r: float) -> View:
    psi = 3.2 if any(center) else 1.6  # from where the car stands, everything lies ahead
    return View(center, range=(0.0, -psi, 0.0, r, psi, 3.19))


def nuscenes_views() -> tuple[View, ...]:
    """The released nuScenes grids: egocentric, and 40 m to both sides along x.

    Example:
        >>> [view.spatial_shape for view in nuscenes_views()[:2]]
        [(321, 320, 800), (321, 320, 1048)]
    """
    return tuple(
        View(
            center,
            range=(0.0, -3.2, 0.0, r, 3.2, 3.2),
            voxel=(0.1, 0.02, 0.01),
            max_voxels=(60000, 60000),
        )
        for center, r in _NUSCENES.items()
    )


def pointpillars_views() -> tuple[View, ...]:
    """The released cylindrical grids of PointPillars on KITTI.

    Example:
        >>> [view.grid for view in pointpillars_views()]
        [(416, 320, 1), (288, 640, 1)]
    """
    shared: dict[str, Any] = {"kind": "cylindrical", "voxel": (0.2, 0.01, 4.0), "max_points": 32}
    return (
        View(range=(0.0, -1.6, -3.0, 83.2, 1.6, 1.0), **shared),
        View((40.0, 0.0, 0.0), range=(0.0, -3.2, -3.0, 57.6, 3.2, 1.0), **shared),
    )


def _controls() -> dict[str, dict[str, Any]]:
    ego, ahead = kitti_views(2)
    behind = replace(ahead, center=(-40.0, 0.0, 0.0), range="auto")
    sweep = {
        f"center_{x}": {"views": (ego, replace(ahead, center=(float(x), 0.0, 0.0), range="auto"))}
        for x in range(0, 61, 10)
    }
    cylindrical = tuple(View(v.center, kind="cylindrical", voxel=(0.05, 0.01, 0.0125)) for v in (ego, ahead))
    return {
        "base": {"views": ()},
        "ego": {"views": kitti_views(1)},
        "two_ego": {"views": (ego, ego)},
        "second_bev": {"views": (View(kind="cartesian", voxel=(0.05, 0.05, 0.1)),)},
        "v2": {"views": kitti_views(2)},
        "v3": {"views": kitti_views(3)},
        "v4": {"views": kitti_views(4)},
        "far_only": {"views": (ahead,)},
        "cat": {"views": kitti_views(2), "fuse": "cat"},
        "linear": {"views": kitti_views(2), "interpolation": "linear"},
        "cylindrical": {"views": cylindrical},
        **sweep,
        "shuffled": {"views": kitti_views(2), "shuffle_gather": True},
        "behind": {"views": (ego, behind)},
        "yaw": {"views": (ego, replace(ahead, yaw=math.pi))},
        "circular": {"views": (ego, replace(ahead, psi_padding="circular"))},
        "receptive_field": {"views": kitti_views(2), "index_mode": "receptive_field"},
        "trainable_centers": {
            "views": kitti_views(2),
            "interpolation": "linear",
            "trainable_centers": True,
        },
        "mvf": {"views": (ego,), "point_level": True},
    }


#: Name -> arguments of `add_xview` for detectors on KITTI: baselines, ablations and controls. "base" has no view, and
#: ``point_level`` stands for `xview3d.mvf.add_mvf`; `from_settings` knows both.
CONTROLS: Mapping[str, Mapping[str, Any]] = _controls()


def views_from(settings: Any, dataset: str = "kitti", *, pillars: bool = False) -> tuple[View, ...] | None:
    """Views of a recipe: a list of mappings of `View`'s fields, a number of released views, or None.

    Raises:
        ValueError: something else, or fields that no view has.

    Example:
        >>> views_from([{"center": [40, 0, 0]}])[0].center
        (40, 0, 0)
    """
    if settings is None:
        return None
    if isinstance(settings, int) and not isinstance(settings, bool):
        return _released(settings, dataset, pillars)
    if not isinstance(settings, Sequence) or isinstance(settings, str):
        raise ValueError(f"views: got {settings!r}; expected a list of views, or a number of released ones")
    known = {field.name for field in fields(View)}
    views = []
    for k, item in enumerate(settings):
        if isinstance(item, View):
            views.append(item)
            continue
        if not isinstance(item, Mapping):
            raise ValueError(f"views: number {k} is {item!r}; expected the fields of a view")
        if unknown := sorted(set(item) - known):
            raise ValueError(
                f"views: number {k} has unknown {', '.join(unknown)}; known are {', '.join(sorted(known))}"
            )
        views.append(View(**item))
    return tuple(views)


def _released(number: int, dataset: str, pillars: bool) -> tuple[View, ...]:
    if dataset == "kitti" and not pillars:
        return kitti_views(number)
    views = pointpillars_views() if dataset == "kitti" else nuscenes_views()
    if not 1 <= number <= len(views) or (pillars and dataset != "kitti"):
        raise ValueError(f"views: got {number}; no such released views of this detector on {dataset}")
    return views[:number]


def from_settings(detector: nn.Module, settings: Mapping[str, Any], dataset: str = "kitti") -> nn.Module:
    """The detector with the views that a recipe's ``xview`` describes.

    Args:
        detector: without views.
        settings: arguments of `add_xview`; ``control`` names one of `CONTROLS`, whose arguments win; ``views`` may
            be a number or mappings. No view at all leaves the detector as it is.
        dataset: whose released views a number means.

    Raises:
        ValueError: whatever `add_xview` and `View` refuse.

    Example:
        >>> from tenfold.lidar import build_detector
        >>> len(from_settings(build_detector("second"), {"views": 3}).views)
        3
    """
    options = dict(settings)
    control = options.pop("control", None)
    if control is not None:
        if control not in CONTROLS:
            raise ValueError(f"xview: control: got {control!r}; expected one of {', '.join(CONTROLS)}")
        options |= CONTROLS[control]
    listed = options.pop("views", None)
    try:
        views = views_from(listed, dataset, pillars=isinstance(detector, PointPillars))
        if views == ():
            return detector
        if options.pop("point_level", False):
            return add_mvf(detector, views or (View(),), **options)
        return add_xview(detector, views, **options)
    except TypeError as error:
        raise ValueError(f"xview: {error}") from error
