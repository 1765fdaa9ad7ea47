"""tenfold: 3D-vision kernels and the shared rooms of ten research packages.

Importing this package loads neither Lightning nor open3d nor matplotlib. Names resolve lazily, so that
``import tenfold.host`` and ``import tenfold.io`` do not load torch either.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tenfold._errors import SlowPathWarning

if TYPE_CHECKING:
    from tenfold._native import empty_cache, show_config
    from tenfold._validation import validation
    from tenfold.ops._library import reference

__version__ = "0.1.0"

_LAZY = {
    "empty_cache": "tenfold._native",
    "reference": "tenfold.ops._library",
    "show_config": "tenfold._native",
    "validation": "tenfold._validation",
}

__all__ = ["SlowPathWarning", "__version__", "empty_cache", "reference", "show_config", "validation"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
