"""Checkpoints of this package: those that `fit` writes, and the small ones it ships."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sparsepoint.config import SparsePointConfig
from sparsepoint.models import build
from tenfold._errors import UserInputError
from tenfold.io import load_checkpoint, load_strict

__all__ = ["ASSETS", "load_detector"]

ASSETS = Path(__file__).parent / "assets"


def load_detector(checkpoint: str | Path) -> Any:
    """The detector of a checkpoint, in evaluation mode; "tiny" names the one in the package. No Lightning needed.

    Args:
        checkpoint: a file that `fit` or `sparsepoint.shipped.save_tiny` wrote, "tiny" or "tiny_votenet".

    Raises:
        UserInputError: a missing or damaged file, or one that is no checkpoint of this package.

    Example:
        >>> load_detector("tiny").class_names
        ('table', 'chair', 'cabinet', 'bin')
    """
    shipped = ASSETS / f"{checkpoint}.pt"
    path = shipped if str(checkpoint) in ("tiny", "tiny_votenet") and shipped.is_file() else Path(checkpoint)
    content = load_checkpoint(path)
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
        raise UserInputError(
            f"{path}: state_dict: missing; expected a checkpoint written by `sparsepoint fit`"
        )
    settings = content.get("config") or content.get("hyper_parameters", {}).get("config")
    if not isinstance(settings, dict):
        raise UserInputError(f"{path}: config: missing; expected a checkpoint written by `sparsepoint fit`")
    model = build(SparsePointConfig.from_dict(settings))
    state = content["state_dict"]
    if "hyper_parameters" in content:
        prefix = "model."
        state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    load_strict(model, state, source=path)
    return model.eval()
