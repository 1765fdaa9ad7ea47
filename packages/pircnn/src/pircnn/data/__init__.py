"""Data: frames with a camera, images with labels, cached maps, generated scenes; names load on first use."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pircnn.data.cache import SemanticCache
    from pircnn.data.columns import CAMERA_COLUMNS, with_camera
    from pircnn.data.frames import CameraInput, KittiFusionDataset, collate_camera
    from pircnn.data.semantic import SEMANTIC_CLASSES, KinsDataset, KittiSemanticDataset
    from pircnn.data.toy import toy_batch, toy_scene

_EXPORTS = {
    "CAMERA_COLUMNS": "columns",
    "SEMANTIC_CLASSES": "semantic",
    "CameraInput": "frames",
    "KinsDataset": "semantic",
    "KittiFusionDataset": "frames",
    "KittiSemanticDataset": "semantic",
    "SemanticCache": "cache",
    "collate_camera": "frames",
    "toy_batch": "toy",
    "toy_scene": "toy",
    "with_camera": "columns",
}

__all__ = [
    "CAMERA_COLUMNS",
    "SEMANTIC_CLASSES",
    "CameraInput",
    "KinsDataset",
    "KittiFusionDataset",
    "KittiSemanticDataset",
    "SemanticCache",
    "collate_camera",
    "toy_batch",
    "toy_scene",
    "with_camera",
]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"pircnn.data.{_EXPORTS[name]}"), name)
