"""Detectors on a user's own files: checkpoint in, boxes and pictures out. Needs no training extra."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from tenfold._errors import UserInputError
from tenfold.geometry import Calibration
from tenfold.io import load_checkpoint, load_strict, make_folder, read_image, write_bytes
from tenfold.lidar.clouds import frame_name, read_cloud
from tenfold.lidar.data import detections_to_kitti
from tenfold.lidar.kitti import FloatArray, format_labels, read_calibration
from tenfold.lidar.tta import View, detect_views, make_views
from tenfold.train.processes import use_threads

__all__ = [
    "EXTENSIONS",
    "Detections",
    "Prediction",
    "build_from",
    "camera_matrix",
    "detect",
    "features_of",
    "find_objects",
    "load_detector",
    "point_range",
    "predict",
    "read_frame",
    "write_files",
]

Detections = dict[str, npt.NDArray[Any]]
Pixels = npt.NDArray[np.uint8]

#: Setting of a recipe or checkpoint -> what a method package makes of a detector, the setting and the data set.
EXTENSIONS: dict[str, Callable[[nn.Module, Any, str], nn.Module]] = {}


def point_range(model: nn.Module) -> tuple[float, ...]:
    """x0, y0, z0, x1, y1, z1 in metres: where a detector looks."""
    return tuple(model.config.point_range)  # type: ignore[union-attr, arg-type]


def build_from(settings: Mapping[str, Any]) -> nn.Module:
    """The detector that a recipe or a checkpoint's hyper-parameters describe, with its extensions.

    Raises:
        UserInputError: an unknown detector, data set or override.
    """
    from tenfold.lidar import build_detector

    overrides = dict(settings.get("overrides") or {})
    try:
        model: nn.Module = build_detector(settings["detector"], dataset=settings["dataset"], **overrides)
        for name, extend in EXTENSIONS.items():
            if settings.get(name) is not None:
                model = extend(model, settings[name], settings["dataset"])
    except (TypeError, ValueError) as error:
        raise UserInputError(f"model: {error}") from error
    return model


def load_detector(
    checkpoint: str | Path, build: Callable[[Mapping[str, Any]], nn.Module] = build_from
) -> nn.Module:
    """The detector of a checkpoint that `fit` has written, in evaluation mode; no Lightning needed.

    Args:
        checkpoint: the file.
        build: makes the detector of the hyper-parameters; packages with detectors of their own pass theirs.

    Raises:
        UserInputError: a missing or damaged file, or one that is no detector's checkpoint.
    """
    content = load_checkpoint(checkpoint)
    settings = content.get("hyper_parameters") if isinstance(content, dict) else None
    if not isinstance(settings, dict) or "detector" not in settings or "state_dict" not in content:
        raise UserInputError(
            f"{checkpoint}: hyper_parameters: missing; expected a detector's checkpoint, written by `fit`"
        )
    model = build(settings)
    prefix = "model."
    state = {k.removeprefix(prefix): v for k, v in content["state_dict"].items() if k.startswith(prefix)}
    load_strict(model, state, source=checkpoint)
    return model.eval()


def detect(model: nn.Module, points: FloatArray, views: Sequence[View] = (View(),)) -> Detections:
    """Detections of one frame, highest score first.

    Args:
        model: a detector in evaluation mode.
        points: ``(N, C)`` in the lidar frame; without a point in the model's range there is no detection.
        views: test-time augmentation (`tenfold.lidar.tta`); the frame as it is by default.

    Returns:
        ``boxes (n, 7)``, or ``(n, 9)`` with vx, vy, ``scores (n,)``, ``labels (n,)`` 0-based.
    """
    rows = np.insert(points.astype(np.float32), 0, 0, axis=1)
    batch = {"points": torch.from_numpy(rows), "batch_size": 1}
    with torch.inference_mode():
        found = detect_views(model, batch, views)[0]
    order = torch.argsort(found["scores"], descending=True, stable=True)
    return {name: found[name][order].cpu().numpy() for name in ("boxes", "scores", "labels")}


def read_frame(
    file: str | Path,
    intensity_scale: float = 1.0,
    features: Sequence[str] = ("intensity",),
    columns: int | None = None,
) -> FloatArray:
    """Points ``(N, 3 + F)`` x, y, z, features of a ``.bin``, ``.npy``, ``.npz``, ``.ply`` or ``.pcd`` file.

    As `tenfold.lidar.clouds.read_cloud`, with a note where intensities look unscaled.

    Raises:
        UserInputError: an unreadable or truncated file, or a number that is not finite.
    """
    points = read_cloud(file, features, columns, intensity_scale)
    if len(points) and "intensity" in features and "time" not in features and points[:, 3].max() > 1:
        hint = "models expect 0 to 1; see --intensity_scale"
        print(f"note: {file} has intensities up to {points[:, 3].max():g}; {hint}", file=sys.stderr)
    return points


def features_of(model: nn.Module) -> tuple[str, ...]:
    """Columns after x, y, z that a detector takes: intensity, then the age of a point in seconds.

    Raises:
        UserInputError: it takes others, which no file of this kind names.
    """
    known = ("intensity", "time")
    number = int(getattr(model.config, "point_features", 4)) - 3  # type: ignore[union-attr]
    if number > len(known):
        raise UserInputError(
            f"model: point_features: {number} features; predict knows {', '.join(known)} only"
        )
    return known[:number]


def predict(
    frame: Path,
    checkpoint: Path,
    out: Path = Path("predictions"),
    calib: Path | None = None,
    image: Path | None = None,
    min_score: float = 0.1,
    intensity_scale: float = 1.0,
    columns: int | None = None,
    tta_flips: Sequence[str] = (),
    tta_rotations: Sequence[float] = (),
    tta_scales: Sequence[float] = (),
    threads: int | None = None,
    view: bool = False,
) -> None:
    """Detect objects in one point cloud; write boxes as JSON and pictures of them.

    Writes FRAME.json and FRAME_bev.png; with a calibration also FRAME.txt in KITTI's result format, and with
    an image FRAME_image.png. With both, only points that the camera sees are used, as in training on KITTI.
    A detector that was trained on several sweeps takes a single one, of age 0; files with a column "time" (ply,
    pcd) may hold more.

    Args:
        frame: Point cloud, .bin, .pcd.bin, .npy, .npz, .ply or .pcd, in the frame that the detector was trained in,
            metres: KITTI x forward, y left, z up; nuScenes x right, y forward, z up.
        checkpoint: Checkpoint written by `tenfold lidar fit`.
        out: Folder for the results.
        calib: KITTI calibration file of the frame.
        image: Camera image of the frame; needs a calibration.
        min_score: Leave out boxes with a smaller score.
        intensity_scale: Multiplies the intensity, which KITTI's models expect in [0, 1] (0.00392 for 0 to 255) and
            nuScenes' from 0 to 255.
        columns: Of a .bin file, 4 by default and 5 for .pcd.bin.
        tta_flips: Test-time augmentation, mirror images besides the frame itself, such as ["x", "y", "xy"].
        tta_rotations: Test-time augmentation, further rotations, radians.
        tta_scales: Test-time augmentation, further scales.
        threads: Threads to use; all cores by default.
        view: Open a window with points and boxes; needs the extra viz3d.
    """
    use_threads(threads)
    try:
        views = make_views(tta_flips, tta_rotations, tta_scales)
    except ValueError as error:
        raise UserInputError(f"tta: {error}") from error
    show = _viewer() if view else None
    seen = find_objects(
        load_detector(checkpoint),
        frame,
        calib,
        image,
        min_score=min_score,
        intensity_scale=intensity_scale,
        columns=columns,
        views=views,
    )
    write_files(out, seen.files)
    print(
        f"{len(seen.found['scores'])} objects in {len(seen.points)} points -> {out / next(iter(seen.files))}"
    )
    if show is not None:
        show(seen.points, seen.found["boxes"][:, :7], seen.found["labels"])


@dataclass(frozen=True, eq=False)
class Prediction:
    """One frame as a detector sees it.

    Attributes:
        points: ``(N, C)`` of the file.
        found: detections, best first.
        files: name -> content of the results.
    """

    points: FloatArray
    found: Detections
    files: dict[str, bytes]


def find_objects(
    model: nn.Module,
    frame: Path,
    calib: Path | None = None,
    image: Path | None = None,
    *,
    min_score: float = 0.1,
    intensity_scale: float = 1.0,
    columns: int | None = None,
    views: Sequence[View] = (View(),),
    run: Callable[[FloatArray, Calibration | None, Pixels | None], Detections] | None = None,
) -> Prediction:
    """What `predict` does before it writes: read a frame, detect, make the result files. Arguments as there.

    ``run`` detects in the points that the camera sees, given its calibration and picture; for detectors that look
    at the picture too. By default it is `detect`.

    Raises:
        UserInputError: an unreadable file, or an image without a calibration.
    """
    if image is not None and calib is None:
        raise UserInputError(f"{image}: image: needs the calibration of its camera; add --calib")
    calibration = read_calibration(calib) if calib is not None else None
    picture = read_image(image) if image is not None else None
    points = read_frame(frame, intensity_scale, features_of(model), columns)
    seen = points
    if calibration is not None and picture is not None:
        seen = points[calibration.in_image(points[:, :3], picture.shape[:2])]
    found = detect(model, seen, views) if run is None else run(seen, calibration, picture)
    kept = found["scores"] >= min_score
    found = {name: values[kept] for name, values in found.items()}
    return Prediction(points, found, _render(model, frame_name(frame), points, found, calibration, picture))


def _viewer() -> Callable[..., None]:
    """The open3d window; asked for before the work, so that a missing extra costs no time."""
    from tenfold.viz.viewer import require_open3d, show_scene

    require_open3d()
    return show_scene


def _render(
    model: Any,
    stem: str,
    points: FloatArray,
    found: Detections,
    calibration: Calibration | None,
    picture: Pixels | None,
) -> dict[str, bytes]:
    """File name -> content of everything `predict` writes."""
    from tenfold.viz import bev_image, draw_boxes_3d, encode_image

    names = tuple(model.class_names)
    document = {
        "boxes": found["boxes"].tolist(),
        "scores": found["scores"].tolist(),
        "labels": found["labels"].tolist(),
        "names": [names[k] for k in found["labels"]],
        "columns": ["x", "y", "z", "dx", "dy", "dz", "heading", "vx", "vy"][: found["boxes"].shape[1]],
        "points": len(points),
    }
    files = {f"{stem}.json": (json.dumps(document, indent=1) + "\n").encode()}
    if calibration is not None:
        size = None if picture is None else (picture.shape[0], picture.shape[1])
        text = format_labels(detections_to_kitti(found, names, calibration, size), calibration)
        files[f"{stem}.txt"] = text.encode()
    shown: dict[str, Any] = {"labels": found["labels"], "scores": found["scores"], "class_names": names}
    view = bev_image(points, found["boxes"][:, :7], range=point_range(model), resolution=0.1, **shown)
    files[f"{stem}_bev.png"] = encode_image(view)
    if calibration is not None and picture is not None:
        drawn = draw_boxes_3d(picture, found["boxes"][:, :7], camera_matrix(calibration), **shown)
        files[f"{stem}_image.png"] = encode_image(drawn)
    return files


def camera_matrix(calibration: Calibration) -> npt.NDArray[np.float64]:
    """``(3, 4)`` projection from the lidar frame to (u w, v w, w), for the drawing functions."""
    projection: npt.NDArray[np.float64] = calibration.p2 @ calibration.lidar_to_rect_matrix
    return projection


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write results into a folder. Everything was computed before: a user error leaves no file behind."""
    make_folder(folder)
    for name, content in files.items():
        write_bytes(folder / name, content)
