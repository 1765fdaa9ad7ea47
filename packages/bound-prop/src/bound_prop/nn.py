"""ParamRamp, and turning the activations of a network into it (Lyu et al. 2021, section 5 and appendix B.4)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "SMALLEST_KNEE",
    "Leaky",
    "Normalize",
    "ParamRamp",
    "calibrate_param_ramp",
    "convert_activations",
    "param_ramps",
    "set_eta",
    "set_knee_enabled",
]

#: Knees stay at or above this: at 0 the function would not be continuous.
SMALLEST_KNEE = 1e-4


class _Sloped(nn.Module):
    """A slope, and a switch, kept twice: as buffers for checkpoints, as numbers for speed and for export."""

    eta: Tensor
    enabled: Tensor

    def __init__(self, eta: float) -> None:
        super().__init__()
        self.register_buffer("eta", torch.tensor(0.0, dtype=torch.float64))
        self.register_buffer("enabled", torch.tensor(True))
        self._number, self._on = 0.0, True
        self.set_eta(eta)

    def set_eta(self, eta: float) -> None:
        """Sets the slope of the flat sides.

        Raises:
            ValueError: outside [0, 1).
        """
        if not 0.0 <= eta < 1.0:
            raise ValueError(f"{type(self).__name__}: eta: got {eta}; expected a number in [0, 1)")
        self.eta.fill_(eta)
        self._number = float(eta)

    def set_enabled(self, enabled: bool) -> None:
        """Switches the knee on or off."""
        self.enabled.fill_(enabled)
        self._on = bool(enabled)

    def slope(self) -> float:
        """The slope as a number."""
        return self._number

    def is_enabled(self) -> bool:
        """Whether the knee is on."""
        return self._on

    def _load_from_state_dict(self, *args: Any, **keywords: Any) -> None:
        super()._load_from_state_dict(*args, **keywords)
        # Casts of the module may have narrowed the buffer: the number is rounded to what was stored.
        self._number, self._on = round(float(self.eta), 12), bool(self.enabled)


class ParamRamp(_Sloped):
    """Slope ``eta`` below 0, 1 up to the knee, ``eta`` beyond it; one learnt knee for each neuron.

    ``f(z) = LeakyReLU(z) - (1 - eta) ReLU(z - r)`` (equation 139). While the knee is off (the clean epochs) it
    is LeakyReLU. Slope and switch are buffers: a checkpoint holds the ones it was written with.

    Args:
        shape: features of the input without the batch, or a broadcastable shape such as ``(C, 1, 1)`` for a
            knee per channel.
        eta: slope of the flat sides, in [0, 1).
        init: first value of every knee.

    >>> ramp = ParamRamp((2,), init=1.0)
    >>> ramp(torch.tensor([[-1.0, 3.0]])).tolist()
    [[0.0, 1.0]]
    """

    def __init__(self, shape: Sequence[int], eta: float = 0.0, init: float = 1.0) -> None:
        super().__init__(eta)
        if init < SMALLEST_KNEE:
            raise ValueError(f"ParamRamp: init: got {init}; expected at least {SMALLEST_KNEE}")
        self.knee = nn.Parameter(torch.full(tuple(shape), float(init)))

    def forward(self, z: Tensor) -> Tensor:
        """``(N, *shape)`` to the same shape."""
        eta = self.slope()
        left = F.leaky_relu(z, eta) if eta else F.relu(z)
        if not self.is_enabled():
            return left
        return left - (1 - eta) * F.relu(z - self.knee)

    @torch.no_grad()
    def clamp_(self) -> None:
        """Lifts knees that a gradient step has pushed below the smallest allowed one."""
        self.knee.clamp_(min=SMALLEST_KNEE)

    @torch.no_grad()
    def jitter_(self, share: float, generator: torch.Generator | None = None) -> None:
        """Adds normal noise of deviation ``share`` times the mean knee (appendix B.4, against over-fitting)."""
        noise = torch.randn(self.knee.shape, generator=generator, dtype=self.knee.dtype).to(self.knee.device)
        self.knee.add_(noise * (share * self.knee.mean()))
        self.clamp_()


class Leaky(_Sloped):
    """LeakyReLU whose slope is a buffer: it can be scheduled, and a checkpoint holds it.

    >>> Leaky(0.1)(torch.tensor([-1.0, 2.0])).tolist()
    [-0.10000000149011612, 2.0]
    """

    def __init__(self, eta: float = 0.01) -> None:
        super().__init__(eta)

    def forward(self, z: Tensor) -> Tensor:
        """Any shape."""
        return F.leaky_relu(z, self.slope())


class Normalize(nn.Module):
    """``(x - mean) / std`` for each channel, as a network's first layer: eps stays in pixel units.

    >>> Normalize([0.5], [0.25])(torch.ones(1, 1, 2, 2)).flatten().tolist()
    [2.0, 2.0, 2.0, 2.0]
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)``."""
        return (x - self.mean) / self.std


def param_ramps(model: nn.Module) -> list[ParamRamp]:
    """Every ParamRamp of a model, in order."""
    return [module for module in model.modules() if isinstance(module, ParamRamp)]


def set_eta(model: nn.Module, eta: float) -> None:
    """Sets the slope of every `ParamRamp` and `Leaky` of a model."""
    for module in model.modules():
        if isinstance(module, (ParamRamp, Leaky)):
            module.set_eta(eta)


def set_knee_enabled(model: nn.Module, enabled: bool) -> None:
    """Switches the knees of every ParamRamp on or off."""
    for ramp in param_ramps(model):
        ramp.set_enabled(enabled)


Kind = Literal["relu", "leaky_relu", "param_ramp"]
_REPLACED = (nn.ReLU, nn.LeakyReLU, Leaky, ParamRamp)


def convert_activations(
    model: nn.Module,
    kind: Kind,
    *,
    example_input: Tensor,
    eta: float = 0.0,
    init: float = 1.0,
    per_channel: bool = False,
) -> nn.Module:
    """Replaces every ReLU, LeakyReLU and ParamRamp module of a model, in place, and returns the model.

    Args:
        model: the model; activations must be modules, each used once.
        kind: what to put in.
        example_input: ``(1, *input)``; tells the number of neurons.
        eta: slope of the flat sides.
        init: first value of every knee.
        per_channel: one knee for a channel instead of one for a neuron.

    Raises:
        ValueError: an unknown kind, or no activation module to replace.

    >>> net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> convert_activations(net, "param_ramp", example_input=torch.zeros(1, 3))[1].knee.shape
    torch.Size([4])
    """
    names = [n for n, m in model.named_modules() if isinstance(m, _REPLACED)]
    if kind not in ("relu", "leaky_relu", "param_ramp"):
        raise ValueError(f"convert_activations: kind: got {kind!r}; expected relu, leaky_relu or param_ramp")
    if not names:
        raise ValueError("convert_activations: model: got no ReLU, LeakyReLU or ParamRamp module")
    shapes = _feature_shapes(model, names, example_input)
    for name in names:
        owner = model.get_submodule(name.rpartition(".")[0])
        shape = shapes[name]
        if per_channel:
            shape = (shape[0], *[1] * (len(shape) - 1))
        new: nn.Module = nn.ReLU()
        if kind == "leaky_relu":
            new = Leaky(eta)
        elif kind == "param_ramp":
            new = ParamRamp(shape, eta, init).to(example_input.device, example_input.dtype)
        setattr(owner, name.rpartition(".")[2], new)
    return model


def _feature_shapes(model: nn.Module, names: Iterable[str], x: Tensor) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    handles = []
    for name in names:

        def note(module: nn.Module, args: Any, out: Any, name: str = name) -> None:
            shapes[name] = tuple(out.shape[1:])

        handles.append(model.get_submodule(name).register_forward_hook(note))
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            model(x)
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    missing = [name for name in names if name not in shapes]
    if missing:
        raise ValueError(f"convert_activations: model: {missing[0]} is not used in its forward pass")
    return shapes


@torch.no_grad()
def calibrate_param_ramp(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Sets every knee to the neuron's mean activation over a data set, then switches the knees on.

    The mean is of the activation with the knee off, negative values included, not below 1e-4. Run it with the
    un-augmented training images at the end of the clean epochs (appendix B.4). Under torch.distributed the
    means are those of all processes together.

    Args:
        model: the model, left in the mode that it has.
        batches: inputs ``(N, *input)``.

    Raises:
        ValueError: no inputs.
    """
    ramps = param_ramps(model)
    sums = [torch.zeros(ramp.knee.shape, dtype=torch.float64, device=ramp.knee.device) for ramp in ramps]
    counts = [0] * len(ramps)
    handles = []
    for index, ramp in enumerate(ramps):

        def add(module: nn.Module, args: Any, out: Tensor, index: int = index) -> None:
            shape = sums[index].shape
            values = out.double()
            axes = [0, *(1 + a for a, n in enumerate(shape) if n == 1 and out.shape[1 + a] != 1)]
            sums[index] += values.sum(axes, keepdim=False).view(shape)
            counts[index] += out.numel() // sums[index].numel()

        handles.append(ramp.register_forward_hook(add))
    training = model.training
    model.eval()
    set_knee_enabled(model, False)
    try:
        for batch in batches:
            model(batch)
    finally:
        model.train(training)
        set_knee_enabled(model, True)
        for handle in handles:
            handle.remove()
    for ramp, total, count in zip(ramps, sums, counts, strict=True):
        mean = _all_mean(total, count)
        ramp.knee.copy_(mean.clamp(min=SMALLEST_KNEE).to(ramp.knee))


def _all_mean(total: Tensor, count: int) -> Tensor:
    number = torch.tensor(float(count), dtype=torch.float64, device=total.device)
    dist = torch.distributed
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(total)
        dist.all_reduce(number)
    if number == 0:
        raise ValueError("calibrate_param_ramp: batches: got no inputs; expected the training images")
    return total / number
