"""The verb `prepare`: everything that training needs beside the official files."""

from pathlib import Path
from typing import Any, Literal

import numpy as np

from tenfold._errors import UserInputError
from tenfold.lidar.custom import CustomFrames
from tenfold.lidar.kitti import KittiObject
from tenfold.lidar.nuscenes import NuScenesDetection, NuScenesTables, build_index, index_path
from tenfold.lidar.sampling import ObjectDatabase, build_database, prepared_paths
from tenfold.train.progress import bar

__all__ = ["prepare"]

_LEVELS = ("easy", "moderate", "hard", "none")
# Objects with fewer points are never pasted; nuScenes has too many to keep them for nothing.
_FEWEST_POINTS = 5


def prepare(
    root: Path,
    split: str = "train",
    dataset: Literal["kitti", "nuscenes", "custom"] = "kitti",
    version: str = "v1.0-trainval",
    sweeps: int = 10,
    objects: bool = True,
    fov_only: bool = True,
    image_size: tuple[int, int] | None = None,
    bad_sweeps: Literal["error", "skip"] = "error",
) -> None:
    """Write the object database for ground-truth sampling of a split; for nuScenes also its index of frames.

    They go to ROOT/prepared. An interrupted run continues where it stopped. The index of nuScenes replaces the
    tables, whose reading takes minutes and gigabytes for each process; prepare the validation split too, with
    --objects false.

    Args:
        root: Folder of the data set.
        split: Name of the list of frames.
        dataset: Its layout.
        version: Of nuScenes.
        sweeps: Of each frame of nuScenes, as in training.
        objects: Write the object database.
        fov_only: In KITTI's layout, use only points that the camera sees, as training does.
        image_size: Height and width of images, for KITTI's layout without image files.
        bad_sweeps: What to do with a damaged earlier sweep of nuScenes, as in training.
    """
    frames: Any
    if dataset == "nuscenes":
        path = index_path(root, version, split, sweeps)
        if not path.is_file():
            tables = NuScenesTables(root, version)
            index = build_index(tables, split, sweeps, progress=lambda samples: bar(samples, "tables"))
            if not index.labelled and objects:
                raise UserInputError(f"{root}: {version} has no labels; add --objects false")
            path.parent.mkdir(parents=True, exist_ok=True)
            index.save(path)
        frames = NuScenesDetection(root, version, split, sweeps=sweeps, bad_sweeps=bad_sweeps)
        print(f"{len(frames)} frames of {sweeps} sweeps -> {path}")
    elif dataset == "custom":
        frames = CustomFrames(root, split)
    else:
        frames = KittiObject(root, split, fov_only=fov_only, image_size=image_size)
    if not objects:
        return
    database = build_database(
        frames,
        min_points=_FEWEST_POINTS if dataset == "nuscenes" else 0,
        progress=lambda indices: bar(indices, f"prepare {split}"),
    )
    print(_summary(database))
    file = prepared_paths(root, frames.prepared_name)[0]
    print(f"{len(database)} objects of {len(frames)} frames -> {file}")


def _summary(database: ObjectDatabase) -> str:
    """Objects of each class by difficulty, and the median of their points."""
    lines = [f"{'class':16}" + "".join(f"{level:>10}" for level in _LEVELS) + f"{'points':>10}"]
    for name in sorted(set(database.names)):
        mine = database.names == name
        counts = [int((mine & (database.difficulty == level)).sum()) for level in (0, 1, 2, -1)]
        points = int(np.median(database.num_points[mine]))
        lines.append(f"{name:16}" + "".join(f"{count:10d}" for count in counts) + f"{points:10d}")
    return "\n".join(lines)
