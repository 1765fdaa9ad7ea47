"""The verb `export`: the image branch, from normalised pixels to what the fusion reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pircnn.checkpoints import load_segmentation
from tenfold._errors import MissingExtraError, UserInputError
from tenfold.io import check_output, staged

__all__ = ["export", "export_image_branch"]


class _Branch(nn.Module):
    """Probabilities (B, Cs, H, W) of normalised images."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        result: Tensor = self.network(images).softmax(1)
        return result


def export(checkpoint: Path, output: Path, height: int = 375, width: int = 1242) -> None:
    """Write the image branch, normalised image to class probabilities, as ONNX or torch.export program.

    Neighbour search, farthest points and regions have no ONNX form: the rest of the detector stays with this package.

    Args:
        checkpoint: Checkpoint with an image network, of the detector or of it alone.
        output: File to write: .onnx (needs the packages onnx and onnxscript) or .pt2.
        height: Of the images, pixels.
        width: Of the images, pixels.
    """
    check_output(output)
    if min(height, width) < 16:
        raise UserInputError(f"height, width: got {height}, {width}; expected 16 or more")
    network = load_segmentation(checkpoint)
    with staged(output) as written:
        export_image_branch(network, written, (height, width))
    print(f"image branch of {checkpoint} for {width} x {height} pixels -> {output}")


def export_image_branch(network: nn.Module, path: Path, image_size: tuple[int, int]) -> None:
    """Export an image network for images of one size and any batch.

    Args:
        network: `SegUNet`.
        path: .onnx or .pt2.
        image_size: (height, width).

    Raises:
        MissingExtraError: ONNX is asked for and onnxscript is not installed.
    """
    example = torch.zeros(2, 3, *image_size)
    branch = _Branch(network).eval()
    program = torch.export.export(branch, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    if path.suffix == ".pt2":
        torch.export.save(program, str(path))
        return
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingExtraError('ONNX export needs: pip install "pircnn[export]"') from error
    onnx: Any = torch.onnx.export(
        program, dynamo=True, input_names=["images"], output_names=["probabilities"]
    )
    onnx.save(str(path))
