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

# Our modules carry OpenPCDet's names; what is left are its step counter, DistributedDataParallel's prefix, and
# convolutions where we have linear layers.
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
    converted = _without_kernel_axes(model, convert_state_dict(state, rules))
    return load_spconv_state_dict(model, converted, layout, source=source)


def _without_kernel_axes(model: nn.Module, state: Mapping[str, Any]) -> dict[str, Any]:
    """Weights of 1x1 convolutions, (C_out, C_in, 1) or (C_out, C_in, 1, 1), as our linear layers hold them."""
    own = {name: value.shape for name, value in model.state_dict().items()}

    def settled(name: str, value: Any) -> Any:
        shape, wanted = getattr(value, "shape", ()), own.get(name, ())
        pointwise = len(wanted) == 2 < len(shape) and all(size == 1 for size in shape[2:])
        return value.flatten(1) if pointwise and shape[:2] == wanted else value

    return {name: settled(name, value) for name, value in state.items()}


def _applies(pattern: str, key: str) -> bool:
    return re.fullmatch(pattern, key) is not None
