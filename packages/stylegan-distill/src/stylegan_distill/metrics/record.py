"""What a metric returns: numbers with the facts they depend on, and one line of JSON for a log."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tenfold.io import write_text

__all__ = ["Measured", "append_jsonl"]


@dataclass(frozen=True)
class Measured:
    """Numbers of one metric.

    Attributes:
        values: name -> number; the name says what may be compared with it (``fid50k_full``, ``fd_tiny``).
        facts: preset, hash of the feature network, counts, seed, filter of the data.

    >>> Measured({"fd_tiny": 0.25}, {"seed": 0})["fd_tiny"]
    0.25
    """

    values: Mapping[str, float]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> float:
        return self.values[name]


def append_jsonl(path: Path, record: Mapping[str, Any]) -> None:
    """Add one line to a file of JSON lines; the file is replaced as a whole, so no line is ever half there.

    A number that is not defined (NaN) is written as null: JSON has no other word for it.
    """
    old = path.read_text(encoding="utf-8") if path.is_file() else ""
    plain = {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in record.items()}
    write_text(path, old + json.dumps(plain) + "\n")
