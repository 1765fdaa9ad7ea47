"""The verbs `predict` and `export` of the distillation packages. Needs no training extra."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tenfold._errors import MissingExtraError, UserInputError
from tenfold.distill.checkpoints import Classifier, load_classifier, save_classifier
from tenfold.distill.data import CIFAR_MEAN, CIFAR_STD, IMAGENET_MEAN, IMAGENET_STD, Augment
from tenfold.io import check_output, make_folder, read_image, staged, write_bytes

__all__ = ["classify", "export", "predict"]

_SHOWN = 5


def predict(
    image: Path,
    checkpoint: Path,
    out: Path = Path("predictions"),
    arch: str | None = None,
    top: int = _SHOWN,
) -> None:
    """Classify one image; write the scores as JSON and a picture of them.

    Writes IMAGE.json and IMAGE_scores.png.

    Args:
        image: The image; it is resized to the network's size.
        checkpoint: Checkpoint of `fit`, file of `export`, or a published state dict (then give --arch).
        out: Folder for the results.
        arch: Name of the network, where the checkpoint does not say.
        top: Number of classes to report.
    """
    if top < 1:
        raise UserInputError(f"top: got {top}; expected at least 1")
    pixels = read_image(image)
    found = load_classifier(checkpoint, arch=arch)
    names = _class_names(found)
    scores = classify(found, pixels)
    order = np.argsort(-scores, kind="stable")[:top]
    document = {
        "classes": [names[k] for k in order],
        "labels": [int(k) for k in order],
        "scores": [round(float(scores[k]), 6) for k in order],
        "arch": found.arch,
    }
    files = {
        f"{image.stem}.json": (json.dumps(document, indent=1) + "\n").encode(),
        f"{image.stem}_scores.png": _picture(pixels, document["classes"], document["scores"]),  # type: ignore[arg-type]
    }
    make_folder(out)
    for name, content in files.items():
        write_bytes(out / name, content)
    print(f"{document['classes'][0]} ({document['scores'][0]:.3f}) -> {out / f'{image.stem}.json'}")  # type: ignore[index]


def classify(found: Classifier, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Probabilities ``(C,)`` of an image ``(H, W, 3)``, resized to the size the network was trained at."""
    from PIL import Image

    side, mean, std = _preparation(found)
    if pixels.shape[:2] != (side, side):
        pixels = np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR))
    x = Augment(0, 0.0, mean, std).batch(pixels[None], [None])
    with torch.inference_mode():
        scores: npt.NDArray[np.float64] = found.model(x)[0].double().softmax(0).numpy()
    return scores


def _preparation(found: Classifier) -> tuple[int, tuple[float, float, float], tuple[float, float, float]]:
    """Side of the images, mean and deviation: what the file says, or what networks of this kind are trained at."""
    large = found.arch.startswith("torchvision:")
    usual = (224, IMAGENET_MEAN, IMAGENET_STD) if large else (32, CIFAR_MEAN, CIFAR_STD)
    side, mean, std = (
        found.facts.get(key, value) for key, value in zip(("size", "mean", "std"), usual, strict=True)
    )
    return int(side), tuple(mean), tuple(std)


def _class_names(found: Classifier) -> list[str]:
    names = found.facts.get("class_names") or []
    return (
        [str(n) for n in names]
        if len(names) == found.num_classes
        else [str(k) for k in range(found.num_classes)]
    )


def _picture(pixels: npt.NDArray[np.uint8], names: list[str], scores: list[float]) -> bytes:
    """The image beside bars of its best classes, as PNG."""
    from PIL import Image, ImageDraw, ImageFont

    from tenfold.viz import encode_image

    side, row, width = 224, 34, 560
    canvas = Image.new("RGB", (width, max(side, row * len(names)) + 24), (16, 18, 24))
    shown = Image.fromarray(pixels)
    scale = side / max(shown.size)
    resized = shown.resize(
        (max(1, round(shown.width * scale)), max(1, round(shown.height * scale))), Image.Resampling.NEAREST
    )
    canvas.paste(resized, (12, 12))
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=14)
    for k, (name, score) in enumerate(zip(names, scores, strict=True)):
        top, left = 12 + row * k, side + 36
        draw.rectangle((left, top + 18, left + 270, top + 28), fill=(42, 47, 58))
        draw.rectangle((left, top + 18, left + round(270 * score), top + 28), fill=(86, 156, 214))
        draw.text((left, top), f"{name[:28]}  {100 * score:.1f} %", fill=(226, 229, 236), font=font)
    return encode_image(np.asarray(canvas))


def export(checkpoint: Path, output: Path, arch: str | None = None, size: int | None = None) -> None:
    """Write a trained network as ONNX, torch.export program, or plain state dict with a JSON beside it.

    Args:
        checkpoint: Checkpoint of `fit`, or a published state dict (then give --arch).
        output: File to write: .onnx, .pt2, .pt or .safetensors.
        arch: Name of the network, where the checkpoint does not say.
        size: Side of the images; by default the one it was trained at.
    """
    check_output(output, (".onnx", ".pt2", ".pt", ".safetensors"))
    found = load_classifier(checkpoint, arch=arch)
    if output.suffix in (".pt", ".safetensors"):
        facts = {k: v for k, v in found.facts.items() if k in ("mean", "std", "size", "class_names")}
        save_classifier(output, found.model, arch=found.arch, num_classes=found.num_classes, **facts)
    else:
        side = size or _preparation(found)[0]
        _export_program(found, torch.zeros(2, 3, side, side), output)
    print(f"{found.arch} of {checkpoint} -> {output}")


def _export_program(found: Classifier, example: torch.Tensor, output: Path) -> None:
    batch = torch.export.Dim("batch", min=1, max=4096)
    with staged(output) as written:
        program = torch.export.export(found.model, (example,), dynamic_shapes=({0: batch},))
        if output.suffix == ".pt2":
            torch.export.save(program, written)
        else:
            _onnx(program, written)


def _onnx(program: Any, path: Path) -> None:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("a .onnx file needs: pip install onnx onnxscript") from error
    torch.onnx.export(program, (), str(path), dynamo=True, verbose=False, external_data=False)
