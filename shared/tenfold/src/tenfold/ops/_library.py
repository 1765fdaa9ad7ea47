"""Defines operators: schema, reference, fake tensors and autograd in one place, for every op alike.

The schema and all Python sides are registered here; the shared object adds the CPU kernel under the same
name. The reference sits on ``CompositeExplicitAutograd``, which every device falls back to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import torch

from tenfold import _native

__all__ = ["__contract__", "define", "invoke", "no_second_derivative", "reference"]

_LIBRARY = torch.library.Library("tenfold", "DEF")
_MARK = "[tenfold:ValueError]"

_references: dict[Any, Callable[..., Any]] = {}
_differentiable: dict[Any, type[torch.autograd.Function]] = {}
_use_reference = False

#: op name -> contract number, raised whenever a documented edge case changes.
__contract__: dict[str, int] = {}


def define(
    schema: str,
    *,
    contract: int,
    reference: Callable[..., Any],
    fake: Callable[..., Any],
    backward: Callable[..., Any] | None = None,
    setup_context: Callable[..., Any] | None = None,
) -> Any:
    """Register one operator and return its callable overload.

    Args:
        schema: as torch writes them, without the namespace.
        contract: the number the binary must state for this op.
        reference: runs where no kernel is registered; takes the schema's arguments by position.
        fake: shapes and dtypes for fake tensors.
        backward: gradient formula; without one the outputs carry no gradient.
        setup_context: saves what ``backward`` needs.
    """
    name = schema.split("(")[0]

    def fallback(*args: Any) -> Any:
        _native.slow_path(name)
        return reference(*args)

    _LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    _LIBRARY.impl(name, fallback, "CompositeExplicitAutograd")
    torch.library.register_fake(f"tenfold::{name}", fake, lib=_LIBRARY)
    if backward is None:
        _LIBRARY.impl(name, torch.library.fallthrough_kernel, "Autograd")
    else:
        torch.library.register_autograd(
            f"tenfold::{name}", backward, setup_context=setup_context, lib=_LIBRARY
        )
    __contract__[name] = contract
    op = getattr(torch.ops.tenfold, name).default
    _references[op] = reference
    if backward is not None:
        _differentiable[op] = _function(reference, backward, setup_context)
    return op


def _function(
    reference: Callable[..., Any], backward: Callable[..., Any], setup_context: Callable[..., Any] | None
) -> type[torch.autograd.Function]:
    """The reference with the operator's gradient formula, as torch's dispatcher joins them."""

    class Reference(torch.autograd.Function):
        @staticmethod
        def forward(*args: Any) -> Any:
            return reference(*args)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            if setup_context is not None:
                setup_context(ctx, inputs, output)

    Reference.backward = staticmethod(backward)  # type: ignore[method-assign]
    return Reference


def no_second_derivative(op: str) -> Callable[..., NoReturn]:
    """The ``backward`` of an operator that is itself a gradient; ``op`` is the public function, for the message."""

    def backward(ctx: Any, *grads: Any) -> NoReturn:
        raise NotImplementedError(f"{op}: second derivatives are not available; detach the first gradient")

    return backward


@contextmanager
def reference() -> Iterator[None]:
    """Run the readable references instead of the kernels, for this process, to compare both on one's own data.

    Gradients too: a backward pass inside runs the references of the gradient formulas.

    Example:
        >>> import torch, tenfold
        >>> from tenfold.ops import nms
        >>> boxes, scores = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 1.9]]), torch.tensor([0.5, 0.9])
        >>> with tenfold.reference():
        ...     expected = nms(boxes, scores, 0.5)
        >>> torch.equal(nms(boxes, scores, 0.5), expected)
        True
    """
    global _use_reference
    before, _use_reference = _use_reference, True
    try:
        yield
    finally:
        _use_reference = before


def _raise_value_error(error: RuntimeError) -> NoReturn:
    text = str(error)
    if _MARK not in text:
        raise error
    message = text.split(_MARK, 1)[1].split("\n", 1)[0]
    raise ValueError(message) from None


def invoke(op: Any, *args: Any) -> Any:
    """Call an operator; a content check that fails in the kernel comes back as a ValueError."""
    if _use_reference:
        if op in _differentiable:
            return _differentiable[op].apply(*args)
        with torch.no_grad():
            return _references[op](*args)
    try:
        return op(*args)
    except RuntimeError as error:
        _raise_value_error(error)
