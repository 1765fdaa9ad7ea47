"""The tiny weights in the package's ``assets/``: their recipe, and how they are made again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparsepoint.experiment import ARMS, Arm, train

__all__ = ["SHIPPED", "save_tiny", "ship"]

#: Name of the weights -> the claim's arm that they are trained as, with seed 0, which the claim leaves out.
SHIPPED: dict[str, Arm] = {"tiny": ARMS["sparse"], "tiny_votenet": ARMS["dense-votenet"]}


def save_tiny(path: Path, model: Any, recipe: Mapping[str, Any]) -> str:
    """Write a tiny checkpoint with half-precision weights and its recipe; returns its SHA-256."""
    from tenfold.io import save_checkpoint, write_json

    halves = {
        name: value.half() if value.is_floating_point() else value
        for name, value in model.state_dict().items()
    }
    save_checkpoint(path, {"config": model.config.to_dict(), "state_dict": halves})
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    write_json(path.with_suffix(".json"), {**recipe, "sha256": digest})
    return digest


def ship(name: str, folder: Path, seed: int = 0) -> str:
    """Train the weights of `SHIPPED` again and write them with their recipe; returns their SHA-256."""
    arm = SHIPPED[name]
    model, losses = train(arm, seed)
    return save_tiny(folder / f"{name}.pt", model, recipe_of(name, seed, losses[-1]))


def recipe_of(name: str, seed: int, last_loss: float) -> dict[str, Any]:
    """What stands beside the weights: how `ship` makes them."""
    return {
        "made_by": f"sparsepoint.shipped.ship({name!r}, ...)",
        "seed": seed,
        "data": "generated rooms of four classes (sparsepoint.data.rooms)",
        "weights": "half precision",
        "last_loss": last_loss,
        "recipe": SHIPPED[name].to_dict(),
    }
