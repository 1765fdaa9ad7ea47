"""Generated scenes in which only the image tells cars from decoys.

Both have the same sizes and the same points; the picture shows each in a noisy colour of its class.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw

from pircnn.calibration import KittiCalib, scene_matrix
from pircnn.data.columns import SEEN, UNSEEN, with_camera
from pircnn.data.semantic import CITYSCAPES
from pircnn.model.unet import image_tensor
from tenfold.geometry import Calibration, box_corners
from tenfold.io import make_folder, write_image

__all__ = [
    "IMAGE_SIZE",
    "POINT_RANGE",
    "SEG_NAMES",
    "ToyScene",
    "toy_batch",
    "toy_scene",
    "write_toy_semantics",
]

Floats = npt.NDArray[np.float64]

#: (height, width), pixels.
IMAGE_SIZE = (96, 320)
POINT_RANGE = (0.0, -32.0, -3.0, 40.0, 32.0, 1.0)
SEG_NAMES = ("background", "car", "decoy")

_POINTS, _GROUND = 1024, -1.73
_CAR, _SPREAD = np.array([3.9, 1.6, 1.56]), 0.08
_NEAR, _FAR, _VIEW, _TURN = 7.0, 32.0, 0.62, 0.3
_COLOURS = np.array([[0.42, 0.44, 0.42], [0.66, 0.40, 0.36], [0.38, 0.42, 0.66]])
_PIXEL_NOISE, _OBJECT_NOISE = 0.22, 0.06
# Corners of a box (see `box_corners`) that make its six faces.
_FACES = ((0, 1, 2, 3), (4, 5, 6, 7), (0, 1, 5, 4), (1, 2, 6, 5), (2, 3, 7, 6), (3, 0, 4, 7))


@dataclass(frozen=True, eq=False)
class ToyScene:
    """One frame.

    Attributes:
        points: (1024, 4) float32 x, y, z in metres, intensity.
        owner: (1024,) object of each point, -1 for the ground.
        boxes: (M, 7) float32 of all objects.
        is_car: (M,) bool; the others are decoys.
        image: (96, 320, 3) uint8.
        labels: (96, 320) uint8, see `SEG_NAMES`.
        calib: of the camera.
    """

    points: npt.NDArray[np.float32]
    owner: npt.NDArray[np.int64]
    boxes: npt.NDArray[np.float32]
    is_car: npt.NDArray[np.bool_]
    image: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8]
    calib: KittiCalib


def toy_scene(seed: tuple[int, ...], noise: float = 1.0) -> ToyScene:
    """Three to six boxes at 7 to 32 m, half of them cars, on a flat ground.

    Args:
        seed: numbers that name the scene.
        noise: factor of the picture's noise.

    Example:
        >>> scene = toy_scene((0, 1))
        >>> scene.points.shape, 3 <= len(scene.boxes) <= 6
        ((1024, 4), True)
    """
    rng = np.random.default_rng(seed)
    boxes, is_car = _objects(rng)
    parts = [_faces_seen(box, rng) for box in boxes]
    owner = np.repeat(np.arange(len(boxes)), [len(p) for p in parts])
    objects = np.concatenate(parts)
    ground = _ground(_POINTS - len(objects), rng)
    xyz = np.concatenate((objects, ground)) + rng.normal(0, 0.02, (_POINTS, 3))
    points = np.concatenate((xyz, rng.uniform(0, 1, (_POINTS, 1))), 1).astype(np.float32)
    owner = np.concatenate((owner, np.full(len(ground), -1)))
    calib = KittiCalib.from_calibration(Calibration.kitti_like(IMAGE_SIZE))
    image, labels = _picture(boxes, is_car, calib, rng, noise)
    return ToyScene(points, owner, boxes.astype(np.float32), is_car, image, labels, calib)


def _objects(rng: np.random.Generator) -> tuple[Floats, npt.NDArray[np.bool_]]:
    wanted, boxes = int(rng.integers(3, 7)), np.zeros((0, 7))
    for _ in range(300):
        x = rng.uniform(_NEAR, _FAR)
        y = rng.uniform(-_VIEW, _VIEW) * x
        size = _CAR * rng.uniform(1 - _SPREAD, 1 + _SPREAD, 3)
        heading = rng.normal(0, _TURN) + np.pi * rng.integers(2)
        box = np.array([x, y, _GROUND + size[2] / 2, *size, heading])
        # Apart on the ground and in the picture, so that nothing hides anything.
        bearing = np.arctan2(boxes[:, 1], boxes[:, 0]) - np.arctan2(y, x)
        room = 2.3 / np.hypot(boxes[:, 0], boxes[:, 1]) + 2.3 / np.hypot(x, y)
        if (np.abs(bearing) > room).all():
            boxes = np.concatenate((boxes, box[None]))
        if len(boxes) == wanted:
            break
    half = np.arange(len(boxes)) % 2 == 0
    return boxes, rng.permutation(half)


def _faces_seen(box: Floats, rng: np.random.Generator) -> Floats:
    """Points on the sides that face the sensor; as many as their solid angle asks for."""
    number = int(np.clip(1600 / np.hypot(box[0], box[1]), 24, 130))
    cos, sin = np.cos(box[6]), np.sin(box[6])
    weights, sides = [], []
    for quarter in range(4):
        depth, width = (box[3], box[4]) if quarter % 2 == 0 else (box[4], box[3])
        turn = quarter * np.pi / 2
        normal = np.array([np.cos(box[6] + turn), np.sin(box[6] + turn)])
        middle = box[:2] + normal * depth / 2
        weights.append(max(0.0, float(-(normal @ middle)) / np.hypot(*middle)) * width)
        sides.append((turn, depth, width))
    chosen = rng.choice(4, number, p=np.array(weights) / sum(weights))
    u = rng.uniform(-0.5, 0.5, number)
    turn, depth, width = np.array(sides)[chosen].T
    local = np.stack((np.cos(turn) * depth / 2 - np.sin(turn) * u * width,
                      np.sin(turn) * depth / 2 + np.cos(turn) * u * width), 1)  # fmt: skip
    xy = local @ np.array([[cos, sin], [-sin, cos]]) + box[:2]
    z = box[2] + rng.uniform(-0.5, 0.5, number) * box[5]
    return np.concatenate((xy, z[:, None]), 1)


def _ground(number: int, rng: np.random.Generator) -> Floats:
    x = 5.0 * (36.0 / 5.0) ** rng.uniform(0, 1, number)  # denser close by, as rings are
    y = rng.uniform(-0.75, 0.75, number) * x
    return np.stack((x, y, np.full(number, _GROUND)), 1)


def _picture(
    boxes: Floats, is_car: npt.NDArray[np.bool_], calib: KittiCalib, rng: np.random.Generator, noise: float
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    height, width = IMAGE_SIZE
    labels, index = Image.new("L", (width, height), 0), Image.new("L", (width, height), 0)
    corners = np.asarray(box_corners(boxes))
    for row in np.argsort(-boxes[:, 0]):
        uv = calib.lidar_to_image(corners[row])[0]
        for face in _FACES:
            polygon = [(float(u), float(v)) for u, v in uv[list(face)]]
            ImageDraw.Draw(labels).polygon(polygon, fill=1 if is_car[row] else 2)
            ImageDraw.Draw(index).polygon(polygon, fill=int(row) + 1)
    told, which = np.asarray(labels), np.asarray(index)
    shade = rng.normal(0, _OBJECT_NOISE * noise, (len(boxes) + 1, 3))
    colour = _COLOURS[told] + shade[which] + rng.normal(0, _PIXEL_NOISE * noise, (height, width, 3))
    return (np.clip(colour, 0, 1) * 255).astype(np.uint8), told.astype(np.uint8)


def toy_batch(
    scenes: list[ToyScene],
    *,
    pixel_noise: float = 0.0,
    turn: float = 0.0,
    move: Literal["none", "flip", "flip-wrong"] = "none",
    rng: np.random.Generator | None = None,
) -> dict[str, Any]:
    """Scenes as a detector's batch: cars are labelled, decoys are not.

    Args:
        scenes: at least one.
        pixel_noise: standard deviation of the pixel that a point reads, in pixels.
        turn: error of the calibration, degrees about the vertical axis.
        move: "flip" mirrors the scene and edits the calibration with it; "flip-wrong" forgets that.
        rng: of the pixel noise.

    Example:
        >>> batch = toy_batch([toy_scene((0, 1)), toy_scene((0, 2))])
        >>> batch["points"].shape, len(batch["images"]), batch["gt_boxes"].shape[2]
        (torch.Size([2048, 8]), 2, 8)
    """
    rng = rng or np.random.default_rng(0)
    gt_boxes = torch.zeros(len(scenes), max(int(s.is_car.sum()) for s in scenes), 8)
    points = []
    for number, s in enumerate(scenes):
        xyz, boxes, calib = s.points.copy(), s.boxes[s.is_car].copy(), s.calib
        if move != "none":
            xyz[:, 1] *= -1
            boxes[:, [1, 6]] *= -1
            if move == "flip":
                calib = calib.with_scene_transform(scene_matrix(flip="x"))
        if turn:
            calib = calib.with_scene_transform(scene_matrix(angle=np.radians(turn)))
        rows = with_camera(xyz, calib, IMAGE_SIZE)
        if pixel_noise:
            _disturb(rows, pixel_noise, rng)
        points.append(torch.from_numpy(np.insert(rows, 0, number, axis=1)))
        gt_boxes[number, : len(boxes), :7] = torch.from_numpy(boxes)
        gt_boxes[number, : len(boxes), 7] = 1
    return {
        "points": torch.cat(points),
        "gt_boxes": gt_boxes,
        "batch_size": len(scenes),
        "images": [image_tensor(torch.from_numpy(s.image)) for s in scenes],
        "label_maps": [torch.from_numpy(s.labels).long() for s in scenes],
        "scenes": scenes,
    }


def _disturb(rows: npt.NDArray[np.float32], noise: float, rng: np.random.Generator) -> None:
    """Moves the pixels that points read, in place; those that leave the image are not seen any more."""
    height, width = IMAGE_SIZE
    rows[:, 4:6] += rng.normal(0, noise, (len(rows), 2)).astype(np.float32)
    inside = (rows[:, 4] >= 0) & (rows[:, 4] < width) & (rows[:, 5] >= 0) & (rows[:, 5] < height)
    rows[:, 6] = np.where(inside & (rows[:, 6] == SEEN), SEEN, UNSEEN)


def write_toy_semantics(root: Path, number: int, seed: int = 0) -> None:
    """Toy pictures in the layout of KITTI semantics: ground, cars, and decoys as buildings.

    Args:
        root: folder to write into.
        number: of pictures.
        seed: of the scenes.
    """
    ids = np.array([CITYSCAPES.index(name) for name in ("ground", "car", "building")], np.uint8)
    for kind in ("image_2", "semantic"):
        make_folder(root / "training" / kind)
    for k in range(number):
        scene = toy_scene((seed, 3, k))
        write_image(root / "training" / "image_2" / f"{k:06d}_10.png", scene.image)
        write_image(root / "training" / "semantic" / f"{k:06d}_10.png", ids[scene.labels])
