"""What an extractor is, and the register of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from moviescenes.shots import Shot, ShotList
from moviescenes.video import Video
from tenfold._errors import UserInputError

__all__ = ["MODALITIES", "FeatureExtractor", "FrameExtractor", "extractor", "names", "register"]

Array = npt.NDArray[np.float32]
Image = npt.NDArray[np.uint8]

#: The four semantic elements of the paper, in its order; files and networks use these words.
MODALITIES = ("place", "cast", "act", "aud")


@runtime_checkable
class FeatureExtractor(Protocol):
    """Describes the shots of a video.

    Attributes:
        name: of the extractor; part of the key of its cache.
        modality: one of `MODALITIES`.
        dim: shape of one shot's description, such as ``(640,)``.
        version: goes up when the numbers change; part of the key of its cache.
    """

    name: str
    modality: str
    dim: tuple[int, ...]
    version: int

    def extract(self, video: Video, shots: ShotList) -> Array:
        """Descriptions (n, *dim) of the shots, float32."""
        ...


@runtime_checkable
class FrameExtractor(Protocol):
    """An extractor that looks at a few frames of each shot; all of them share one pass over the video.

    Attributes:
        name: as for `FeatureExtractor`.
        modality: as there.
        dim: as there.
        version: as there.
        size: pictures are made at most so many pixels wide and high.
    """

    name: str
    modality: str
    dim: tuple[int, ...]
    version: int
    size: int

    def frames(self, shot: Shot) -> Sequence[int]:
        """Numbers of the frames to see, ascending."""
        ...

    def describe(self, images: Sequence[Image]) -> Array:
        """Description of a shot from these frames (H, W, 3); some may be missing where a video is damaged."""
        ...


_BUILT_IN = {
    "hsv-hist": "moviescenes.features.colours:ColourHistogram",
    "resnet50": "moviescenes.features.networks:ResNet50",
    "efficientnet-lite0": "moviescenes.features.networks:EfficientNetLite0",
    "skin-layout": "moviescenes.features.skin:SkinLayout",
    "motion-hist": "moviescenes.features.motion:MotionHistogram",
    "logmel-stats": "moviescenes.features.sound:MelStatistics",
    "stft": "moviescenes.features.sound:Spectrogram",
}
_REGISTERED: dict[str, Callable[..., Any]] = {}


def register(name: str, factory: Callable[..., Any]) -> None:
    """Make an extractor known by name for this process.

    Args:
        name: what users write.
        factory: called without arguments, or with the text after the colon in ``name:text``.
    """
    _REGISTERED[name] = factory


def names() -> list[str]:
    """Names of all extractors: built in, registered, installed."""
    return sorted({*_BUILT_IN, *_REGISTERED, *(e.name for e in entry_points(group="moviescenes.features"))})


def extractor(word: str) -> Any:
    """The extractor that a word names: ``hsv-hist``, ``resnet50:weights.pth``, ``my.module:Class``.

    Raises:
        UserInputError: no such name, or an object that is no extractor.
        MissingExtraError: an optional package is missing.

    >>> extractor("hsv-hist").dim
    (640,)
    """
    name, _, argument = word.partition(":")
    installed = {e.name: e for e in entry_points(group="moviescenes.features")}
    if name in _REGISTERED:
        factory: Any = _REGISTERED[name]
    elif name in _BUILT_IN:
        module, _, kind = _BUILT_IN[name].partition(":")
        factory = getattr(import_module(module), kind)
    elif name in installed:
        factory = installed[name].load()
    elif "." in name and argument:
        factory, argument = _imported(name, argument), ""
    else:
        raise UserInputError(f"features: got {word!r}; expected one of {', '.join(names())}, or module:Class")
    found = factory(argument) if argument else factory()
    if not isinstance(found, FeatureExtractor | FrameExtractor):
        raise UserInputError(
            f"features: {word}: no extractor: it needs name, modality, dim, version, extract"
        )
    if found.modality not in MODALITIES:
        raise UserInputError(
            f"features: {word}: modality {found.modality!r}; expected one of {', '.join(MODALITIES)}"
        )
    return found


def _imported(module: str, kind: str) -> Any:
    try:
        return getattr(import_module(module), kind)
    except (ImportError, AttributeError) as error:
        raise UserInputError(f"features: {module}:{kind}: cannot be imported ({error})") from error
