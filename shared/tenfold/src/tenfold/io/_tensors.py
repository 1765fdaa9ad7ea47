"""Torch's pickled parts for `restricted_load(tensors=True)`; imports torch."""

import io
import pickle
from collections.abc import Callable, Sequence
from typing import Any

import torch

from tenfold._errors import UserInputError
from tenfold.io.pickles import UnsafePickleError, refused_by_torch

_STORAGES = (
    *("Double", "Float", "Half", "BFloat16", "ComplexDouble", "ComplexFloat"),
    *("Long", "Int", "Short", "Char", "Byte", "Bool", "Untyped"),
)


def builders() -> dict[str, Callable[..., Any]]:
    """Names that a pickled tensor calls, with what we call instead."""
    return {
        "torch._utils._rebuild_tensor": rebuild_tensor,
        "torch._utils._rebuild_tensor_v2": rebuild_tensor,
        "torch._utils._rebuild_parameter": rebuild_parameter,
        "torch.storage._load_from_bytes": load_storage,
        "torch.Size": _size,
        "torch.device": _device,
        "torch.nn.parameter.Parameter": rebuild_parameter,
        "torch.serialization._get_layout": _layout,
        # Only named, inside persistent ids.
        **{f"torch.{kind}Storage": _only_named for kind in _STORAGES},
        "torch.storage.UntypedStorage": _only_named,
    }


def values() -> dict[str, Any]:
    """Names that stand for a plain value."""
    found = {f"torch.{name}": value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}
    return {**found, "torch.strided": torch.strided}


def rebuild_tensor(
    storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any = False, *_hooks: Any
) -> torch.Tensor:
    """A tensor over a storage; torch would silently grow a storage that is too small."""
    if isinstance(storage, torch.UntypedStorage) or not isinstance(storage, torch.storage.TypedStorage):
        raise UserInputError("tensor: its storage is not one that was read from this file")
    numbers = [offset, *size, *stride]
    if len(size) != len(stride) or any(type(n) is not int or not 0 <= n < 2**62 for n in numbers):
        raise UserInputError("tensor: size, stride or offset is damaged")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if all(size) and last >= storage._untyped_storage.nbytes() // storage.dtype.itemsize:
        raise UserInputError(f"tensor: size {tuple(size)} needs more values than its storage holds")
    tensor = torch.empty(0, dtype=storage.dtype).set_(storage._untyped_storage, offset, size, stride)
    return tensor.requires_grad_(bool(requires_grad))


def rebuild_parameter(data: Any, requires_grad: Any = True, *_hooks: Any) -> torch.nn.Parameter:
    """A parameter around a tensor."""
    if not isinstance(data, torch.Tensor):
        raise UserInputError("parameter: holds no tensor")
    return torch.nn.Parameter(data.detach(), requires_grad=bool(requires_grad))


def load_storage(data: Any) -> Any:
    """The storage inside a tensor that was pickled outside `torch.save`; read by torch's own safe loader."""
    if not isinstance(data, bytes):
        raise UserInputError("storage: holds no bytes")
    try:
        return torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        name = refused_by_torch(error)
        if name is None:
            raise
        raise UnsafePickleError(f"holds a storage that names {name}, which is not allowed") from error


def _size(values: Sequence[int] = ()) -> torch.Size:
    if not all(type(n) is int for n in values):
        raise UserInputError("size: holds something that is no whole number")
    size: torch.Size = torch.Size(values)
    return size


def _device(kind: Any, index: Any = None) -> torch.device:
    return torch.device(kind) if index is None else torch.device(kind, index)


def _layout(name: Any) -> torch.layout:
    if name != "torch.strided":
        raise UserInputError("tensor: only strided tensors are read")
    return torch.strided


def _only_named(*_: Any) -> Any:
    raise UserInputError("storage: may only be named")
