"""Counting computation: parameters, multiply-accumulates per module, and ledgers of images x cost."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tenfold.train.modes import evaluating

__all__ = ["Cost", "CostLedger", "count_macs", "count_parameters"]


def count_parameters(model: nn.Module, trainable_only: bool = False) -> int:
    """Number of parameters; one that is shared by several modules counts once.

    >>> count_parameters(torch.nn.Linear(3, 2))
    8
    """
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable_only)


@dataclass(frozen=True)
class Cost:
    """Multiply-accumulates of one forward pass.

    Attributes:
        macs: Total.
        modules: Module name -> MACs spent in it and its children; ``""`` is the model.
        operators: Operator name -> MACs.
    """

    macs: int
    modules: Mapping[str, int]
    operators: Mapping[str, int]

    def table(self, depth: int = 2) -> str:
        """Markdown table of the modules down to ``depth`` levels, with their share."""
        lines = ["| module | MACs | share |", "|---|---:|---:|"]
        for name, macs in self.modules.items():
            if name.count(".") < depth:
                share = 100.0 * macs / self.macs if self.macs else 0.0
                lines.append(f"| {name or 'total'} | {macs:,} | {share:.1f} % |")
        return "\n".join(lines)


def count_macs(
    model: nn.Module,
    *inputs: Any,
    formulas: Mapping[Any, Callable[..., int]] | None = None,
    **keywords: Any,
) -> Cost:
    """Multiply-accumulates of ``model(*inputs, **keywords)``: convolution, matrix products and attention.

    Counted below autograd, whatever way the model calls them: convolution (grouped, transposed), linear,
    matmul, bmm, scaled dot-product attention, torchvision's deformable convolution (as the plain
    convolution of its shape), recurrent layers. Biases, normalisation, activations and pooling count
    nothing, which is the convention of published tables. The pass runs without gradients and in eval mode;
    modes and buffers are as before afterwards.

    Args:
        model: The model.
        *inputs: Its arguments; the batch dimension counts, so give a batch of one for a cost per image.
        formulas: Operator packet (such as ``torch.ops.mylib.conv``) -> function of the arguments' shapes and
            ``out_shape`` that returns MACs, for operators of your own.
        **keywords: Its keyword arguments.

    >>> count_macs(torch.nn.Conv2d(3, 8, 3, padding=1), torch.zeros(1, 3, 10, 10)).macs
    21600
    """
    custom = {**_torchvision_formulas(), **(formulas or {})}
    counter = FlopCounterMode(
        display=False, custom_mapping={op: _as_flops(rule) for op, rule in custom.items()}
    )
    with evaluating(model), torch.no_grad(), _single_products(), counter:
        model(*inputs, **keywords)
    counts = counter.get_flop_counts()
    root = type(model).__name__
    modules = {
        _relative(name, root): sum(by_op.values()) // 2 for name, by_op in counts.items() if name != "Global"
    }
    operators = {str(op): flops // 2 for op, flops in counts.get("Global", {}).items()}
    total = counter.get_total_flops() // 2
    return Cost(total, {"": total, **{name: macs for name, macs in modules.items() if name}}, operators)


@dataclass
class CostLedger:
    """Images that went through each network, times what an image costs.

    A watched network counts its own images by a hook, so the ledger holds what was run and not what a
    formula says; a pass with gradients on also counts its backward pass. Two conventions exist for a
    backward pass: as dear as the forward pass (``backward_multiplier=1``) or twice as dear (2, the usual
    estimate): `total` takes either.

    >>> ledger = CostLedger(); student = torch.nn.Linear(4, 2)
    >>> handle = ledger.watch("student", student, macs_per_image=8)
    >>> with torch.no_grad():
    ...     _ = student(torch.zeros(64, 4))
    >>> _ = student(torch.zeros(48, 4)); handle.remove()
    >>> ledger.forward_images, ledger.backward_images, ledger.total(backward_multiplier=1.0)
    ({'student': 112}, {'student': 48}, 1280.0)
    """

    macs_per_image: dict[str, float] = field(default_factory=dict)
    forward_images: dict[str, int] = field(default_factory=dict)
    backward_images: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, *, macs_per_image: float, forward: int, backward: int = 0) -> None:
        """Enters ``forward`` images, ``backward`` of which also went backwards.

        Raises:
            ValueError: a negative count, or another cost per image than entered before under this name.
        """
        if forward < 0 or backward < 0:
            raise ValueError(
                f"CostLedger: {name}: got {forward} forward, {backward} backward; expected none below 0"
            )
        if self.macs_per_image.setdefault(name, macs_per_image) != macs_per_image:
            raise ValueError(
                f"CostLedger: {name}: macs_per_image: got {macs_per_image}; expected"
                f" {self.macs_per_image[name]} as before"
            )
        self.forward_images[name] = self.forward_images.get(name, 0) + forward
        self.backward_images[name] = self.backward_images.get(name, 0) + backward

    def watch(self, name: str, module: nn.Module, macs_per_image: float) -> torch.utils.hooks.RemovableHandle:
        """Counts every image that enters ``module`` until the returned handle is removed."""
        self.add(name, macs_per_image=macs_per_image, forward=0)

        def count(module: nn.Module, inputs: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            tensors = [item for item in (*inputs, *keywords.values()) if isinstance(item, Tensor)]
            if not tensors:
                raise ValueError(f"CostLedger: {name}: got no tensor argument; expected a batch of images")
            images = len(tensors[0])
            trained = torch.is_grad_enabled() and any(p.requires_grad for p in module.parameters())
            self.add(name, macs_per_image=macs_per_image, forward=images, backward=images if trained else 0)

        return module.register_forward_pre_hook(count, with_kwargs=True)

    def total(self, backward_multiplier: float = 2.0) -> float:
        """MACs of everything entered."""
        return sum(
            macs
            * (self.forward_images.get(name, 0) + backward_multiplier * self.backward_images.get(name, 0))
            for name, macs in self.macs_per_image.items()
        )

    def relative_to(self, other: CostLedger, backward_multiplier: float = 2.0) -> float:
        """This total as a fraction of another ledger's."""
        return self.total(backward_multiplier) / other.total(backward_multiplier)

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """Plain data, for a checkpoint."""
        return {
            "macs_per_image": dict(self.macs_per_image),
            "forward_images": dict(self.forward_images),
            "backward_images": dict(self.backward_images),
        }

    def load_state_dict(self, state: Mapping[str, dict[str, Any]]) -> None:
        """Inverse of `state_dict`."""
        self.macs_per_image = dict(state["macs_per_image"])
        self.forward_images = dict(state["forward_images"])
        self.backward_images = dict(state["backward_images"])


@contextmanager
def _single_products() -> Iterator[None]:
    """Switches off the fused kernels that would hide their products.

    oneDNN and cuDNN run a whole recurrent layer as one operator, the attention fast path a whole encoder
    layer, a flash kernel both products of attention.
    """
    backends = torch.backends
    fast_path = backends.mha.get_fastpath_enabled()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # oneDNN's switch warns of an absent GPU
        try:
            backends.mha.set_fastpath_enabled(False)
            with (
                backends.mkldnn.flags(enabled=False),
                backends.cudnn.flags(enabled=False),
                sdpa_kernel(SDPBackend.MATH),
            ):
                yield
        finally:
            backends.mha.set_fastpath_enabled(fast_path)


def _relative(name: str, root: str) -> str:
    return name.removeprefix(root).removeprefix(".")


def _as_flops(rule: Callable[..., int]) -> Callable[..., int]:
    def flops(*shapes: Any, out_shape: Any = None, **keywords: Any) -> int:
        return 2 * rule(*shapes, out_shape=out_shape, **keywords)

    return flops


def _torchvision_formulas() -> dict[Any, Callable[..., int]]:
    # Only where the model's own imports have registered the operator: this package never imports torchvision.
    if "torchvision" not in sys.modules:
        return {}
    return {torch.ops.torchvision.deform_conv2d: _deform_conv_macs}


def _deform_conv_macs(image: Any, weight: Any, *rest: Any, out_shape: Any, **keywords: Any) -> int:
    batch, _, height, width = out_shape
    return int(batch * height * width * prod(weight))
