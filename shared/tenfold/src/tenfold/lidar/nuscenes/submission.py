"""Detections in the lidar frame as boxes of a nuScenes submission."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tenfold.eval.nuscenes import MAX_BOXES, NuScenesBoxes
from tenfold.geometry import transform_points
from tenfold.lidar.nuscenes.classes import attribute_of

__all__ = ["detections_to_nuscenes"]

Floats = npt.NDArray[np.float64]

# Metres. The exponentials of a young detector can come out as 0, which the benchmark refuses.
_SMALLEST = 1e-3


def detections_to_nuscenes(
    detections: dict[str, Any], class_names: Sequence[str], lidar_to_global: Floats
) -> NuScenesBoxes:
    """A detector's output for one frame in the global frame, highest score first, at most 500 boxes.

    A box stands upright in the global frame: its heading there is the one whose box, seen in the lidar frame
    from above, has the detected heading. Extents are at least 1 mm. The attribute follows from class and speed
    (`attribute_of`).

    Args:
        detections: ``boxes (n, 7)`` or ``(n, 9)`` with vx, vy in the lidar frame, ``scores (n,)``,
            ``labels (n,)`` 0-based, tensors or arrays; without velocities they are 0.
        class_names: name of each label, classes of the detection task.
        lidar_to_global: ``(4, 4)`` rigid transform.

    >>> found = {"boxes": np.array([[1.0, 2, 0, 4, 2, 1.5, 0.3]]), "scores": [0.9], "labels": [0]}
    >>> boxes = detections_to_nuscenes(found, ["car"], np.eye(4))
    >>> boxes.size.tolist(), boxes.attribute
    ([[2.0, 4.0, 1.5]], ('vehicle.parked',))
    """
    scores = np.asarray(detections["scores"], dtype=np.float64).reshape(-1)
    order = np.argsort(-scores, kind="stable")[:MAX_BOXES]
    boxes = np.asarray(detections["boxes"], dtype=np.float64)
    boxes = boxes.reshape(len(scores), boxes.shape[-1] if boxes.ndim == 2 and boxes.shape[-1] else 7)[order]
    if boxes.shape[1] == 7:
        boxes = np.concatenate((boxes, np.zeros((len(boxes), 2))), axis=1)
    names = [class_names[int(k)] for k in np.asarray(detections["labels"])[order]]
    rotation = lidar_to_global[:3, :3]
    yaw = _global_heading(boxes[:, 6], rotation)
    velocity = boxes[:, 7:9] @ rotation[:2, :2].T
    zero = np.zeros(len(boxes))
    return NuScenesBoxes(
        names,
        transform_points(boxes[:, :3], lidar_to_global),
        np.maximum(boxes[:, [4, 3, 5]], _SMALLEST),
        np.stack((np.cos(yaw / 2), zero, zero, np.sin(yaw / 2)), axis=1),
        velocity,
        [attribute_of(n, float(np.hypot(*v))) for n, v in zip(names, velocity, strict=True)],
        score=scores[order],
    )


def _global_heading(heading: Floats, rotation: Floats) -> Floats:
    """The horizontal direction of the global frame that the lidar sees from above under `heading`."""
    level = np.stack((np.cos(heading), np.sin(heading)), axis=1)
    up = -(level @ rotation[2, :2]) / rotation[2, 2]
    ahead = np.column_stack((level, up)) @ rotation.T
    return np.arctan2(ahead[:, 1], ahead[:, 0])
