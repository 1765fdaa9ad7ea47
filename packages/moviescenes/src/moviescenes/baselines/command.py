"""The verb `baselines`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from moviescenes.baselines.cuts import dp_scenes, graph_cut, scsa, sequential_grouping, story_graph
from moviescenes.baselines.simple import Baseline, cosine_window, random_guess, shot_length
from moviescenes.data import FeaturePack, MovieNetSceneSeg, SceneFeatures, generate_films
from moviescenes.data.films import FilmData
from moviescenes.metrics import evaluate_films
from tenfold._errors import UserInputError
from tenfold.io import write_json

__all__ = ["METHODS", "baselines"]

_RATE = 24.0

#: Name -> what it says of a film.
METHODS: dict[str, Callable[[FilmData], Baseline]] = {
    "random": lambda film: random_guess(len(film)),
    "shot-length": lambda film: shot_length(film.shots),
    "cosine-1": lambda film: cosine_window(film.arrays(), 1),
    "cosine-2": lambda film: cosine_window(film.arrays(), 2),
    "cosine-4": lambda film: cosine_window(film.arrays(), 4),
    "graph-cut": lambda film: graph_cut(film.arrays(), film.shots.mean(1) / _RATE),
    "scsa": lambda film: scsa(film.arrays()),
    "dp": lambda film: dp_scenes(film.arrays()),
    "osg": lambda film: sequential_grouping(film.arrays()),
    "osg-add": lambda film: sequential_grouping(film.arrays(), "add"),
    "story-graph": lambda film: story_graph(film.arrays()),
}


def baselines(
    root: str,
    methods: Sequence[str] = tuple(METHODS),
    split: str = "test",
    mode: Literal["strict", "compat"] = "strict",
    films: int = 20,
    train_films: int = 20,
    out: Path | None = None,
) -> None:
    """Score published baselines, and siamese where it is asked for, on films with features and annotations.

    Args:
        root: MovieNet's folder, a folder of .pkl or .npz films, or the word generated.
        methods: Of random, shot-length, cosine-1, cosine-2, cosine-4, graph-cut, scsa, dp, osg, osg-add, story-graph,
            siamese.
        split: Of MovieNet.
        mode: Of the metrics: strict, or compat as the released code.
        films: Number of generated films.
        train_films: Number of films that siamese is trained on: others of MovieNet's, or generated ones.
        out: File for the numbers, JSON.
    """
    unknown = [name for name in methods if name not in METHODS and name != "siamese"]
    if unknown:
        raise UserInputError(
            f"methods: got {unknown[0]!r}; expected some of {', '.join([*METHODS, 'siamese'])}"
        )
    source = _source(root, split, films)
    found = [source[k] for k in range(len(source))]
    known = dict(METHODS)
    if "siamese" in methods:
        known["siamese"] = _siamese(root, train_films).scenes
    table: dict[str, dict[str, float]] = {}
    print(f"{'':12} {'AP':>6} {'Miou':>6} {'Recall':>6} {'@3s':>6}")
    for name in methods:
        said = [known[name](film) for film in found]
        try:
            table[name] = evaluate_films(
                [(film.labels, one.scores, film.shots) for film, one in zip(found, said, strict=True)],
                mode,
                decisions=[one.decisions for one in said],
            )
        except ValueError as error:
            raise UserInputError(f"{root}: {error}") from error
        row = [100 * table[name][key] for key in ("ap", "miou", "recall", "recall@3s")]
        print(f"{name:12} {' '.join(f'{value:6.2f}' for value in row)}", flush=True)
    if out is not None:
        write_json(out, table)


def _source(root: str, split: str, films: int) -> Any:
    if root == "generated":
        return generate_films(films, first=1000)
    folder = Path(root)
    if (folder / "meta" / "split318.json").is_file():
        return MovieNetSceneSeg(folder, split)
    if not folder.is_dir():
        raise UserInputError(f"root: got {root}; expected a folder of films, or the word generated")
    return SceneFeatures(folder) if list(folder.glob("*.npz")) else FeaturePack(folder)


def _siamese(root: str, count: int) -> Any:
    from moviescenes.baselines.siamese import train_siamese

    if root != "generated" and not (Path(root) / "meta" / "split318.json").is_file():
        raise UserInputError(
            "methods: siamese is trained: it needs MovieNet's training split, or generated films"
        )
    source = generate_films(count) if root == "generated" else MovieNetSceneSeg(root, "train")
    return train_siamese([source[k] for k in range(min(count, len(source)))])
