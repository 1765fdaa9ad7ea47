"""Which channels of a generator matter, and the generator that keeps only those."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from stylegan_distill.config import StyleGAN2Config, StyleGAN3Config, narrow
from stylegan_distill.directions import principal_components
from stylegan_distill.losses import ContentMask
from stylegan_distill.metrics.sampling import draw_noise
from stylegan_distill.networks import (
    Generator,
    StyleGAN2Generator,
    StyleGAN2Synthesis,
    StyleGAN3Generator,
    StyleGAN3Synthesis,
)
from tenfold._errors import UserInputError

__all__ = ["ScoreMethod", "channel_scores", "keep_masks", "slice_generator"]

ScoreMethod = Literal["cagan", "slimming", "dcp", "random", "l1_in", "l1_out", "l1_style"]

#: Salted share of the foreground, and DCP's directions of each batch.
_SALT, _DRAWN = 0.05, 10


def _layers(generator: Generator) -> list[nn.Module]:
    """The layer that reads each group of channels: every convolution, then the last toRGB."""
    net = generator.synthesis
    if isinstance(net, StyleGAN2Synthesis):
        return [*net.convolutions(), net.blocks()[-1].torgb]
    if isinstance(net, StyleGAN3Synthesis):
        return list(net.layers())
    raise UserInputError(f"pruning: teacher: got a {type(net).__name__}; expected StyleGAN2 or StyleGAN3")


def _first(generator: Generator) -> Tensor:
    """What makes the first channels: the constant, or the matrix behind the Fourier features."""
    net: Any = generator.synthesis
    is_two = isinstance(net, StyleGAN2Synthesis)
    first: Tensor = net.b4.const if is_two else net.input.weight
    return first.detach()


def _codes(generator: Generator, batch: int, rng: torch.Generator) -> Tensor:
    like = next(generator.mapping.parameters())
    z = torch.randn(batch, generator.z_dim, generator=rng).to(like)
    labels = like.new_zeros(batch, generator.cfg.c_dim) if generator.cfg.c_dim else None
    with torch.no_grad():
        return generator.mapping(z, labels)  # type: ignore[no-any-return]


@contextmanager
def _with_gradients(layers: Sequence[nn.Module]) -> Iterator[None]:
    """Weights that ask for gradients inside the block, whether or not the teacher is frozen."""
    weights: list[Tensor] = [layer.weight for layer in layers]  # type: ignore[misc]
    before = [w.requires_grad for w in weights]
    try:
        for w in weights:
            w.requires_grad_(True)
        with torch.enable_grad():
            yield
    finally:
        for w, asked in zip(weights, before, strict=True):
            w.requires_grad_(asked)


def _gradient_scores(layers: Sequence[nn.Module], value: Tensor, retain: bool = False) -> list[Tensor]:
    """Mean |d value / d weight| over filters and taps, for every input channel."""
    weights: list[Tensor] = [layer.weight for layer in layers]  # type: ignore[misc]
    gradients = torch.autograd.grad(value, weights, retain_graph=retain)
    return [g.abs().mean(dim=(0, 2, 3)) for g in gradients]


def _salted(images: Tensor, mask: Tensor, rng: torch.Generator) -> Tensor:
    """Sum of |noisy - image|, the noisy copy being the image but for pixels set to -1 or 1 within the mask."""
    shape = mask.shape
    chosen = (torch.rand(shape, generator=rng).to(images) < _SALT) & (mask > 0.5)
    value = torch.randint(2, shape, generator=rng).to(images) * 2 - 1
    return torch.where(chosen, (value - images).abs(), torch.zeros_like(images)).sum()


def _content_aware(
    teacher: Generator, samples: int, batch: int, mask: ContentMask, rng: torch.Generator
) -> list[Tensor]:
    layers = _layers(teacher)
    total: list[Tensor] = []
    for _ in range(max(1, samples // batch)):
        ws = _codes(teacher, batch, rng)
        images = teacher.synthesis(ws, noise=draw_noise(teacher, batch, rng))
        scores = _gradient_scores(layers, _salted(images, mask(images.detach()), rng))
        total = scores if not total else [a + b for a, b in zip(total, scores, strict=True)]
    return total


def _diversity_aware(
    teacher: Generator, samples: int, batch: int, alpha: float, rng: torch.Generator
) -> list[Tensor]:
    layers = _layers(teacher)
    components, share = principal_components(teacher, teacher.cfg.w_dim)
    drawn = min(_DRAWN, len(components))
    total: list[Tensor] = []
    for _ in range(max(1, samples // batch)):
        ws = _codes(teacher, batch, rng)
        index = torch.multinomial(share.double().cpu() + 1e-12, drawn, generator=rng)
        images = teacher.synthesis(ws, noise="const")
        per_direction = []
        for number, i in enumerate(index.tolist()):
            with torch.no_grad():
                moved = teacher.synthesis(ws + alpha * components[i], noise="const")
            value = (moved - images).abs().sum()
            per_direction.append(_gradient_scores(layers, value, retain=number + 1 < drawn))
        # A channel matters when its gradient depends on where one goes.
        spread = [torch.stack(s) for s in zip(*per_direction, strict=True)]
        scores = [(s - s.mean(dim=0)).square().sum(dim=0) for s in spread]
        total = scores if not total else [a + b for a, b in zip(total, scores, strict=True)]
    return total


@torch.no_grad()
def _mean_styles(teacher: Generator, samples: int, batch: int, rng: torch.Generator) -> list[Tensor]:
    """Mean |style| of every channel that a layer reads."""
    layers = _layers(teacher)
    found: dict[int, Tensor] = {}

    def keep(number: int) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            found[number] = found.get(number, 0) + output.abs().sum(dim=0)  # type: ignore[assignment]

        return hook

    handles = [layer.affine.register_forward_hook(keep(i)) for i, layer in enumerate(layers)]  # type: ignore[union-attr]
    try:
        for _ in range(max(1, samples // batch)):
            teacher.synthesis(_codes(teacher, batch, rng), noise="none")
    finally:
        for handle in handles:
            handle.remove()
    return [found[i] for i in range(len(layers))]


def channel_scores(
    teacher: Generator,
    method: ScoreMethod = "cagan",
    *,
    samples: int | None = None,
    batch: int | None = None,
    mask: ContentMask | None = None,
    alpha: float = 5.0,
    seed: int = 0,
) -> list[Tensor]:
    """Importance of every channel: of the constant (or input), then of every convolution's output.

    Args:
        teacher: a StyleGAN2 or StyleGAN3.
        method: "cagan": mean |gradient| of the distance to a copy salted within the content (400 samples in batches
            of 10); "slimming": mean |style| (the same samples); "dcp": spread of the gradients over principal
            directions of W (5000 samples in batches of 5); "random"; "l1_in", "l1_out", "l1_style": sums of absolute
            weights of the reading layer, of the making layer, and of the reading layer's style.
        samples: codes; None: as above.
        batch: codes at a time; None: as above.
        mask: content of an image, for "cagan"; None: everything.
        alpha: step along a direction, for "dcp"; 10 in its StyleGAN3 branch.
        seed: of codes and noise.

    Returns:
        One (C,) for each of ``teacher.widths``.

    Raises:
        UserInputError: an unknown method, or a synthesis network that is not ours.

    Example:
        >>> net = StyleGAN2Generator(StyleGAN2Config(8, z_dim=8, w_dim=8, widths=(6, 4)))
        >>> [len(s) for s in channel_scores(net, "l1_in")]
        [6, 6, 4, 4]
    """
    rng = torch.Generator().manual_seed(seed)
    layers = _layers(teacher)
    many, few = (5000, 5) if method == "dcp" else (400, 10)
    samples, batch = samples or many, min(batch or few, samples or many)
    if method == "cagan":
        with _with_gradients(layers):
            found = _content_aware(teacher, samples, batch, mask or ContentMask(None), rng)
    elif method == "slimming":
        found = _mean_styles(teacher, samples, batch, rng)
    elif method == "dcp":
        with _with_gradients(layers):
            found = _diversity_aware(teacher, samples, batch, alpha, rng)
    elif method == "random":
        found = [torch.rand(width, generator=rng) for width in teacher.widths]
    elif method == "l1_in":
        found = [layer.weight.abs().sum(dim=(0, 2, 3)) for layer in layers]  # type: ignore[operator,union-attr]
    elif method == "l1_out":
        made = [layer.weight.abs().sum(dim=(1, 2, 3)) for layer in layers[:-1]]  # type: ignore[operator,union-attr]
        found = [_first(teacher).abs().flatten(1).sum(dim=1), *made]
    elif method == "l1_style":
        found = [layer.affine.weight.abs().sum(dim=1) for layer in layers]  # type: ignore[operator,union-attr]
    else:
        raise UserInputError(
            f"pruning: method: got {method!r}; expected cagan, slimming, dcp, random, l1_in, l1_out or l1_style"
        )
    return [score.detach() for score in found]


def keep_masks(
    scores: Sequence[Tensor], *, remove_ratio: float | None = None, keep: Sequence[int] | None = None
) -> list[Tensor]:
    """Boolean masks that keep the best channels of every layer; of equal ones the first.

    Args:
        scores: one (C,) a layer.
        remove_ratio: the lowest int(C rho) of every layer go.
        keep: or so many of each stay.

    Raises:
        UserInputError: neither or both, or more channels than there are.

    Example:
        >>> keep_masks([torch.tensor([3.0, 1.0, 2.0])], remove_ratio=0.4)[0].tolist()
        [True, False, True]
    """
    if (remove_ratio is None) == (keep is None):
        raise UserInputError("pruning: remove_ratio, keep: expected exactly one of them")
    if keep is None:
        keep = narrow([len(s) for s in scores], remove_ratio or 0.0)
    if len(keep) != len(scores) or any(not 1 <= n <= len(s) for n, s in zip(keep, scores, strict=False)):
        sizes = [len(s) for s in scores]
        raise UserInputError(
            f"pruning: keep: got {list(keep)}; expected a number from 1 on for each of {sizes}"
        )
    masks = []
    for score, count in zip(scores, keep, strict=True):
        mask = torch.zeros(len(score), dtype=torch.bool, device=score.device)
        mask[torch.sort(score, descending=True, stable=True).indices[:count]] = True
        masks.append(mask)
    return masks


@torch.no_grad()
def slice_generator(teacher: Generator, masks: Sequence[Tensor]) -> Generator:
    """The generator made of a teacher's kept channels; mapping network and noise strengths stay.

    Args:
        teacher: a StyleGAN2 or StyleGAN3.
        masks: booleans (C,) for each of ``teacher.widths``.

    Raises:
        UserInputError: masks that do not fit, or that keep nothing of a layer.

    Example:
        >>> net = StyleGAN2Generator(StyleGAN2Config(8, z_dim=8, w_dim=8, widths=(4, 4)))
        >>> slice_generator(net, [torch.tensor([True, True, False, False])] * 4).widths
        (2, 2, 2, 2)
    """
    sizes = [len(m) for m in masks]
    if sizes != list(teacher.widths) or any(int(m.sum()) < 1 for m in masks):
        raise UserInputError(
            f"pruning: masks: got {sizes} channels; expected {list(teacher.widths)} and one kept in each"
        )
    layers = _layers(teacher)
    names = {module: name for name, module in teacher.named_modules()}
    widths = tuple(int(m.sum()) for m in masks)
    cfg = teacher.cfg
    if isinstance(cfg, StyleGAN2Config):
        student: Generator = StyleGAN2Generator(replace(cfg, widths=widths))
        heads = {block.torgb: 2 * j + 1 for j, block in enumerate(teacher.synthesis.blocks())}  # type: ignore[operator]
        reads = {**{layer: i for i, layer in enumerate(layers[:-1])}, **heads}
        first = "synthesis.b4.const"
    else:
        assert isinstance(cfg, StyleGAN3Config)
        cfg3 = replace(cfg, widths=widths, fourier_channels=cfg.num_frequencies)
        student = StyleGAN3Generator(cfg3)
        reads = {layer: i for i, layer in enumerate(layers)}
        first = "synthesis.input.weight"
    state = teacher.state_dict()
    state[first] = state[first][masks[0]]
    for layer, i in reads.items():
        name = names[layer]
        # What makes an image keeps all its outputs.
        makes = masks[i + 1] if layer in layers[:-1] else slice(None)
        state[f"{name}.weight"] = state[f"{name}.weight"][makes][:, masks[i]]
        state[f"{name}.bias"] = state[f"{name}.bias"][makes]
        for part in ("weight", "bias"):
            state[f"{name}.affine.{part}"] = state[f"{name}.affine.{part}"][masks[i]]
    if isinstance(cfg, StyleGAN3Config):
        state = _renamed(state, teacher, student)
    student.load_state_dict(state)
    student.train(teacher.training)
    return student.to(next(teacher.parameters()).device)


def _renamed(state: dict[str, Tensor], teacher: Generator, student: Generator) -> dict[str, Tensor]:
    """StyleGAN3's layers carry their widths in their names."""
    pairs = zip(teacher.synthesis.layer_names, student.synthesis.layer_names, strict=True)  # type: ignore[arg-type]
    names = {f"synthesis.{old}": f"synthesis.{new}" for old, new in pairs}
    renamed = {}
    for key, value in state.items():
        head = ".".join(key.split(".")[:2])
        renamed[names.get(head, head) + key[len(head) :]] = value
    return renamed
