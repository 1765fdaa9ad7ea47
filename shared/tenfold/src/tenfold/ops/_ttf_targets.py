"""Training targets of TTFNet: Gaussian heat maps, dense box targets and their weights in one pass."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from tenfold import ref
from tenfold._validation import checks_content
from tenfold.ops._checks import LIMIT, require, require_float, require_integers, require_shape
from tenfold.ops._library import define, invoke

__all__ = ["ttf_targets"]

_AREAS = {"log": 0, "sqrt": 1, "linear": 2, "norm": 3}
_WEIGHTS = {"gaussian": 0, "flat": 1, "none": 2}
_SHAPES = {"elliptic": 0, "circular": 1}


def _fake(
    boxes: Tensor,
    labels: Tensor,
    num_classes: int,
    height: int,
    width: int,
    stride: int,
    alpha: float,
    beta: float,
    area: int,
    weight: int,
    shape: int,
    validate: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    b = boxes.shape[0]
    return (
        boxes.new_empty((b, num_classes, height, width), dtype=torch.float32),
        boxes.new_empty((b, 4, height, width), dtype=torch.float32),
        boxes.new_empty((b, height, width), dtype=torch.float32),
    )


_ttf_targets = define(
    "ttf_targets(Tensor boxes, Tensor labels, SymInt num_classes, SymInt height, SymInt width, int stride, "
    "float alpha, float beta, int area, int weight, int shape, bool validate) "
    "-> (Tensor heatmap, Tensor box_target, Tensor weight_map)",
    contract=1,
    reference=ref.ttf_targets,
    fake=_fake,
)


def ttf_targets(
    boxes: Tensor,
    labels: Tensor,
    size: tuple[int, int],
    num_classes: int,
    *,
    stride: int = 4,
    alpha: float = 0.54,
    beta: float = 0.54,
    area: Literal["log", "sqrt", "linear", "norm"] = "log",
    weight: Literal["gaussian", "flat", "none"] = "gaussian",
    shape: Literal["elliptic", "circular"] = "elliptic",
) -> tuple[Tensor, Tensor, Tensor]:
    """Make TTFNet's targets for a batch of images (Liu et al. 2020, section 3; the official discretisation).

    Around the cell of its centre each box draws a Gaussian with the radii ``floor(alpha w / 2)`` and
    ``floor(alpha h / 2)`` (sigma = (2 radius + 1) / 6) into the heat map of its class, where the larger value
    stays; w and h are those of the box on the map, clipped to it. The cells of the same rectangle made with
    ``beta`` learn the box with the weight ``importance * G / sum(G)``. Boxes go from large to small, in input
    order where equal, and later ones overwrite earlier ones. Boxes without area draw nothing.

    Args:
        boxes: (M, 4), or (B, M, 4) of a batch, x1, y1, x2, y2 in pixels of the network's input.
        labels: (M,) or (B, M) integers from 0; -1 marks padding.
        size: (H, W) of the network's input, pixels; the maps have H // stride rows and W // stride columns.
        num_classes: heat maps.
        stride: pixels per cell.
        alpha: extent of the heat map's Gaussian relative to the box.
        beta: extent of the region that learns the box.
        area: importance of a box by its area in square pixels: its logarithm (at least 0), root, the area
            itself, or 1.
        weight: of the cells of a box: "gaussian"; "flat", importance over the number of cells; "none", 1.
        shape: "circular" uses the shorter side for both radii.

    Returns:
        heat map (C, H', W'), box target (4, H', W') in input pixels, weight (H', W'), float32, with a leading
        B for a batch. No gradient.

    Raises:
        ValueError: wrong shapes or options; at validation level "cheap" also labels from num_classes on and
            boxes that are not finite (below that level they draw nothing).
        TypeError: wrong dtypes.

    Example:
        >>> import torch
        >>> from tenfold.ops import ttf_targets
        >>> boxes, labels = torch.tensor([[100.0, 60.0, 300.0, 160.0]]), torch.tensor([0])
        >>> heat, target, weight = ttf_targets(boxes, labels, (512, 512), 1)
        >>> heat[0, 27, 50], int((weight > 0).sum()), round(weight.sum().item(), 4)
        (tensor(1.), 351, 9.9035)
    """
    op = "ttf_targets"
    require_float(op, "boxes", boxes)
    require_integers(op, "labels", labels)
    single = boxes.dim() == 2
    require_shape(op, "boxes", boxes, ("M", 4) if single else ("B", "M", 4), "x1, y1, x2, y2")
    require_shape(op, "labels", labels, tuple(boxes.shape[:-1]), "one label per box")
    require(labels.device == boxes.device, f"{op}: labels: on {labels.device}; expected {boxes.device}")
    require(num_classes >= 0, f"{op}: num_classes: got {num_classes}; expected a number >= 0")
    require(stride >= 1, f"{op}: stride: got {stride}; expected a number >= 1")
    require(
        len(size) == 2 and min(size) >= 0, f"{op}: size: got {tuple(size)}; expected (H, W), numbers >= 0"
    )
    for name, value in (("alpha", alpha), ("beta", beta)):
        require(0 <= value <= 1e3, f"{op}: {name}: got {value}; expected a number from 0 to 1000")
    for name, word, known in (
        ("area", area, _AREAS),
        ("weight", weight, _WEIGHTS),
        ("shape", shape, _SHAPES),
    ):
        require(word in known, f"{op}: {name}: got {word!r}; expected one of {', '.join(known)}")
    height, width = size[0] // stride, size[1] // stride
    require(
        max(num_classes, 4) * height * width * (1 if single else boxes.shape[0]) < LIMIT,
        f"{op}: size: the maps would have 2^31 entries or more; expected fewer",
    )
    if single:
        boxes, labels = boxes[None], labels[None]
    maps = invoke(
        _ttf_targets,
        boxes.detach().float(),
        labels.to(torch.int64),
        num_classes,
        height,
        width,
        stride,
        alpha,
        beta,
        _AREAS[area],
        _WEIGHTS[weight],
        _SHAPES[shape],
        checks_content(boxes.is_cpu),
    )
    heat, target, weights = (m[0] for m in maps) if single else maps
    return heat, target, weights
