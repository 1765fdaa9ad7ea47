"""The verb `prepare`: everything that training needs beside the official files."""

from pathlib import Path

import numpy as np

from tenfold.lidar.kitti import KittiObject
from tenfold.lidar.progress import bar
from tenfold.lidar.sampling import ObjectDatabase, build_database, prepared_paths

__all__ = ["prepare"]

_LEVELS = ("easy", "moderate", "hard", "none")


def prepare(
    root: Path,
    split: str = "train",
    fov_only: bool = True,
    image_size: tuple[int, int] | None = None,
) -> None:
    """Write the object database for ground-truth sampling and the facts of all frames of a split.

    They go to ROOT/prepared. An interrupted run continues where it stopped.

    Args:
        root: Folder in KITTI's layout, with `training` and `ImageSets`.
        split: Name of a list in ImageSets.
        fov_only: Use only points that the camera sees, as training does.
        image_size: Height and width of images, for data without image files.
    """
    frames = KittiObject(root, split, fov_only=fov_only, image_size=image_size)
    database = build_database(frames, progress=lambda indices: bar(indices, f"prepare {split}"))
    print(_summary(database))
    print(f"{len(database)} objects of {len(frames)} frames -> {prepared_paths(root, split)[0]}")


def _summary(database: ObjectDatabase) -> str:
    """Objects of each class by difficulty, and the median of their points."""
    lines = [f"{'class':16}" + "".join(f"{level:>10}" for level in _LEVELS) + f"{'points':>10}"]
    for name in sorted(set(database.names)):
        mine = database.names == name
        counts = [int((mine & (database.difficulty == level)).sum()) for level in (0, 1, 2, -1)]
        points = int(np.median(database.num_points[mine]))
        lines.append(f"{name:16}" + "".join(f"{count:10d}" for count in counts) + f"{points:10d}")
    return "\n".join(lines)
