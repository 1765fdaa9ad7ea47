"""Tiny detectors and coarse views that the tests share."""

import copy
from functools import cache

import numpy as np
import torch

from tenfold.lidar import build_detector
from tenfold.lidar.simulator import SECTOR_32, SMALL_SCENE, sample_scene, scan
from tenfold.testing import TINY_DETECTORS

DETECTORS = ("second", "pv_rcnn", "parta2", "pointrcnn", "pointpillars")


def tiny_views(detector):
    """Coarse cells from the car and 20 m ahead."""
    from xview3d import View

    if detector == "pointpillars":
        shared = {"kind": "cylindrical", "voxel": (0.4, 0.04, 4.0)}
    else:
        shared = {"voxel": (0.2, 0.04, 0.04)}
    return [View(**shared), View((20.0, 0.0, 0.0), **shared)]


def tiny_detector(name, **more):
    """A tiny detector with scores that find something."""
    torch.manual_seed(0)
    model = build_detector(name, **{**TINY_DETECTORS[name], "post": {"score_threshold": 0.0}, **more})
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


@cache
def usual_model(name):
    """The model without options, which most tests want: settled once, and never changed."""
    return _made(name, tiny_detector(name), {})


def tiny_model(name, base=None, **options):
    """A tiny detector with views, settled; the detector's parts with it."""
    if base is None and not options:
        return copy.deepcopy(usual_model(name))
    return _made(name, tiny_detector(name) if base is None else base, options)


def _made(name, base, options):
    from xview3d import add_xview

    torch.manual_seed(1)
    return settle(add_xview(base, options.pop("views", None) or tiny_views(name), **options))
