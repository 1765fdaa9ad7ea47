"""Baselines: exhaustive search for those that minimise something, easy films for all."""

import itertools

import numpy as np
import pytest
import torch

from moviescenes.baselines import dp_scenes, graph_cut, scsa, sequential_grouping, story_graph
from moviescenes.baselines.command import METHODS
from moviescenes.baselines.cuts import _block_sums, _least_ratio, elbow, spectral_labels
from moviescenes.baselines.siamese import contrastive_loss, joined, train_siamese
from moviescenes.baselines.simple import shot_length, sweep
from moviescenes.data.films import FilmData
from moviescenes.metrics import average_precision


def easy_film(lengths=(6, 9, 5, 8, 7, 6), noise=0.03):
    rng = np.random.default_rng(0)
    rows = np.concatenate([np.repeat(rng.normal(size=(1, 12)), n, 0) for n in lengths])
    table = (rows + noise * rng.normal(size=rows.shape)).astype(np.float32)
    labels = np.zeros(len(rows) - 1, np.int64)
    labels[np.cumsum(lengths)[:-1] - 1] = 1
    frames = np.arange(len(rows))[:, None] * 50 + [0, 49]
    return FilmData("easy", {"place": table}, labels, frames)


def partitions(n, k):
    for cuts in itertools.combinations(range(1, n), k - 1):
        yield [0, *cuts, n]


@pytest.mark.parametrize("seed", range(4))
def test_sequential_grouping_equals_all_partitions(seed):
    rng = np.random.default_rng(seed)
    distance = rng.random((8, 8))
    distance = distance + distance.T
    np.fill_diagonal(distance, 0)
    sums = _block_sums(distance)
    for a in range(8):
        for b in range(a, 8):
            assert sums[a, b] == pytest.approx(distance[a : b + 1, a : b + 1].sum())
    for k in range(1, 9):
        ratios = []
        for edges in partitions(8, k):
            pairs = list(itertools.pairwise(edges))
            total = sum(distance[a:b, a:b].sum() for a, b in pairs)
            ratios.append((total / sum((b - a) ** 2 for a, b in pairs), edges))
        found = [*_least_ratio(sums, k).tolist(), 8]
        pairs = list(itertools.pairwise(found))
        value = sum(distance[a:b, a:b].sum() for a, b in pairs) / sum((b - a) ** 2 for a, b in pairs)
        assert value == pytest.approx(min(ratios)[0])


def test_easy_films_are_cut_where_they_should_be():
    film = easy_film()
    for name in ("osg", "osg-add", "graph-cut", "cosine-2"):
        found = METHODS[name](film)
        assert average_precision(film.labels, found.scores) == pytest.approx(1), name
        assert ((found.scores >= 0) & (found.scores <= 1)).all()
    for name in ("dp", "story-graph", "scsa"):
        found = METHODS[name](film)
        assert average_precision(film.labels, found.scores) > 0.5, name
    assert sequential_grouping(film.arrays(), scenes=6).decisions.astype(int).tolist() == film.labels.tolist()
    assert (
        graph_cut(film.arrays(), film.shots.mean(1) / 24).decisions.astype(int).tolist()
        == film.labels.tolist()
    )
    assert dp_scenes(film.arrays(), 1e9).decisions.sum() == 0
    assert scsa(film.arrays()).decisions.any()


def test_the_elbow_counts_blocks():
    for count, size in ((3, 6), (5, 4), (2, 10)):
        assert abs(elbow(1 - np.kron(np.eye(count), np.ones((size, size)))) - count) <= 1


def test_clusters():
    rows = np.repeat(np.eye(3), [5, 6, 4], 0)
    labels = spectral_labels(rows @ rows.T)
    assert len({tuple(labels[a:b]) for a, b in ((0, 5), (5, 11), (11, 15))}) == 3
    assert [len(set(labels[a:b])) for a, b in ((0, 5), (5, 11), (11, 15))] == [1, 1, 1]


def test_siamese_learns_an_easy_film():
    film = easy_film(noise=0.3)
    model = train_siamese([film], epochs=20)
    again = train_siamese([film], epochs=20)
    assert torch.equal(next(model.parameters()), next(again.parameters()))
    found = model.scenes(film)
    assert average_precision(film.labels, found.scores) > 0.6
    assert joined(film).shape == (41, 12)
    apart = contrastive_loss(torch.zeros(1, 1), torch.full((1, 1), 2.0), torch.tensor([False]))
    assert apart.item() == 0


def test_short_films():
    siamese = train_siamese([easy_film()], epochs=1).scenes
    for shots in (1, 2, 3):
        film = easy_film((shots,))
        for name, method in {**METHODS, "siamese": siamese}.items():
            found = method(film)
            assert found.scores.shape == (shots - 1,), name
            assert np.isfinite(found.scores).all(), name
    assert sweep(4) == [2]
    assert shot_length([[0, 3]]).scores.shape == (0,)
    with pytest.raises(ValueError, match="cost: got 'x'"):
        sequential_grouping(easy_film().arrays(), "x")


def test_story_graph_keeps_scenes_short():
    film = easy_film((40,))
    found = story_graph(film.arrays(), longest=10)
    cuts = np.flatnonzero(found.decisions)
    assert np.diff([-1, *cuts, 39]).max() <= 10


def test_the_verb(cli, tmp_path):
    code, out, err = cli(
        "baselines", "generated", "--films", "2", "--methods", "[random,cosine-2,osg]", "--out", "b.json"
    )
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()[1:]] == ["random", "cosine-2", "osg"]
    assert (tmp_path / "b.json").is_file()
