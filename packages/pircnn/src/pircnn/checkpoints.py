"""Networks from the files that `fit` writes; needs no Lightning."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pircnn.model import PIRCNN, SegUNet, build
from tenfold._errors import UserInputError
from tenfold.io import load_checkpoint, load_strict
from tenfold.lidar import predict as lidar

__all__ = ["build_segmentation", "load_detector", "load_segmentation"]


def build_segmentation(settings: Mapping[str, Any]) -> SegUNet:
    """The image network that a recipe or a checkpoint's hyper-parameters describe."""
    try:
        return SegUNet(3, int(settings["num_classes"]), tuple(settings["widths"]))
    except (KeyError, TypeError, ValueError) as error:
        raise UserInputError(f"model: {error}") from error


def load_detector(checkpoint: str | Path) -> PIRCNN:
    """The detector of a checkpoint that `pircnn fit` has written, in evaluation mode.

    Raises:
        UserInputError: a missing or damaged file, or one that is no detector's checkpoint.
    """
    model = lidar.load_detector(checkpoint, build)
    assert isinstance(model, PIRCNN)
    return model


def load_segmentation(checkpoint: str | Path) -> SegUNet:
    """The image network of a checkpoint: of `fit --config seg_kitti`, or of a detector with an image branch.

    Raises:
        UserInputError: a missing or damaged file, or one without an image network.
    """
    content = load_checkpoint(checkpoint)
    settings = content.get("hyper_parameters") if isinstance(content, dict) else None
    if not isinstance(settings, dict) or "state_dict" not in content:
        raise UserInputError(
            f"{checkpoint}: hyper_parameters: missing; expected a checkpoint of `pircnn fit`"
        )
    if "detector" in settings:
        network = load_detector(checkpoint).image_net
        if network is None:
            raise UserInputError(f"{checkpoint}: branch: 'cached' has no image network")
        return network.eval()
    network = build_segmentation(settings)
    state = {k.removeprefix("model."): v for k, v in content["state_dict"].items() if k.startswith("model.")}
    load_strict(network, state, source=checkpoint)
    return network.eval()
