"""Data: frames with a camera, images with labels, cached maps, generated scenes; names load on first use."""

from typing import TYPE_CHECKING

from tenfold.lazy import lazy_names

if TYPE_CHECKING:
    from pircnn.data.cache import SemanticCache
    from pircnn.data.columns import CAMERA_COLUMNS, with_camera
    from pircnn.data.frames import CameraInput, KittiFusionDataset, collate_camera
    from pircnn.data.semantic import SEMANTIC_CLASSES, KinsDataset, KittiSemanticDataset
    from pircnn.data.toy import toy_batch, toy_scene

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

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        ".cache": ["SemanticCache"],
        ".columns": ["CAMERA_COLUMNS", "with_camera"],
        ".frames": ["CameraInput", "KittiFusionDataset", "collate_camera"],
        ".semantic": ["SEMANTIC_CLASSES", "KinsDataset", "KittiSemanticDataset"],
        ".toy": ["toy_batch", "toy_scene"],
    },
)
