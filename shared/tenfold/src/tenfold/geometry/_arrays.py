"""Lets every geometry function take torch tensors or NumPy arrays with one implementation in torch."""

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import torch

NDArray = npt.NDArray[Any]
# A torch tensor or a NumPy array; what goes in decides what comes out.
Array: TypeAlias = Any
P = ParamSpec("P")
R = TypeVar("R")


def _to_tensor(value: Any) -> Any:
    if not isinstance(value, np.ndarray):
        return value
    # torch refuses negative strides, which an axis of length 1 may have in contiguous memory too, and warns about
    # read-only memory; a copy avoids both. (np.ascontiguousarray would add an axis to a number.)
    plain = np.asarray(value, order="C")
    fine = plain.flags.writeable and min(plain.strides, default=0) >= 0
    return torch.from_numpy(plain if fine else plain.copy())


def _to_numpy(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.numpy()
    if isinstance(value, tuple):
        return tuple(_to_numpy(v) for v in value)
    return value


def dual(function: Callable[P, R]) -> Callable[P, R]:
    """Make a torch function accept NumPy arrays too; arrays in give arrays out, of the same dtype."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        values = (*args, *kwargs.values())
        if not any(isinstance(v, np.ndarray) for v in values):
            return function(*args, **kwargs)
        if any(isinstance(v, torch.Tensor) for v in values):
            raise TypeError(
                f"{function.__name__}: arguments: NumPy arrays and torch tensors were mixed; "
                "one kind is expected; convert with torch.from_numpy or Tensor.numpy"
            )
        tensors = [_to_tensor(a) for a in args]
        named = {k: _to_tensor(v) for k, v in kwargs.items()}
        result: R = _to_numpy(function(*tensors, **named))  # type: ignore[arg-type]
        return result

    return call


def require_columns(op: str, argument: str, value: Any, columns: tuple[int, ...]) -> None:
    """Raise unless `value` is a floating tensor whose last axis has one of the lengths in `columns`."""
    if not isinstance(value, torch.Tensor):
        raise TypeError(
            f"{op}: {argument}: {type(value).__name__} was received; a tensor or array is expected"
        )
    if not value.is_floating_point():
        raise TypeError(f"{op}: {argument}: dtype {value.dtype} was received; a floating dtype is expected")
    if value.ndim < 1 or value.shape[-1] not in columns:
        expected = " or ".join(str(c) for c in columns)
        raise ValueError(
            f"{op}: {argument}: shape {tuple(value.shape)} was received; "
            f"a last axis of {expected} is expected"
        )
