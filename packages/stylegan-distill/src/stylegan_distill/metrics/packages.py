"""The same metrics through the packages that many papers report with, torch-fidelity and lpips, where installed.

Feature networks stay files of the user here too. Left alone, the packages download what they are not given and unpickle
what they are: every file is read as tensors alone first and handed on as nothing else.
"""

from __future__ import annotations

import hashlib
import importlib
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from stylegan_distill.features import fingerprint, read_state, to_uint8
from stylegan_distill.metrics.record import Measured
from tenfold._errors import MissingExtraError, UserInputError

__all__ = ["PackageLPIPS", "fidelity_metrics", "require_package"]

# Before 0.4 torch-fidelity had no precision and recall, or took the first input for the real one.
_LEAST_FIDELITY = (0, 4)
_SUBSET = 1000


def require_package(module: str, package: str) -> Any:
    """An optional package of the extra ``metrics``.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f'{package} is not installed: pip install "stylegan-distill[metrics]"'
        ) from error


def _fidelity() -> Any:
    package = require_package("torch_fidelity", "torch-fidelity")
    version = str(package.__version__)
    if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < _LEAST_FIDELITY:
        raise MissingExtraError(
            f"torch-fidelity: got version {version}; expected 0.4 or newer, which tells generated images from real "
            'ones: pip install -U "torch-fidelity>=0.4"'
        )
    return package


class _Stored(Dataset[Tensor]):
    """Images as ``(3, R, R)`` of 0 to 255, in a file: 50,000 of 256 pixels are 10 GB."""

    def __init__(self, batches: Iterable[Tensor], path: Path) -> None:
        shape: tuple[int, ...] = ()
        with path.open("wb") as file:
            for batch in batches:
                pixels = to_uint8(batch).cpu().contiguous().numpy()
                shape = pixels.shape[1:]
                file.write(pixels.tobytes())
        if not shape:
            raise UserInputError("fidelity: images: got none")
        self._pixels = np.memmap(path, np.uint8, "r").reshape(-1, *shape)

    def __len__(self) -> int:
        return len(self._pixels)

    def __getitem__(self, index: int) -> Tensor:
        return torch.from_numpy(self._pixels[index].copy())


def _plain(path: Path, copy: Path) -> str:
    """Write the file's tensors, and nothing else of it, to ``copy``; the file's hash."""
    torch.save(dict(read_state(path)), copy)
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def fidelity_metrics(
    real: Iterable[Tensor],
    fake: Iterable[Tensor],
    *,
    inception: Path | None = None,
    vgg: Path | None = None,
    batch: int = 64,
    neighbours: int = 3,
    seed: int = 0,
    cuda: bool = False,
) -> Measured:
    """FID and KID (with an Inception), precision and recall (with a VGG16) as torch-fidelity computes them.

    The images are rounded to 8 bits and kept in temporary files meanwhile.

    Args:
        real: batches ``(B, 3, H, W)`` in [-1, 1], never mirrored.
        fake: generated ones.
        inception: weights of torch-fidelity's Inception (``weights-inception-2015-12-05-6726825d.pth``).
        vgg: torchvision's VGG16.
        batch: images at a time.
        neighbours: of precision and recall.
        seed: of KID's subsets.
        cuda: run the feature networks on a GPU.

    Returns:
        ``fid_torch_fidelity``, ``kid_torch_fidelity``, ``precision_torch_fidelity``, ``recall_torch_fidelity``: those
        whose network is there.

    Raises:
        MissingExtraError: torch-fidelity is missing, or older than 0.4.
        UserInputError: no network, an unfit file, or too few images.
    """
    if inception is None and vgg is None:
        raise UserInputError("fidelity: inception, vgg: got neither; torch-fidelity would download its own")
    package = _fidelity()
    facts: dict[str, Any] = {"package": f"torch-fidelity {package.__version__}"}
    values: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        weights = folder / "weights.pth"
        # The package takes its first input for the generated images.
        inputs = _Stored(fake, folder / "fake"), _Stored(real, folder / "real")
        facts |= {"fake": len(inputs[0]), "real": len(inputs[1])}
        least = min(map(len, inputs))
        if least <= neighbours:
            raise UserInputError(f"fidelity: got {least} images; expected more than {neighbours}")
        common = {
            "input1": inputs[0],
            "input2": inputs[1],
            "batch_size": batch,
            "cuda": cuda,
            "feature_extractor_weights_path": str(weights),
            "rng_seed": seed,
            "cache": False,
            "save_cpu_ram": True,  # and no worker processes
            "verbose": False,
        }
        if inception is not None:
            facts["features"] = _plain(inception, weights)
            found = _call(package, inception, common, fid=True, kid=True, kid_subset_size=min(_SUBSET, least))
            values["fid_torch_fidelity"] = float(found[package.KEY_METRIC_FID])
            values["kid_torch_fidelity"] = float(found[package.KEY_METRIC_KID_MEAN])
        if vgg is not None:
            facts["manifold_features"] = _plain(vgg, weights)
            found = _call(package, vgg, common, prc=True, prc_neighborhood=neighbours)
            values["precision_torch_fidelity"] = float(found[package.KEY_METRIC_PRECISION])
            values["recall_torch_fidelity"] = float(found[package.KEY_METRIC_RECALL])
    return Measured(values, facts)


def _call(package: Any, path: Path, common: dict[str, Any], **chosen: Any) -> dict[str, Any]:
    try:
        return dict(package.calculate_metrics(**common, **chosen))
    except RuntimeError as error:  # what a state dict of another network raises
        raise UserInputError(
            f"{path}: weights: torch-fidelity cannot use them ({str(error).splitlines()[0]})"
        ) from error


class PackageLPIPS(nn.Module):
    """LPIPS (VGG16, version 0.1) of the package lpips: its own heads, on the user's VGG16.

    Args:
        backbone: torchvision's VGG16, a state dict or the file of one.
        resize: larger images are resized to this side first, see `stylegan_distill.LPIPS`.

    Raises:
        MissingExtraError: lpips is not installed.
        UserInputError: an unfit file.
    """

    name = "lpips_vgg"

    def __init__(self, backbone: Path, *, resize: int | None = None) -> None:
        super().__init__()
        self.resize = resize
        state = read_state(backbone)
        # A random backbone: the package would download one.
        self.net = require_package("lpips", "lpips").LPIPS(
            net="vgg", version="0.1", pnet_rand=True, verbose=False
        )
        with torch.no_grad():
            for number in range(1, 6):
                for index, layer in getattr(self.net.net, f"slice{number}").named_children():
                    for kind, value in layer.named_parameters():
                        key = f"features.{index}.{kind}"
                        if key not in state or state[key].shape != value.shape:
                            raise UserInputError(f"{backbone}: {key}: expected shape {tuple(value.shape)}")
                        value.copy_(state[key])
        self.eval().requires_grad_(False)
        self.fingerprint = fingerprint(self)

    def train(self, mode: bool = True) -> PackageLPIPS:
        """Stays in evaluation mode: the heads carry dropout."""
        return super().train(False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Distances ``(B,)`` of ``x`` and ``y``, both ``(B, 3, H, W)`` in [-1, 1]."""
        if self.resize is not None and x.shape[-1] > self.resize:
            x, y = (
                F.interpolate(v, (self.resize, self.resize), mode="bilinear", align_corners=False)
                for v in (x, y)
            )
        found: Tensor = self.net(x, y)
        return found.flatten()
