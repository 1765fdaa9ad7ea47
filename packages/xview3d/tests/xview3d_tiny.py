"""Tiny detectors and coarse views that the tests share."""

from functools import cache

import numpy as np
import torch

from tenfold.lidar import build_detector
from tenfold.lidar.simulator import SECTOR_32, SMALL_SCENE, sample_scene, scan

_RANGE = [0.0, -12.8, -3.0, 25.6, 12.8, 1.0]
_VOXELS = {
    "class_names": ["Car"],
    "point_range": _RANGE,
    "voxel_size": [0.2, 0.2, 0.1],
    "channels": [4, 4, 4, 8],
    "out_channels": 8,
    "bev_layers": [1],
    "bev_strides": [1],
    "bev_channels": [8],
    "up_strides": [1],
    "up_channels": [8],
}
_SECOND_STAGE = {
    "train": {"pre_max": 64, "post_max": 16},
    "test": {"pre_max": 64, "iou_threshold": 0.7, "post_max": 8},
    "sampling": {"per_frame": 8},
    "shared": [16, 16],
    "fc": [16],
    "dropout": 0.0,
}
#: Overrides that make each detector tiny.
TINY = {
    "second": _VOXELS,
    "pointpillars": {
        "class_names": ["Car"],
        "point_range": _RANGE,
        "voxel_size": [0.8, 0.8, 4.0],
        "pillar_channels": 8,
        "bev_layers": [1],
        "bev_strides": [1],
        "bev_channels": [8],
        "up_strides": [1],
        "up_channels": [8],
    },
    "parta2": {**_VOXELS, "pool_grid": 4, "pool_channels": 8, "second": _SECOND_STAGE},
    "pv_rcnn": {
        **_VOXELS,
        "keypoints": 64,
        "keypoint_scales": {
            "raw": [[0.8, 4, [4]], [1.6, 4, [4]]],
            "conv1": [[0.8, 4, [4]]],
            "conv2": [[1.6, 4, [4]]],
            "conv3": [[2.4, 4, [4]]],
            "conv4": [[4.8, 4, [8]]],
        },
        "fused_channels": 8,
        "point_widths": [8],
        "pool_grid": 2,
        "pool_scales": [[1.6, 4, [8]]],
        "second": _SECOND_STAGE,
    },
    "pointrcnn": {
        "class_names": ["Car"],
        "point_range": _RANGE,
        "points": 256,
        "levels": [[64, [[0.8, 4, [8, 8]], [1.6, 4, [8]]]], [16, [[1.6, 4, [8]], [3.2, 4, [8]]]]],
        "up_widths": [[8, 8], [16]],
        "point_widths": [8],
        "pool_points": 16,
        "roi_channels": 8,
        "roi_levels": [[8, [[0.8, 4, [8]]]], [None, [[1.0, 1, [16]]]]],
        "second": {key: value for key, value in _SECOND_STAGE.items() if key != "shared"},
    },
}
DETECTORS = ("second", "pv_rcnn", "parta2", "pointrcnn", "pointpillars")


def tiny_views(detector, second=(20.0, 0.0, 0.0)):
    """Coarse cells from the car and 20 m ahead."""
    from xview3d import View

    if detector == "pointpillars":
        shared = {"kind": "cylindrical", "voxel": (0.4, 0.04, 4.0)}
    else:
        shared = {"voxel": (0.2, 0.04, 0.04)}
    return [View(**shared), View(second, **shared)]


def tiny_detector(name, **more):
    """A tiny detector with scores that find something."""
    torch.manual_seed(0)
    model = build_detector(name, **{**TINY[name], "post": {"score_threshold": 0.0}, **more})
    return model.eval()


@cache
def tiny_batch():
    """Two simulated frames with their cars."""
    points, boxes = [], []
    for k in range(2):
        seen = scan(sample_scene(k, SMALL_SCENE, region=(4.0, -12.0, 25.0, 12.0)), SECTOR_32, seed=k)
        points.append(np.insert(seen.points, 0, k, axis=1))
        boxes.append(seen.boxes[seen.counts > 4])
    gt = torch.zeros(2, max(map(len, boxes)), 8)
    for k, own in enumerate(boxes):
        gt[k, : len(own), :7], gt[k, : len(own), 7] = torch.from_numpy(own), 1
    assert gt[..., 7].sum() >= 4
    return {"points": torch.from_numpy(np.concatenate(points)), "gt_boxes": gt, "batch_size": 2}


def settle(model):
    """Statistics of the normalisations as a training would leave them: otherwise deep features vanish."""
    norms = [m for m in model.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    torch.manual_seed(2)
    with torch.no_grad():
        model.train()(tiny_batch())
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
    return model.eval()


def tiny_model(name, base=None, **options):
    """A tiny detector with views, settled; the detector's parts with it."""
    from xview3d import add_xview

    base = tiny_detector(name) if base is None else base
    torch.manual_seed(1)
    return settle(add_xview(base, options.pop("views", None) or tiny_views(name), **options))
