"""Cards that run the kernels on a frame, check them against their references and draw what they found."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

import tenfold
from report import scenes
from tenfold import ops
from tenfold.viz import Part, Picture, Table, bev_image, draw_boxes_3d, draw_points, encode_image

SECOND = {"voxel_size": (0.05, 0.05, 0.1), "point_range": (0, -40, -3, 70.4, 40, 1)}


@dataclass
class Card:
    """What one card of the page says, and how long it took where that was measured elsewhere."""

    title: str
    claim: str
    number: str
    control: str
    passed: bool
    parts: list[Part] = field(default_factory=list)
    seconds: float | None = None


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


def _picture(image: np.ndarray, caption: str) -> Picture:
    return Picture(encode_image(image), caption)


def _agrees(call: Callable[[], Tensor | Sequence[Tensor]]) -> bool:
    """Whether the kernels and the plain references return the same bits."""
    with tenfold.reference():
        expected = call()
    results = [[x] if isinstance(x, Tensor) else list(x) for x in (call(), expected)]
    return all(torch.equal(x, y) for x, y in zip(*results, strict=True))


def kitti_boxes() -> Card:
    """Which points lie in which labelled box of a KITTI frame."""
    frame, source = scenes.kitti()
    labels = frame.labels
    assert labels is not None
    assert frame.image is not None
    points, boxes = _tensor(frame.points[:, :3]), _tensor(labels.boxes.astype(np.float32))
    owner = ops.points_in_boxes(points, boxes)
    part = points[:: len(points) // 400]
    passed = _agrees(lambda: ops.points_in_boxes(part, boxes))
    counts = torch.bincount(owner[owner >= 0].long(), minlength=len(boxes))
    classes = sorted(set(labels.names))
    number = [classes.index(name) for name in labels.names]
    top = bev_image(
        *(frame.points, labels.boxes, number),
        range=(0, -30, 70, 30),
        resolution=0.12,
        class_names=classes,
    )
    inside = (owner >= 0).numpy()
    projection = frame.calibration.p2 @ frame.calibration.lidar_to_rect_matrix
    camera = draw_points(frame.image, frame.points[inside, :3], projection)
    camera = draw_boxes_3d(camera, labels.boxes, projection, number)
    rows = [[name, int(count)] for name, count in zip(labels.names, counts, strict=True)]
    return Card(
        f"Points in boxes: {source}",
        "points_in_boxes finds the points of every labelled object in one pass over the cloud.",
        f"{int(inside.sum()):,} of {len(points):,} points lie in {len(boxes)} objects",
        "the plain reference on every n-th point, equal to the last index",
        passed,
        [
            _picture(top, "bird's eye, labels as boxes"),
            _picture(camera, "points inside boxes, by depth"),
            Table(["object", "points"], rows),
        ],
    )


def kitti_voxels() -> Card:
    """Voxelization of a KITTI frame with SECOND's grid."""
    frame, source = scenes.kitti()
    assert frame.image_size is not None
    points = _tensor(frame.points[frame.calibration.in_image(frame.points[:, :3], frame.image_size)])
    grid = ops.voxelize(points, **SECOND, max_points=5, max_voxels=40_000)
    part = points[:: len(points) // 3000]
    passed = _agrees(lambda: ops.voxelize(part, **SECOND, max_points=5, max_voxels=40_000))
    out_of_range, over_voxels, over_points = grid.dropped.tolist()
    coords, _, counts = ops.dynamic_voxelize(points, (0.4, 0.4, 4.0), SECOND["point_range"])
    centres = torch.stack([coords[:, 3] * 0.4 + 0.2, coords[:, 2] * 0.4 - 39.8, counts.float()], dim=1)
    density = bev_image(
        centres.numpy(),
        range=(0, -30, 70, 30),
        resolution=0.12,
        colour_by=counts.float().log().numpy(),
        point_size=3,
    )
    rows = [
        ["voxels", len(grid.coords)],
        ["points out of range", out_of_range],
        ["points over the voxel cap", over_voxels],
        ["points over five in a voxel", over_points],
        ["occupied 0.4 m pillars", len(coords)],
    ]
    return Card(
        f"Voxels: {source}, camera view",
        "voxelize keeps the first five points of each 5 x 5 x 10 cm voxel and counts every point it drops.",
        f"{len(points):,} points in {len(grid.coords):,} voxels",
        "the plain reference on a thinned cloud, all five outputs equal",
        passed,
        [_picture(density, "points per 0.4 m pillar (logarithm)"), Table(["what", "count"], rows)],
    )


def nuscenes_nms() -> Card:
    """Rotated suppression of noisy candidates around the boxes of a nuScenes frame."""
    scene = scenes.nuscenes()
    rng = np.random.default_rng(0)
    copies = np.repeat(scene.boxes, 12, axis=0)
    noise = rng.normal(0, 0.1, copies.shape)
    noisy = copies.copy()
    noisy[:, :6] += noise[:, :6] * copies[:, [3, 4, 5, 3, 4, 5]]
    noisy[:, 6] += noise[:, 6]
    scores = np.exp(-np.abs(noise).sum(1))
    boxes, confidence = _tensor(noisy.astype(np.float32)), _tensor(scores.astype(np.float32))
    keep = ops.nms_rotated(boxes, confidence, 0.1)
    passed = _agrees(lambda: ops.nms_rotated(boxes, confidence, 0.1))
    view = {"range": (-50, -50, 50, 50), "resolution": 0.16}
    before = bev_image(scene.points, noisy, line_width=0.7, **view)
    after = bev_image(scene.points, noisy[keep.numpy()], reference=scene.boxes, **view)
    return Card(
        f"Rotated suppression: {scene.source}",
        "nms_rotated keeps the best of overlapping rotated boxes with exact polygon overlap.",
        f"{len(noisy)} candidates to {len(keep)} boxes ({len(scene.boxes)} labelled)",
        "the plain reference on all candidates, the same rows in the same order",
        passed,
        [
            _picture(before, "candidates: labels with noise"),
            _picture(after, "kept (colour) and labelled (white)"),
        ],
    )


def scannet_balls() -> Card:
    """Balls around sampled centres of an indoor scan."""
    scene = scenes.scannet()
    points = _tensor(scene.points[:, :3])
    rng = np.random.default_rng(0)
    centres = points[_tensor(rng.choice(len(points), 200, replace=False))]
    rows, count = ops.ball_query(points, centres, 0.3, 64)
    passed = _agrees(lambda: ops.ball_query(points, centres[:20], 0.3, 64))
    near = torch.zeros(len(points))
    near[rows.flatten().long()] = 1
    low, high = scene.points[:, :2].min(0), scene.points[:, :2].max(0)
    picture = bev_image(
        *(scene.points, scene.boxes),
        range=(*low.tolist(), *high.tolist()),
        resolution=0.015,
        colour_by=near.numpy(),
        point_size=2,
    )
    return Card(
        f"Ball query: {scene.source}",
        "ball_query returns the first k points within a radius, in index order, as PointNet++ groups them.",
        f"{int(count.sum()):,} neighbours of {len(centres)} centres within 0.3 m",
        "the plain reference on 20 centres, equal indices and counts",
        passed,
        [_picture(picture, "points in some ball (bright), labelled boxes")],
    )


CARDS: tuple[Callable[[], Card], ...] = (kitti_boxes, kitti_voxels, nuscenes_nms, scannet_balls)
