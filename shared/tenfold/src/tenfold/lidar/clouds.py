"""Point clouds of one's own as the rows that detectors take: x, y, z, then features."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tenfold._errors import UserInputError
from tenfold.io import PointCloud, read_points
from tenfold.lidar.kitti import FloatArray, require_finite

__all__ = ["ENDINGS", "frame_name", "read_cloud"]

#: File name endings that are read.
ENDINGS = (".bin", ".npy", ".npz", ".ply", ".pcd")

#: Names of intensity in files; c3 is the fourth column of files without names.
_INTENSITY = ("intensity", "reflectance", "reflectivity", "c3")


def frame_name(file: Path) -> str:
    """Name of a cloud's frame: its file's without ending, dots inside it kept.

    >>> frame_name(Path("clouds/street.7.ply")), frame_name(Path("n015__LIDAR_TOP.pcd.bin"))
    ('street.7', 'n015__LIDAR_TOP')
    """
    long = ".pcd.bin"
    return file.name[: -len(long)] if file.name.lower().endswith(long) else file.stem


def read_cloud(
    file: str | Path,
    features: Sequence[str] = ("intensity",),
    columns: int | Sequence[str] | None = None,
    intensity_scale: float = 1.0,
    *,
    say: bool = True,
) -> FloatArray:
    """Points ``(N, 3 + F)`` float32 of a ``.bin``, ``.npy``, ``.npz``, ``.ply`` or ``.pcd`` file.

    Args:
        file: the cloud.
        features: columns after x, y, z. "intensity" is also found as reflectance, reflectivity or the fourth
            column of files without names, and is 0 where there is none; "time" is 0 where there is none (a
            single sweep); anything else must be there.
        columns: names or number of the columns of files without names (see `tenfold.io.read_points`).
        intensity_scale: multiplies the intensity.
        say: print a note on stderr where the intensity is missing or exceeds 1.

    Raises:
        UserInputError: an unreadable or truncated file, columns that no cloud can have, a missing feature, a number
            that is not finite.
    """
    try:
        cloud = read_points(file, columns)
    except UserInputError:
        raise
    except ValueError as error:  # the columns themselves
        raise UserInputError(f"{file}: {error}") from error
    scales = [intensity_scale if name == "intensity" else 1.0 for name in features]
    columns_of = [_feature(cloud, name, file, say) * k for name, k in zip(features, scales, strict=True)]
    points = np.column_stack((cloud.xyz, *columns_of)).astype(np.float32)
    require_finite(points, file)
    return points


def _feature(cloud: PointCloud, name: str, file: str | Path, say: bool) -> Any:
    names = _INTENSITY if name == "intensity" else (name,)
    found = next((n for n in names if n in cloud.fields), None)
    if found is not None:
        return cloud.array([found])[:, 0]
    if name not in {"intensity", "time"}:
        has = ", ".join(cloud.fields) or "none"
        raise UserInputError(f"{file}: {name}: no such column (beside x, y, z there is {has})")
    if say and name == "intensity":
        print(f"note: {file} has no intensity; 0 is used", file=sys.stderr)
    return np.zeros(len(cloud))
