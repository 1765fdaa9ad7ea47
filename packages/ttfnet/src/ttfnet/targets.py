"""Training targets: a Gaussian heat map per class, and a weighted box regression area per object.

Three versions with the same bits: `ttf_targets_loop` paints box after box and is the definition,
`ttf_targets` works on a whole batch without a loop. Kernel values are float32 products of two one-dimensional
kernels that are computed in float64 and rounded once; their sums are exact in float64, so that no order of
additions changes a bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

__all__ = ["TargetOptions", "Targets", "circular_targets", "ttf_targets", "ttf_targets_loop"]

Area = Literal["log", "sqrt", "linear", "norm"]


class Targets(NamedTuple):
    """What a batch is trained towards.

    Attributes:
        heatmap: ``(B, C, H/4, W/4)`` in [0, 1]; exactly 1 at centres.
        boxes: ``(B, 4, H/4, W/4)`` x1, y1, x2, y2 in input pixels of the box that owns a pixel.
        weight: ``(B, H/4, W/4)``; 0 where no box is.

    With ``per_class`` the last two are ``(B, 4 C, H/4, W/4)`` and ``(B, C, H/4, W/4)``.
    """

    heatmap: Tensor
    boxes: Tensor
    weight: Tensor


@dataclass(frozen=True)
class TargetOptions:
    """How targets are made; every field is one of the paper's ablations.

    Attributes:
        alpha: size of the heat map's kernel relative to the box (equation 3 of the paper).
        beta: size of the regression area relative to the box; 0.01 means one pixel.
        area: how the total weight of a box grows with its area.
        weight: ``"gaussian"`` distributes it by the kernel, ``"flat"`` evenly, ``"none"`` weighs every pixel 1.
        shape: ``"elliptic"`` kernels follow the box, ``"circular"`` ones its shorter side.
        subarea: ``"gaussian"``, or ``"rectangle"`` for the central part of the box with an even weight.
        sigma: ``"code"`` is a sixth of the kernel's width in pixels, as in the official code; ``"paper"`` a
            sixth of ``alpha`` times the box.
        area_offset: added to both sides before the area is taken; 1 is the official code's pixel convention.
        stride: input pixels per map pixel.
        per_class: every class has regression maps of its own, on which only its boxes paint.
    """

    alpha: float = 0.54
    beta: float = 0.54
    area: Area = "log"
    weight: Literal["gaussian", "flat", "none"] = "gaussian"
    shape: Literal["elliptic", "circular"] = "elliptic"
    subarea: Literal["gaussian", "rectangle"] = "gaussian"
    sigma: Literal["code", "paper"] = "code"
    area_offset: float = 0.0
    stride: int = 4
    per_class: bool = False

    def __post_init__(self) -> None:
        for name in ("alpha", "beta"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"targets: {name}: got {getattr(self, name)}; expected a share in (0, 1]")
        words = {
            "area": ("log", "sqrt", "linear", "norm"),
            "weight": ("gaussian", "flat", "none"),
            "shape": ("elliptic", "circular"),
            "subarea": ("gaussian", "rectangle"),
            "sigma": ("code", "paper"),
        }
        for name, known in words.items():
            if getattr(self, name) not in known:
                raise ValueError(
                    f"targets: {name}: got {getattr(self, name)!r}; expected one of {', '.join(known)}"
                )

    @property
    def is_plain(self) -> bool:
        """Whether only alpha, beta and stride differ from the paper's choice."""
        return replace(self, alpha=0.54, beta=0.54, stride=4) == TargetOptions()


def _omega(boxes: Tensor, options: TargetOptions) -> Tensor:
    """(N,) float64: total weight of each box; never negative, so that a tiny box cannot turn the loss."""
    sides = (boxes[:, 2:].double() - boxes[:, :2].double() + options.area_offset).clamp(min=0)
    area = sides.prod(1)
    if options.area == "log":
        return area.clamp(min=1).log()
    if options.area == "sqrt":
        return area.sqrt()
    return area if options.area == "linear" else torch.ones_like(area)


def _drawn(boxes: Tensor) -> Tensor:
    """(N, 1) bool: boxes that have an area."""
    return (boxes[:, 2:] > boxes[:, :2]).all(1, keepdim=True)


def _map_boxes(boxes: Tensor, size: tuple[int, int], stride: int) -> Tensor:
    """(N, 4) float64 on the map, clipped to it."""
    height, width = size
    limits = torch.tensor([width - 1, height - 1] * 2, dtype=torch.float64, device=boxes.device)
    return torch.minimum((boxes.double() / stride).clamp(min=0), limits)


def _centres(boxes: Tensor, stride: int) -> Tensor:
    """(N, 2) int64 x, y of the centre pixels, from the unclipped boxes."""
    return ((boxes[:, :2].double() + boxes[:, 2:].double()) / 2 / stride).floor().long()


def _kernels(
    boxes: Tensor, fraction: float, size: tuple[int, int], options: TargetOptions
) -> tuple[Tensor, Tensor]:
    """``(N, W')`` and ``(N, H')`` float32: the kernels along x and y, zero outside the support.

    A box without area has none.
    """
    height, width = size
    mapped, centre = _map_boxes(boxes, size, options.stride), _centres(boxes, options.stride)
    sides = mapped[:, 2:] - mapped[:, :2]
    if options.shape == "circular":
        sides = sides.amin(1, keepdim=True).expand(-1, 2)
    radius = (fraction * sides / 2).floor()
    sigma = (2 * radius + 1) / 6
    if options.sigma == "paper":
        sigma = (fraction * sides / 6).clamp(min=1e-3)
    drawn = _drawn(boxes)
    kernels = []
    for axis, length in enumerate((width, height)):
        place = torch.arange(length, dtype=torch.float64, device=boxes.device)
        far = place - centre[:, axis : axis + 1]
        value = (-far.square() / (2 * sigma[:, axis : axis + 1].square())).exp().float()
        kernels.append(value * ((far.abs() <= radius[:, axis : axis + 1]) & drawn))
    return kernels[0], kernels[1]


def _rectangles(boxes: Tensor, size: tuple[int, int], options: TargetOptions) -> tuple[Tensor, Tensor]:
    """``(N, W')`` and ``(N, H')`` float32 of 0 and 1: the central part of each box on the map."""
    height, width = size
    mapped = _map_boxes(boxes, size, options.stride)
    outer = (1 - options.beta) / 2
    low = ((1 - outer) * mapped[:, :2] + outer * mapped[:, 2:]).round()
    high = (outer * mapped[:, :2] + (1 - outer) * mapped[:, 2:]).round()
    return tuple(  # type: ignore[return-value]
        ((place >= low[:, axis : axis + 1]) & (place <= high[:, axis : axis + 1]) & _drawn(boxes)).float()
        for axis, place in enumerate(
            torch.arange(length, dtype=torch.float64, device=boxes.device) for length in (width, height)
        )
    )


def _areas(boxes: Tensor, size: tuple[int, int], options: TargetOptions) -> tuple[Tensor, Tensor, Tensor]:
    """Kernels along x and y of the regression areas, and ``(N,)`` float32 factors of their products.

    The factor divides by the sum over the cropped support, before anything is painted over.
    """
    rectangle = options.subarea == "rectangle"
    if rectangle:
        gx, gy = _rectangles(boxes, size, options)
    else:
        gx, gy = _kernels(boxes, options.beta, size, options)
    if options.weight != "gaussian":
        gx, gy = (gx > 0).float(), (gy > 0).float()
    if options.weight == "none":
        return gx, gy, torch.ones(len(boxes), device=boxes.device)
    total = gx.double().sum(1) * gy.double().sum(1)
    return gx, gy, (_omega(boxes, options) / total.clamp(min=1e-12)).float()


def _sort(boxes: Tensor) -> Tensor:
    """Painting order: area descending, stable, so that smaller boxes come last."""
    sides = boxes[:, 2:].double() - boxes[:, :2].double()
    return torch.sort(sides.prod(1), descending=True, stable=True).indices


def _map_size(size: tuple[int, int], stride: int) -> tuple[int, int]:
    height, width = size
    if height % stride or width % stride or min(size) < stride:
        raise ValueError(f"ttf_targets: size: got {tuple(size)}; expected multiples of {stride}")
    return height // stride, width // stride


def _check(boxes: Tensor, labels: Tensor, num_classes: int) -> None:
    if boxes.dim() != 2 or boxes.shape[1] != 4:
        raise ValueError(f"ttf_targets: boxes: got shape {tuple(boxes.shape)}; expected (M, 4)")
    if labels.shape != boxes.shape[:1]:
        raise ValueError(
            f"ttf_targets: labels: got shape {tuple(labels.shape)}; expected ({len(boxes)},), one for each box"
        )
    if labels.numel() and not (int(labels.min()) >= 0 and int(labels.max()) < num_classes):
        raise ValueError(
            f"ttf_targets: labels: got {int(labels.min())} to {int(labels.max())}; expected 0 to "
            f"{num_classes - 1}"
        )


@torch.no_grad()
def ttf_targets_loop(
    boxes: Tensor,
    labels: Tensor,
    size: tuple[int, int],
    num_classes: int,
    options: TargetOptions | None = None,
) -> Targets:
    """The definition: one image, box after box, large ones first (section 3 of the paper).

    Args:
        boxes: ``(M, 4)`` x1, y1, x2, y2 in input pixels.
        labels: ``(M,)`` classes from 0.
        size: height and width of the input.
        num_classes: C.
        options: see `TargetOptions`.

    Returns:
        `Targets` of one image, B = 1.

    Raises:
        ValueError: wrong shapes, or a label out of range.

    Example:
        >>> made = ttf_targets_loop(torch.tensor([[100.0, 60.0, 300.0, 160.0]]), torch.tensor([0]), (512, 512), 1)
        >>> (made.weight > 0).sum().item(), round(made.weight[0, 27, 50].item(), 6)
        (351, 0.162491)
    """
    options = options or TargetOptions()
    _check(boxes, labels, num_classes)
    boxes = boxes.float()
    height, width = _map_size(size, options.stride)
    groups = num_classes if options.per_class else 1
    heatmap = torch.zeros(num_classes, height, width, device=boxes.device)
    targets = torch.zeros(groups, 4, height, width, device=boxes.device)
    weight = torch.zeros(groups, height, width, device=boxes.device)
    hx, hy = _kernels(boxes, options.alpha, (height, width), options)
    gx, gy, factor = _areas(boxes, (height, width), options)
    for m in _sort(boxes).tolist():
        heat = heatmap[labels[m]]
        torch.maximum(heat, hy[m, :, None] * hx[m], out=heat)
        covered = (gy[m, :, None] > 0) & (gx[m] > 0)
        group = int(labels[m]) if options.per_class else 0
        weight[group, covered] = (gy[m, :, None] * gx[m] * factor[m])[covered]
        targets[group, :, covered] = boxes[m, :, None]
    return _grouped(heatmap[None], targets, weight, options)


def _grouped(heatmap: Tensor, boxes: Tensor, weight: Tensor, options: TargetOptions) -> Targets:
    """Targets whose regression maps ``(B G, 4, H', W')`` become ``(B, 4 G, ...)`` where classes have their own."""
    if not options.per_class:
        return Targets(heatmap, boxes, weight)
    batch = len(heatmap)
    return Targets(
        heatmap, boxes.reshape(batch, -1, *boxes.shape[2:]), weight.reshape(batch, -1, *weight.shape[1:])
    )


@torch.no_grad()
def ttf_targets(
    boxes: Tensor | Sequence[Tensor],
    labels: Tensor | Sequence[Tensor],
    size: tuple[int, int],
    num_classes: int,
    options: TargetOptions | None = None,
    **switches: float | str,
) -> Targets:
    """Targets of a batch (or of one image) on its device, without a loop over boxes; float32.

    Args:
        boxes: list of ``(M_b, 4)``, or ``(M, 4)`` for one image: x1, y1, x2, y2 in input pixels.
        labels: list of ``(M_b,)`` or ``(M,)``: classes from 0.
        size: height and width of the input, multiples of the stride; any ratio.
        num_classes: C.
        options: see `TargetOptions`.
        **switches: single fields of `TargetOptions`, such as ``beta=0.3``.

    Raises:
        ValueError: wrong shapes, an unknown switch, or a label out of range.

    Example:
        >>> heat, target, weight = ttf_targets(torch.tensor([[4.0, 4.0, 44.0, 24.0]]), torch.tensor([1]), (32, 64), 2)
        >>> heat.shape, heat[0, 1].max().item(), round(weight.sum().item(), 4)  # ln 800
        (torch.Size([1, 2, 8, 16]), 1.0, 6.6846)
    """
    options = replace(options or TargetOptions(), **switches)  # type: ignore[arg-type]
    boxes = [boxes] if isinstance(boxes, Tensor) else list(boxes)
    labels = [labels] if isinstance(labels, Tensor) else list(labels)
    if len(boxes) != len(labels) or not boxes:
        raise ValueError(f"ttf_targets: labels: got {len(labels)} images; expected {len(boxes)} as in boxes")
    for own, classes in zip(boxes, labels, strict=True):
        _check(own, classes, num_classes)
    height, width = _map_size(size, options.stride)
    batch, device = len(boxes), boxes[0].device
    order = [_sort(own) for own in boxes]
    flat = torch.cat([own[o] for own, o in zip(boxes, order, strict=True)]).float()
    classes = torch.cat([own[o] for own, o in zip(labels, order, strict=True)])
    counts = torch.tensor([len(own) for own in boxes], device=device)
    image = torch.repeat_interleave(torch.arange(batch, device=device), counts)
    groups = num_classes if options.per_class else 1
    heat = torch.zeros(batch * num_classes, height, width, device=device)
    if not len(flat):
        zeros = torch.zeros(batch * groups, 5, height, width, device=device)
        return _grouped(
            heat.view(batch, -1, height, width), zeros[:, :4].contiguous(), zeros[:, 4].contiguous(), options
        )
    hx, hy = _kernels(flat, options.alpha, (height, width), options)
    _scatter_max(heat, image * num_classes + classes, hy[:, :, None] * hx[:, None, :])
    group = image * num_classes + classes if options.per_class else image
    target, weight = _paint(flat, group, batch * groups, (height, width), options)
    return _grouped(heat.view(batch, num_classes, height, width), target, weight, options)


def _scatter_max(maps: Tensor, index: Tensor, values: Tensor) -> None:
    """Maximum of each map (G, H, W) and the values (N, H, W) that go to it, in place."""
    maps.scatter_reduce_(0, index[:, None, None].expand_as(values), values, "amax")


def _paint(
    boxes: Tensor, group: Tensor, groups: int, size: tuple[int, int], options: TargetOptions
) -> tuple[Tensor, Tensor]:
    """The last box in painting order that covers a pixel owns it."""
    gx, gy, factor = _areas(boxes, size, options)
    rank = torch.arange(1, len(boxes) + 1, dtype=torch.int32, device=boxes.device)
    # A zero kernel value inside the support cannot be: the smallest is above exp(-9).
    covers = (gy[:, :, None] > 0) & (gx[:, None, :] > 0)
    owner = torch.zeros(groups, *size, dtype=torch.int32, device=boxes.device)
    _scatter_max(owner, group, covers.int() * rank[:, None, None])
    index = (owner.long() - 1).clamp(min=0)
    rows = torch.arange(size[0], device=boxes.device)[:, None]
    columns = torch.arange(size[1], device=boxes.device)
    owned = owner > 0
    weight = gy[index, rows] * gx[index, columns] * factor[index] * owned
    target = boxes[index].permute(0, 3, 1, 2) * owned[:, None]
    return target, weight


@torch.no_grad()
def circular_targets(
    boxes: Sequence[Tensor],
    labels: Sequence[Tensor],
    size: tuple[int, int],
    num_classes: int,
    stride: int = 4,
) -> tuple[Tensor, list[Tensor]]:
    """CenterNet's heat map: circles whose radius keeps a shifted box above an overlap of 0.7.

    The three roots are those of the published code, which differ from the quadratic formula.

    Args:
        boxes: list of ``(M_b, 4)`` in input pixels.
        labels: list of ``(M_b,)``.
        size: height and width of the input.
        num_classes: C.
        stride: input pixels per map pixel.

    Returns:
        ``(B, C, H/4, W/4)`` heat map, and the centre pixels ``(M_b, 2)`` x, y of each image; boxes whose
        centre lies outside get (-1, -1) and no kernel.

    Example:
        >>> heat, centres = circular_targets([torch.tensor([[0.0, 0.0, 64.0, 64.0]])], [torch.tensor([0])], (64, 64), 1)
        >>> centres[0].tolist(), heat.max().item(), (heat > 0).sum().item()
        ([[8, 8]], 1.0, 81)
    """
    height, width = _map_size(size, stride)
    heat = torch.zeros(len(boxes), num_classes, height, width, device=boxes[0].device)
    centres = []
    for image, (own, classes) in enumerate(zip(boxes, labels, strict=True)):
        _check(own, classes, num_classes)
        centre = _centres(own, stride)
        limits = torch.tensor([width, height], device=own.device)
        inside = ((centre >= 0) & (centre < limits)).all(1)
        mapped = _map_boxes(own, (height, width), stride)
        radius = _overlap_radius((mapped[:, 2:] - mapped[:, :2]).ceil())
        sigma = (2 * radius + 1) / 6
        kernels = []
        for axis, length in enumerate((width, height)):
            far = torch.arange(length, dtype=torch.float64, device=own.device) - centre[:, axis : axis + 1]
            value = (-far.square() / (2 * sigma[:, None].square())).exp().float()
            kernels.append(value * ((far.abs() <= radius[:, None]) & inside[:, None]))
        _scatter_max(heat[image], classes, kernels[1][:, :, None] * kernels[0][:, None, :])
        centres.append(torch.where(inside[:, None], centre, -1))
    return heat, centres


def _overlap_radius(sides: Tensor, overlap: float = 0.7) -> Tensor:
    """(N,) float64 whole radii for sides (N, 2) on the map."""
    total, product = sides.sum(1), sides.prod(1)
    c1 = product * (1 - overlap) / (1 + overlap)
    c2 = (1 - overlap) * product
    b3, c3 = -2 * overlap * total, -(1 - overlap) * product
    r1 = (total + (total.square() - 4 * c1).clamp(min=0).sqrt()) / 2
    r2 = (2 * total + ((2 * total).square() - 16 * c2).clamp(min=0).sqrt()) / 2
    r3 = (b3 + (b3.square() - 16 * overlap * c3).clamp(min=0).sqrt()) / 2
    return torch.minimum(torch.minimum(r1, r2), r3).clamp(min=0).floor()
