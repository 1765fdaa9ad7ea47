"""Comparing tensors bit by bit, and offering an op the same values in every memory layout."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch


def assert_bit_equal(actual: Any, expected: Any, name: str = "value") -> None:
    """Check that two tensors, arrays, numbers or nests of them are equal in type, shape and every bit.

    NaN equals NaN of the same bits, -0.0 does not equal 0.0. Strides do not matter, devices and dtypes do.

    Raises:
        AssertionError: names the place in the nest and the first difference.

    Example:
        >>> assert_bit_equal({"a": torch.ones(2)}, {"a": torch.ones(2)})
        >>> assert_bit_equal(torch.tensor([1.0, -0.0]), torch.tensor([1.0, 0.0]))
        Traceback (most recent call last):
        ...
        AssertionError: value: 1 of 2 values differ, first at (1,): -0.0 is not 0.0
    """
    if isinstance(expected, torch.Tensor) and isinstance(actual, torch.Tensor):
        assert actual.device == expected.device, f"{name}: on {actual.device}, expected on {expected.device}"
        _same_bits(actual, expected, name)
    elif isinstance(expected, (np.ndarray, np.generic)) and isinstance(actual, (np.ndarray, np.generic)):
        assert type(actual) is type(expected), f"{name}: {type(actual)}, expected {type(expected)}"
        assert actual.dtype == expected.dtype, f"{name}: {actual.dtype}, expected {expected.dtype}"
        assert not expected.dtype.hasobject, f"{name}: Python objects have no bits to compare"
        _same_bytes(np.asarray(actual), np.asarray(expected), name)
    else:
        assert type(actual) is type(expected), f"{name}: {type(actual)}, expected {type(expected)}"
        _same_nest(actual, expected, name)


def _same_nest(actual: Any, expected: Any, name: str) -> None:
    if isinstance(expected, Mapping):
        assert list(actual) == list(expected), f"{name}: keys {list(actual)}, expected {list(expected)}"
        for key in expected:
            assert_bit_equal(actual[key], expected[key], f"{name}[{key!r}]")
    elif isinstance(expected, Sequence) and not isinstance(expected, (str, bytes)):
        assert len(actual) == len(expected), f"{name}: {len(actual)} items, expected {len(expected)}"
        for index, (a, b) in enumerate(zip(actual, expected, strict=True)):
            assert_bit_equal(a, b, f"{name}[{index}]")
    elif isinstance(expected, float):
        assert_bit_equal(np.float64(actual), np.float64(expected), name)
    else:
        assert actual == expected, f"{name}: {actual!r}, expected {expected!r}"


def _same_bits(actual: torch.Tensor, expected: torch.Tensor, name: str) -> None:
    assert actual.dtype == expected.dtype, f"{name}: {actual.dtype}, expected {expected.dtype}"
    assert actual.layout == expected.layout == torch.strided, f"{name}: only strided tensors are compared"
    assert actual.shape == expected.shape, f"{name}: {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    differ = (_bytes(actual) != _bytes(expected)).any(-1)
    if differ.any():
        first = tuple(torch.nonzero(differ)[0].tolist())
        got, wanted = actual[first].item(), expected[first].item()
        count = f"{int(differ.sum())} of {differ.numel()} values differ"
        raise AssertionError(f"{name}: {count}, first at {first}: {got!r} is not {wanted!r}")


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    """The bytes of each value along a new last axis."""
    plain = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()
    return plain.unsqueeze(-1).view(torch.uint8)


def _same_bytes(actual: Any, expected: Any, name: str) -> None:
    assert actual.shape == expected.shape, f"{name}: {actual.shape}, expected {expected.shape}"
    size = actual.dtype.itemsize
    pair = [np.frombuffer(a.tobytes(), np.uint8).reshape(-1, size) for a in (actual, expected)]
    differ = np.flatnonzero((pair[0] != pair[1]).any(axis=1))
    if len(differ):
        first = tuple(int(i) for i in np.unravel_index(differ[0], actual.shape))
        got, wanted = actual[first].item(), expected[first].item()
        count = f"{len(differ)} of {actual.size} values differ"
        raise AssertionError(f"{name}: {count}, first at {first}: {got!r} is not {wanted!r}")


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Run a block with that many torch threads, then restore the number before.

    Example:
        >>> with threads(1):
        ...     torch.get_num_threads()
        1
    """
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def stride_variants(tensor: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """The same values in every memory layout that an op must accept; detached, each in its own memory.

    Yields (name, tensor): contiguous; in the middle of a larger storage; transposed (for two axes and more);
    every second element of a larger tensor along each axis, with NaN or the largest number between; channels
    last (four axes); expanded along each axis whose slices are all equal (stride 0). A reader that ignores
    strides or the offset meets foreign values in all but the first.

    Example:
        >>> [(name, t.stride()) for name, t in stride_variants(torch.ones(2, 3))][:3]
        [('contiguous', (3, 1)), ('offset', (3, 1)), ('transposed', (1, 2))]
    """
    for name, make in _layouts(tensor.detach()):
        yield name, make()


def stride_variant(tensor: torch.Tensor, number: int) -> torch.Tensor:
    """One of `stride_variants`, the last where there are fewer; the others are not made.

    Example:
        >>> stride_variant(torch.ones(2, 3), 2).stride()
        (1, 2)
    """
    *_, (_, make) = islice(_layouts(tensor.detach()), number + 1)
    return make()


def _layouts(values: torch.Tensor) -> Iterator[tuple[str, Callable[[], torch.Tensor]]]:
    yield "contiguous", partial(values.clone, memory_format=torch.contiguous_format)
    yield "offset", partial(_offset, values)
    if values.dim() >= 2:
        yield "transposed", partial(_transposed, values)
    if values.dim() == 4:
        yield "channels last", partial(values.clone, memory_format=torch.channels_last)
    for axis in range(values.dim()):
        yield f"every second along {axis}", partial(_every_second, values, axis)
    for axis in range(values.dim()):
        if values.shape[axis] > 1 and _equal_slices(values, axis):
            yield f"expanded along {axis}", partial(_expanded, values, axis)


def _offset(values: torch.Tensor) -> torch.Tensor:
    padded = torch.full(
        (values.numel() + 14,), _poison(values.dtype), dtype=values.dtype, device=values.device
    )
    return padded[7 : 7 + values.numel()].view(values.shape).copy_(values)


def _transposed(values: torch.Tensor) -> torch.Tensor:
    return values.transpose(0, 1).clone(memory_format=torch.contiguous_format).transpose(0, 1)


def _every_second(values: torch.Tensor, axis: int) -> torch.Tensor:
    shape = list(values.shape)
    shape[axis] = 2 * shape[axis] + 1
    spread = torch.full(shape, _poison(values.dtype), dtype=values.dtype, device=values.device)
    every_second = [slice(None)] * values.dim()
    every_second[axis] = slice(1, None, 2)
    return spread[tuple(every_second)].copy_(values)


def _expanded(values: torch.Tensor, axis: int) -> torch.Tensor:
    return values.narrow(axis, 0, 1).clone().expand(values.shape)


def _poison(dtype: torch.dtype) -> Any:
    if dtype == torch.bool:
        return True
    if dtype.is_floating_point or dtype.is_complex:
        return float("nan")
    return torch.iinfo(dtype).max


def _equal_slices(values: torch.Tensor, axis: int) -> bool:
    pattern = _bytes(values).movedim(axis, 0)
    return bool((pattern == pattern[:1]).all())


@contextmanager
def undrawn() -> Iterator[None]:
    """Networks made inside hold whatever memory held: for checks of names and sizes, and of weights that are loaded.

    Drawing the random weights of a published network takes most of the time of making it.

    Example:
        >>> with undrawn():
        ...     layer = torch.nn.Linear(3000, 2000)
        >>> tuple(layer.weight.shape)
        (2000, 3000)
    """
    kept = {name: torch.Tensor.__dict__.get(name) for name in ("normal_", "uniform_")}
    for name in kept:
        setattr(torch.Tensor, name, lambda tensor, *_, **__: tensor)
    try:
        yield
    finally:
        for name, own in kept.items():
            if own is None:
                delattr(torch.Tensor, name)
            else:
                setattr(torch.Tensor, name, own)
