"""What views add to each detector at KITTI size: whole frames with one and two views beside the detector without."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from kernels.model import Call, Case, Peer, Row
from speed.common import another_network, nothing
from speed.lidar import camera_points
from xview3d import add_xview, kitti_views, pointpillars_views
from xview3d.cost import kept_bytes

_DETECTORS = {
    "second": "SECOND",
    "pv_rcnn": "PV-RCNN",
    "parta2": "Part-A2",
    "pointrcnn": "PointRCNN",
    "pointpillars": "PointPillars",
}


@cache
def _model(name: str, views: int) -> Any:
    """A detector with random weights and as many candidates as a trained one has: the time depends on them."""
    from tenfold.lidar import build_detector

    torch.manual_seed(0)
    model: Any = build_detector(name).eval() if views == 0 else None
    if model is None:
        grids = pointpillars_views()[:views] if name == "pointpillars" else kitti_views(views)
        return add_xview(_model(name, 0), grids)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith(("conv_cls.bias", "point_head.cls_layers.6.bias")):
                parameter.fill_(-4.0)
    return model


def _batch() -> dict[str, Any]:
    return {"points": camera_points()[0], "batch_size": 1}


@cache
def _kept(name: str, views: int) -> float:
    """Megabytes that a training step keeps for its backward pass."""
    car = torch.tensor([[[20.0, 2.0, -0.9, 3.9, 1.6, 1.56, 0.0, 1.0]]])
    return kept_bytes(_model(name, views), {**_batch(), "gt_boxes": car}) / 1e6


def _case(name: str, views: int) -> Callable[[float, str], Case]:
    def make(_scale: float, _dtype: str) -> Case:
        points, source = camera_points()
        memory = f"training keeps {_kept(name, views):.0f} MB, without views {_kept(name, 0):.0f} MB"
        return Case(len(points), f"{len(points):,} points of {source}; {memory}", {})

    return make


def _whole(name: str, views: int) -> Callable[[Case], Call]:
    def build(_case: Case) -> Call:
        model, batch = _model(name, views), _batch()

        def run() -> Any:
            with torch.inference_mode():
                return model(batch)

        return run

    return build


def _row(name: str, views: int) -> Row:
    words = "the egocentric view" if views == 1 else f"{views} views"
    return Row(
        key=f"xview3d-{name}-v{views}",
        op="add_xview",
        title=f"{_DETECTORS[name]} with {words}, whole frame",
        make=_case(name, views),
        ours=_whole(name, views),
        normal=nothing,
        agree=another_network,
        peers=(
            Peer(
                "without views",
                "tenfold",
                "tenfold",
                _whole(name, 0),
                normal=nothing,
                same=False,
                note="the same detector; the ratio is its share of the time with views",
            ),
        ),
        parallel=True,
        growth=False,
    )


ROWS = tuple(_row(name, views) for name in _DETECTORS for views in (1, 2))
