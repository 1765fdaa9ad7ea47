"""Data sets: their official layouts, a cache that `prepare` writes, your own scenes, generated rooms."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sparsepoint.data.custom import CustomDetection, MMDet3DDetection
from sparsepoint.data.files import DataWarning
from sparsepoint.data.matterport import Matterport3DDetection
from sparsepoint.data.rooms import SyntheticRooms, make_room
from sparsepoint.data.s3dis import S3DISDetection
from sparsepoint.data.scannet import ScanNetDetection
from sparsepoint.data.scenes import (
    Augmentation,
    Batch,
    PreparedScenes,
    Scene,
    Scenes,
    SceneSamples,
    collate,
)
from sparsepoint.data.sens import SensFile, SensFrame, sens_points
from sparsepoint.data.sunrgbd import SUNRGBDDetection
from tenfold._errors import UserInputError

__all__ = [
    "READERS",
    "Augmentation",
    "Batch",
    "CustomDetection",
    "DataWarning",
    "MMDet3DDetection",
    "Matterport3DDetection",
    "PreparedScenes",
    "S3DISDetection",
    "SUNRGBDDetection",
    "ScanNetDetection",
    "Scene",
    "SceneSamples",
    "Scenes",
    "SensFile",
    "SensFrame",
    "SyntheticRooms",
    "collate",
    "make_room",
    "open_scenes",
    "sens_points",
]

#: Data set -> reader of its official layout.
READERS: dict[str, Callable[..., Scenes]] = {
    "scannet": ScanNetDetection,
    "sunrgbd": SUNRGBDDetection,
    "s3dis": S3DISDetection,
    "matterport3d": Matterport3DDetection,
    "custom": CustomDetection,
}


def open_scenes(root: str | Path, split: str, dataset: str | None = None, **options: Any) -> Scenes:
    """A split: of a prepared folder, of your own scenes (boxes.json), or of a data set's official layout.

    Args:
        root: the folder.
        split: its name.
        dataset: needed for an official layout.
        **options: of the reader.

    Raises:
        UserInputError: no such data set, folder or split.
    """
    folder = Path(root)
    if (folder / "dataset.json").is_file():
        return PreparedScenes(folder, split)
    if dataset is None and ((folder / "boxes.json").is_file() or folder.suffix == ".json"):
        return CustomDetection(folder, split)
    if dataset is None:
        raise UserInputError(
            f"{folder}: root: holds neither dataset.json (written by `sparsepoint prepare`) nor boxes.json"
        )
    if dataset not in READERS:
        raise UserInputError(f"data: dataset: got {dataset!r}; expected one of {', '.join(READERS)}")
    if not folder.exists():
        raise UserInputError(f"{folder}: root: no such folder")
    return READERS[dataset](folder, split, **options)
