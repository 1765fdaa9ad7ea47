"""From a video, or from shots and features, to scenes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from moviescenes.features.base import MODALITIES
from moviescenes.features.run import DEFAULT, FeatureSet, extract_features, file_key
from moviescenes.grouping import group_scenes, normalised, scene_threads
from moviescenes.scenes import SceneList, VideoFacts
from moviescenes.shots import GivenCuts, ShotDetector, ShotList, detect_shots, read_shot_rows, scan
from moviescenes.video import Video, probe
from moviescenes.weights import FUSION_WEIGHTS
from tenfold._errors import UserInputError
from tenfold.io import make_folder, read_json, write_json

if TYPE_CHECKING:
    from moviescenes.model import LGSS

__all__ = ["SceneSegmenter", "cosine_scores", "load_model", "save_model"]

Floats = npt.NDArray[np.float64]
_KIND = "moviescenes-lgss"


def cosine_scores(
    features: Mapping[str, npt.ArrayLike],
    window: int = 2,
    *,
    weights: Mapping[str, float] | None = None,
    centre: bool = True,
) -> Floats:
    """How much the mean of the shots before a boundary differs from that of the shots after it.

    Args:
        features: modality -> (n, ...).
        window: shots on each side; fewer at the ends of the film.
        weights: modality -> weight; the paper's fusion by default, those of absent modalities spread over the rest.
        centre: see `moviescenes.grouping.normalised`.

    Returns:
        (n - 1,) from 0 to 1: half of one minus the weighted mean of the cosines.

    >>> shots = np.repeat(np.eye(2), 3, 0)
    >>> cosine_scores({"place": shots}, centre=False).round(2).tolist()
    [0.0, 0.15, 0.5, 0.15, 0.0]
    """
    unit = normalised(features, centre=centre)
    shots = len(next(iter(unit.values())))
    given = weights or FUSION_WEIGHTS
    present = {key: given.get(key, 0.0) for key, value in unit.items() if value.any()}
    total = sum(present.values())
    if shots < 2 or total <= 0:
        return np.zeros(max(0, shots - 1))
    found = np.zeros(shots - 1)
    for key, weight in present.items():
        sums = np.concatenate((np.zeros((1, unit[key].shape[1])), np.cumsum(unit[key], 0)))
        middle = np.arange(1, shots)
        before = sums[middle] - sums[np.maximum(0, middle - window)]
        after = sums[np.minimum(shots, middle + window)] - sums[middle]
        lengths = np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1)
        dots = (before * after).sum(1)
        # Where a modality says nothing on one side, it says neither same nor other.
        cosine = np.divide(dots, lengths, out=np.zeros(shots - 1), where=lengths > 1e-12)
        found += weight / total * cosine
    return np.clip((1 - found) / 2, 0.0, 1.0)


@dataclass
class SceneSegmenter:
    """Everything between a movie and its scenes.

    Args:
        model: an `LGSS`, or None for the untrained score (cosine of the shots before and after).
        features: as text, see `moviescenes.features`; by default the model's own, or the built-in ones.
        detector: of shots; see `moviescenes.detect_shots`.
        detector_options: of it.
        grouping: with the optimal grouping of the whole film.
        passes: of the grouping, at most.
        j: number of super shots; by default 0.45 of the shots with a model, 0.6 without one (chosen on generated
            films), and at most 600.
        k_range: least and largest number of scenes.
        threshold: boundaries with a larger score are cut: the super shots of the grouping, or without grouping the
            scenes.
        weights: modality -> weight of its cosine.
        refine: see `moviescenes.group_scenes`.
        cache: folder for shots and features.
        progress: draw bars.
    """

    model: LGSS | None = None
    features: Any = None
    detector: str | ShotDetector = "movie"
    detector_options: Mapping[str, Any] = field(default_factory=dict)
    grouping: bool = True
    passes: int = 1
    j: int | None = None
    k_range: tuple[int, int] | None = None
    threshold: float | None = None
    weights: Mapping[str, float] | None = None
    refine: bool = False
    cache: Path | None = None
    progress: bool = False

    def segment(
        self,
        source: str | Path,
        *,
        shots: ShotList | str | Path | None = None,
        start: float | None = None,
        end: float | None = None,
        thumbnails: bool = False,
    ) -> SceneList:
        """Scenes of a video.

        Args:
            source: the file.
            shots: known shots, or a file with them; found by the detector otherwise.
            start: seconds; what comes before is left out.
            end: seconds; what comes after is left out.
            thumbnails: also keep a small picture of each shot.

        Raises:
            UserInputError: an unreadable or damaged video, or options that do not fit it.
        """
        video = probe(source)
        found = self._shots(video, shots, start, end)
        pictures: dict[int, bytes] | None = {} if thumbnails else None
        described = extract_features(
            *(video, found, self.features or DEFAULT),
            cache=self.cache,
            thumbnails=pictures,
            progress=self.progress,
        )
        frames = max(video.frames, found[-1].end_frame + 1)
        facts = VideoFacts(
            *(str(source), found.fps, frames, found[-1].end_time, video.width, video.height, found.vfr)
        )
        result = self.segment_shots(found, described, facts)
        result.thumbnails = pictures or {}
        return result

    def segment_shots(
        self, shots: ShotList, features: FeatureSet | Mapping[str, npt.ArrayLike], video: VideoFacts
    ) -> SceneList:
        """Scenes from shots and their features.

        Raises:
            UserInputError: features that the model does not know, or a range of scenes that the shots cannot have.
        """
        described = features if isinstance(features, FeatureSet) else FeatureSet(dict(features))  # type: ignore[arg-type]
        arrays = described.arrays
        p = self._probabilities(arrays)
        k_range = self._range(len(shots))
        if self.grouping:
            grouped = group_scenes(
                p,
                arrays,
                j=self.j or (min(600, round(0.6 * len(shots))) if self.model is None else None),
                k_range=k_range,
                iters=self.passes,
                threshold=self.threshold,
                weights=self.weights,
                refine=self.refine,
                centre=self.model is None,
            )
            cuts, scores, before = grouped.cuts, grouped.scores, len(grouped.history[0]) + 1
        else:
            cuts, scores, before = self._direct(p, k_range), p, len(shots)
        params = {
            "model": "unsupervised" if self.model is None else "lgss",
            "features": dict(described.names),
            "absent": list(described.absent),
            "grouping": self.grouping,
            "super_shots": before if self.grouping else None,
            "k_range": list(k_range) if k_range else None,
            "threshold": self.threshold,
            "note": self._note(described),
        }
        unit = normalised(arrays, centre=len(shots) > 2)
        result = SceneList.from_cuts(cuts, shots, video, probabilities=p, scores=scores, params=params)
        threads = [
            scene_threads({key: value[s.first_shot : s.last_shot + 1] for key, value in unit.items()})
            for s in result
        ]
        return SceneList.from_cuts(
            cuts, shots, video, probabilities=p, scores=scores, threads=threads, params=params
        )

    def _note(self, described: FeatureSet) -> str:
        words = []
        if self.model is None:
            words.append("No trained model: boundaries by the change of colours, skin, motion and sound.")
        if described.absent:
            words.append(f"Not in this video: {', '.join(described.absent)}.")
        return " ".join(words)

    def _probabilities(self, arrays: Mapping[str, npt.NDArray[Any]]) -> Floats:
        if self.model is None:
            return cosine_scores(arrays, weights=self.weights)
        try:
            return self.model.predict(arrays)
        except ValueError as error:
            raise UserInputError(f"features: do not fit the model: {error}") from error

    def _range(self, shots: int) -> tuple[int, int] | None:
        if self.k_range is None:
            return None
        low, high = self.k_range
        if not 1 <= low <= high:
            raise UserInputError(f"scenes: got {low}:{high}; expected 1 <= least <= largest")
        if low > shots:
            raise UserInputError(f"scenes: got at least {low}; the video has {shots} shots")
        return low, high

    def _direct(self, p: Floats, k_range: tuple[int, int] | None) -> npt.NDArray[np.int64]:
        """Cuts by threshold alone, within the number of scenes asked for."""
        usual = 0.5 if self.model is not None else float(p.mean() + p.std()) if len(p) else 0.5
        level = usual if self.threshold is None else self.threshold
        count = int((p > level).sum())
        if k_range is not None:
            count = min(max(count, k_range[0] - 1), k_range[1] - 1, len(p))
        order = np.lexsort((np.arange(len(p)), -p))
        cuts: npt.NDArray[np.int64] = np.sort(order[:count])
        return cuts

    def _shots(
        self, video: Video, shots: ShotList | str | Path | None, start: float | None, end: float | None
    ) -> ShotList:
        if isinstance(shots, ShotList):
            return shots
        if shots is not None:
            rows = read_shot_rows(shots)
            return scan(
                video, GivenCuts(row[0] for row in rows[1:]), start=start, end=end, progress=self.progress
            )
        if self.cache is None or not isinstance(self.detector, str):
            return detect_shots(
                video.path,
                self.detector,
                start=start,
                end=end,
                progress=self.progress,
                **self.detector_options,
            )
        return self._cached_shots(video, self.detector, start, end)

    def _cached_shots(self, video: Video, detector: str, start: float | None, end: float | None) -> ShotList:
        settings = {"detector": detector, "options": dict(self.detector_options), "start": start, "end": end}
        folder = make_folder(Path(self.cache or "") / file_key(video.path), "cache")
        name = "_".join(
            f"{value:g}" if isinstance(value, float) else str(value) for value in (detector, start, end)
        )
        file = folder / f"shots-{name}.json"
        if file.is_file():
            kept = _read_shots(file, settings)
            if kept is not None:
                return kept
        found = detect_shots(
            *(video.path, detector), start=start, end=end, progress=self.progress, **self.detector_options
        )
        write_json(
            file,
            {
                "settings": settings,
                "fps": [found.fps.numerator, found.fps.denominator],
                "vfr": found.vfr,
                "shots": [[s.start_frame, s.end_frame, s.start_time, s.end_time] for s in found],
            },
        )
        return found


def _read_shots(file: Path, settings: Mapping[str, Any]) -> ShotList | None:
    """Shots from the cache, or None where they were made otherwise or are damaged."""
    from fractions import Fraction

    from moviescenes.shots import Shot

    try:
        kept = read_json(file)
        if kept["settings"] != settings:
            return None
        shots = [Shot(k, *row) for k, row in enumerate(kept["shots"])]
        return ShotList(shots, Fraction(*kept["fps"]), bool(kept["vfr"]))
    except (UserInputError, KeyError, TypeError, ValueError, ZeroDivisionError):
        return None


def save_model(path: str | Path, model: LGSS, features: Mapping[str, str]) -> None:
    """Write a network and what its features are called.

    Args:
        path: the file.
        model: the network.
        features: modality -> extractor, for `segment`.
    """
    from tenfold.io import save_checkpoint

    save_checkpoint(
        path,
        {
            "kind": _KIND,
            "config": model.config.to_dict(),
            "features": dict(features),
            "state_dict": model.state_dict(),
        },
    )


def load_model(path: str | Path) -> tuple[LGSS, dict[str, str]]:
    """A network in evaluation mode from `save_model` or from ``moviescenes fit``, and its features' names.

    Raises:
        UserInputError: unreadable, or of something else.
    """
    from moviescenes.model import LGSS, LGSSConfig
    from tenfold.io import load_checkpoint, load_strict

    found = load_checkpoint(path)
    if not isinstance(found, dict):
        raise UserInputError(f"{path}: checkpoint: holds no model of this package")
    if found.get("kind") == _KIND:
        config, state, features = found["config"], found["state_dict"], found["features"]
    else:
        settings = found.get("hyper_parameters", {})
        if not {"dims", "channels", "seq_len"} <= set(settings):
            raise UserInputError(f"{path}: checkpoint: holds no model of this package")
        names = set(LGSSConfig.__dataclass_fields__)
        config = {key: value for key, value in settings.items() if key in names}
        config["weights"] = config.get("weights") or dict(FUSION_WEIGHTS)
        state = {
            key.removeprefix("model."): value
            for key, value in found["state_dict"].items()
            if key.startswith("model.")
        }
        features = settings.get("features") or {}
    model = LGSS(LGSSConfig.from_dict(config))
    load_strict(model, state, source=str(path))
    known = {key: str(word) for key, word in dict(features).items() if key in MODALITIES}
    return model.eval(), known
