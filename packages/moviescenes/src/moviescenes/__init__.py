"""A movie in, its scenes out (LGSS, arXiv 2004.02678).

The names below load on first use; importing this file loads nothing.

Example:
    >>> import moviescenes
    >>> film = moviescenes.generate_films(1)[0]
    >>> p = moviescenes.cosine_scores(film.arrays(), window=2)
    >>> found = moviescenes.group_scenes(p, film.arrays())
    >>> found.k == len(found.cuts) + 1
    True
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moviescenes.data.films import FilmData
    from moviescenes.data.generated import generate_films
    from moviescenes.features import FeatureExtractor, extract_features, register
    from moviescenes.grouping import GroupingResult, group_scenes, optimal_grouping, scene_threads
    from moviescenes.losses import boundary_loss
    from moviescenes.metrics import evaluate, evaluate_films
    from moviescenes.model import LGSS, AudioNet, BNet, LGSSBranch, LGSSConfig, LGSSImage
    from moviescenes.scenes import Scene, SceneList
    from moviescenes.segment import SceneSegmenter, cosine_scores, load_model, save_model
    from moviescenes.shots import Shot, ShotDetector, ShotList, detect_shots
    from moviescenes.video import Video, probe

__version__ = "0.1.0"

_EXPORTS = {
    "LGSS": "model",
    "AudioNet": "model",
    "BNet": "model",
    "FeatureExtractor": "features",
    "FilmData": "data.films",
    "GroupingResult": "grouping",
    "LGSSBranch": "model",
    "LGSSConfig": "model",
    "LGSSImage": "model",
    "Scene": "scenes",
    "SceneList": "scenes",
    "SceneSegmenter": "segment",
    "Shot": "shots",
    "ShotDetector": "shots",
    "ShotList": "shots",
    "Video": "video",
    "boundary_loss": "losses",
    "cosine_scores": "segment",
    "detect_shots": "shots",
    "evaluate": "metrics",
    "evaluate_films": "metrics",
    "extract_features": "features",
    "generate_films": "data.generated",
    "group_scenes": "grouping",
    "load_model": "segment",
    "optimal_grouping": "grouping",
    "probe": "video",
    "register": "features",
    "save_model": "segment",
    "scene_threads": "grouping",
}

__all__ = [
    "LGSS",
    "AudioNet",
    "BNet",
    "FeatureExtractor",
    "FilmData",
    "GroupingResult",
    "LGSSBranch",
    "LGSSConfig",
    "LGSSImage",
    "Scene",
    "SceneList",
    "SceneSegmenter",
    "Shot",
    "ShotDetector",
    "ShotList",
    "Video",
    "boundary_loss",
    "cosine_scores",
    "detect_shots",
    "evaluate",
    "evaluate_films",
    "extract_features",
    "generate_films",
    "group_scenes",
    "load_model",
    "optimal_grouping",
    "probe",
    "register",
    "save_model",
    "scene_threads",
]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"moviescenes.{_EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
