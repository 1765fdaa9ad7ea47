"""Defines operators: schema, reference, fake tensors and autograd in one place, for every op alike.

The schema and all Python sides are registered here; the shared object adds the CPU kernel under the same
name. The reference sits on ``CompositeExplicitAutograd``, which every device falls back to.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import torch

from tenfold import _native

__all__ = ["__contract__", "define", "invoke"]

_LIBRARY = torch.library.Library("tenfold", "DEF")
_MARK = "[tenfold:ValueError]"

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
    return getattr(torch.ops.tenfold, name).default


def _raise_value_error(error: RuntimeError) -> NoReturn:
    text = str(error)
    if _MARK not in text:
        raise error
    message = text.split(_MARK, 1)[1].split("\n", 1)[0]
    raise ValueError(message) from None


def invoke(op: Any, *args: Any) -> Any:
    """Call an operator; a content check that fails in the kernel comes back as a ValueError."""
    try:
        return op(*args)
    except RuntimeError as error:
        _raise_value_error(error)
