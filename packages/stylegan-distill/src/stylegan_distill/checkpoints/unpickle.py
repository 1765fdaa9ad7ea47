"""Pickles of NVIDIA's repositories, read by the restricted unpickler.

Such a file carries the Python source of its networks, and stock loaders run it. Here the source is dropped, and the
persistent objects become plain records of their state.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tenfold._errors import UserInputError
from tenfold.io import restricted_load

__all__ = ["Recorded", "TFNetwork", "read_pickle"]


@dataclass
class Recorded:
    """A persistent object: its class's name and its ``__dict__``; the source that came with it is dropped."""

    class_name: str
    state: dict[str, Any]

    def attribute(self, name: str, default: Any = None) -> Any:
        """A plain attribute, a keyword of the constructor, or the default."""
        if name in self.state:
            return self.state[name]
        return self.keywords().get(name, default)

    def keywords(self) -> dict[str, Any]:
        """Keywords of the constructor."""
        found = self.state.get("_init_kwargs")
        return dict(found) if isinstance(found, dict) else {}

    def child(self, name: str) -> Recorded | None:
        """A module inside."""
        found = (self.state.get("_modules") or {}).get(name)
        return found if isinstance(found, Recorded) else None

    def tensors(self, prefix: str = "") -> dict[str, Any]:
        """The state dict: parameters and buffers of this module and of those inside."""
        found = {}
        for part in ("_parameters", "_buffers"):
            for name, value in (self.state.get(part) or {}).items():
                if value is not None:
                    found[prefix + name] = value
        for name, module in (self.state.get("_modules") or {}).items():
            if isinstance(module, Recorded):
                found.update(module.tensors(f"{prefix}{name}."))
        return found


@dataclass
class TFNetwork:
    """A TensorFlow network: its pickled state, whose source is never looked at."""

    state: dict[str, Any] = field(default_factory=dict)

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, dict):
            raise UserInputError("network: its state is no dictionary")
        self.state = {k: v for k, v in state.items() if k not in ("build_module_src", "build_func_name")}


def _persistent(meta: Any) -> Recorded:
    if not isinstance(meta, dict) or not isinstance(meta.get("state"), dict):
        raise UserInputError("persistent object: holds no state")
    return Recorded(str(meta.get("class_name")), meta["state"])


def _easy_dict(*_: Any) -> dict[str, Any]:
    return {}  # its items follow


_ALLOWED: dict[str, Any] = {
    "torch_utils.persistence._reconstruct_persistent_obj": _persistent,
    "dnnlib.util.EasyDict": _easy_dict,
    "dnnlib.EasyDict": _easy_dict,
    "dnnlib.tflib.network.Network": TFNetwork,
}


def read_pickle(path: str | Path) -> Any:
    """Content of an NVIDIA pickle: persistent objects as `Recorded`, TensorFlow networks as `TFNetwork`.

    Raises:
        UnsafePickleError: the file names something else than tensors, arrays and those objects.
        UserInputError: damaged or truncated.
    """
    return restricted_load(path, allow=_ALLOWED, tensors=True)
