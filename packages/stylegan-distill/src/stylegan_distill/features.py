"""Feature networks of the metrics: a tiny fixed one that ships with the package, and the user's own files.

Published feature networks (Inception of 2015, VGG16, the heads of LPIPS) are files that the user brings; they are
named by the hash of their weights in every record, and nothing ever stands in for them silently. `TinyFeatures` needs
no file: its weights follow from a fixed seed. Distances on it are printed under names of their own (``fd_tiny``) and
compare with nothing published.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tenfold._errors import UserInputError
from tenfold.io import load_checkpoint, load_strict

__all__ = [
    "FeatureNet",
    "InceptionFeatures",
    "TinyFeatures",
    "VGG16Features",
    "VGG16Stages",
    "fingerprint",
    "to_uint8",
]

State = Mapping[str, Tensor]


class FeatureNet(Protocol):
    """What a metric asks of its features.

    Attributes:
        name: part of the metric's name: ``"tiny"``, ``"inception"``, ``"vgg16"`` or the user's own word.
        fingerprint: hash of the weights.
    """

    name: str
    fingerprint: str

    def __call__(self, images: Tensor, /) -> Tensor:
        """``(B, 3, H, W)`` in [-1, 1] to ``(B, D)``."""
        ...


def fingerprint(module: nn.Module) -> str:
    """First 16 digits of the SHA-256 of a module's state, in the order of its keys.

    >>> fingerprint(TinyFeatures()) == fingerprint(TinyFeatures())
    True
    """
    digest = hashlib.sha256()
    for key, value in sorted(module.state_dict().items()):
        digest.update(key.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def to_uint8(images: Tensor) -> Tensor:
    """[-1, 1] to whole numbers 0 to 255 as the published FID quantises: ``clamp(127.5 x + 128)``, cut off.

    >>> to_uint8(torch.tensor([-1.0, 0.0, 1.0])).tolist()
    [0, 128, 255]
    """
    return (images * 127.5 + 128).clamp(0, 255).to(torch.uint8)


def _frozen(module: nn.Module) -> None:
    module.eval()
    for parameter in module.parameters():
        parameter.requires_grad_(False)


def read_state(source: str | Path | State) -> State:
    """A state dict, from a file (weights only) or as it is."""
    if isinstance(source, Mapping):
        return source
    content = load_checkpoint(source)
    if not isinstance(content, Mapping) or not all(isinstance(v, Tensor) for v in content.values()):
        raise UserInputError(f"{source}: checkpoint: expected a state dict of tensors")
    return content


# ---- tiny ----------------------------------------------------------------------------------------

_TINY_WIDTHS = (24, 32, 48)


class TinyFeatures(nn.Module):
    """Three 3x3 convolutions with fixed random weights; the same on every machine and for ever.

    *Not comparable* with any published feature network: good for tests and for comparing arms of one experiment.

    ``forward``: ``(B, 3, H, W)`` in [-1, 1] to ``(B, 104)``, the spatial means of all layers. `stages` gives the maps.

    >>> TinyFeatures()(torch.zeros(2, 3, 16, 16)).shape
    torch.Size([2, 104])
    """

    name = "tiny"

    def __init__(self) -> None:
        super().__init__()
        # RandomState: the one generator whose numbers numpy promises never to change.
        rng = np.random.RandomState(20220819)
        channels = (3, *_TINY_WIDTHS)
        self.convs = nn.ModuleList()
        for number, (fan, width) in enumerate(zip(channels, _TINY_WIDTHS, strict=False)):
            conv = nn.Conv2d(fan, width, 3, stride=1 if number == 0 else 2, padding=1)
            scale = np.sqrt(2.0 / (9 * fan))
            weight = rng.standard_normal((width, fan, 3, 3)) * scale
            bias = rng.standard_normal(width) * 0.1
            with torch.no_grad():
                conv.weight.copy_(torch.from_numpy(weight))
                assert conv.bias is not None
                conv.bias.copy_(torch.from_numpy(bias))
            self.convs.append(conv)
        _frozen(self)
        self.fingerprint = fingerprint(self)
        self.widths = _TINY_WIDTHS

    def stages(self, x: Tensor) -> list[Tensor]:
        """The maps ``(B, C_l, H_l, W_l)`` after each layer."""
        found = []
        for conv in self.convs:
            x = F.leaky_relu(conv(x), 0.2)
            found.append(x)
        return found

    def forward(self, x: Tensor) -> Tensor:
        """Spatial means of all stages."""
        return torch.cat([stage.mean((2, 3)) for stage in self.stages(x)], 1)


# ---- VGG16 ---------------------------------------------------------------------------------------

_VGG_PLAN = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class VGG16Stages(nn.Module):
    """Convolutions of VGG16; the maps at relu1_2, 2_2, 3_3, 4_3 and 5_3 (64, 128, 256, 512, 512 channels).

    Keys are torchvision's: ``features.0.weight`` and so on.

    >>> [stage.shape[1] for stage in VGG16Stages().stages(torch.zeros(1, 3, 32, 32))]
    [64, 128, 256, 512, 512]
    """

    widths = tuple(width for width, _ in _VGG_PLAN)

    def __init__(self, weights: str | Path | State | None = None) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        self._ends: list[int] = []
        fan = 3
        for width, depth in _VGG_PLAN:
            for _ in range(depth):
                layers += [nn.Conv2d(fan, width, 3, padding=1), nn.ReLU()]
                fan = width
            self._ends.append(len(layers) - 1)
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        if weights is not None:
            state = read_state(weights)
            load_strict(self, {k: v for k, v in state.items() if not k.startswith("classifier.")})
        _frozen(self)

    def stages(self, x: Tensor) -> list[Tensor]:
        """Maps of the five stages; ``x`` is normalised already."""
        found = []
        for number, layer in enumerate(self.features[: self._ends[-1] + 1]):
            x = layer(x)
            if number in self._ends:
                found.append(x)
        return found


class VGG16Features(VGG16Stages):
    """The 4096 numbers of VGG16's second hidden layer (after its ReLU), for precision and recall.

    Args:
        weights: torchvision's VGG16 state dict, or the file of one.
    """

    name = "vgg16"

    def __init__(self, weights: str | Path | State) -> None:
        super().__init__()
        hidden = (nn.Linear(512 * 49, 4096), nn.ReLU(), nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU())
        self.classifier = nn.Sequential(*hidden)
        # The last layer (1000 classes) is not asked for.
        state = {k: v for k, v in read_state(weights).items() if not k.startswith("classifier.6.")}
        load_strict(self, state)
        _frozen(self)
        self.fingerprint = fingerprint(self)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, 3, H, W)`` in [-1, 1] to ``(B, 4096)``; resized to 224."""
        x = F.interpolate(x.float(), (224, 224), mode="bilinear", align_corners=False, antialias=True)
        mean, std = (x.new_tensor(v).view(1, 3, 1, 1) for v in (_IMAGENET_MEAN, _IMAGENET_STD))
        x = self.features((x.clamp(-1, 1) * 0.5 + 0.5 - mean) / std)
        return self.classifier(F.adaptive_avg_pool2d(x, 7).flatten(1))  # type: ignore[no-any-return]


# ---- Inception -----------------------------------------------------------------------------------


def resize_tf(x: Tensor, size: int) -> Tensor:
    """Bilinear resize as the Inception graph of 2015 does it: corners not aligned, without the half-pixel shift.

    Output pixel i reads the input at ``i * in / out``.

    >>> resize_tf(torch.arange(2.0).view(1, 1, 1, 2).expand(1, 1, 2, 2), 4)[0, 0, 0].tolist()
    [0.0, 0.5, 1.0, 1.0]
    """
    for dim in (2, 3):
        length = x.shape[dim]
        place = torch.arange(size, device=x.device, dtype=torch.float64) * (length / size)
        low = place.floor().long().clamp(max=length - 1)
        part = (place - low).to(x.dtype).view([-1 if d == dim else 1 for d in range(4)])
        high = (low + 1).clamp(max=length - 1)
        first, second = x.index_select(dim, low), x.index_select(dim, high)
        x = first + (second - first) * part
    return x


class InceptionFeatures(nn.Module):
    """The 2048 numbers before the classifier of the Inception network that FID is defined on.

    torchvision's Inception v3 with the pooling of the TensorFlow graph: averages leave the padding out, the last block
    takes a maximum.

    Args:
        weights: state dict (or file) in the key names of ``pt_inception-2015-12-05``.
        tf_resize: bilinear without half-pixel shift, as in the original graph; False aligns pixels as pytorch-fid.
        quantise: round images to 8 bits first, as NVIDIA's metrics do.
    """

    name = "inception"

    def __init__(
        self, weights: str | Path | State | None, *, tf_resize: bool = True, quantise: bool = True
    ) -> None:
        super().__init__()
        self.net = _fid_inception()
        if weights is not None:
            state = {k: v for k, v in read_state(weights).items() if not k.startswith("fc.")}
            load_strict(self.net, state, allow_missing=(r".*num_batches_tracked",))
        _frozen(self)
        self.tf_resize, self.quantise = tf_resize, quantise
        self.fingerprint = fingerprint(self)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, 3, H, W)`` in [-1, 1] to ``(B, 2048)``."""
        if self.quantise:
            x = (to_uint8(x).float() - 128) / 128
        x = resize_tf(x, 299) if self.tf_resize else F.interpolate(x, (299, 299), mode="bilinear")
        return self.net(x)  # type: ignore[no-any-return]


def _fid_inception() -> nn.Module:
    from torchvision.models import inception_v3

    net: Any = inception_v3(weights=None, num_classes=1008, aux_logits=False, init_weights=False)
    net.fc = nn.Identity()
    for name in (
        "Mixed_5b",
        "Mixed_5c",
        "Mixed_5d",
        "Mixed_6b",
        "Mixed_6c",
        "Mixed_6d",
        "Mixed_6e",
        "Mixed_7b",
    ):
        _pool_instead(getattr(net, name), lambda x: F.avg_pool2d(x, 3, 1, 1, count_include_pad=False))
    _pool_instead(net.Mixed_7c, lambda x: F.max_pool2d(x, 3, 1, 1))
    return net  # type: ignore[no-any-return]


def _pool_instead(block: Any, pool: Callable[[Tensor], Tensor]) -> None:
    """Feed a block's pooling branch with ``pool`` of the block's input."""
    seen: list[Tensor] = []
    block.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    block.branch_pool.register_forward_pre_hook(lambda module, inputs: (pool(seen.pop()),))
