"""One frame for the verbs `diagnose` and `bench`: the user's own, or a simulated one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor, nn

from tenfold._errors import UserInputError
from tenfold.lidar.clouds import frame_name
from tenfold.lidar.kitti import read_calibration, read_labels
from tenfold.lidar.predict import build_from, features_of, point_range, read_frame
from tenfold.lidar.simulator import KITTI_64, sample_scene, scan
from tenfold.ops import points_in_boxes
from xview3d.fusion import has_views
from xview3d.presets import from_settings

__all__ = ["Frame", "batch_of", "load_frame", "model_settings", "models_of"]

_ANGLE = np.pi / 4


@dataclass(frozen=True, eq=False)
class Frame:
    """Points and, where known, objects.

    Attributes:
        name: for messages and files.
        points: ``(N, 3 + F)`` float32.
        boxes: ``(M, 7)`` float32.
        instance: ``(N,)`` box of each point, -1 for none.
    """

    name: str
    points: Tensor
    boxes: Tensor
    instance: Tensor


def model_settings(config: str) -> dict[str, Any]:
    """The ``model`` section of a recipe, by name or file.

    Raises:
        UserInputError: no such recipe, or none that describes a detector.
    """
    path = Path(config)
    if not path.is_file():
        path = Path(__file__).parent / "configs" / f"{config}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml")))
        raise UserInputError(f"config: got {config!r}, no file and no recipe; recipes: {known}")
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserInputError(f"{path}: is no YAML file ({type(error).__name__})") from error
    settings = document.get("model") if isinstance(document, dict) else None
    if not isinstance(settings, dict) or "detector" not in settings:
        raise UserInputError(f"{path}: model.detector: missing; expected a recipe")
    return {"dataset": "kitti", **settings}


def models_of(config: str) -> tuple[nn.Module, nn.Module]:
    """The detector of a recipe without and with its views, random weights; they share the detector's parts."""
    settings = model_settings(config)
    base = build_from({**settings, "xview": None})
    try:
        views = from_settings(base, settings.get("xview") or {}, settings["dataset"])
    except ValueError as error:
        raise UserInputError(f"{config}: model.xview: {error}") from error
    if not has_views(views):
        raise UserInputError(f"{config}: model.xview: describes no view of `add_xview`")
    return base, views


def load_frame(
    model: nn.Module, frame: Path | None, labels: Path | None, calib: Path | None, seed: int
) -> Frame:
    """A file with labels in KITTI's format, or a simulated frame of a scanner with 64 beams.

    Raises:
        UserInputError: unreadable files, labels without a calibration, or either without a frame.
    """
    features = features_of(model)
    if frame is None:
        for name, file in (("labels", labels), ("calib", calib)):
            if file is not None:
                raise UserInputError(f"{file}: {name}: belongs to a frame; add --frame")
        seen = scan(sample_scene(seed), KITTI_64, seed)
        ahead = np.abs(np.arctan2(seen.points[:, 1], seen.points[:, 0])) < _ANGLE
        points = np.zeros((int(ahead.sum()), 3 + len(features)), np.float32)
        points[:, :4] = seen.points[ahead][:, : points.shape[1]]
        own = torch.from_numpy(seen.boxes)
        return Frame(
            f"simulated {seed}", torch.from_numpy(points), own, torch.from_numpy(seen.instance[ahead])
        )
    points = read_frame(frame, features=features)
    boxes = torch.zeros(0, 7)
    if labels is not None:
        if calib is None:
            raise UserInputError(f"{labels}: labels: are in the camera's frame; add --calib")
        found = read_labels(labels, read_calibration(calib))
        named = [k for k, name in enumerate(found.names) if name != "DontCare"]
        boxes = torch.from_numpy(found.boxes[named].astype(np.float32)).reshape(-1, 7)
    cloud = torch.from_numpy(np.ascontiguousarray(points))
    inside = points_in_boxes(cloud[:, :3].contiguous(), boxes, mode="first")
    assert isinstance(inside, Tensor)
    return Frame(frame_name(frame), cloud, boxes, inside.long())


def batch_of(frame: Frame, model: nn.Module) -> Mapping[str, Any]:
    """The frame as a training batch of one; objects in range are of the first class."""
    limits = point_range(model)
    low, high = torch.tensor(limits[:3]), torch.tensor(limits[3:])
    kept = frame.boxes[((frame.boxes[:, :3] >= low) & (frame.boxes[:, :3] <= high)).all(1)]
    columns: Any = model.config.gt_columns  # type: ignore[union-attr]
    gt = torch.zeros(1, len(kept), columns)
    gt[0, :, :7], gt[0, :, -1] = kept, 1
    points = torch.cat((torch.zeros(len(frame.points), 1), frame.points), 1)
    return {"points": points, "gt_boxes": gt, "batch_size": 1}
