"""One door to all detectors."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from torch import nn

# Detector -> module and function that build it.
_BUILDERS = {
    "second": ("tenfold.lidar.models.second", "build_second"),
    "pointpillars": ("tenfold.lidar.models.pointpillars", "build_pointpillars"),
    "pointrcnn": ("tenfold.lidar.models.pointrcnn", "build_pointrcnn"),
    "parta2": ("tenfold.lidar.models.part_a2", "build_parta2"),
    "pv_rcnn": ("tenfold.lidar.models.pv_rcnn", "build_pv_rcnn"),
}


def build_detector(name: str, dataset: str = "kitti", **overrides: Any) -> nn.Module:
    """Build a detector by name, with the published configuration of a data set.

    Args:
        name: "second", "pointpillars", "pointrcnn", "parta2" or "pv_rcnn".
        dataset: whose configuration to start from, "kitti" or "nuscenes".
        overrides: fields of the detector's configuration, such as `SecondConfig`, and the variants that its
            builder names: ``second_author``, ``bin_loss`` (PointRCNN), ``free`` (Part-A2). A field that is a
            configuration itself, such as ``post``, takes a mapping.

    Returns:
        The module. ``model(batch)`` gives losses in training and detections otherwise; ``model.class_names``
        names the labels.

    Raises:
        ValueError: an unknown detector, data set or option; or a configuration that does not fit together.

    Example:
        >>> model = build_detector("second", dataset="kitti")
        >>> sum(p.numel() for p in model.parameters())
        5325576
    """
    if name not in _BUILDERS:
        raise ValueError(
            f"build_detector: name: got {name!r}; expected one of {', '.join(map(repr, _BUILDERS))}"
        )
    module, function = _BUILDERS[name]
    model: nn.Module = getattr(import_module(module), function)(dataset, **overrides)
    return model
