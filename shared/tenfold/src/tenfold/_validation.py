"""How much of an op's input is checked.

``meta``: shapes, dtypes, devices and options. ``cheap`` (default): also linear-time content checks on CPU.
``full``: those on CUDA too, at the price of a synchronisation.
"""

from __future__ import annotations

import os
from types import TracebackType

__all__ = ["checks_content", "validation"]

_LEVELS = ("meta", "cheap", "full")


def _checked(level: str) -> str:
    if level not in _LEVELS:
        raise ValueError(f"validation: level: got {level!r}; expected one of {', '.join(_LEVELS)}")
    return level


_level = _checked(os.environ.get("TENFOLD_VALIDATE", "cheap"))


class validation:  # noqa: N801 - reads as a statement, like torch.no_grad
    """Set the validation level of this process; as a context manager, restore it afterwards.

    Example:
        >>> import torch, tenfold
        >>> from tenfold.ops import nms
        >>> boxes = torch.tensor([[0.0, 0.0, float("nan"), 1.0]])
        >>> with tenfold.validation("meta"):
        ...     nms(boxes, torch.ones(1), 0.5)
        tensor([], dtype=torch.int64)
    """

    def __init__(self, level: str) -> None:
        global _level
        self._before = _level
        _level = _checked(level)

    def __enter__(self) -> validation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _level
        _level = self._before


def checks_content(is_cpu: bool) -> bool:
    """Whether tensors on this kind of device have their content checked."""
    return _level == "full" or (is_cpu and _level == "cheap")
