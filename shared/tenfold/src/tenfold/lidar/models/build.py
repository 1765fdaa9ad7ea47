"""One door to all detectors."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from torch import nn

# Detector -> module and function that build it.
_BUILDERS = {"second": ("tenfold.lidar.models.second", "build_second")}


def build_detector(name: str, dataset: str = "kitti", **overrides: Any) -> nn.Module:
    """Build a detector by name, with the published configuration of a data set.

    Args:
        name: "second".
        dataset: whose configuration to start from.
        overrides: fields of the detector's configuration, such as `SecondConfig`.

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
