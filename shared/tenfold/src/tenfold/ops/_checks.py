"""Messages for wrong arguments: *op: argument: what was received; what is expected; hint*.

Ops test their arguments in one quick expression and call these functions only to say what was wrong.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = [
    "FLOATS",
    "HALVES",
    "LIMIT",
    "as_compute",
    "require",
    "require_float",
    "require_integers",
    "require_shape",
    "require_size",
    "require_tensor",
]

FLOATS = (torch.float32, torch.float64)
HALVES = (torch.float16, torch.bfloat16)
_INTEGERS = (torch.int64, torch.int32)
LIMIT = 2**31  # rows and entries are numbered in int32


def require(ok: bool, message: str) -> None:
    """Raise ValueError with the message unless ok."""
    if not ok:
        raise ValueError(message)


def require_tensor(op: str, name: str, value: object) -> None:
    """Raise TypeError unless value is a tensor."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{op}: {name}: got {type(value).__name__}; expected a torch.Tensor")


def require_float(op: str, name: str, value: Tensor) -> None:
    """Raise TypeError unless value is a floating-point tensor that the kernels take."""
    require_tensor(op, name, value)
    if value.dtype not in FLOATS and value.dtype not in HALVES:
        raise TypeError(f"{op}: {name}: got {value.dtype}; expected float32, float64, float16 or bfloat16")


def require_integers(op: str, name: str, value: Tensor) -> None:
    """Raise TypeError unless value is a tensor of indices or numbers that the kernels take."""
    require_tensor(op, name, value)
    if value.dtype not in _INTEGERS:
        raise TypeError(f"{op}: {name}: got {value.dtype}; expected int64 or int32")


def require_shape(op: str, name: str, value: Tensor, shape: Sequence[int | str], hint: str = "") -> None:
    """Raise ValueError unless value has the shape; strings such as "N" stand for any size."""
    fits = value.dim() == len(shape) and all(
        isinstance(want, str) or have == want for have, want in zip(value.shape, shape, strict=True)
    )
    if not fits:
        expected = ", ".join(str(s) for s in shape) + ("," if len(shape) == 1 else "")
        tail = f"; {hint}" if hint else ""
        raise ValueError(f"{op}: {name}: got shape {tuple(value.shape)}; expected ({expected}){tail}")


def require_size(op: str, name: str, value: int) -> None:
    """Raise TypeError or ValueError unless value can be the size of a padded result."""
    if isinstance(value, bool) or not isinstance(value, (int, torch.SymInt)):
        raise TypeError(f"{op}: {name}: got {type(value).__name__}; expected an int")
    require(0 <= value < LIMIT, f"{op}: {name}: got {value}; expected a number from 0 to 2^31 - 1")


def as_compute(value: Tensor) -> Tensor:
    """Up-cast half precision to float32; geometry is never computed in half precision."""
    return value.float() if value.dtype in HALVES else value
