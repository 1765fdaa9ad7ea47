"""The references on tensors of another device, where no kernel is: none may mix them with tensors of its own.

Where there is no GPU, tensors that claim one stand in for it: they hold memory of the processor, and what a GPU
refuses to mix with tensors on the CPU, they refuse.
"""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

import tenfold
from tenfold.ops import _library
from tenfold.testing import kernels

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "fuzz"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import emulation
from cases import CASES

AWAY = torch.device("cuda:0")
MIXING = {"copy_", "_to_copy", "index", "index_put", "index_put_", "_index_put_impl_"}  # what a GPU mixes too
CALLS = 3

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="`nox -s gpu` uses the device")


@pytest.fixture(autouse=True)
def no_start(monkeypatch):
    """Let torch take the device for started; nothing reaches it."""
    torch._C._ensureCUDADeviceGuardSet()
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: None)


class Away(torch.Tensor):
    """A tensor that claims the other device."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held):
        return torch.Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), dtype=held.dtype, device=AWAY
        )

    def __init__(self, held):
        self.held = held

    def tolist(self):
        return self.held.tolist()

    def numpy(self):
        raise TypeError("can't convert a tensor of another device to numpy")

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return dispatch(func, args, kwargs or {})


def away(value):
    return tree_map(lambda v: Away(v) if isinstance(v, torch.Tensor) else v, value)


def home(value):
    """What the tensors hold, all of which must claim the other device."""
    tensors = [v for v in tree_flatten(value)[0] if isinstance(v, torch.Tensor)]
    assert all(isinstance(v, Away) for v in tensors)
    return tree_map(lambda v: v.held if isinstance(v, Away) else v, value)


def dispatch(func, args, kwargs):
    tensors = [v for v in tree_flatten((args, kwargs))[0] if isinstance(v, torch.Tensor)]
    there = [v for v in tensors if isinstance(v, Away)]
    here = [v for v in tensors if not isinstance(v, Away) and v.dim() > 0]
    name = func._schema.name.removeprefix("aten::")
    if there and here and name not in MIXING:
        raise RuntimeError(f"{name}: expected all tensors to be on the same device")
    goes_there = bool(there)
    if kwargs.get("device") is not None:
        goes_there = kwargs["device"].type == AWAY.type
        kwargs = {**kwargs, "device": torch.device("cpu")}
    args, kwargs = tree_map(lambda v: v.held if isinstance(v, Away) else v, (args, kwargs))
    result = func(*args, **kwargs)
    if not goes_there:
        return result
    known = {id(v.held): v for v in there}  # what was written in place stays the tensor it was

    def claimed(value):
        if not isinstance(value, torch.Tensor):
            return value
        return known[id(value)] if id(value) in known else Away(value)

    return tree_map(claimed, result)


class Made(TorchDispatchMode):
    """Makes tensors on the other device, which torch cannot."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return dispatch(func, args, kwargs or {})


def rows(index):
    return torch.tensor(index, dtype=torch.int64) if isinstance(index, list) else index


class MadeOfNumbers(TorchFunctionMode):
    """Likewise where numbers of Python become a tensor, which torch does out of a dispatcher's sight."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.tensor and kwargs.get("device") == AWAY:
            return Away(torch.tensor(*args, **{**kwargs, "device": "cpu"}))
        if func is torch.Tensor.new_tensor and isinstance(args[0], Away):
            return Away(args[0].held.new_tensor(*args[1:], **kwargs))
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__):
            of, index, *value = args
            args = (of, tuple(map(rows, index)) if isinstance(index, tuple) else rows(index), *value)
        return func(*args, **kwargs)


def on_other_device(call):
    op = getattr(torch.ops.tenfold, call.name.removeprefix("tenfold::")).default
    args = away(call.args)
    with Made(), MadeOfNumbers(), torch.no_grad():
        result = _library._references[op](*args)
    written = [a for a, s in zip(args, op._schema.arguments, strict=False) if s.is_write]
    return home(tuple(written) if result is None else (result, *written) if written else result)


@pytest.mark.parametrize("name", CASES)
def test_reference_stays_on_the_device_of_its_tensors(name):
    for seed in range(CALLS):
        call = CASES[name].make(np.random.default_rng(seed))
        with tenfold.validation("meta"), emulation.recorded() as calls:
            try:
                call()
            except (ValueError, TypeError):
                continue
        for made in calls:
            kernels.assert_same(on_other_device(made), made.result, rtol=CASES[name].rtol)


def test_the_other_device_refuses_what_a_gpu_refuses():
    x = Away(torch.ones(3))
    with pytest.raises(RuntimeError, match="add: expected all tensors to be on the same device"):
        x + torch.ones(3)
    with pytest.raises(TypeError, match="numpy"):
        x.numpy()
    assert home(x + torch.tensor(2.0)).tolist() == [3.0] * 3
    with Made(), MadeOfNumbers():
        assert home(torch.arange(3, device=AWAY) + x).tolist() == [1.0, 2.0, 3.0]
        assert home(torch.tensor([1.0, 2.0, 3.0], device=AWAY) + x.new_tensor([1.0, 0.0, 0.0])).tolist() == [
            2.0,
            2.0,
            3.0,
        ]
