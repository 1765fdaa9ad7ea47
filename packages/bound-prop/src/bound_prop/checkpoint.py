"""Networks from the settings of a recipe and from checkpoints that `fit` has written; needs no Lightning."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from bound_prop.models import build_model
from tenfold._errors import UserInputError
from tenfold.io import load_checkpoint, load_strict

__all__ = ["build_from", "load_network"]

_PREFIX = "objective.bounded.model."


def build_from(settings: Mapping[str, Any]) -> nn.Module:
    """The network that a recipe or a checkpoint's hyper-parameters describe.

    Raises:
        UserInputError: an unknown network, or sizes that do not fit it.
    """
    try:
        return build_model(
            settings["network"],
            tuple(settings["shape"]),
            settings["classes"],
            activation=settings["activation"],
            eta=settings["eta"][0],
            per_channel=settings.get("per_channel", False),
            mean=settings.get("mean"),
            std=settings.get("std"),
        )
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserInputError(f"model: {error}") from error


def load_network(checkpoint: str | Path) -> tuple[nn.Module, dict[str, Any]]:
    """The network of a checkpoint in evaluation mode, and the settings it was trained with.

    Raises:
        UserInputError: a missing or damaged file, or one that `fit` has not written.
    """
    content = load_checkpoint(checkpoint)
    settings = content.get("hyper_parameters") if isinstance(content, dict) else None
    if not isinstance(settings, dict) or "network" not in settings or "state_dict" not in content:
        raise UserInputError(
            f"{checkpoint}: hyper_parameters: missing; expected a checkpoint written by `bound-prop fit`"
        )
    model = build_from(settings)
    state = {k.removeprefix(_PREFIX): v for k, v in content["state_dict"].items() if k.startswith(_PREFIX)}
    load_strict(model, state, source=checkpoint)
    return model.eval(), dict(settings)
