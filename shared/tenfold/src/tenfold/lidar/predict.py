"""Detectors on a user's own files: checkpoint in, boxes and pictures out. Needs no training extra."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from tenfold._errors import UserInputError
from tenfold.geometry import Calibration
from tenfold.io import load_checkpoint, load_strict, read_image, read_points, write_bytes
from tenfold.lidar.data import detections_to_kitti
from tenfold.lidar.kitti import FloatArray, format_labels, read_calibration, require_finite

__all__ = [
    "Detections",
    "build_from",
    "camera_matrix",
    "detect",
    "load_detector",
    "point_range",
    "predict",
    "read_frame",
]

Detections = dict[str, npt.NDArray[Any]]


def point_range(model: nn.Module) -> tuple[float, ...]:
    """x0, y0, z0, x1, y1, z1 in metres: where a detector looks."""
    return tuple(model.config.point_range)  # type: ignore[union-attr, arg-type]


def build_from(settings: Mapping[str, Any]) -> nn.Module:
    """The detector that a recipe or a checkpoint's hyper-parameters describe.

    Raises:
        UserInputError: an unknown detector, data set or override.
    """
    from tenfold.lidar import build_detector

    overrides = dict(settings.get("overrides") or {})
    try:
        model: nn.Module = build_detector(settings["detector"], dataset=settings["dataset"], **overrides)
    except (TypeError, ValueError) as error:
        raise UserInputError(f"model: {error}") from error
    return model


def load_detector(checkpoint: str | Path) -> nn.Module:
    """The detector of a checkpoint that `fit` has written, in evaluation mode; no Lightning needed.

    Raises:
        UserInputError: a missing or damaged file, or one that is no detector's checkpoint.
    """
    content = load_checkpoint(checkpoint)
    settings = content.get("hyper_parameters") if isinstance(content, dict) else None
    if not isinstance(settings, dict) or "detector" not in settings or "state_dict" not in content:
        raise UserInputError(
            f"{checkpoint}: hyper_parameters: missing; expected a checkpoint written by `tenfold lidar fit`"
        )
    model = build_from(settings)
    prefix = "model."
    state = {k.removeprefix(prefix): v for k, v in content["state_dict"].items() if k.startswith(prefix)}
    load_strict(model, state, source=checkpoint)
    return model.eval()


def detect(model: nn.Module, points: FloatArray) -> Detections:
    """Detections of one frame, highest score first.

    Args:
        model: a detector in evaluation mode.
        points: ``(N, C)`` in the lidar frame; without a point in the model's range there is no detection.

    Returns:
        ``boxes (n, 7)``, ``scores (n,)``, ``labels (n,)`` 0-based.
    """
    rows = np.insert(points.astype(np.float32), 0, 0, axis=1)
    batch = {"points": torch.from_numpy(rows), "batch_size": 1}
    with torch.inference_mode():
        found = model(batch)[0]
    order = torch.argsort(found["scores"], descending=True, stable=True)
    return {name: found[name][order].cpu().numpy() for name in ("boxes", "scores", "labels")}


def read_frame(file: str | Path, intensity_scale: float = 1.0) -> FloatArray:
    """Points ``(N, 4)`` x, y, z, intensity of a ``.bin``, ``.npy``, ``.npz``, ``.ply`` or ``.pcd`` file.

    Intensity is the column of that name (or reflectance, reflectivity), the fourth of files without names,
    and 0 where there is none.

    Raises:
        UserInputError: an unreadable or truncated file, or a number that is not finite.
    """
    cloud = read_points(file)
    usual = ("intensity", "reflectance", "reflectivity", "c3")
    name = next((n for n in usual if n in cloud.fields), None)
    if name is None:
        print(f"note: {file} has no intensity; 0 is used", file=sys.stderr)
        intensity: Any = np.zeros(len(cloud))
    else:
        intensity = cloud.array([name])[:, 0] * intensity_scale
    points = np.column_stack((cloud.xyz, intensity)).astype(np.float32)
    require_finite(points, file)
    if len(points) and points[:, 3].max() > 1:
        hint = "models expect 0 to 1; see --intensity_scale"
        print(f"note: {file} has intensities up to {points[:, 3].max():g}; {hint}", file=sys.stderr)
    return points


def predict(
    frame: Path,
    checkpoint: Path,
    out: Path = Path("predictions"),
    calib: Path | None = None,
    image: Path | None = None,
    min_score: float = 0.1,
    intensity_scale: float = 1.0,
    threads: int | None = None,
) -> None:
    """Detect objects in one point cloud; write boxes as JSON and pictures of them.

    Writes FRAME.json and FRAME_bev.png; with a calibration also FRAME.txt in KITTI's result format, and with
    an image FRAME_image.png. With both, only points that the camera sees are used, as in training on KITTI.

    Args:
        frame: Point cloud, .bin, .pcd.bin, .npy, .npz, .ply or .pcd; x forward, y left, z up, metres.
        checkpoint: Checkpoint written by `tenfold lidar fit`.
        out: Folder for the results.
        calib: KITTI calibration file of the frame.
        image: Camera image of the frame; needs a calibration.
        min_score: Leave out boxes with a smaller score.
        intensity_scale: Multiplies the intensity, which models expect in [0, 1]; 0.00392 for 0 to 255.
        threads: Threads to use; all cores by default.
    """
    if threads is not None:
        torch.set_num_threads(max(1, threads))
    if image is not None and calib is None:
        raise UserInputError(f"{image}: image: needs the calibration of its camera; add --calib")
    points = read_frame(frame, intensity_scale)
    calibration = read_calibration(calib) if calib is not None else None
    picture = read_image(image) if image is not None else None
    model = load_detector(checkpoint)
    seen = points
    if calibration is not None and picture is not None:
        seen = points[calibration.in_image(points[:, :3], picture.shape[:2])]
    found = detect(model, seen)
    kept = found["scores"] >= min_score
    found = {name: values[kept] for name, values in found.items()}
    files = _render(model, frame.name.split(".")[0], points, found, calibration, picture)
    _write_all(out, files)
    print(f"{len(found['scores'])} objects in {len(points)} points -> {out / next(iter(files))}")


def _render(
    model: Any,
    stem: str,
    points: FloatArray,
    found: Detections,
    calibration: Calibration | None,
    picture: npt.NDArray[np.uint8] | None,
) -> dict[str, bytes]:
    """File name -> content of everything `predict` writes."""
    from tenfold.viz import bev_image, draw_boxes_3d, encode_image

    names = tuple(model.class_names)
    document = {
        "boxes": found["boxes"].tolist(),
        "scores": found["scores"].tolist(),
        "labels": found["labels"].tolist(),
        "names": [names[k] for k in found["labels"]],
        "columns": ["x", "y", "z", "dx", "dy", "dz", "heading"],
        "points": len(points),
    }
    files = {f"{stem}.json": (json.dumps(document, indent=1) + "\n").encode()}
    if calibration is not None:
        size = None if picture is None else (picture.shape[0], picture.shape[1])
        text = format_labels(detections_to_kitti(found, names, calibration, size), calibration)
        files[f"{stem}.txt"] = text.encode()
    shown: dict[str, Any] = {"labels": found["labels"], "scores": found["scores"], "class_names": names}
    view = bev_image(points, found["boxes"], range=point_range(model), resolution=0.1, **shown)
    files[f"{stem}_bev.png"] = encode_image(view)
    if calibration is not None and picture is not None:
        drawn = draw_boxes_3d(picture, found["boxes"], camera_matrix(calibration), **shown)
        files[f"{stem}_image.png"] = encode_image(drawn)
    return files


def camera_matrix(calibration: Calibration) -> npt.NDArray[np.float64]:
    """``(3, 4)`` projection from the lidar frame to (u w, v w, w), for the drawing functions."""
    projection: npt.NDArray[np.float64] = calibration.p2 @ calibration.lidar_to_rect_matrix
    return projection


def _write_all(folder: Path, files: dict[str, bytes]) -> None:
    """Everything was computed before: a user error leaves no file behind."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserInputError(f"{folder}: out: cannot be created ({error.strerror or error})") from error
    for name, content in files.items():
        write_bytes(folder / name, content)
