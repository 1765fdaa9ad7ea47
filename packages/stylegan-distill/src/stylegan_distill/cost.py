"""What a generator costs: parameters and multiply-accumulates by a closed formula, memory and time by running it."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from stylegan_distill.config import GeneratorConfig, StyleGAN2Config, StyleGAN3Config
from stylegan_distill.networks.generator import Generator

__all__ = ["Cost", "RunCost", "count_cost", "count_macs", "filter_macs", "measure_run", "peak_bytes"]


@dataclass(frozen=True)
class Cost:
    """Cost of one image.

    Args:
        params: trainable numbers; buffers do not count.
        macs: multiply-accumulates of convolutions and linear layers. FIR filters, noise and activations are left out.
        by_layer: the same, by the name of the layer.
        filter_macs: multiply-accumulates of StyleGAN3's FIR filters as separable polyphase passes, reported apart.
    """

    params: int
    macs: int
    by_layer: dict[str, int] = field(default_factory=dict)
    filter_macs: int = 0


def _mapping_macs(cfg: GeneratorConfig) -> dict[str, int]:
    embedded = cfg.w_dim if cfg.c_dim > 0 else 0
    sizes = (cfg.z_dim + embedded, *cfg.mapping_sizes)
    macs = {f"mapping.fc{i}": n * m for i, (n, m) in enumerate(pairwise(sizes))}
    return {"mapping.embed": cfg.c_dim * embedded, **macs} if embedded else macs


def _stylegan2_macs(cfg: StyleGAN2Config) -> dict[str, int]:
    widths, macs = cfg.layer_widths, {}
    for j, side in enumerate(cfg.block_resolutions):
        name = f"synthesis.b{side}"
        if j > 0:  # the transposed convolution is counted at its input's resolution
            inner, outer = widths[2 * j - 1], widths[2 * j]
            macs[f"{name}.conv0"] = 9 * inner * outer * (side // 2) ** 2 + cfg.w_dim * inner
        inner, outer = widths[2 * j], widths[2 * j + 1]
        taps = 9 if j == 0 else cfg.second_conv_kernel**2
        macs[f"{name}.conv1"] = taps * inner * outer * side**2 + cfg.w_dim * inner
        macs[f"{name}.torgb"] = cfg.img_channels * outer * side**2 + cfg.w_dim * outer
    return macs


def _stylegan3_macs(cfg: StyleGAN3Config) -> dict[str, int]:
    widths, plan = (*cfg.layer_widths, cfg.img_channels), cfg.plan
    macs = {"synthesis.input": widths[0] * cfg.num_frequencies * plan[0].size ** 2 + cfg.w_dim * 4}
    for layer, inner, outer in zip(plan, widths[:-1], widths[1:], strict=True):
        side = layer.in_size + layer.kernel - 1
        taps = layer.kernel**2
        macs[f"synthesis.L{layer.index}"] = taps * inner * outer * side**2 + cfg.w_dim * inner
    return macs


def count_macs(cfg: GeneratorConfig) -> dict[str, int]:
    """Multiply-accumulates of one image by layer, its style's linear layer included.

    Convolutions count k^2 C_in C_out for each pixel of the output; StyleGAN2's transposed ones for each pixel of the
    input, StyleGAN3's for the (side + k - 1)^2 pixels of its "full" padding.

    Example:
        >>> from stylegan_distill.config import StyleGAN2Config
        >>> sum(count_macs(StyleGAN2Config(256)).values())
        45124673536
    """
    synthesis = _stylegan2_macs(cfg) if isinstance(cfg, StyleGAN2Config) else _stylegan3_macs(cfg)
    return {**_mapping_macs(cfg), **synthesis}


def filter_macs(cfg: StyleGAN3Config) -> int:
    """Multiply-accumulates of the FIR filters of one image, zeros between samples not counted.

    Separable filters pass along one axis after the other; radial ones count all their taps.
    """
    total = 0
    for layer, channels in zip(cfg.plan[:-1], cfg.layer_widths[1:], strict=True):
        rate = max(layer.in_rate, layer.rate) * cfg.lrelu_upsampling
        up, down = rate // layer.in_rate, rate // layer.rate
        taps = cfg.filter_size * down
        wide = (layer.size - 1) * down + (taps if down > 1 else 1)  # side at the activation
        tall = -(-wide // up) + cfg.filter_size - 1  # rows of the input that are read
        if up > 1:
            total += channels * cfg.filter_size * (tall * wide + wide * wide)
        if down > 1 and cfg.use_radial_filters and not layer.is_critical:
            total += channels * taps**2 * layer.size**2
        elif down > 1:
            total += channels * taps * (wide * layer.size + layer.size**2)
    return total


def count_cost(generator: Generator) -> Cost:
    """Cost of one image of a generator.

    Args:
        generator: a StyleGAN2 or StyleGAN3; of a foreign synthesis network the parameters are counted, and the
            multiply-accumulates are those of its configuration.

    Returns:
        `Cost`.

    Example:
        >>> from stylegan_distill import StyleGAN2Config, StyleGAN2Generator
        >>> count_cost(StyleGAN2Generator(StyleGAN2Config(8, z_dim=8, w_dim=8, widths=(4, 4), mapping_layers=1))).params
        793
    """
    by_layer = count_macs(generator.cfg)
    filters = filter_macs(generator.cfg) if isinstance(generator.cfg, StyleGAN3Config) else 0
    return Cost(_parameters(generator), sum(by_layer.values()), by_layer, filters)


def _parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@dataclass(frozen=True)
class RunCost:
    """Cost of one run on this machine.

    Args:
        activation_bytes: tensors alive at the highest moment, parameters and buffers not counted; what operators use
            inside is seen on a GPU alone.
        milliseconds: wall time, median after a first run.
        device: where.
        threads: of the processor.
    """

    activation_bytes: int
    milliseconds: float
    device: str
    threads: int


class _Alive(TorchDispatchMode):
    """Counts the bytes of storages that operators make, from when they are made to when nothing refers to them."""

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._known: Any = WeakIdKeyDictionary()
        for tensor in known:
            self._known[tensor.untyped_storage()] = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._count(leaf.untyped_storage())
        return out

    def _count(self, storage: Any) -> None:
        if storage in self._known:  # a view, or something that was there before
            return
        size = storage.nbytes()
        self._known[storage] = size
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, size).atexit = False

    def _gone(self, size: int) -> None:
        self.now -= size


def peak_bytes(call: Callable[[], Any], known: Iterable[Tensor] = ()) -> int:
    """Bytes of tensors alive at the highest moment of a call on the processor.

    Args:
        call: what is run.
        known: tensors that do not count, such as parameters and inputs.

    Example:
        >>> x = torch.zeros(1000)
        >>> peak_bytes(lambda: (x + 1) * 2, [x])
        8000
    """
    alive = _Alive(known)
    with alive:
        result = call()
    del result
    return alive.peak


@torch.no_grad()
def measure_run(generator: Generator, *, batch: int = 1, repeats: int = 3) -> RunCost:
    """Memory and time of images with stored noise.

    Args:
        generator: any; run in evaluation mode, where it is.
        batch: images of a run.
        repeats: timed runs.

    Raises:
        ValueError: numbers below 1.

    Example:
        >>> from stylegan_distill import StyleGAN2Config, StyleGAN2Generator
        >>> net = StyleGAN2Generator(StyleGAN2Config(8, z_dim=8, w_dim=8, widths=(4, 4)))
        >>> measure_run(net).activation_bytes > 3 * 8 * 8 * 4
        True
    """
    if batch < 1 or repeats < 1:
        raise ValueError(f"measure_run: batch, repeats: got {batch}, {repeats}; expected numbers from 1 on")
    like = next(generator.parameters())
    z = torch.zeros(batch, generator.cfg.z_dim, device=like.device, dtype=like.dtype)
    c = like.new_zeros(batch, generator.cfg.c_dim) if generator.cfg.c_dim else None
    trained = generator.training
    generator.eval()

    def call() -> Any:
        return generator(z, c, noise="const")

    try:
        if like.device.type == "cuda":
            before = torch.cuda.memory_allocated(like.device)
            torch.cuda.reset_peak_memory_stats(like.device)
            call()
            peak = torch.cuda.max_memory_allocated(like.device) - before
        else:
            there = [*generator.parameters(), *generator.buffers(), z, *([] if c is None else [c])]
            peak = peak_bytes(call, there)
        seconds = [_seconds(call, like.device) for _ in range(repeats)]
    finally:
        generator.train(trained)
    return RunCost(peak, 1000 * median(seconds), str(like.device), torch.get_num_threads())


def _seconds(call: Callable[[], Any], device: torch.device) -> float:
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
