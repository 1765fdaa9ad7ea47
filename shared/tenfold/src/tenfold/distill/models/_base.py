"""What every network of the zoo has in common."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tenfold.train.modes import evaluating

__all__ = ["TappedNet", "conv", "init_like_resnet", "init_like_vgg", "mean_pool"]


class TappedNet(nn.Module):
    """A classifier that also returns its intermediate maps.

    Attributes:
        feature_dim: width of the pooled vector that feeds the classifier.
    """

    feature_dim: int

    def forward(self, x: Tensor, taps: bool = False, preact: bool = False) -> Any:
        """Logits ``(N, C)`` of images ``(N, 3, H, W)``; with ``taps`` what `forward_features` returns.

        The second form goes through the module's own call, so that hooks and parallel wrappers see it.
        """
        found = self.forward_features(x, preact)
        return found if taps else found[1]

    def forward_features(self, x: Tensor, preact: bool = False) -> tuple[list[Tensor], Tensor]:
        """Taps f0 ... fL (the last one is the pooled vector ``(N, D)``) and logits ``(N, C)``.

        Args:
            x: images ``(N, 3, H, W)``.
            preact: return the maps before their last rectification, where there is one.
        """
        raise NotImplementedError


def conv(c_in: int, c_out: int, size: int = 3, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution without bias that keeps the map's size at stride 1."""
    return nn.Conv2d(c_in, c_out, size, stride, size // 2, groups=groups, bias=False)


def mean_pool(x: Tensor) -> Tensor:
    """``(N, C, H, W)`` to ``(N, C)``."""
    return x.mean(dim=(2, 3))


def init_like_resnet(model: nn.Module) -> None:
    """Convolutions Kaiming-normal by fan-out; normalisation 1 and 0, linear layers as the library has them."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def init_like_vgg(model: nn.Module, linear_std: float | None = 0.01) -> None:
    """Convolutions N(0, 2 / (k² C_out)), biases 0, linear layers N(0, linear_std²) unless None."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
            nn.init.normal_(module.weight, 0.0, (2.0 / fan) ** 0.5)
        elif isinstance(module, nn.Linear) and linear_std is not None:
            nn.init.normal_(module.weight, 0.0, linear_std)
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)


def tap_shapes(model: Any, input_shape: tuple[int, int, int] = (3, 32, 32)) -> list[tuple[int, ...]]:
    """Shapes of the taps without the batch axis, by a pass over zeros that leaves the model as it was.

    Args:
        model: a `TappedNet`, or a function of a batch of images that returns (taps, logits).
        input_shape: ``(3, H, W)``.
    """
    run: Callable[[Tensor], tuple[list[Tensor], Tensor]] = getattr(model, "forward_features", model)
    owner = model if isinstance(model, nn.Module) else getattr(model, "model", nn.Identity())
    first = next(iter(owner.parameters()), torch.zeros(()))
    x = torch.zeros(1, *input_shape, dtype=first.dtype, device=first.device)
    with torch.no_grad(), evaluating(owner):
        taps, _ = run(x)
    return [tuple(tap.shape[1:]) for tap in taps]
