"""The test kit that all packages share; names resolve lazily, so that a part loads only what it needs.

`tenfold.testing.strategies` holds the hypothesis strategies and is imported by its own name.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tenfold.testing._child import Outcome
    from tenfold.testing.browser import Page, open_page
    from tenfold.testing.cli import Example, example_lines, help_examples
    from tenfold.testing.data import missing, repository_root, require, sample_data
    from tenfold.testing.faults import corruptions
    from tenfold.testing.pages import page_examples
    from tenfold.testing.processes import (
        KilledAndResumed,
        assert_survives_disk_full,
        disk_full,
        sigkill_and_resume,
        unwritable_path,
    )
    from tenfold.testing.ranks import RankError, two_gloo_ranks
    from tenfold.testing.tensors import assert_bit_equal, stride_variants, threads

_ROOMS = {
    "_child": ["Outcome"],
    "browser": ["Page", "open_page"],
    "cli": ["Example", "example_lines", "help_examples"],
    "data": ["missing", "repository_root", "require", "sample_data"],
    "faults": ["corruptions"],
    "pages": ["page_examples"],
    "processes": [
        "KilledAndResumed",
        "assert_survives_disk_full",
        "disk_full",
        "sigkill_and_resume",
        "unwritable_path",
    ],
    "ranks": ["RankError", "two_gloo_ranks"],
    "tensors": ["assert_bit_equal", "stride_variants", "threads"],
}
_LAZY = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = [
    "Example",
    "KilledAndResumed",
    "Outcome",
    "Page",
    "RankError",
    "assert_bit_equal",
    "assert_survives_disk_full",
    "corruptions",
    "disk_full",
    "example_lines",
    "help_examples",
    "missing",
    "open_page",
    "page_examples",
    "repository_root",
    "require",
    "sample_data",
    "sigkill_and_resume",
    "stride_variants",
    "threads",
    "two_gloo_ranks",
    "unwritable_path",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f"tenfold.testing.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
