"""Checks that every operator must pass: the same bits for any thread count, instruction set and stride."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from tenfold import _native
from tenfold.testing.tensors import stride_variants, threads

__all__ = [
    "assert_caught",
    "assert_same",
    "check_forked",
    "check_levels",
    "check_op",
    "check_strides",
    "check_threads",
    "cpu_levels",
    "scratch_bytes",
    "threads",
]


def cpu_levels() -> list[int]:
    """Instruction-set levels this processor and this build can run; empty without native code."""
    usable = []
    best = _native.cpu_level()
    for level in (2, 3, 4):
        try:
            _native.set_cpu_level(level)
            usable.append(level)
        except ValueError:
            continue
    if best:
        _native.set_cpu_level(best)
    return usable


def _tensors(result: Any) -> list[Tensor]:
    if isinstance(result, Tensor):
        return [result]
    return [t for part in result for t in _tensors(part)]


def assert_same(a: Any, b: Any, *, rtol: float | None = None, what: str = "results") -> None:
    """Assert equal shapes, dtypes and values (NaN equals NaN, -0.0 equals 0.0); with ``rtol``, floats may differ by it.

    Args:
        a: a tensor, or nested sequences of tensors.
        b: the same structure.
        rtol: relative and absolute tolerance for floating-point tensors; None allows none.
        what: what is compared, for the message.
    """
    left, right = _tensors(a), _tensors(b)
    assert len(left) == len(right), f"{what}: {len(left)} tensors against {len(right)}"
    for i, (x, y) in enumerate(zip(left, right, strict=True)):
        assert x.shape == y.shape, f"{what}[{i}]: shape {tuple(x.shape)} against {tuple(y.shape)}"
        assert x.dtype == y.dtype, f"{what}[{i}]: {x.dtype} against {y.dtype}"
        if rtol is not None and x.dtype.is_floating_point:
            if not torch.allclose(x, y, rtol=rtol, atol=rtol, equal_nan=True):  # a third of the other's time
                torch.testing.assert_close(x, y, rtol=rtol, atol=rtol, equal_nan=True)
            continue
        same = (x == y) | ((x != x) & (y != y))
        assert bool(same.all()), f"{what}[{i}]: {int((~same).sum())} of {x.numel()} entries differ"


def assert_caught(
    checks: Sequence[Callable[[Any], Any]],
    variant: Any,
    errors: type[Exception] | tuple[type[Exception], ...] = AssertionError,
) -> None:
    """Assert that one of the checks fails for a wrong variant of an operator; the checks after it do not run."""
    for check in checks:
        try:
            check(variant)
        except errors:
            return
    raise AssertionError("no check notices the wrong variant")


def scratch_bytes(call: Callable[[], Any], count: int = 1) -> int:
    """Largest number of scratch bytes that ``call()`` has in use at once, on ``count`` threads.

    Every thread takes scratch of its own, so that a bound holds for one number of threads only.
    """
    with threads(count):
        _native.scratch_peak(reset=True)
        call()
        return _native.scratch_peak(reset=True)


def check_threads(call: Callable[[], Any], counts: Sequence[int] = (1, 2, 3, 7)) -> None:
    """Assert that ``call()`` returns the same bits for every thread count."""
    with threads(counts[0]):
        expected = call()
    for count in counts[1:]:
        with threads(count):
            assert_same(expected, call(), what=f"{count} threads")


def check_levels(call: Callable[[], Any], *, rtol: float | None = None) -> None:
    """Assert that ``call()`` agrees between all instruction-set builds: bits, or ``rtol`` for float sums."""
    levels = cpu_levels()
    best = _native.cpu_level()
    try:
        results = []
        for level in levels:
            _native.set_cpu_level(level)
            results.append(call())
    finally:
        if best:
            _native.set_cpu_level(best)
    for level, result in zip(levels[1:], results[1:], strict=True):
        assert_same(results[0], result, rtol=rtol, what=f"level v{level} against v{levels[0]}")


def check_strides(call: Callable[..., Any], *inputs: Tensor) -> None:
    """Assert that ``call(*inputs)`` does not depend on strides and writes to none of its inputs."""
    before = [value.clone() for value in inputs]
    expected = call(*inputs)
    assert_same(before, list(inputs), what="inputs after the call")
    for position, value in enumerate(inputs):
        for name, variant in stride_variants(value):
            changed = list(inputs)
            changed[position] = variant
            assert_same(expected, call(*changed), what=f"input {position}, {name}")


def check_forked(call: Callable[[], Any]) -> None:
    """Assert that ``call()`` returns the same bits in a process forked off this one, which has made the call."""
    expected = call()
    context = multiprocessing.get_context("fork")
    reader, writer = context.Pipe(duplex=False)
    worker = context.Process(target=lambda: writer.send([t.numpy() for t in _tensors(call())]))
    worker.start()
    writer.close()
    assert reader.poll(60), "a forked process does not answer"
    found = reader.recv()
    worker.join()
    assert_same(_tensors(expected), [torch.from_numpy(array) for array in found], what="a forked process")


def check_op(op: Any, args: Sequence[Any], *, traced: bool = True) -> None:
    """Run torch.library.opcheck on one set of arguments.

    Args:
        op: an overload, such as ``torch.ops.tenfold.nms.default``.
        args: its arguments.
        traced: also trace the operator, and its backward where an input requires a gradient, for compilation. That
            takes most of the time; further arguments of an operator differ in what its meta function returns,
            which is compared in any case.
    """
    checks = ["test_schema", "test_autograd_registration", "test_faketensor"]
    torch.library.opcheck(op, tuple(args), test_utils=[*checks, *["test_aot_dispatch_dynamic"] * traced])
