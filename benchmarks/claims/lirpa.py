"""Bounds of bound-prop beside those of auto_LiRPA: equal where the lines are, and whose are tighter where not.

auto_LiRPA is optional and not installed by us: put a checkout of its source on the import path (commit `COMMIT` was
compared; the published package does not import under the torch that we use).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bound_prop import BoundedModule, LpBall, margin_spec
from tenfold._errors import UserInputError

__all__ = ["COMMIT", "NETWORKS", "measure", "prepared"]

COMMIT = "a050a3d61f4cb68b108fa7f07dcb3e4d7ef304df"
IMAGES, CLASSES, SIDE = 16, 10, 10
_PAIRS = (("ibp", "IBP"), ("crown-ibp", "CROWN-IBP"), ("crown", "CROWN"))
# With activations other than these, "zero-lb" has no meaning there: only intervals use the same arithmetic.
_SAME_LINES = ("mlp-relu", "conv-relu", "conv-leaky", "residual")


def _mlp(activation: nn.Module) -> nn.Module:
    return nn.Sequential(
        *(nn.Flatten(), nn.Linear(SIDE * SIDE, 64), activation, nn.Linear(64, 64), activation),
        nn.Linear(64, CLASSES),
    )


def _conv(activation: nn.Module, pool: bool = False) -> nn.Module:
    middle: nn.Module = nn.MaxPool2d(2) if pool else nn.Conv2d(8, 8, 3, 2, 1)
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3, 1, 1), activation, middle, *([] if pool else [activation])),
        *(nn.Flatten(), nn.Linear(8 * (SIDE // 2) ** 2, 32), activation, nn.Linear(32, CLASSES)),
    )


class _Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner, self.norm = (
            nn.Conv2d(1, 8, 3, 2, 1),
            nn.Conv2d(8, 8, 3, 1, 1),
            nn.BatchNorm2d(8),
        )
        self.head = nn.Linear(8 * (SIDE // 2) ** 2, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        stem = torch.relu(self.stem(x))
        out: Tensor = self.head(torch.relu(stem + self.norm(self.inner(stem))).flatten(1))
        return out


#: Name -> (network, radius). Weights are those of torch's initialisation under the cell's seed.
NETWORKS: Mapping[str, tuple[Callable[[], nn.Module], float]] = {
    "mlp-relu": (lambda: _mlp(nn.ReLU()), 0.02),
    "conv-relu": (lambda: _conv(nn.ReLU()), 0.02),
    "conv-leaky": (lambda: _conv(nn.LeakyReLU(0.1)), 0.02),
    "residual": (_Residual, 0.02),
    "mlp-sigmoid": (lambda: _mlp(nn.Sigmoid()), 0.1),
    "mlp-tanh": (lambda: _mlp(nn.Tanh()), 0.1),
    "conv-maxpool": (lambda: _conv(nn.ReLU(), pool=True), 0.02),
}


def measure(network: str, seed: int) -> dict[str, float]:
    """Lower bounds of all margins by both libraries, float32.

    Returns:
        ``<method> difference``: the largest, over all bounds, relative to the spread of the interval bounds, where both
        use the same lines; ``mean margin ...``; and how often one is tighter than the other by more than 1e-5 of
        that spread, ours with its best choice of lines and theirs with its default.

    Raises:
        UserInputError: auto_LiRPA is not importable here.
    """
    build, eps = NETWORKS[network]
    torch.manual_seed(seed)
    model = build().eval()
    images, labels = torch.rand(IMAGES, 1, SIDE, SIDE), torch.randint(CLASSES, (IMAGES,))
    spec = margin_spec(labels, CLASSES)
    theirs = _theirs(model, images, spec, eps)
    bounded, region = BoundedModule(model, images[:1]), LpBall(images, eps)

    def ours(method: str, lines: str = "tight") -> Tensor:
        found = bounded.compute_bounds(region, spec, method=method, upper=False, lines=lines).lower  # type: ignore[arg-type]
        assert found is not None
        return found.detach()

    unit = float(ours("ibp").std())
    result: dict[str, float] = {}
    for method, name in _PAIRS if network in _SAME_LINES else _PAIRS[:1]:
        gap = (ours(method) - theirs(name, "zero-lb")).abs().max()
        result[f"{method} difference"] = float(gap) / unit
    default = theirs("CROWN", "adaptive")
    best = torch.maximum(ours("crown"), ours("crown", "adaptive"))
    result["mean margin, ours"] = float(best.mean())
    result["mean margin, theirs"] = float(default.mean())
    result["ours tighter %"] = 100.0 * float((best > default + 1e-5 * unit).float().mean())
    result["theirs tighter %"] = 100.0 * float((default > best + 1e-5 * unit).float().mean())
    return result


def prepared(model: nn.Module, images: Tensor, eps: float, lines: str) -> tuple[Any, Any]:
    """auto_LiRPA's wrapper of a model, traced, and its ball around images.

    Args:
        model: the network.
        images: ``(B, *input)``, the centres.
        eps: radius.
        lines: its name of a choice of lines; "zero-lb" is what we call tight.

    Raises:
        UserInputError: it is not importable here.
    """
    try:
        from auto_LiRPA import BoundedModule as Bounded
        from auto_LiRPA import BoundedTensor, PerturbationLpNorm
    except ImportError as error:
        raise UserInputError(f"auto_LiRPA: put its source on PYTHONPATH ({error})") from error
    options: dict[str, Any] = {"activation_bound_option": lines, "conv_mode": "patches"}
    bounded = Bounded(model, torch.zeros_like(images), bound_opts=options)
    return bounded, BoundedTensor(images, PerturbationLpNorm(norm=float("inf"), eps=eps))


def _theirs(model: nn.Module, images: Tensor, spec: Tensor, eps: float) -> Callable[[str, str], Tensor]:
    @torch.no_grad()
    def bound(method: str, lines: str) -> Tensor:
        bounded, region = prepared(model, images, eps, lines)
        low: Tensor = bounded.compute_bounds(x=(region,), C=spec, method=method, bound_upper=False)[0]
        return low

    return bound
