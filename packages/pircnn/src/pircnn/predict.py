"""Detections on a user's own frame: points, image, calibration. Needs no training extra."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pircnn.calibration import KittiCalib
from pircnn.checkpoints import load_detector
from pircnn.data.frames import check_camera
from pircnn.data.semantic import SEMANTIC_CLASSES
from pircnn.model import PIRCNN
from pircnn.pictures import semantics_picture
from pircnn.prepare import semantic_map
from tenfold.geometry import Calibration
from tenfold.lidar.clouds import frame_name
from tenfold.lidar.kitti import FloatArray
from tenfold.lidar.predict import Detections, find_objects, write_files
from tenfold.train.processes import use_threads
from tenfold.viz import encode_image

__all__ = ["find", "load_detector", "predict", "seg_names"]

Pixels = npt.NDArray[np.uint8]


def predict(
    frame: Path,
    checkpoint: Path,
    calib: Path | None = None,
    image: Path | None = None,
    out: Path = Path("predictions"),
    min_score: float = 0.1,
    intensity_scale: float = 1.0,
    threads: int | None = None,
) -> None:
    """Detect objects in one LiDAR frame and its camera image; write boxes as JSON and pictures of them.

    Writes FRAME.json and FRAME_bev.png; with a calibration also FRAME.txt in KITTI's result format, and with an image
    FRAME_image.png and FRAME_semantics.png, what the image network sees. Without an image no point is seen by the
    camera: the detector still works, with the boxes that LiDAR alone gives it. So does one of the branch "cached",
    whose maps belong to a data set's frames.

    Args:
        frame: Point cloud, .bin, .npy, .npz, .ply or .pcd, x forward, y left, z up, metres.
        checkpoint: Checkpoint written by `pircnn fit`.
        calib: KITTI calibration file of the frame.
        image: Camera image of the frame; needs the calibration.
        out: Folder for the results.
        min_score: Leave out boxes with a smaller score.
        intensity_scale: Multiplies the intensity, which is expected in [0, 1].
        threads: Threads to use; all cores by default.
    """
    use_threads(threads)
    model = load_detector(checkpoint)
    seen: dict[str, Any] = {"camera": 0, "picture": None}

    def run(points: FloatArray, calibration: Calibration | None, picture: Pixels | None) -> Detections:
        found, in_view = find(model, points, calibration, picture, str(calib))
        seen.update(camera=in_view, picture=picture)
        return found

    result = find_objects(
        model, frame, calib, image, min_score=min_score, intensity_scale=intensity_scale, run=run
    )
    files = dict(result.files)
    if seen["picture"] is not None and model.image_net is not None:
        told = semantic_map(model.image_net, seen["picture"])
        stem = frame_name(frame)
        files[f"{stem}_semantics.png"] = encode_image(
            semantics_picture(seen["picture"], told, seg_names(model))
        )
    write_files(out, files)
    if seen["picture"] is None:
        print("note: no image: the boxes are those of LiDAR alone")
    elif not seen["camera"]:
        print("note: the camera sees no point of this frame: no detection")
    elif model.image_net is None:
        print("note: the branch 'cached' has no image network: the boxes are those of LiDAR alone")
    print(
        f"{len(result.found['scores'])} objects in {len(result.points)} points, {seen['camera']} of them in the image "
        f"-> {out / next(iter(files))}"
    )


def find(
    model: PIRCNN,
    points: FloatArray,
    calibration: Calibration | None,
    picture: Pixels | None,
    source: str = "calibration",
) -> tuple[Detections, int]:
    """Detections, best first, and how many points the camera sees.

    Args:
        model: in evaluation mode.
        points: (N, 4).
        calibration: of the camera.
        picture: (H, W, 3) uint8 RGB, or None.
        source: of the calibration, for messages.

    Raises:
        UserInputError: a calibration of an image of another size.
    """
    calib = KittiCalib.from_calibration(calibration) if calibration is not None else None
    in_view = 0
    if picture is not None and calib is not None:
        size = (picture.shape[0], picture.shape[1])
        check_camera(calib, size, source)
        in_view = int(calib.lidar_to_image(points, size)[2].sum())
    found = model.predict(points, picture if model.image_net is not None else None, calib)
    arrays = {name: value.cpu().numpy() for name, value in found.items()}
    return {"boxes": arrays.pop("boxes_3d"), **arrays}, in_view


def seg_names(model: PIRCNN) -> tuple[str, ...]:
    """Names of the image network's channels, as far as they are known."""
    channels = model.config.seg_classes
    if channels == 1 + len(model.class_names):
        return ("background", *model.class_names)
    names = tuple(SEMANTIC_CLASSES)
    return names if channels == len(names) else tuple(f"class {k}" for k in range(channels))
