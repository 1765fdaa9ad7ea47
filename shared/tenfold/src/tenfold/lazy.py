"""Names that load on first use, so that importing a package loads nothing."""

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

__all__ = ["lazy_names"]


def lazy_names(
    package: str, rooms: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The ``__getattr__`` and ``__dir__`` of a package that resolves its names when they are first asked for.

    Args:
        package: its ``__name__``.
        rooms: what ``from room import names`` would say: a module, relative as ".losses" or absolute, and names
            in it; "." stands for the package itself, whose names are modules.

    Example:
        >>> get, names = lazy_names("json", {".decoder": ["JSONDecodeError"], ".": ["scanner"]})
        >>> get("JSONDecodeError").__name__, get("scanner").__name__, "scanner" in names()
        ('JSONDecodeError', 'json.scanner', True)
        >>> get("yolo")
        Traceback (most recent call last):
        ...
        AttributeError: module 'json' has no attribute 'yolo'
    """
    room_of = {name: room for room, names in rooms.items() for name in names}

    def get(name: str) -> Any:
        if name not in room_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        room = room_of[name]
        # getattr on the package itself would end up here again.
        return (
            import_module(f".{name}", package) if room == "." else getattr(import_module(room, package), name)
        )

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *room_of})

    return get, names
