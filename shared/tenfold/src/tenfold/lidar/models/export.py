"""Export of the dense half of a voxel detector."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tenfold._errors import MissingExtraError
from tenfold.lidar.models.second import ENCODER_STRIDE, Second


class _Dense(nn.Module):
    """Bird's-eye backbone and head; outputs without None, as exported graphs want them."""

    def __init__(self, model: Second) -> None:
        super().__init__()
        self.backbone_2d = model.backbone_2d
        self.dense_head = model.dense_head

    def forward(self, bev: Tensor) -> tuple[Tensor, ...]:
        return tuple(part for part in self.dense_head(self.backbone_2d(bev)) if part is not None)


def export_dense(model: Second, path: str | Path | None = None) -> torch.export.ExportedProgram:
    """Export the dense half: bird's-eye map to raw outputs of the anchors, for any batch size.

    ONNX has no sparse convolution. The other half, voxels and encoder, is exported with `torch.export` only,
    as a graph of operators that `tenfold` brings along.

    Args:
        model: put into eval mode for the export; its mode is restored.
        path: where to write: ".pt2" for `torch.export.save`, ".onnx" for ONNX; None writes nothing.

    Returns:
        The program. Input: (B, C, H, W) with the model's ``config.bev_input_channels``. Outputs: class logits
        (B, N, C), box codes (B, N, 7), direction logits (B, N, 2) if the model has them.

    Raises:
        ValueError: another ending.
        MissingExtraError: ONNX is asked for and onnxscript is not installed.

    Example:
        >>> model = Second()  # doctest: +SKIP
        >>> program = export_dense(model, "second_dense.onnx")  # doctest: +SKIP
    """
    ending = None if path is None else Path(path).suffix
    if ending not in (None, ".pt2", ".onnx"):
        raise ValueError(f"export_dense: path: got ending {ending!r}; expected '.pt2' or '.onnx'")
    program = _export(model)
    if ending == ".pt2":
        torch.export.save(program, str(path))
    if ending == ".onnx":
        _save_onnx(program, Path(str(path)))
    return program


def _export(model: Second) -> torch.export.ExportedProgram:
    nx, ny = (cells // ENCODER_STRIDE for cells in model.config.grid[:2])
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


def _save_onnx(program: torch.export.ExportedProgram, path: Path) -> None:
    if find_spec("onnxscript") is None:
        raise MissingExtraError("ONNX export needs: pip install onnx onnxscript")
    names = ["classes", "boxes", "direction"]
    outputs = names[: len(program.graph_signature.user_outputs)]
    onnx: Any = torch.onnx.export(program, dynamo=True, input_names=["bev"], output_names=outputs)
    onnx.save(str(path))
