"""The verb `project`: do points and image fit together?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pircnn.calibration import KittiCalib
from pircnn.data.frames import check_camera
from pircnn.pictures import projection_picture
from tenfold._errors import UserInputError
from tenfold.io import read_image
from tenfold.lidar.clouds import frame_name
from tenfold.lidar.kitti import DONT_CARE, KittiLabels, read_calibration, read_labels
from tenfold.lidar.predict import read_frame, write_files
from tenfold.viz import encode_image

__all__ = ["project"]


def project(
    frame: str,
    root: Path | None = None,
    calib: Path | None = None,
    image: Path | None = None,
    labels: Path | None = None,
    out: Path = Path("projections"),
    points: int = 2,
) -> None:
    """Draw a frame's points, and its labelled boxes, on its camera image; count what the camera sees.

    A wrong calibration is the most common mistake in fusion, and this is how to see it: points must lie on the things
    they belong to. Writes FRAME_projection.png and FRAME_projection.json.

    Args:
        frame: Point cloud, or with root the name of a frame of a data set in KITTI's layout, such as 000001.
        root: Folder of that data set.
        calib: KITTI calibration file.
        image: Camera image.
        labels: KITTI label or result file.
        out: Folder for picture and numbers.
        points: Side of a point, pixels.
    """
    files = {"calib": calib, "image": image, "labels": labels}
    cloud = Path(frame)
    if root is not None:
        folder = root / "training"
        cloud = folder / "velodyne" / f"{frame}.bin"
        files = {
            "calib": calib or folder / "calib" / f"{frame}.txt",
            "image": image or folder / "image_2" / f"{frame}.png",
            "labels": labels or _if_there(folder / "label_2" / f"{frame}.txt"),
        }
    for name in ("calib", "image"):
        if files[name] is None:
            raise UserInputError(f"{name}: missing; add --{name} FILE, or --root with a frame's name")
    calibration = read_calibration(files["calib"])  # type: ignore[arg-type]
    picture = read_image(files["image"])  # type: ignore[arg-type]
    camera = KittiCalib.from_calibration(calibration)
    size = (picture.shape[0], picture.shape[1])
    check_camera(camera, size, str(files["calib"]))
    rows = read_frame(cloud)
    found = read_labels(files["labels"], calibration) if files["labels"] is not None else None
    uv, depth, valid = camera.lidar_to_image(rows, size)
    own = camera.lidar_to_image(rows)[2]
    numbers: dict[str, object] = {
        "points": len(rows),
        "in_image": int(valid.sum()),
        "behind_camera": int((depth < camera.near).sum()),
        "outside_image": int((own & ~valid).sum()),
        "image_size": list(size),
        "principal_point": camera.P2[:2, 2].round(2).tolist(),
        "divided_by_w_or_z_px": _gap(camera, calibration, rows, valid, uv),
    }
    objects = None
    if found is not None:
        objects = found.select(found.is_object)
        numbers["objects"] = [*objects.names]
    shown = _drawn(picture, rows, camera, objects, points)
    stem = frame_name(cloud)
    text = (json.dumps(numbers, indent=1) + "\n").encode()
    write_files(out, {f"{stem}_projection.png": encode_image(shown), f"{stem}_projection.json": text})
    if not valid.any():
        print("note: the camera sees no point of this frame: wrong calibration, frame or axes?")
    print(
        f"{numbers['in_image']} of {len(rows)} points in the image, {numbers['behind_camera']} behind the camera, "
        f"{numbers['outside_image']} beside it -> {out / (stem + '_projection.png')}"
    )


def _if_there(file: Path) -> Path | None:
    return file if file.is_file() else None


def _drawn(
    picture: npt.NDArray[Any],
    rows: npt.NDArray[Any],
    camera: KittiCalib,
    objects: KittiLabels | None,
    size: int,
) -> npt.NDArray[Any]:
    if objects is None or not len(objects):
        return projection_picture(picture, rows, camera, size=size)
    names = sorted(set(objects.names) - {DONT_CARE})
    labels = [names.index(name) for name in objects.names]
    return projection_picture(
        picture, rows, camera, objects.boxes, labels, objects.scores, class_names=names, size=size
    )


def _gap(
    camera: KittiCalib,
    calibration: object,
    rows: npt.NDArray[Any],
    valid: npt.NDArray[Any],
    uv: npt.NDArray[Any],
) -> float:
    """Median distance in pixels between the two readings of the divisor."""
    if not valid.any():
        return 0.0
    other = KittiCalib(camera.P2, camera.T, "z").lidar_to_image(rows[valid])[0]
    return round(float(np.median(np.linalg.norm(uv[valid] - other, axis=1))), 4)
