"""Generated films: features of shots only, for measuring what each level of the method adds.

A film has places, persons and actions as prototypes. Within a scene camera set-ups (threads) alternate and differ
strongly, so that neighbouring shots of one scene look less alike than the prototypes would have it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moviescenes.data.films import FilmData

__all__ = ["GENERATOR", "GeneratorSettings", "generate_films"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class GeneratorSettings:
    """Strengths of what shots show. Tuned once, before anything was measured with it, and left alone.

    Args:
        dim: of every modality.
        shots: of a film.
        place: weight of the place's prototype.
        setup: weight of the camera set-up in the place's features.
        place_noise: weight of the noise.
        cast: weight of the person.
        cast_noise: weight of the noise.
        action: weight of the action.
        action_noise: weight of the noise.
        ambience: weight of the ambience.
        ambience_noise: weight of the noise.
        threads: largest number of alternating set-ups.
        change: probability that a new scene is in a new place.
    """

    dim: int = 32
    shots: int = 120
    place: float = 0.45
    setup: float = 0.8
    place_noise: float = 1.0
    cast: float = 0.8
    cast_noise: float = 1.2
    action: float = 0.4
    action_noise: float = 1.0
    ambience: float = 0.4
    ambience_noise: float = 1.2
    threads: int = 3
    change: float = 0.8


GENERATOR = GeneratorSettings()


def _units(random: np.random.Generator, count: int, dim: int) -> Floats:
    vectors = random.normal(size=(count, dim))
    units: Floats = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return units


def generate_films(
    count: int, seed: int = 0, settings: GeneratorSettings = GENERATOR, *, first: int = 0
) -> list[FilmData]:
    """Films with four modalities and exact labels.

    Args:
        count: how many.
        seed: of everything.
        settings: strengths.
        first: number of the first film: films of one seed with other numbers are other films.

    >>> film = generate_films(1)[0]
    >>> len(film), sorted(film.features), int(film.labels.sum()) > 5
    (120, ['act', 'aud', 'cast', 'place'], True)
    """
    return [
        _film(np.random.default_rng([seed, first + k]), f"film-{first + k}", settings) for k in range(count)
    ]


def _film(random: np.random.Generator, name: str, s: GeneratorSettings) -> FilmData:
    places, persons, actions = (_units(random, n, s.dim) for n in (8, 6, 10))
    parts: dict[str, list[Floats]] = {"place": [], "cast": [], "act": [], "aud": []}
    labels: list[int] = []
    place = int(random.integers(len(places)))
    while len(labels) < s.shots:
        length = int(np.clip(round(float(np.exp(random.normal(np.log(6), 0.8)))), 1, 40))
        length = min(length, s.shots - len(labels))
        if labels and random.random() < s.change:
            place = int((place + random.integers(1, len(places))) % len(places))
        here = random.permutation(len(persons))[: random.integers(2, 4)]
        action, ambience = actions[random.integers(len(actions))], _units(random, 1, s.dim)[0]
        setups = _units(random, int(random.integers(1, s.threads + 1)), s.dim)
        for k in range(length):
            thread = k % len(setups) if random.random() > 0.15 else int(random.integers(len(setups)))
            noise = random.normal(size=(4, s.dim)) / np.sqrt(s.dim)
            parts["place"].append(
                s.place * places[place] + s.setup * setups[thread] + s.place_noise * noise[0]
            )
            parts["cast"].append(s.cast * persons[here[thread % len(here)]] + s.cast_noise * noise[1])
            parts["act"].append(s.action * action + s.action_noise * noise[2])
            parts["aud"].append(s.ambience * ambience + s.ambience_noise * noise[3])
            labels.append(int(k == length - 1))
    lengths = random.integers(24, 120, s.shots)
    ends = np.cumsum(lengths)
    features = {}
    for key, rows in parts.items():
        table = np.stack(rows)
        features[key] = (table / np.linalg.norm(table, axis=1, keepdims=True)).astype(np.float32)
    shots = np.stack((ends - lengths, ends - 1), 1).astype(np.int64)
    return FilmData(name, features, np.array(labels[:-1], np.int64), shots)
