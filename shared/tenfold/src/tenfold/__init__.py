"""tenfold: 3D-vision kernels and the shared rooms of ten research packages.

Importing this package loads neither Lightning nor open3d nor matplotlib. Names resolve lazily, so that
``import tenfold.host`` and ``import tenfold.io`` do not load torch either.
"""

from typing import TYPE_CHECKING

from tenfold._errors import SlowPathWarning
from tenfold.lazy import lazy_names

if TYPE_CHECKING:
    from tenfold._native import empty_cache, show_config
    from tenfold._validation import validation
    from tenfold.ops._library import reference

__version__ = "0.1.0"

__all__ = ["SlowPathWarning", "__version__", "empty_cache", "reference", "show_config", "validation"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "._native": ["empty_cache", "show_config"],
        "._validation": ["validation"],
        ".ops._library": ["reference"],
    },
)
