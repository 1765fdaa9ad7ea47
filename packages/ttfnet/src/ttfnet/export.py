"""The verb `export`: ONNX with decoding in the graph, a torch.export program or TorchScript; the parity check."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from tenfold._errors import MissingExtraError, UserInputError
from tenfold.io import check_output, staged
from ttfnet.checkpoint import ModelInfo, load_detector
from ttfnet.model import Detector, use_standard_operators

__all__ = ["Graph", "compare", "export", "export_detector", "parity"]

Runner = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
_ENDINGS = (".onnx", ".pt2", ".torchscript")
_OPSET = {"native": 20, "decomposed": 18}
_CHECKED = 20
#: Largest differences that the parity check accepts: of scores, and of box sides in input pixels.
TOLERANCE = (1e-4, 0.05)


class Graph(nn.Module):
    """Images to boxes, scores and labels of fixed size: what is exported.

    Args:
        model: the detector.
        max_det: rows of each image; rows without an object are zero.
        half: compute in float16; input and output stay float32.
    """

    def __init__(self, model: Detector, max_det: int = 100, half: bool = False) -> None:
        super().__init__()
        self.model, self.max_det, self.half_precision = model, max_det, half

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``(B, K, 4)`` boxes in input pixels, ``(B, K)`` scores, ``(B, K)`` labels of normalised images."""
        out = self.model(images.half() if self.half_precision else images)
        boxes, scores, labels = self.model.decode(out, self.max_det)
        height, width = images.shape[-2:]
        limits = torch.tensor([width, height, width, height], dtype=boxes.dtype, device=boxes.device)
        boxes = torch.minimum(boxes.clamp(min=0), limits)
        real = scores > 0
        return boxes * real[..., None], scores, labels * real


def export(
    checkpoint: Path,
    output: Path,
    dcn: Literal["native", "decomposed"] = "native",
    dynamic: bool = False,
    half: bool = False,
    max_det: int = 100,
    check: bool = True,
) -> None:
    """Write a detector, decoding included, as ONNX, torch.export program or TorchScript, and check that it agrees.

    Inputs are normalised images at the checkpoint's size; what that means is in the file's metadata, which
    `ttfnet predict` follows for ONNX. The check runs 20 pictures of many shapes through both.

    Args:
        checkpoint: Checkpoint written by `ttfnet fit` or `ttfnet convert`.
        output: File to write, .onnx, .pt2 or .torchscript.
        dcn: The operator DeformConv (opset 19), or standard operators for runtimes without it.
        dynamic: Any number of images at a time instead of one.
        half: Compute in float16.
        max_det: Rows for each image.
        check: Compare with the checkpoint, and fail where they differ.
    """
    check_output(output, _ENDINGS)
    if max_det < 1:
        raise UserInputError(f"max_det: got {max_det}; expected at least 1")
    model, info = load_detector(checkpoint)
    if info.resize == "original":  # an exported network has one input size
        info = replace(info, resize="letterbox")
    # Checked before it is in its place: nobody ever sees a file that is wrong.
    with staged(output) as written:
        export_detector(model, info, written, dcn=dcn, dynamic=dynamic, half=half, max_det=max_det)
        if check:
            score, box, rows = parity(model, info, written, max_det)
            # Half the bits, a tenth of the digits: float16 is shown, not judged.
            if not half and (score >= TOLERANCE[0] or box >= TOLERANCE[1]):
                raise UserInputError(
                    f"{output}: check: scores differ by {score:.2g}, boxes by {box:.2g} pixels; allowed are "
                    f"{TOLERANCE[0]:g} and {TOLERANCE[1]:g}; nothing was written"
                )
            print(
                f"check: {_CHECKED} pictures, scores within {score:.2g}, {rows:,} boxes within {box:.2g} pixels"
            )
    print(f"{checkpoint} -> {output}")


def export_detector(
    model: Detector,
    info: ModelInfo,
    path: Path,
    *,
    dcn: str = "native",
    dynamic: bool = False,
    half: bool = False,
    max_det: int = 100,
) -> None:
    """Write one file; see `export`.

    Raises:
        MissingExtraError: onnx or onnxscript is not installed.
    """
    model = copy.deepcopy(model).eval()
    graph = Graph(model.half() if half else model, max_det, half).eval()
    # Two images even for a fixed batch of any size: a size of one is taken for a constant.
    images = torch.zeros(2 if dynamic else 1, 3, *info.size)
    shapes = {"images": {0: torch.export.Dim("batch", min=1)}} if dynamic else None
    with _deformable(model, dcn == "decomposed"), torch.no_grad():
        if path.suffix == ".pt2":
            program = torch.export.export(graph, (images,), dynamic_shapes=shapes)
            torch.export.save(program, path, extra_files=_facts(info))
        elif path.suffix == ".torchscript":
            _write_torchscript(graph, images, info, path)
        else:
            _write_onnx(graph, images, shapes, info, path, _OPSET[dcn])


def _facts(info: ModelInfo) -> dict[str, Any]:
    """What `_write_onnx` puts into the metadata, as a file inside the file."""
    return {"ttfnet.json": json.dumps(info.document())}


def _write_torchscript(graph: Graph, images: Tensor, info: ModelInfo, path: Path) -> None:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the size of the input becomes a constant, as it should
        script = torch.jit.trace(graph, images, check_trace=False)  # type: ignore[no-untyped-call]
    torch.jit.save(script, path, _extra_files=_facts(info))  # type: ignore[no-untyped-call]


@contextmanager
def _deformable(model: nn.Module, decomposed: bool) -> Iterator[None]:
    """Deformable convolutions in the wanted form inside the block."""
    use_standard_operators(model, decomposed)
    try:
        yield
    finally:
        use_standard_operators(model, False)


def _write_onnx(graph: Graph, images: Tensor, shapes: Any, info: ModelInfo, path: Path, opset: int) -> None:
    try:
        import onnx
        import onnxscript  # noqa: F401  # the exporter needs it
    except ImportError as error:
        raise MissingExtraError('ONNX needs: pip install "ttfnet[export]"') from error
    import logging
    import warnings

    from ttfnet.runtime import METADATA

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            graph,
            (images,),
            dynamo=True,
            opset_version=opset,
            input_names=["images"],
            output_names=["boxes", "scores", "labels"],
            dynamic_shapes=shapes,
            custom_translation_table={torch.ops.torchvision.deform_conv2d.default: _deform_conv},
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    entry = proto.metadata_props.add()
    entry.key, entry.value = METADATA, json.dumps(info.document())
    onnx.save(proto, str(path))


def _deform_conv(
    input: Any,
    weight: Any,
    offset: Any,
    mask: Any,
    bias: Any,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dil_h: int,
    dil_w: int,
    n_weight_grps: int,
    n_offset_grps: int,
    use_mask: bool,
) -> Any:
    """Torchvision's operator as ONNX's, which has the same layout of offsets and masks."""
    from onnxscript import opset19

    return opset19.DeformConv(
        input,
        weight,
        offset,
        bias,
        mask,
        dilations=[dil_h, dil_w],
        group=n_weight_grps,
        offset_group=n_offset_grps,
        pads=[pad_h, pad_w, pad_h, pad_w],
        strides=[stride_h, stride_w],
    )


def parity(model: Detector, info: ModelInfo, path: Path, max_det: int = 100) -> tuple[float, float, int]:
    """Largest differences of scores and box sides between a file and its network, over 20 pictures.

    The pictures have many shapes and go through the whole preprocessing. The last number is that of the rows
    whose boxes were compared.
    """
    from ttfnet.predict import Predictor

    own = Graph(copy.deepcopy(model).float().eval(), max_det)
    feeder = Predictor(info, own)
    other = _program(path)
    worst = (0.0, 0.0, 0)
    with torch.inference_mode():
        for picture in _pictures():
            images = feeder.sample(picture).image[None]
            score, box, rows = compare(own(images), other(images))
            worst = (max(worst[0], score), max(worst[1], box), worst[2] + rows)
    return worst


def _program(path: Path) -> Runner:
    if path.suffix == ".pt2":
        program: Runner = torch.export.load(path).module()
        return program
    if path.suffix == ".torchscript":
        script: Runner = torch.jit.load(path)  # type: ignore[no-untyped-call]
        return script
    from ttfnet.runtime import onnx_runner

    return onnx_runner(path)[1]


def _pictures() -> Iterator[Any]:
    from ttfnet.data.shapes import draw_scene

    rng = np.random.default_rng(0)
    for _ in range(_CHECKED):
        side = int(rng.integers(64, 320))
        picture = draw_scene(rng, side)[0]
        yield picture[: int(rng.integers(32, side + 1)), : int(rng.integers(32, side + 1))]


def compare(
    first: tuple[Tensor, Tensor, Tensor], second: tuple[Tensor, Tensor, Tensor]
) -> tuple[float, float, int]:
    """Largest differences of sorted scores and of boxes of the same object, and the number of such rows.

    Rows of nearly equal scores may change places, and those of the last one may fall out: each row is
    compared with the nearest row of its class.
    """
    score, box, rows = 0.0, 0.0, 0
    for k in range(len(first[0])):
        a, b = ([part[k] for part in each] for each in (first, second))
        score = max(score, float((a[1] - b[1]).abs().max()))
        sure = a[1] > a[1][-1] + 2 * TOLERANCE[0] if a[1][-1] > 0 else a[1] > 0
        if not sure.any():
            continue
        far = (a[0][sure][:, None] - b[0][None]).abs().amax(-1)
        far = far.masked_fill(a[2][sure][:, None] != b[2][None], float("inf"))
        box = max(box, float(far.amin(1).max()))
        rows += int(sure.sum())
    return score, box, rows
