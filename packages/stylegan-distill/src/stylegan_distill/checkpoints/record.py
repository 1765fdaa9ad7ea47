"""What a file gives: networks of ours, where they come from, and what is not a tensor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from stylegan_distill.config import DiscriminatorConfig, GeneratorConfig, StyleGAN2Config
from stylegan_distill.networks import Generator, StyleGAN2Generator, StyleGAN3Generator, StyleGANDiscriminator
from tenfold._errors import UserInputError

__all__ = ["Checkpoint", "build", "checked"]


@dataclass
class Checkpoint:
    """Networks of one file.

    Attributes:
        G: generator as trained; None where the file has none.
        D: discriminator.
        G_ema: moving average of the generator.
        source_format: nvidia, tensorflow, rosinality, native or training.
        meta: what else is known: settings of the training data, warnings, the recipe.

    Example:
        >>> Checkpoint().networks()
        {}
    """

    G: Generator | None = None
    D: StyleGANDiscriminator | None = None
    G_ema: Generator | None = None
    source_format: str = "native"
    meta: dict[str, Any] = field(default_factory=dict)

    def networks(self) -> dict[str, nn.Module]:
        """Those there are, by name."""
        found = {"G": self.G, "D": self.D, "G_ema": self.G_ema}
        return {name: net for name, net in found.items() if net is not None}


def build(cfg: GeneratorConfig | DiscriminatorConfig) -> Any:
    """The network of a configuration, in evaluation mode; its random tensors are about to be replaced."""
    if isinstance(cfg, DiscriminatorConfig):
        return StyleGANDiscriminator(cfg).eval()
    kind: Any = StyleGAN2Generator if isinstance(cfg, StyleGAN2Config) else StyleGAN3Generator
    return kind(cfg).eval()


def checked(where: str, make: Callable[[], Any]) -> Any:
    """What ``make`` gives; the user's error, with the place in the file, where its values are refused."""
    try:
        return make()
    except ValueError as error:
        raise UserInputError(f"{where}: {error}") from error
