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

from typing import TYPE_CHECKING

from tenfold.lazy import lazy_names

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

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        ".data.films": ["FilmData"],
        ".data.generated": ["generate_films"],
        ".features": ["FeatureExtractor", "extract_features", "register"],
        ".grouping": ["GroupingResult", "group_scenes", "optimal_grouping", "scene_threads"],
        ".losses": ["boundary_loss"],
        ".metrics": ["evaluate", "evaluate_films"],
        ".model": ["LGSS", "AudioNet", "BNet", "LGSSBranch", "LGSSConfig", "LGSSImage"],
        ".scenes": ["Scene", "SceneList"],
        ".segment": ["SceneSegmenter", "cosine_scores", "load_model", "save_model"],
        ".shots": ["Shot", "ShotDetector", "ShotList", "detect_shots"],
        ".video": ["Video", "probe"],
    },
)
