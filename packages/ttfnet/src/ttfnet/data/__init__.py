"""Data sets in COCO's layout: reading, checking, augmenting, converting; and generated pictures."""

from ttfnet.data.annotations import Annotations, ImageRecord, Report, read_annotations
from ttfnet.data.dataset import Batch, CocoDataset, collate, find_split
from ttfnet.data.scene import Scene
from ttfnet.data.transforms import Pipeline, Sample

__all__ = [
    "Annotations",
    "Batch",
    "CocoDataset",
    "ImageRecord",
    "Pipeline",
    "Report",
    "Sample",
    "Scene",
    "collate",
    "find_split",
    "read_annotations",
]
