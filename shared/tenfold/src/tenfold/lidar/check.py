"""The verb `check-data`: what a data set holds, and what is wrong with it."""

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tenfold._errors import UserInputError
from tenfold.io import read_json, write_json
from tenfold.lidar.custom import CustomFrames, box_problems
from tenfold.lidar.frames import LidarReader
from tenfold.lidar.kitti import KittiObject, count_points
from tenfold.lidar.nuscenes import NuScenesDetection, SkippedSweepWarning
from tenfold.train.progress import bar

__all__ = ["DataReport", "check_data", "check_reader"]

#: Where the published configurations look: x0, y0, z0, x1, y1, z1 in metres.
USUAL_RANGES = {
    "kitti": (0.0, -40.0, -3.0, 70.4, 40.0, 1.0),
    "nuscenes": (-51.2, -51.2, -5.0, 51.2, 51.2, 3.0),
}
_SHOWN = 10


@dataclass
class ClassCounts:
    """Boxes of one class: all, without a point, with the centre outside the range; points and sizes of all."""

    boxes: int = 0
    without_points: int = 0
    outside: int = 0
    points: list[int] = field(default_factory=list)
    sizes: list[Any] = field(default_factory=list)


@dataclass
class DataReport:
    """What `check_reader` found; ``str`` of it is a page of text.

    Attributes:
        frames: of the list.
        points: of each readable frame.
        empty: readable frames without points.
        without_objects: readable labelled frames without objects.
        classes: counts of each class.
        limits: range that boxes were tested against, or None.
        extent: lowest and highest x, y, z of all points; None without any.
        problems: one sentence each, with frame or file.
        duplicates: IDs that stand in the list more than once.
        skipped: earlier sweeps that were left out.
    """

    frames: int = 0
    points: list[int] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    without_objects: list[str] = field(default_factory=list)
    classes: dict[str, ClassCounts] = field(default_factory=dict)
    limits: tuple[float, ...] | None = None
    extent: tuple[Any, Any] | None = None
    problems: list[str] = field(default_factory=list)
    duplicates: tuple[str, ...] = ()
    skipped: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        return {
            "frames": self.frames,
            "readable": len(self.points),
            "points": _spread(self.points),
            "extent": None if self.extent is None else [np.round(v, 3).tolist() for v in self.extent],
            "range": self.limits,
            "classes": {
                name: {
                    "boxes": c.boxes,
                    "without_points": c.without_points,
                    "outside_range": c.outside,
                    "points": _spread(c.points),
                    "mean_size": np.round(np.mean(c.sizes, axis=0), 3).tolist(),
                }
                for name, c in sorted(self.classes.items())
            },
            "empty_frames": self.empty,
            "frames_without_objects": self.without_objects,
            "duplicates": list(self.duplicates),
            "skipped_sweeps": self.skipped,
            "problems": self.problems,
        }

    def __str__(self) -> str:
        facts = self.to_dict()
        lines = [f"{facts['readable']} of {self.frames} frames can be read"]
        if self.points:
            low, middle, high = facts["points"]
            lines.append(f"points a frame: {low} to {high}, median {middle}")
        if self.extent is not None:
            axes = zip("xyz", *self.extent, strict=True)
            lines.append("extent: " + ", ".join(f"{axis} {a:.1f} to {b:.1f} m" for axis, a, b in axes))
        if self.classes:
            head = f"{'class':24}{'boxes':>8}{'no points':>11}{'outside':>9}{'median points':>15}   mean size"
            lines += ["", head]
        for name, c in facts["classes"].items():
            size = " x ".join(f"{v:.2f}" for v in c["mean_size"])
            numbers = f"{c['boxes']:8d}{c['without_points']:11d}{c['outside_range']:9d}{c['points'][1]:15d}"
            lines.append(f"{name:24}{numbers}   {size}")
        if self.limits is not None and self.classes:
            lines.append(f"outside: centre not in {list(self.limits)}")
        lines.append("")
        for what, which in (
            ("frames without points", self.empty),
            ("frames without objects", self.without_objects),
            ("IDs listed twice", self.duplicates),
            ("sweeps left out", tuple(self.skipped)),
        ):
            lines.append(f"{what}: {len(which)}{_some(which)}")
        lines.append(f"problems: {len(self.problems)}")
        lines += [f"  {problem}" for problem in self.problems[:_SHOWN]]
        if len(self.problems) > _SHOWN:
            lines.append(f"  ... and {len(self.problems) - _SHOWN} more; --out writes all")
        return "\n".join(lines)


def _some(names: Sequence[str]) -> str:
    return f" ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})" if names else ""


def _spread(values: Sequence[int]) -> tuple[int, int, int]:
    """Lowest, median, highest; zeros of nothing."""
    return (min(values), int(np.median(values)), max(values)) if values else (0, 0, 0)


def check_reader(
    frames: LidarReader,
    limits: Sequence[float] | None = None,
    progress: Callable[[Iterable[int]], Iterable[int]] = lambda indices: indices,
) -> DataReport:
    """Read every frame of a list and count; nothing is raised for what is wrong with a frame.

    Args:
        frames: any reader.
        limits: x0, y0, z0, x1, y1, z1 that box centres should lie in, metres; None leaves this out.
        progress: wraps the frames' indices, such as a progress bar.
    """
    report = DataReport(frames=len(frames), limits=None if limits is None else tuple(limits))
    report.duplicates = tuple(getattr(frames, "duplicates", ()))
    for index in progress(range(len(frames))):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", SkippedSweepWarning)
                frame = frames[index]
        except UserInputError as error:
            report.problems += _all_problems(frames, index, str(error))
            continue
        _count(report, frame)
    report.skipped = dict(getattr(frames, "skipped", {}))
    return report


def _all_problems(frames: LidarReader, index: int, first: str) -> list[str]:
    """All problems of a frame's boxes where the format tells them, else the one that was raised."""
    if isinstance(frames, CustomFrames):
        file = frames.boxes(frames.ids[index])
        try:
            problems = box_problems(read_json(file))
        except UserInputError:
            problems = []
        if problems and str(file) in first:
            return [f"{file}: {problem}" for problem in problems]
    return [first]


def _count(report: DataReport, frame: Any) -> None:
    points = frame.points
    report.points.append(len(points))
    if len(points):
        low, high = points[:, :3].min(axis=0), points[:, :3].max(axis=0)
        if report.extent is not None:
            low, high = np.minimum(low, report.extent[0]), np.maximum(high, report.extent[1])
        report.extent = low, high
    else:
        report.empty.append(frame.frame_id)
    objects = frame.objects
    if objects is None:
        return
    if not len(objects):
        report.without_objects.append(frame.frame_id)
    counts = count_points(points, objects.boxes[:, :7])
    outside = np.zeros(len(objects), dtype=bool)
    if report.limits is not None:
        low, high = np.array(report.limits[:3]), np.array(report.limits[3:])
        outside = ~((objects.boxes[:, :3] >= low) & (objects.boxes[:, :3] <= high)).all(axis=1)
    for name, box, inside, out in zip(objects.names, objects.boxes, counts.tolist(), outside, strict=True):
        mine = report.classes.setdefault(name, ClassCounts())
        mine.boxes += 1
        mine.without_points += inside == 0
        mine.outside += bool(out)
        mine.points.append(inside)
        mine.sizes.append(box[3:6])


def check_data(
    root: Path,
    dataset: Literal["custom", "kitti", "nuscenes"] = "custom",
    split: str = "train",
    version: str = "v1.0-trainval",
    sweeps: int = 10,
    range: tuple[float, float, float, float, float, float] | None = None,
    image_size: tuple[int, int] | None = None,
    fov_only: bool = True,
    out: Path | None = None,
) -> None:
    """Read every frame of a data set and report what it holds and what is wrong with it.

    Ends with exit code 2 when there are problems.

    Args:
        root: Folder of the data set.
        dataset: Its layout.
        split: Name of the list of frames.
        version: Of nuScenes.
        sweeps: Of each frame of nuScenes.
        range: x0 y0 z0 x1 y1 z1 that box centres should lie in, metres; the published configuration's by default.
        image_size: Height and width of images, for KITTI's layout without image files.
        fov_only: In KITTI's layout, use only points that the camera sees.
        out: Write the whole report as JSON to this file.
    """
    frames: Any
    if dataset == "kitti":
        frames = KittiObject(root, split, image_size=image_size, fov_only=fov_only)
    elif dataset == "nuscenes":
        frames = NuScenesDetection(
            root,
            version,
            split,
            sweeps=sweeps,
            bad_sweeps="skip",
            use_index=False,
            progress=lambda samples: bar(samples, "tables"),
        )
    else:
        frames = CustomFrames(root, split, checked=False)
    report = check_reader(
        frames, range or USUAL_RANGES.get(dataset), progress=lambda indices: bar(indices, "check")
    )
    print(report)
    if out is not None:
        write_json(out, report.to_dict())
    wrong = len(report.problems) + len(report.duplicates) + len(report.skipped)
    if wrong:
        raise UserInputError(f"{root}: {wrong} problems; see the report")
