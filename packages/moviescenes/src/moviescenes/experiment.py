"""The experiments behind the claims: generated films, real features, generated video."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from moviescenes.data.film import plan_film, write_film
from moviescenes.data.films import FilmData
from moviescenes.data.generated import GENERATOR, generate_films
from moviescenes.data.packs import SceneFeatures
from moviescenes.grouping import GroupingResult
from moviescenes.metrics import evaluate_films
from moviescenes.model import LGSS, LGSSConfig
from moviescenes.segment import SceneSegmenter, cosine_scores
from moviescenes.training import TrainSettings, group_films, predict_films, score_films, train_films
from moviescenes.weights import FUSION_WEIGHTS

__all__ = ["GENERATED", "REAL", "VIDEO", "GeneratedArm", "measure_generated", "measure_real", "measure_video"]

Floats = npt.NDArray[np.float64]
_ALL = ("place", "cast", "act", "aud")


@dataclass(frozen=True)
class GeneratedArm:
    """A row of the experiment on generated films.

    Args:
        kind: "random", "shot-length", "cosine-<w>", "base", "bnet" or "seq".
        keys: modalities.
        labels: "true", or "shuffled" within each training film.
        order: of the test films' shots: "true" or "shuffled" (labels carried along).
        threads: alternating camera set-ups at most.
        sound: "true", or "noise": the audio says nothing.
        films: numbers of training and test films.
        epochs: of the training.
    """

    kind: str
    keys: tuple[str, ...] = _ALL
    labels: str = "true"
    order: str = "true"
    threads: int = 3
    sound: str = "true"
    films: tuple[int, int] = (40, 20)
    epochs: int = 10


GENERATED: Mapping[str, GeneratedArm] = {
    "gen-random": GeneratedArm("random"),
    "gen-shot-length": GeneratedArm("shot-length"),
    "gen-cosine-1": GeneratedArm("cosine-1"),
    "gen-cosine-2": GeneratedArm("cosine-2"),
    "gen-cosine-4": GeneratedArm("cosine-4"),
    "gen-base-place": GeneratedArm("base", ("place",)),
    "gen-base-all": GeneratedArm("base"),
    "gen-bnet-place": GeneratedArm("bnet", ("place",)),
    "gen-bnet-all": GeneratedArm("bnet"),
    "gen-seq-place": GeneratedArm("seq", ("place",)),
    "gen-seq-all": GeneratedArm("seq"),
    "gen-seq-three": GeneratedArm("seq", ("place", "cast", "act")),
    "gen-labels-shuffled": GeneratedArm("seq", labels="shuffled"),
    "gen-order-shuffled-bnet": GeneratedArm("bnet", order="shuffled"),
    "gen-order-shuffled-seq": GeneratedArm("seq", order="shuffled"),
    "gen-one-thread-cosine-2": GeneratedArm("cosine-2", threads=1),
    "gen-one-thread-bnet": GeneratedArm("bnet", threads=1),
    "gen-noise-audio": GeneratedArm("seq", sound="noise"),
}


def config_of(arm: GeneratedArm) -> LGSSConfig:
    """The small network of an arm."""
    return LGSSConfig(
        dims=dict.fromkeys(arm.keys, GENERATOR.dim),
        channels=32,
        hidden=48,
        head=64,
        bnet=arm.kind != "base",
        sequence=arm.kind == "seq",
    )


def films_of(arm: GeneratedArm, seed: int) -> tuple[list[FilmData], list[FilmData]]:
    """Training and test films of an arm."""
    settings = replace(GENERATOR, threads=arm.threads)
    train = generate_films(arm.films[0], seed, settings)
    test = generate_films(arm.films[1], seed, settings, first=1000)
    random = np.random.default_rng([seed, 5])
    if arm.sound == "noise":
        for film in (*train, *test):
            noise = random.normal(size=(len(film), settings.dim))
            unit = noise / np.linalg.norm(noise, axis=1, keepdims=True)
            film.features = {**film.features, "aud": unit.astype(np.float32)}
    if arm.labels == "shuffled":
        for film in train:
            film.labels = random.permutation(film.labels)
    if arm.order == "shuffled":
        test = [_shuffled(film, random) for film in test]
    return train, test


def _shuffled(film: FilmData, random: np.random.Generator) -> FilmData:
    """The film's shots in another order, each with the label of the boundary after it."""
    order = random.permutation(len(film))
    labels = np.append(film.labels, 0)[order][:-1]
    features = {key: np.asarray(value[:])[order] for key, value in film.features.items()}
    return replace(film, features=features, labels=labels)


def untrained(
    kind: str, films: Sequence[FilmData], keys: Sequence[str], seed: int, centre: bool = False
) -> list[Floats]:
    """Scores that need no training."""
    if kind == "random":
        random = np.random.default_rng([seed, 9])
        return [random.random(len(film) - 1) for film in films]
    if kind == "shot-length":
        lengths = [(film.shots[:-1, 1] - film.shots[:-1, 0] + 1).astype(float) for film in films]
        return [length / length.max() for length in lengths]
    window = int(kind.rpartition("-")[2])
    return [cosine_scores(film.arrays(keys), window, centre=False) for film in films]


def measure_generated(name: str, seed: int, arm: GeneratedArm | None = None) -> dict[str, float]:
    """Metrics of one arm and seed, in percent, before and after grouping."""
    arm = arm or GENERATED[name]
    train, test = films_of(arm, seed)
    if arm.kind in ("base", "bnet", "seq"):
        model = train_films(config_of(arm), train, TrainSettings(epochs=arm.epochs), seed)
        scores = predict_films(model, test)
    else:
        scores = untrained(arm.kind, test, arm.keys, seed)
    weights = {key: FUSION_WEIGHTS[key] for key in arm.keys}
    grouped = group_films(test, scores, keys=arm.keys, weights=weights)
    return score_films(test, scores, grouped)


@dataclass(frozen=True)
class RealArm:
    """A row of the experiment on real features.

    Args:
        kind: "random", "shot-length", "cosine", "base", "bnet", "seq" or "blend" (seq and cosine together).
        train: first letters of the training films' files.
        test: of the test films'.
    """

    kind: str
    train: str
    test: str


REAL: Mapping[str, RealArm] = {
    f"real-{train}-{test}-{kind}": RealArm(kind, train, test)
    for train, test in (("ovsd", "bbc"), ("bbc", "ovsd"))
    for kind in ("random", "shot-length", "cosine", "base", "bnet", "seq", "blend")
}
_EPOCHS = (3, 6, 12)
_SHARES = (0.4, 0.6, 1.0)
_BOOSTS = (0.0, 0.05, 0.1, 0.3)
_MIXES = (0.0, 0.25, 0.5, 0.75, 1.0)
_WINDOWS = (1, 2, 3, 4)


@lru_cache(maxsize=4)
def real_films(
    root: Path, train: str, test: str, dim: int = 64
) -> tuple[tuple[FilmData, ...], tuple[FilmData, ...]]:
    """Training and test films; "place" are 64 principal components of the training set, "full" all 512 numbers."""
    groups = []
    for name in (train, test):
        source = SceneFeatures(root, f"{name}_*.npz")
        groups.append([source[k] for k in range(len(source))])
    unit = [[_unit(film.arrays()["place"]) for film in group] for group in groups]
    joined = np.concatenate(unit[0])
    mean = joined.mean(0)
    axes = np.linalg.svd(joined - mean, full_matrices=False)[2][:dim]
    done = []
    for group, tables in zip(groups, unit, strict=True):
        done.append(
            tuple(
                replace(
                    film,
                    features={"place": _unit((table - mean) @ axes.T).astype(np.float32), **_full(table)},
                )
                for film, table in zip(group, tables, strict=True)
            )
        )
    return done[0], done[1]


def _full(table: Floats) -> dict[str, npt.NDArray[np.float32]]:
    return {"full": table.astype(np.float32)}


def _unit(table: npt.NDArray[np.floating]) -> Floats:
    wide = np.asarray(table, np.float64)
    unit: Floats = wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)
    return unit


def _real_config(kind: str, dim: int) -> LGSSConfig:
    return LGSSConfig(
        dims={"place": dim},
        channels=32,
        hidden=64,
        head=64,
        bnet=kind != "base",
        sequence=kind in ("seq", "blend"),
    )


def _cosine_full(films: Sequence[FilmData], window: int) -> list[Floats]:
    weights = {"full": 1.0}
    return [cosine_scores(film.arrays(["full"]), window, weights=weights, centre=False) for film in films]


def _group_full(
    films: Sequence[FilmData], scores: Sequence[Floats], share: float, boost: float
) -> list[GroupingResult]:
    return group_films(films, scores, keys=["full"], share=share, boost=boost, weights={"full": 1.0})


def _ap(films: Sequence[FilmData], scores: Sequence[Floats]) -> float:
    return evaluate_films([(f.labels, p, f.shots) for f, p in zip(films, scores, strict=True)])["ap"]


def _ranked(p: Floats) -> Floats:
    """Ranks from 0 to 1: what two scores of different scales have in common."""
    order = np.argsort(np.argsort(p, kind="stable"), kind="stable")
    return order / max(1, len(p) - 1)


def _mixed(network: Sequence[Floats], cosine: Sequence[Floats], share: float) -> list[Floats]:
    return [share * _ranked(a) + (1 - share) * _ranked(b) for a, b in zip(network, cosine, strict=True)]


def measure_real(name: str, seed: int, root: Path, arms: Mapping[str, RealArm] = REAL) -> dict[str, float]:
    """Metrics of one arm and seed, in percent.

    Window, epochs, mixture, super shots and boost are chosen by AP on training films that are held out (a quarter,
    drawn by the seed); the network is then trained on all training films.

    Args:
        name: of the arm.
        seed: of weights and held-out films.
        root: folder of the .npz files.
        arms: where the arm is found.
    """
    arm = arms[name]
    train, test = real_films(root, arm.train, arm.test)
    order = np.random.default_rng([seed, 3]).permutation(len(train))
    count = max(2, len(train) // 4)
    held, rest = [train[k] for k in order[:count]], [train[k] for k in order[count:]]
    if arm.kind in ("random", "shot-length"):
        chosen: dict[str, float] = {}
        scores, held_scores = (untrained(arm.kind, films, ["full"], seed) for films in (test, held))
    elif arm.kind == "cosine":
        window = max(_WINDOWS, key=lambda w: _ap(train, _cosine_full(train, w)))
        chosen = {"window": float(window)}
        scores, held_scores = (_cosine_full(films, window) for films in (test, held))
    else:
        scores, held_scores, chosen = _trained(arm, train, test, held, rest, seed)
    grid = [(share, boost) for share in _SHARES for boost in _BOOSTS]
    by_share = {share: _group_full(held, held_scores, share, 0.0) for share in _SHARES}

    def held_ap(share: float, boost: float) -> float:
        pairs = zip(held_scores, by_share[share], strict=True)
        return _ap(held, [_boosted(p, one, boost) for p, one in pairs])

    best = max(grid, key=lambda pair: held_ap(*pair))
    grouped = _group_full(test, scores, *best)
    return {
        **score_films(test, scores, grouped),
        "epochs": chosen.get("epochs", 0.0),
        "window": chosen.get("window", 0.0),
        "mix": chosen.get("mix", 0.0),
        "J/n": best[0],
        "boost": best[1],
    }


def _boosted(p: Floats, grouped: GroupingResult, boost: float) -> Floats:
    """Scores with another boost than the grouping was run with."""
    survived = np.zeros(len(p))
    for cuts in grouped.history[1:]:
        survived[cuts] += 1
    low, high = p.min(), p.max()
    boosted: Floats = (p - low) / max(high - low, 1e-12) + boost * survived
    return boosted


def _trained(
    arm: RealArm,
    train: Sequence[FilmData],
    test: Sequence[FilmData],
    held: Sequence[FilmData],
    rest: Sequence[FilmData],
    seed: int,
) -> tuple[list[Floats], list[Floats], dict[str, float]]:
    """Scores of test and held-out films, and what was chosen."""
    dim = train[0].arrays(["place"])["place"].shape[1]
    config = _real_config(arm.kind, dim)
    settings = TrainSettings(epochs=max(_EPOCHS), lr=1e-3)
    kept: dict[int, list[Floats]] = {}

    def look(epoch: int, model: LGSS) -> None:
        if epoch in _EPOCHS:
            kept[epoch] = predict_films(model, held)

    train_films(config, rest, settings, seed, after_epoch=look)
    epochs = max(kept, key=lambda epoch: _ap(held, kept[epoch]))
    final: dict[int, list[Floats]] = {}

    def stop(epoch: int, model: LGSS) -> None:
        if epoch == epochs:
            final[epoch] = predict_films(model, test)

    train_films(config, train, settings, seed, after_epoch=stop)
    scores, held_scores, chosen = final[epochs], kept[epochs], {"epochs": float(epochs)}
    if arm.kind == "blend":
        window = max(_WINDOWS, key=lambda w: _ap(train, _cosine_full(train, w)))
        cosine = {"test": _cosine_full(test, window), "held": _cosine_full(held, window)}
        mix = max(_MIXES, key=lambda m: _ap(held, _mixed(held_scores, cosine["held"], m)))
        scores, held_scores = _mixed(scores, cosine["test"], mix), _mixed(held_scores, cosine["held"], mix)
        chosen |= {"window": float(window), "mix": mix}
    return scores, held_scores, chosen


VIDEO: Mapping[str, tuple[Fraction, bool]] = {
    "video-23.976": (Fraction(24000, 1001), False),
    "video-25": (Fraction(25), False),
    "video-variable": (Fraction(25), True),
}


def measure_video(
    name: str, seed: int, *, scenes: int = 12, size: tuple[int, int] = (320, 180)
) -> dict[str, float]:
    """A generated film of twelve scenes with sound: cuts and scenes found from the file alone."""
    fps, variable = VIDEO[name]
    plan = plan_film(100 + seed, scenes)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("film.mkv" if variable else "film.mp4")
        film = write_film(path, plan, fps=fps, variable=variable, size=size)
        start = time.process_time()
        found = SceneSegmenter().segment(path)
        seconds = time.process_time() - start
    cuts = {shot.start_frame for shot in found.shots[1:]}
    own = {scene.start_frame for scene in found[1:]}
    truth, right = set(plan.hard_cuts), set(plan.scene_cuts)
    times = [abs(shot.start_time - film.times[shot.start_frame]) for shot in found.shots]
    return {
        "hard cuts": float(len(truth)),
        "cuts missed": float(len(truth - cuts)),
        "cuts too many": float(len(cuts - truth)),
        "scene boundaries": float(len(right)),
        "boundaries found": float(len(right & own)),
        "boundaries too many": float(len(own - right)),
        "largest error of a time, ms": 1000 * max(times),
        "processor seconds": seconds,
    }
