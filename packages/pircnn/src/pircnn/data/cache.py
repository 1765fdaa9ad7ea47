"""Maps of the image network on disk, one file per frame, at the image's own size."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tenfold._errors import UserInputError
from tenfold.io import read_json, write_bytes, write_json
from tenfold.io.arrays import read_npy

__all__ = ["DTYPES", "SemanticCache", "require_same_source"]

#: As stored; uint8 holds probabilities in steps of 1 / 255.
DTYPES = ("float16", "uint8")


class SemanticCache:
    """A folder of maps (Cs, H, W) with ``cache.json``: channels, kind of features, and the checkpoint's hash.

    Args:
        folder: written by `create`.

    Raises:
        UserInputError: no such cache, or a damaged one.

    Example:
        >>> import tempfile
        >>> cache = SemanticCache.create(tempfile.mkdtemp(), 2, "prob", "0" * 16)
        >>> cache.write("000001", np.full((2, 3, 4), 0.5, np.float32)); cache.read("000001").shape
        (2, 3, 4)
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        facts = self.folder / "cache.json"
        if not facts.is_file():
            raise UserInputError(
                f"{facts}: no cached maps; write them with `pircnn prepare --segmentation seg.ckpt --maps true`"
            )
        self.facts: dict[str, Any] = read_json(facts)
        missing = {"channels", "features", "checkpoint", "dtype"} - set(self.facts)
        if missing or self.facts["dtype"] not in DTYPES:
            raise UserInputError(f"{facts}: {', '.join(sorted(missing)) or 'dtype'}: run prepare again")

    @classmethod
    def create(
        cls, folder: str | Path, channels: int, features: str, checkpoint: str, dtype: str = "float16"
    ) -> SemanticCache:
        """A new cache, or the existing one of the same source, to be continued.

        Raises:
            UserInputError: the folder holds maps of another source.
        """
        facts = {"channels": channels, "features": features, "checkpoint": checkpoint, "dtype": dtype}
        if dtype not in DTYPES or (dtype == "uint8" and features != "prob"):
            raise UserInputError(f"dtype: got {dtype!r}; expected float16, or uint8 for probabilities")
        place = Path(folder) / "cache.json"
        if place.is_file() and read_json(place) != facts:
            raise UserInputError(f"{place}: holds {read_json(place)}; remove the folder to replace it")
        Path(folder).mkdir(parents=True, exist_ok=True)
        write_json(place, facts)
        return cls(folder)

    def path(self, frame_id: str) -> Path:
        """File of a frame."""
        return self.folder / f"{frame_id}.npy"

    def write(self, frame_id: str, semantics: npt.NDArray[np.float32]) -> None:
        """Store a map (Cs, H, W)."""
        values: npt.NDArray[Any] = semantics.astype(np.float16)
        if self.facts["dtype"] == "uint8":
            values = np.round(semantics * 255).astype(np.uint8)
        packed = io.BytesIO()
        np.save(packed, values)
        write_bytes(self.path(frame_id), packed.getvalue())

    def read(self, frame_id: str) -> npt.NDArray[np.float32]:
        """Map (Cs, H, W) float32 of a frame.

        Raises:
            UserInputError: missing, damaged, or with other channels.
        """
        path = self.path(frame_id)
        values = read_npy(path)
        if values.ndim != 3 or values.shape[0] != self.facts["channels"]:
            raise UserInputError(
                f"{path}: shape: got {values.shape}; expected ({self.facts['channels']}, H, W)"
            )
        scaled = values.astype(np.float32)
        return scaled / np.float32(255) if values.dtype == np.uint8 else scaled


def require_same_source(
    facts: dict[str, Any], channels: int, features: str, checkpoint: str | None, source: str | Path
) -> None:
    """Refuse stored semantics of another image network or of another kind.

    Args:
        facts: ``channels``, ``features`` and ``checkpoint`` as written beside them.
        channels: that the detector reads.
        features: "prob", "logits" or "penultimate", as the detector's fusion reads them.
        checkpoint: hash of its image network's checkpoint; None where it is not known.
        source: for the message.

    Raises:
        UserInputError: they differ.
    """
    for name, wanted in (("channels", channels), ("features", features)):
        if facts.get(name) != wanted:
            raise UserInputError(
                f"{source}: {name}: got {facts.get(name)}; the detector reads {wanted}; run prepare again"
            )
    if checkpoint is not None and facts.get("checkpoint") != checkpoint:
        raise UserInputError(
            f"{source}: checkpoint: made with {facts.get('checkpoint')}, the detector's image network is {checkpoint}; "
            "run prepare again"
        )
