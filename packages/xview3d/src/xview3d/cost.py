"""What views cost: forward time part by part, and the memory that training keeps."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from xview3d.fusion import Views

__all__ = ["PARTS", "Cost", "kept_bytes", "measure_cost"]

#: Parts of a forward pass; "rest" is backbones in the bird's-eye view, heads and second stages.
PARTS = ("voxelise", "main", "views", "gather", "rest")


class Cost(NamedTuple):
    """Cost of one forward pass in evaluation mode, batch as given.

    Args:
        total: milliseconds, median.
        parts: of it, by the names in `PARTS`.
        parameters: of the model.
        kept: bytes that a training step keeps for its backward pass, or None where not measured.
    """

    total: float
    parts: dict[str, float]
    parameters: int
    kept: int | None


def measure_cost(
    model: nn.Module, batch: Mapping[str, Any], runs: int = 10, warm_up: int = 2, *, memory: bool = False
) -> Cost:
    """Time a detector, with or without views, on a batch.

    Args:
        model: of `tenfold.lidar`, or what `add_xview` made of it.
        batch: ``points``, ``batch_size``; for the memory also ``gt_boxes``.
        runs: counted passes.
        warm_up: passes before.
        memory: measure what a training step keeps, too.
    """
    training = model.training
    model.eval()
    spent: dict[str, float] = {}
    hooks = _hooks(model, spent)
    totals, rows = [], []
    try:
        for run in range(warm_up + runs):
            spent.clear()
            start = time.perf_counter()
            model(batch)
            total = time.perf_counter() - start
            if run >= warm_up:
                totals.append(1e3 * total)
                rows.append(dict(spent))
    finally:
        for hook in hooks:
            hook.remove()
        model.train(training)
    parts = {name: 1e3 * statistics.median(row.get(name, 0.0) for row in rows) for name in PARTS[:-1]}
    parts["rest"] = max(0.0, statistics.median(totals) - sum(parts.values()))
    number = sum(p.numel() for p in model.parameters())
    return Cost(statistics.median(totals), parts, number, kept_bytes(model, batch) if memory else None)


def kept_bytes(model: nn.Module, batch: Mapping[str, Any]) -> int:
    """Bytes of all different tensors, parameters aside, that a training step keeps for its backward pass."""
    import copy

    own = copy.deepcopy(model).train()
    held = {p.untyped_storage().data_ptr() for p in own.parameters()}
    kept: dict[int, int] = {}
    alive: list[Tensor] = []  # a storage that is freed gives its address away

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        # Detached: a graph that holds its own outputs would never be freed.
        own_data = tensor.detach()
        if storage.data_ptr() not in held:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(own_data)
        return own_data

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        own(batch)
    return sum(kept.values())


def _hooks(model: nn.Module, spent: dict[str, float]) -> list[Any]:
    """Clocks around the parts; the outermost counts."""
    parts: list[tuple[nn.Module, str]] = []
    names = ("voxel_features", "vfe")
    parts += [(getattr(model, name), "voxelise") for name in names if hasattr(model, name)]
    if hasattr(model, "backbone_3d"):
        parts.append((model.backbone_3d, "main"))  # type: ignore[arg-type]
    if isinstance(model, Views):
        for encoder in model.view_encoders:
            if hasattr(encoder, "voxel_features"):
                parts.append((encoder.voxel_features, "voxelise"))  # type: ignore[arg-type]
            if hasattr(encoder, "backbone"):
                parts.append((encoder.backbone, "views"))  # type: ignore[arg-type]
        parts += [(projector, "gather") for projector in model.projectors.values()]
    hooks: list[Any] = []
    for module, part in parts:
        before, after = _clock(part, spent)
        hooks += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
    return hooks


def _clock(part: str, spent: dict[str, float]) -> tuple[Callable[..., None], Callable[..., None]]:
    started: list[float] = []

    def before(_module: nn.Module, _args: Any) -> None:
        started.append(time.perf_counter())

    def after(_module: nn.Module, _args: Any, _out: Any) -> None:
        spent[part] = spent.get(part, 0.0) + time.perf_counter() - started.pop()

    return before, after
