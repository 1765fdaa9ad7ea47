"""The verb `export`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparsepoint.checkpoint import load_detector
from sparsepoint.models import RefineHead, SparsePoint
from tenfold._errors import UserInputError
from tenfold.io import check_output, staged

__all__ = ["WholeDetector", "export"]


class WholeDetector(nn.Module):
    """A detector as one function of points: scores (B, K, C) and boxes (B, K, 7) of the last stage."""

    def __init__(self, model: SparsePoint) -> None:
        super().__init__()
        self.model = model

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Of points (B, N, 3 + F)."""
        output = self.model(points)
        return output.logits[-1].sigmoid(), output.boxes[-1]


class _Refinement(nn.Module):
    """One refinement with its pooled features as separate inputs."""

    def __init__(self, head: RefineHead) -> None:
        super().__init__()
        self.head = head

    def forward(
        self, feats: Tensor, position: Tensor, *pooled: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """See `RefineHead`."""
        return self.head(feats, pooled, position)  # type: ignore[no-any-return]


def export(checkpoint: str, output: Path) -> None:
    """Write a sparse detector as torch.export program, or its refinement as ONNX.

    The program (.pt2) is the whole detector, points (1, N, 3 + F) to scores (1, K, C) and boxes (1, K, 7), and needs
    `tenfold.ops` imported where it runs; there is nothing to do behind it. ONNX has no point operators: .onnx holds the
    refinement (features, positions and pooled grids to features, logits, deltas and headings).

    Args:
        checkpoint: Checkpoint written by `sparsepoint fit`, or tiny.
        output: File to write: .pt2, or .onnx (needs the packages onnx and onnxscript).
    """
    check_output(output)
    model = load_detector(checkpoint)
    if not isinstance(model, SparsePoint):
        raise UserInputError(
            f"{checkpoint}: preset: got {model.config.preset}; only sparse detectors are exported"
        )
    with staged(output) as written:
        write_onnx(model, written) if output.suffix == ".onnx" else write_program(model, written)
    print(f"{'refinement' if output.suffix == '.onnx' else 'detector'} of {checkpoint} -> {output}")


def write_program(model: SparsePoint, path: Path) -> None:
    """The whole detector as torch.export program."""
    points = torch.rand(1, model.config.num_points, 3 + model.config.features) * 3
    with torch.no_grad():
        torch.export.save(torch.export.export(WholeDetector(model).eval(), (points,)), path)


def write_onnx(model: SparsePoint, path: Path) -> None:
    """The first refinement (with shared stages: every one) as ONNX; scenes and proposals may be any number."""
    head: Any = model.heads[0]
    dim, number = model.config.dim, model.config.num_proposals
    pooled = tuple(torch.rand(2, number, side**3, dim) for side in model.config.grids)
    names = [f"pooled{side}" for side in model.config.grids]
    batch = torch.export.Dim("batch", min=1, max=1024)
    inputs = (torch.rand(2, number, dim), torch.rand(2, number, 8), *pooled)
    shapes = ({0: batch}, {0: batch}, tuple({0: batch} for _ in pooled))
    torch.onnx.export(
        _Refinement(head).eval(),
        inputs,
        path,
        input_names=["feats", "position", *names],
        output_names=["feats_out", "logits", "delta", "heading"],
        dynamic_shapes=shapes,
        dynamo=True,
        verbose=False,
    )
