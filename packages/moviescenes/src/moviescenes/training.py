"""Training and evaluation on films without a framework: what the experiments and the demo use."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from moviescenes.data.films import FilmData, SegmentDataset
from moviescenes.grouping import GroupingResult, group_scenes
from moviescenes.losses import boundary_loss
from moviescenes.metrics import evaluate_films
from moviescenes.model import LGSS, LGSSConfig

__all__ = ["TrainSettings", "collate", "group_films", "predict_films", "score_films", "train_films"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class TrainSettings:
    """How a network is trained.

    Args:
        epochs: passes over the segments.
        lr: of Adam; a tenth of it from 60 % of the epochs on.
        batch: segments to a step.
        weight_decay: L2 in the gradient.
        class_weights: of no boundary and boundary.
        clip: largest norm of the gradient; None for none.
    """

    epochs: int = 10
    lr: float = 3e-3
    batch: int = 32
    weight_decay: float = 0.0
    class_weights: tuple[float, float] = (1.0, 9.0)
    clip: float | None = 1.0


def collate(
    items: Sequence[tuple[Mapping[str, npt.NDArray[np.float32]], npt.NDArray[np.int64]]],
) -> tuple[dict[str, Tensor], Tensor]:
    """Segments to a batch: modality -> (B, S, 2w, ...), labels (B, S)."""
    keys = items[0][0].keys()
    features = {key: torch.from_numpy(np.stack([item[0][key] for item in items])) for key in keys}
    return features, torch.from_numpy(np.stack([item[1] for item in items]))


def train_films(
    config: LGSSConfig,
    films: Sequence[FilmData],
    settings: TrainSettings,
    seed: int = 0,
    *,
    start: LGSS | None = None,
    after_epoch: Callable[[int, LGSS], None] | None = None,
) -> LGSS:
    """A network trained on films; the same seed gives the same weights on a CPU.

    Args:
        config: of the network.
        films: to train on.
        settings: how.
        seed: of weights, order and shifts.
        start: a trained network to go on from (its own config then counts).
        after_epoch: called with the number of finished epochs and the network.
    """
    torch.manual_seed(seed)
    model = LGSS(config)
    if start is not None:
        model.load_state_dict(start.state_dict())
    data = SegmentDataset(
        films, tuple(config.dims), half_window=config.half_window, seq_len=config.seq_len, seed=seed
    )
    optimiser = torch.optim.Adam(model.parameters(), settings.lr, weight_decay=settings.weight_decay)
    for epoch in range(settings.epochs):
        late = epoch >= 0.6 * settings.epochs
        for group in optimiser.param_groups:
            group["lr"] = settings.lr * (0.1 if late else 1.0)
        data.set_epoch(epoch)
        order = np.random.default_rng([seed, epoch]).permutation(len(data))
        model.train()
        for first in range(0, len(order), settings.batch):
            windows, labels = collate([data[int(k)] for k in order[first : first + settings.batch]])
            loss = boundary_loss(model(windows), labels, settings.class_weights)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            if settings.clip is not None:
                torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
            optimiser.step()
        if after_epoch is not None:
            after_epoch(epoch + 1, model)
    return model.eval()


def predict_films(model: LGSS, films: Sequence[FilmData]) -> list[Floats]:
    """Probabilities of all boundaries of each film."""
    return [model.predict(film.arrays(tuple(model.config.dims))) for film in films]


def group_films(
    films: Sequence[FilmData],
    scores: Sequence[Floats],
    *,
    keys: Sequence[str] | None = None,
    share: float = 0.45,
    iters: int = 3,
    boost: float = 0.1,
    weights: Mapping[str, float] | None = None,
) -> list[GroupingResult]:
    """The movie level on each film.

    Args:
        films: with features.
        scores: of the boundaries.
        keys: modalities that count; all by default.
        share: super shots per shot.
        iters: passes.
        boost: see `group_scenes`.
        weights: of the modalities.
    """
    return [
        group_scenes(
            p,
            film.arrays(keys),
            j=max(2, min(600, round(share * len(film)))),
            iters=iters,
            boost=boost,
            weights=weights,
        )
        for film, p in zip(films, scores, strict=True)
    ]


def score_films(
    films: Sequence[FilmData], scores: Sequence[Floats], grouped: Sequence[GroupingResult] | None = None
) -> dict[str, float]:
    """Metrics in percent: before grouping, and after it as ``grouped ap`` and ``grouped miou`` (one pass)."""
    triples = [(film.labels, p, film.shots) for film, p in zip(films, scores, strict=True)]
    found = evaluate_films(triples)
    wanted = {
        "AP": "ap",
        "pooled AP": "pooled_ap",
        "Miou": "miou",
        "Recall": "recall",
        "Recall@3s": "recall@3s",
    }
    out = {name: 100 * found[key] for name, key in wanted.items()}
    if grouped is not None:
        decisions = []
        for film, one in zip(films, grouped, strict=True):
            kept = np.zeros(len(film) - 1, bool)
            kept[one.history[min(1, len(one.history) - 1)]] = True
            decisions.append(kept)
        triples = [(film.labels, one.scores, film.shots) for film, one in zip(films, grouped, strict=True)]
        after = evaluate_films(triples, decisions=decisions)
        out |= {"grouped AP": 100 * after["ap"], "grouped Miou": 100 * after["miou"]}
    return out
