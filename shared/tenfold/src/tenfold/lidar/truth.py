"""What the evaluation of a frame needs beside its detections, for data sets without KITTI's labels."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tenfold.eval.nuscenes import NuScenesSample
from tenfold.lidar.frames import LidarFrame, Objects
from tenfold.lidar.nuscenes import NuScenesFrame

__all__ = ["BoxTruth", "NuScenesTruth", "truth_of"]


@dataclass(frozen=True, eq=False)
class NuScenesTruth:
    """A key frame of nuScenes.

    Attributes:
        sample: ground truth in the global frame; None on the test split.
        lidar_to_global: ``(4, 4)``, for the submission.
    """

    sample: NuScenesSample | None
    lidar_to_global: npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class BoxTruth:
    """A frame of a data set of one's own: its labelled boxes in the lidar frame; None without labels."""

    objects: Objects | None


def truth_of(frame: LidarFrame) -> NuScenesTruth | BoxTruth:
    """The truth of a reader's frame."""
    if isinstance(frame, NuScenesFrame):
        return NuScenesTruth(frame.sample, frame.lidar_to_global)
    return BoxTruth(frame.objects)
