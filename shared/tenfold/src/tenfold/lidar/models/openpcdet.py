"""Checkpoints of OpenPCDet."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from tenfold._errors import UserInputError
from tenfold.io import KeyReport, convert_state_dict, load_checkpoint
from tenfold.sparse import load_spconv_state_dict

# Our modules carry OpenPCDet's names; what is left are its step counter and DistributedDataParallel's prefix.
_RULES = ((r"(?:module\.)?global_step", None), (r"module\.(.*)", r"\1"))


def load_openpcdet(
    model: nn.Module, checkpoint: str | Path | Mapping[str, Any], *, layout: str = "auto"
) -> KeyReport:
    """Load an OpenPCDet checkpoint into the detector of the same configuration; every key must fit.

    Args:
        model: a detector of `build_detector`.
        checkpoint: the file; or its content: ``{"model_state": ...}`` (optimiser, epoch and version beside it
            are ignored), or the state dict itself.
        layout: of the sparse weights, see `tenfold.sparse.load_spconv_state_dict`; the checkpoints of
            OpenPCDet's model zoo have spconv 1's, newer ones spconv 2's, and "auto" tells them apart.

    Returns:
        The report of all keys.

    Raises:
        CheckpointMismatchError: missing, unexpected or reshaped keys, all of them in the message.
        UserInputError: the file cannot be read, or holds no state dict.
        ValueError: sparse weights of mixed or ambiguous layouts.

    Example:
        >>> model = build_detector("second")  # doctest: +SKIP
        >>> load_openpcdet(model, "second_7862.pth").complete  # doctest: +SKIP
        True
    """
    from_file = isinstance(checkpoint, str | Path)
    source = str(checkpoint) if from_file else "OpenPCDet checkpoint"
    content = load_checkpoint(checkpoint) if from_file else checkpoint  # type: ignore[arg-type]
    if not isinstance(content, Mapping):
        raise UserInputError(f"{source}: model_state: the file holds no dict")
    state = content.get("model_state", content)
    if not isinstance(state, Mapping):
        raise UserInputError(f"{source}: model_state: is no dict of tensors")
    # Only rules that apply: a plain checkpoint has no prefix, a state dict no counter.
    rules = [rule for rule in _RULES if any(_applies(rule[0], key) for key in state)]
    return load_spconv_state_dict(model, convert_state_dict(state, rules), layout, source=source)


def _applies(pattern: str, key: str) -> bool:
    return re.fullmatch(pattern, key) is not None
