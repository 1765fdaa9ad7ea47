"""Training samples and their augmentation, in the order of the usual recipe.

Ground-truth sampling, per-object noise, flips, rotation, scaling, class and range filter, shuffle. Every
function takes the random generator it draws from, so that a sample depends on (seed, epoch, index) alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import torch

from tenfold.geometry import flip_boxes, flip_points, rotate_boxes, rotate_z, scale_boxes
from tenfold.lidar.frames import LidarFrame
from tenfold.lidar.kitti import FloatArray, IntArray
from tenfold.ops import box_iou_bev, points_in_boxes

if TYPE_CHECKING:
    from tenfold.lidar.sampling import ObjectSampler

BoolArray = npt.NDArray[np.bool_]

__all__ = [
    "Augmentation",
    "Sample",
    "flip",
    "in_range",
    "keep_classes",
    "move_objects",
    "rotate",
    "scale",
    "shuffle",
    "training_sample",
]


@dataclass(frozen=True, eq=False)
class Sample:
    """Points and labelled objects of one frame.

    Attributes:
        points: ``(N, C)`` float32 x, y, z in metres, then features.
        boxes: ``(M, 7)``, or ``(M, 9)`` with vx, vy, float32 in the lidar frame.
        names: ``(M,)`` class name of each box.
    """

    points: FloatArray
    boxes: FloatArray
    names: npt.NDArray[np.str_]

    def __post_init__(self) -> None:
        if self.points.ndim != 2 or self.points.shape[1] < 3:
            raise ValueError(
                f"Sample: points: shape {self.points.shape} was received; (N, 3 or more) is expected"
            )
        if self.boxes.shape not in {(len(self.names), 7), (len(self.names), 9)}:
            raise ValueError(
                f"Sample: boxes: shape {self.boxes.shape} was received; ({len(self.names)}, 7 or 9), one row "
                "per name, is expected"
            )

    @classmethod
    def from_frame(cls, frame: LidarFrame) -> "Sample":
        """All labelled objects of a frame, whatever their class."""
        objects = frame.objects
        if objects is None:
            return cls(frame.points, np.zeros((0, 7), np.float32), np.zeros(0, dtype=np.str_))
        return cls(frame.points, objects.boxes.astype(np.float32), np.array(objects.names, dtype=np.str_))

    def select(self, mask: BoolArray) -> "Sample":
        """The objects where `mask` ``(M,)`` holds, with all points."""
        return replace(self, boxes=self.boxes[mask], names=self.names[mask])

    def labels(self, class_names: Sequence[str]) -> IntArray:
        """0-based class ``(M,)`` of each object.

        Raises:
            ValueError: an object of a class that is not listed; see `keep_classes`.
        """
        index = {name: k for k, name in enumerate(class_names)}
        unknown = [name for name in self.names if name not in index]
        if unknown:
            raise ValueError(
                f"Sample.labels: names: got {str(unknown[0])!r}; expected one of {tuple(class_names)}"
            )
        return np.array([index[name] for name in self.names], dtype=np.int64)


@dataclass(frozen=True)
class Augmentation:
    """Which augmentations run, and how strong; the defaults are the KITTI recipe's.

    Args:
        flip: probability of a mirror image across the x axis.
        rotation: the angle about z is uniform in plus or minus this, radians.
        scale: the factor is uniform in this range.
        counts: objects of each class that ground-truth sampling fills a frame up to; empty switches it off.
        scene_limited: count the objects already there; otherwise `counts` come on top of them.
        road_plane: put pasted objects on the frame's road plane where it is known.
        flip_y: probability of a mirror image across the y axis, which the KITTI recipe has not.
        object_rotation: each object turns by an angle uniform in plus or minus this, radians; 0 for none.
        object_shift: standard deviations of each object's shift along x, y, z, metres; zeros for none.
        object_tries: draws of that noise until an object collides with none; then it stays.
    """

    flip: float = 0.5
    rotation: float = np.pi / 4
    scale: tuple[float, float] = (0.95, 1.05)
    counts: dict[str, int] = field(default_factory=lambda: {"Car": 20, "Pedestrian": 15, "Cyclist": 15})
    scene_limited: bool = True
    road_plane: bool = True
    flip_y: float = 0.0
    object_rotation: float = 0.0
    object_shift: tuple[float, float, float] = (0.0, 0.0, 0.0)
    object_tries: int = 100

    def __post_init__(self) -> None:
        for name in ("flip", "flip_y"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(
                    f"Augmentation: {name}: {getattr(self, name)} was received; a probability is expected"
                )
        if (
            not 0 <= self.object_rotation <= np.pi
            or len(self.object_shift) != 3
            or min(self.object_shift) < 0
        ):
            raise ValueError(
                f"Augmentation: object_rotation, object_shift: {self.object_rotation}, {self.object_shift} were "
                "received; radians from 0 to pi and three numbers of at least 0 are expected"
            )
        if not 0 <= self.rotation <= np.pi:
            raise ValueError(
                f"Augmentation: rotation: {self.rotation} was received; radians from 0 to pi are expected"
            )
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"Augmentation: scale: {self.scale} was received; 0 < low <= high is expected")
        if any(count < 0 for count in self.counts.values()):
            raise ValueError(f"Augmentation: counts: {self.counts} were received; none below 0 is expected")


def flip(sample: Sample, across: Literal["x", "y"] = "x") -> Sample:
    """Mirror image across the x axis (y changes its sign) or the y axis, velocities too.

    >>> one = Sample(np.ones((1, 4), np.float32), np.ones((1, 7), np.float32), np.array(["Car"]))
    >>> flip(one).points[0].tolist(), flip(one).boxes[0, [1, 6]].tolist()
    ([1.0, -1.0, 1.0, 1.0], [-1.0, -1.0])
    """
    return replace(sample, points=flip_points(sample.points, across), boxes=flip_boxes(sample.boxes, across))


def rotate(sample: Sample, angle: float) -> Sample:
    """Turn points and boxes about the sensor's z axis by `angle` radians."""
    return replace(sample, points=rotate_z(sample.points, angle), boxes=rotate_boxes(sample.boxes, angle))


def scale(sample: Sample, factor: float) -> Sample:
    """Scale coordinates and extents about the sensor; features stay."""
    points = sample.points.copy()
    points[:, :3] *= np.float32(factor)
    return replace(sample, points=points, boxes=scale_boxes(sample.boxes, factor))


def move_objects(sample: Sample, rng: np.random.Generator, settings: Augmentation) -> Sample:
    """Noise of every object by itself: turned about its centre and shifted, its points and velocity with it.

    Objects are visited in order. Each draws until its new place overlaps no other object, seen from above,
    as they stand by then; after `settings.object_tries` draws it stays where it is.

    Source: SECOND (Yan et al. 2018), section 3.2.3; second.pytorch's ``noise_per_object``.

    Args:
        sample: points and boxes.
        rng: source of randomness.
        settings: strengths.
    """
    boxes, points = sample.boxes.copy(), sample.points.copy()
    inside = points_in_boxes(
        torch.from_numpy(np.ascontiguousarray(points[:, :3])),
        torch.from_numpy(np.ascontiguousarray(boxes[:, :7])),
    ).numpy()
    for index in range(len(boxes)):
        moved = _free_place(boxes, index, rng, settings)
        if moved is None:
            continue
        angle = float(moved[6] - boxes[index, 6])
        rows = inside == index
        local = points[rows]
        local[:, :3] -= boxes[index, :3]
        local = rotate_z(local, angle)
        local[:, :3] += moved[:3]
        points[rows], boxes[index] = local, moved
    return replace(sample, points=points, boxes=boxes)


def _free_place(
    boxes: FloatArray, index: int, rng: np.random.Generator, settings: Augmentation
) -> FloatArray | None:
    """A noisy copy of one box that overlaps none of the others; None if no draw finds one."""
    count = settings.object_tries
    angles = rng.uniform(-settings.object_rotation, settings.object_rotation, count)
    shifts = rng.normal(0, 1, (count, 3)) * settings.object_shift
    tried = np.repeat(boxes[index][None], count, axis=0)
    tried[:, :3] += shifts.astype(np.float32)
    tried[:, 6] += angles.astype(np.float32)
    if tried.shape[1] == 9:
        cos, sin = np.cos(angles), np.sin(angles)
        vx, vy = boxes[index, 7:]
        tried[:, 7:] = np.stack((vx * cos - vy * sin, vx * sin + vy * cos), axis=1)
    others = np.delete(boxes, index, axis=0)
    overlap = box_iou_bev(
        torch.from_numpy(np.ascontiguousarray(tried[:, :7])),
        torch.from_numpy(np.ascontiguousarray(others[:, :7])),
    )
    free = np.flatnonzero(~(overlap > 0).any(dim=1).numpy())
    return np.asarray(tried[free[0]], np.float32) if len(free) else None


def keep_classes(sample: Sample, class_names: Sequence[str]) -> Sample:
    """Drop objects of other classes; their points stay."""
    return sample.select(np.isin(sample.names, list(class_names)))


def in_range(sample: Sample, limits: Sequence[float]) -> Sample:
    """Points whose x and y lie inside, and boxes whose centre does.

    The height of a point is not tested here: the voxels cut it.

    Args:
        sample: points and boxes.
        limits: x0, y0, z0, x1, y1, z1 in metres.
    """
    low, high = np.asarray(limits[:3], np.float32), np.asarray(limits[3:], np.float32)
    xy = sample.points[:, :2]
    kept = ((xy >= low[:2]) & (xy <= high[:2])).all(axis=1)
    centre = sample.boxes[:, :3]
    boxes = np.asarray(((centre >= low) & (centre <= high)).all(axis=1))
    return replace(sample.select(boxes), points=sample.points[kept])


def shuffle(sample: Sample, rng: np.random.Generator) -> Sample:
    """Points in random order: which ones a full voxel keeps depends on it."""
    return replace(sample, points=sample.points[rng.permutation(len(sample.points))])


def training_sample(
    frame: LidarFrame,
    rng: np.random.Generator,
    *,
    class_names: Sequence[str],
    limits: Sequence[float],
    settings: Augmentation,
    sampler: "ObjectSampler | None" = None,
) -> Sample:
    """One augmented sample, by the recipe.

    Args:
        frame: what the reader returns.
        rng: from `tenfold.train.sample_generator`; the only source of randomness.
        class_names: classes to detect.
        limits: x0, y0, z0, x1, y1, z1 in metres.
        settings: strengths.
        sampler: pastes objects of other frames; None leaves this step out.
    """
    sample = Sample.from_frame(frame)
    if sampler is not None:
        sample = sampler.paste(
            sample, rng, getattr(frame, "plane", None), getattr(frame, "calibration", None)
        )
    if settings.object_rotation or any(settings.object_shift):
        sample = move_objects(sample, rng, settings)
    if rng.random() < settings.flip:
        sample = flip(sample)
    # No draw without need: samples of recipes without it stay what they are.
    if settings.flip_y and rng.random() < settings.flip_y:
        sample = flip(sample, "y")
    sample = rotate(sample, rng.uniform(-settings.rotation, settings.rotation))
    sample = scale(sample, rng.uniform(*settings.scale))
    sample = in_range(keep_classes(sample, class_names), limits)
    return shuffle(sample, rng)
