"""Speed of pircnn at KITTI size: what the fusion costs a frame beside the rest of the detector."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch

from kernels.model import Call, Case, Peer, Row, within
from pircnn.calibration import KittiCalib
from pircnn.data.columns import with_camera
from pircnn.model import PIRCNN, neighbours
from pircnn.sampling import sample_image_features
from speed.common import another_network, without_gradient
from speed.lidar import camera_points
from tenfold.geometry import Calibration

_IMAGE, _CHANNELS, _POINTS = (375, 1242), 10, 16384


@cache
def _model(variant: str) -> PIRCNN:
    """Random weights, and as many candidates as a trained detector has: the time depends on them."""
    torch.manual_seed(0)
    model = PIRCNN.from_config(variant, branch="cached").eval()
    bias = model.point_head.cls_layers[-1].bias
    assert isinstance(bias, torch.Tensor)
    torch.nn.init.constant_(bias, -4.0)
    return model


@cache
def _state() -> dict[str, Any]:
    points, source = camera_points()
    calib = KittiCalib.from_calibration(Calibration.kitti_like(_IMAGE))
    rows = with_camera(points[:, 1:].numpy(), calib, _IMAGE)
    torch.manual_seed(0)
    semantics = torch.rand(_CHANNELS, *_IMAGE)
    batch: dict[str, Any] = {
        "points": torch.from_numpy(np.insert(rows, 0, 0, axis=1)),
        "batch_size": 1,
        "maps": [semantics],
    }
    model = _model("pacf")
    with torch.no_grad():
        drawn, _ = model.draw_points(batch["points"], 1)
        first = model.first_stage(batch["points"], 1, batch)
    return {
        "batch": batch,
        "source": source,
        "map": semantics[None],
        "xyz": drawn[..., :3].contiguous(),
        "uv": drawn[..., 4:6].contiguous(),
        "seen": drawn[..., 6] == 1,
        "first": first,
    }


def _frame(_scale: float, _dtype: str) -> Case:
    state = _state()
    return Case(
        _POINTS,
        f"{_POINTS:,} of {len(state['batch']['points']):,} points of {state['source']}, map {_CHANNELS} x 375 x 1242",
        state,
    )


def _whole(variant: str) -> Callable[[Case], Call]:
    return lambda case: without_gradient(lambda: _model(variant)(case["batch"]))


def _search(case: Case) -> Call:
    return without_gradient(lambda: neighbours(case["xyz"], 3))


def _scipy(case: Case) -> Call:
    from scipy.spatial import cKDTree

    xyz = case["xyz"][0].numpy()
    return lambda: cKDTree(xyz).query(xyz, 3)[1]


def _brute(case: Case) -> Call:
    xyz = case["xyz"][0]

    def run() -> Any:
        return torch.cat([torch.cdist(part, xyz).topk(3, largest=False)[1] for part in xyz.split(1024)])

    return without_gradient(run)


def _distances(raw: Any, case: Case) -> Any:
    """Distances of the neighbours: points in one place may come in any order."""
    xyz = case["xyz"][0].double()
    idx = torch.as_tensor(np.asarray(raw)).view(-1, 3).long()
    return ((xyz[idx] - xyz[:, None]).norm(dim=2).numpy(),)


def _sample(case: Case) -> Call:
    return without_gradient(lambda: sample_image_features(case["map"], case["uv"], case["seen"]))


def _grid_sample(case: Case) -> Call:
    size = torch.tensor([_IMAGE[1] - 1, _IMAGE[0] - 1])

    def run() -> Any:
        grid = (2 * case["uv"] / size - 1)[:, :, None]
        read = torch.nn.functional.grid_sample(case["map"], grid, padding_mode="border", align_corners=True)
        return read[..., 0].transpose(1, 2) * case["seen"][..., None]

    return without_gradient(run)


def _array(raw: Any, _case: Case) -> Any:
    return (raw.numpy(),)


def _fusion(case: Case) -> Call:
    model, first = _model("pacf"), case["first"]
    return without_gradient(lambda: model.refine(first, {}).features)


def _first(case: Case) -> Call:
    model = _model("pointrcnn")
    return without_gradient(lambda: model.first_stage(case["batch"]["points"], 1, case["batch"]))


ROWS = (
    Row(
        key="pircnn-frame",
        op="predict",
        title="PI-RCNN, whole frame with a cached map, three classes",
        make=_frame,
        ours=_whole("pacf"),
        agree=another_network,
        peers=(
            Peer(
                "PointRCNN",
                "tenfold",
                "tenfold",
                _whole("pointrcnn"),
                same=False,
                note="the same detector without the fusion; the ratio below 1 is what the fusion costs",
            ),
        ),
        parallel=True,
        growth=False,
    ),
    Row(
        key="pircnn-fusion",
        op="PointImageFusion",
        title="neighbour search and PACF, 16,384 points",
        make=_frame,
        ours=_fusion,
        agree=another_network,
        peers=(Peer("first stage of PointRCNN", "tenfold", "tenfold", _first, same=False, note="for scale"),),
        parallel=True,
        growth=False,
    ),
    Row(
        key="pircnn-neighbours",
        op="knn",
        title="3 nearest neighbours of 16,384 points",
        make=_frame,
        ours=_search,
        normal=_distances,
        agree=within(1e-5),
        peers=(
            Peer(
                "scipy cKDTree",
                "scipy",
                "scipy",
                _scipy,
                normal=_distances,
                note="tree included on both sides",
            ),
            Peer(
                "torch.cdist + topk",
                "torch",
                "torch",
                _brute,
                normal=_distances,
                same=False,
                note="all pairs",
            ),
        ),
        parallel=True,
        growth=False,
    ),
    Row(
        key="pircnn-sampling",
        op="sample_image_features",
        title="10 channels of a 1242 x 375 map at 16,384 points",
        make=_frame,
        ours=_sample,
        normal=_array,
        agree=within(1e-4),
        peers=(Peer("torch grid_sample", "torch", "torch", _grid_sample, normal=_array),),
        parallel=True,
        growth=False,
    ),
)
