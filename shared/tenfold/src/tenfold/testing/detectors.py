"""The detectors of `tenfold.lidar` made tiny and repeatable, for the tests of all that stand on them."""

from collections.abc import Callable
from typing import Any

__all__ = ["TINY_DETECTORS", "draw_alike"]

_RANGE = [0.0, -12.8, -3.0, 25.6, 12.8, 1.0]
_VOXELS: dict[str, Any] = {
    "class_names": ["Car"],
    "point_range": _RANGE,
    "voxel_size": [0.2, 0.2, 0.1],
    "channels": [4, 4, 4, 8],
    "out_channels": 8,
    "bev_layers": [1],
    "bev_strides": [1],
    "bev_channels": [8],
    "up_strides": [1],
    "up_channels": [8],
}
_SECOND_STAGE: dict[str, Any] = {
    "train": {"pre_max": 64, "post_max": 16},
    "test": {"pre_max": 64, "iou_threshold": 0.7, "post_max": 8},
    "sampling": {"per_frame": 8},
    "shared": [16, 16],
    "fc": [16],
    "dropout": 0.0,
}
#: Detector -> overrides of `tenfold.lidar.build_detector`: it looks at 25.6 m and takes milliseconds for a step.
TINY_DETECTORS: dict[str, dict[str, Any]] = {
    "second": _VOXELS,
    "pointpillars": {
        "class_names": ["Car"],
        "point_range": _RANGE,
        "voxel_size": [0.8, 0.8, 4.0],
        "pillar_channels": 8,
        "bev_layers": [1],
        "bev_strides": [1],
        "bev_channels": [8],
        "up_strides": [1],
        "up_channels": [8],
    },
    "parta2": {**_VOXELS, "pool_grid": 4, "pool_channels": 8, "second": _SECOND_STAGE},
    "pv_rcnn": {
        **_VOXELS,
        "keypoints": 64,
        "keypoint_scales": {
            "raw": [[0.8, 4, [4]], [1.6, 4, [4]]],
            "conv1": [[0.8, 4, [4]]],
            "conv2": [[1.6, 4, [4]]],
            "conv3": [[2.4, 4, [4]]],
            "conv4": [[4.8, 4, [8]]],
        },
        "fused_channels": 8,
        "point_widths": [8],
        "pool_grid": 2,
        "pool_scales": [[1.6, 4, [8]]],
        "second": _SECOND_STAGE,
    },
    "pointrcnn": {
        "class_names": ["Car"],
        "point_range": _RANGE,
        "points": 256,
        "levels": [[64, [[0.8, 4, [8, 8]], [1.6, 4, [8]]]], [16, [[1.6, 4, [8]], [3.2, 4, [8]]]]],
        "up_widths": [[8, 8], [16]],
        "point_widths": [8],
        "pool_points": 16,
        "roi_channels": 8,
        "roi_levels": [[8, [[0.8, 4, [8]]]], [None, [[1.0, 1, [16]]]]],
        "second": {key: value for key, value in _SECOND_STAGE.items() if key != "shared"},
    },
}


def draw_alike(sample: Callable[..., Any], seed: int = 7) -> Callable[..., Any]:
    """A detector's `draw` whose regions of a frame are the same wherever the frame lands: in any batch or process.

    Args:
        sample: `tenfold.lidar.roi_targets.sample_rois`, which takes proposals, ground truth, options and a generator.
        seed: Of each frame's generator.
    """
    import torch

    def draw(proposals: Any, gt_boxes: Any, options: Any) -> Any:
        frames = [
            sample(
                type(proposals)(*(part[k : k + 1] for part in proposals)),
                gt_boxes[k : k + 1],
                options,
                torch.Generator().manual_seed(seed),
            )
            for k in range(len(gt_boxes))
        ]
        return type(frames[0])(*(torch.cat(part) for part in zip(*frames, strict=True)))

    return draw
