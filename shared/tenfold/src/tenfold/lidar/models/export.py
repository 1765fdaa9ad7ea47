"""Export of the dense half of a voxel detector."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tenfold._errors import MissingExtraError
from tenfold.lidar.models.multi_head import MultiHead


class _Dense(nn.Module):
    """Bird's-eye backbone and head; outputs in a row and without None, as exported graphs want them."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.backbone_2d = model.backbone_2d
        self.dense_head = model.dense_head

    def forward(self, bev: Tensor) -> tuple[Tensor, ...]:
        outputs = self.dense_head(self.backbone_2d(bev))
        parts = (part if isinstance(part, tuple) else (part,) for part in outputs)
        return tuple(item for part in parts for item in part if item is not None)


def export_dense(model: nn.Module, path: str | Path | None = None) -> torch.export.ExportedProgram:
    """Export the dense half: bird's-eye map to raw outputs of the anchors, for any batch size.

    SECOND, PointPillars, Part-A2 with anchors and PV-RCNN have such a half. ONNX has no sparse convolution and no
    point operators: what lies before it, and the second stages, stay with this package. The voxels and encoder
    of SECOND can be exported with `torch.export`, as a graph of operators that `tenfold` brings along.

    Args:
        model: put into eval mode for the export; its mode is restored.
        path: where to write: ".pt2" for `torch.export.save`, ".onnx" for ONNX; None writes nothing.

    Returns:
        The program. Input: (B, C, H, W) with the model's ``config.bev_input_channels``. Outputs: class logits
        (B, N, C), box codes (B, N, 7), direction logits (B, N, 2) if the model has them; with `MultiHead` the
        class logits of every group, then the codes of every group.

    Raises:
        ValueError: another ending, or a detector without a dense part (PointRCNN, Part-A2 without anchors).
        MissingExtraError: ONNX is asked for and onnxscript is not installed.

    Example:
        >>> model = build_detector("second")  # doctest: +SKIP
        >>> program = export_dense(model, "second_dense.onnx")  # doctest: +SKIP
    """
    ending = None if path is None else Path(path).suffix
    if ending not in (None, ".pt2", ".onnx"):
        raise ValueError(f"export_dense: path: got ending {ending!r}; expected '.pt2' or '.onnx'")
    if not hasattr(model, "dense_head"):
        raise ValueError(
            f"export_dense: model: {type(model).__name__} has no dense part: it has no anchors; "
            "expected a detector with a bird's-eye map"
        )
    program = _export(model)
    if ending == ".pt2":
        torch.export.save(program, str(path))
    if ending == ".onnx":
        _save_onnx(program, Path(str(path)), _output_names(model))
    return program


def _export(model: Any) -> torch.export.ExportedProgram:
    nx, ny = (cells // model.config.feature_stride for cells in model.config.grid[:2])
    parameter = next(model.parameters())
    example = torch.zeros(
        2, model.config.bev_input_channels, ny, nx, dtype=parameter.dtype, device=parameter.device
    )
    training = model.training
    try:
        dense = _Dense(model.eval())
        return torch.export.export(dense, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    finally:
        model.train(training)


def _output_names(model: Any) -> list[str]:
    own = getattr(model.dense_head, "output_names", None)  # heads of other packages name theirs
    if own is not None:
        return list(own)
    if isinstance(model.dense_head, MultiHead):
        groups = range(len(model.dense_head.rpn_heads))
        return [*(f"classes_{k}" for k in groups), *(f"boxes_{k}" for k in groups)]
    return ["classes", "boxes", *(["direction"] if model.config.direction else [])]


def _save_onnx(program: torch.export.ExportedProgram, path: Path, names: list[str]) -> None:
    if find_spec("onnxscript") is None:
        raise MissingExtraError("ONNX export needs: pip install onnx onnxscript")
    onnx: Any = torch.onnx.export(program, dynamo=True, input_names=["bev"], output_names=names)
    onnx.save(str(path))
