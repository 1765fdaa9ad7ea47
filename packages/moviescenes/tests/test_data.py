"""Readers of the published layouts, and segments."""

import json
import pickle

import numpy as np
import pytest
from movienet_tree import write_keyframes, write_movienet

from moviescenes.data import (
    OVSD,
    RAI,
    BBCPlanetEarth,
    FeaturePack,
    MovieNetSceneSeg,
    SceneFeatures,
    SegmentDataset,
    boundary_labels,
    generate_films,
    read_labels,
    read_movienet_scenes,
    read_ndjson,
    read_scrl,
)
from moviescenes.data.films import FilmData, apply_uncertain
from tenfold._errors import UserInputError
from tenfold.testing import sample_data


@pytest.mark.parametrize("presence", [False, True])
def test_movienet(tmp_path, presence):
    data = MovieNetSceneSeg(write_movienet(tmp_path / "scene318"), "train", presence=presence)
    assert len(data) == 2
    film = data[0]
    assert film.labels.tolist() == [0, 0, 0, 1, 0, 1, 0, 1, 0, 0, 0]  # -1 counts as a boundary
    arrays = film.arrays()
    assert {k: v.shape for k, v in arrays.items()} == {
        "place": (12, 6), "cast": (12, 5 + presence), "act": (12, 4), "aud": (12, 257, 90),
    }  # fmt: skip
    assert arrays["place"][:, 0].tolist() == list(range(12))
    assert np.isfinite(arrays["cast"]).all()  # nobody is zero, not the mean over nobody
    assert not arrays["cast"][0].any()
    assert arrays["cast"][2].any()
    index = np.array([[1, 1], [3, 0]])
    assert film.features["place"][index][..., 0].tolist() == index.tolist()
    assert film.shots[-1].tolist() == [264, 287]
    with pytest.raises(UserInputError, match="no such split"):
        MovieNetSceneSeg(tmp_path / "scene318", "x")
    with pytest.raises(UserInputError, match=r"neither tt01\.pkl nor"):
        MovieNetSceneSeg(tmp_path / "scene318", "train", ["face"])[0]
    for bad in ({"shot_1": np.ones(4)}, {"0001": ["x"]}):
        (tmp_path / "scene318" / "cast_feat" / "tt01.pkl").write_bytes(pickle.dumps(bad))
        with pytest.raises(UserInputError, match=r"tt01\.pkl: pickle: expected shot id -> numbers"):
            data[0].arrays(["cast"])


def test_keyframes_stand_for_features(tmp_path):
    root, pictures = write_movienet(tmp_path / "scene318"), write_keyframes(tmp_path / "keyf", ["tt01"])
    data = MovieNetSceneSeg(root, "train", ["place"], keyframes=pictures)
    rows = data[0].features["place"]
    index = np.array([[2, 2], [7, 0]])
    found = rows[index]
    assert (len(rows), found.shape, found.dtype) == (12, (2, 2, 3, 224, 224), np.float32)
    wanted = (20 * index / 255 - 0.485) / 0.229  # red of ImageNet's mean and deviation
    np.testing.assert_allclose(found[:, :, 0, 100, 100], wanted, atol=0.02)
    (pictures / "tt01" / "shot_0007_img_1.jpg").write_bytes(b"no picture")
    with pytest.raises(UserInputError, match=r"shot_0007_img_1\.jpg: image"):
        rows[index]
    with pytest.raises(UserInputError, match="tt02: no folder"):
        data[1]


def test_labels_that_are_too_many_or_too_few(tmp_path):
    file = tmp_path / "l.txt"
    file.write_text("0000 0\n0001 1\n0002 0\n")
    with pytest.warns(UserWarning, match="3 labels for 3 shots"):
        assert read_labels(file, 3).tolist() == [0, 1]
    file.write_text("0000 1\n")
    with pytest.warns(UserWarning, match="1 labels for 3 shots"):
        assert read_labels(file, 3).tolist() == [1, 0]
    for bad in ("0000 2\n", "x 1\n", "0000\n"):
        file.write_text(bad)
        with pytest.raises(UserInputError, match="line 1"):
            read_labels(file, 3)
    labels = np.array([0, -1, 1])
    assert apply_uncertain(labels, "ignore").tolist() == [0, -1, 1]
    assert apply_uncertain(labels, "negative").tolist() == [0, 0, 1]


def test_packs_and_lists(tmp_path):
    film = {
        "imdb_id": "tt9",
        "place": np.ones((4, 8)), "cast": np.ones((4, 5)), "action": np.ones((4, 5)), "audio": np.ones((4, 5)),
        "scene_transition_boundary_ground_truth": np.array([False, True, False]),
        "shot_end_frame": np.array([9, 19, 29, 39]),
        "scene_transition_boundary_prediction": np.array([0.1, 0.9, 0.2]),
    }  # fmt: skip
    (tmp_path / "tt9.pkl").write_bytes(pickle.dumps(film))
    found = FeaturePack(tmp_path)[0]
    assert found.labels.tolist() == [0, 1, 0]
    assert found.shots.tolist() == [[0, 9], [10, 19], [20, 29], [30, 39]]
    assert FeaturePack.read(tmp_path / "tt9.pkl")[1].tolist() == [0.1, 0.9, 0.2]
    del film["shot_end_frame"]
    (tmp_path / "tt9.pkl").write_bytes(pickle.dumps(film))
    with pytest.raises(UserInputError, match="shot_end_frame"):
        FeaturePack(tmp_path)[0]
    (tmp_path / "tt9.pkl").write_bytes(pickle.dumps({"place": print}))
    with pytest.raises(UserInputError, match="not allowed"):
        FeaturePack(tmp_path)[0]
    rows = [{"video_id": "a", "shot_id": k, "num_shot": 3, "boundary_label": int(k == 1)} for k in range(3)]
    (tmp_path / "x.ndjson").write_text("\n".join(map(json.dumps, rows)))
    assert read_ndjson(tmp_path / "x.ndjson")["a"].tolist() == [0, 1]
    scrl = {"b": [(np.ones((1, 4), np.float32), k % 2) for k in range(3)]}
    (tmp_path / "s.pkl").write_bytes(pickle.dumps(scrl))
    assert read_scrl(tmp_path / "s.pkl")[0].labels.tolist() == [0, 1]
    (tmp_path / "m.json").write_text(json.dumps({"scene": [{"shot": [0, 3]}, {"shot": [3, 9]}]}))
    assert read_movienet_scenes(tmp_path / "m.json") == [(0, 2), (3, 8)]


def test_ovsd_rai_and_bbc(tmp_path):
    (tmp_path / "bunny_scenes.txt").write_text("0\t99\n100\t179\n260 300\n", encoding="utf-16")
    shots = [[0, 49], [50, 101], [102, 179], [180, 300]]
    ovsd = OVSD(tmp_path)
    assert ovsd.names == ["bunny"]
    with pytest.warns(UserWarning, match="1 scenes start more than a second"):
        assert ovsd.labels("bunny", shots).tolist() == [0, 1, 1]
    (tmp_path / "scenes_3.txt").write_text("0 10\n11 20\n")
    assert RAI(tmp_path).scenes("3").tolist() == [[0, 10], [11, 20]]
    with pytest.raises(UserInputError, match="RAI: 4: no such film; there are 3"):
        RAI(tmp_path).scenes("4")
    root = tmp_path / "annotations"
    (root / "shots").mkdir(parents=True)
    (root / "shots" / "01_Poles.txt").write_text("0\t10\n12\t20\n21\t30\n31\t40\n")
    votes = ["0,2\n", "2\n", "2,4\n", "1,2\n", "3\n"]
    for k, text in enumerate(votes):
        (root / "scenes" / f"annotator_{k}").mkdir(parents=True)
        (root / "scenes" / f"annotator_{k}" / "01_Poles.txt").write_text(text)
    bbc = BBCPlanetEarth(root)
    assert bbc.labels("01_Poles").tolist() == [0, 1, 0]
    assert bbc.labels("01_Poles", "annotator_3").tolist() == [1, 1, 0]
    assert bbc.shots("01_Poles").tolist()[1] == [12, 20]
    (root / "scenes" / "annotator_0" / "01_Poles.txt").write_text("9\n")
    with pytest.raises(UserInputError, match="got shot 9; the episode has 4"):
        bbc.labels("01_Poles")


def test_real_features():
    root = sample_data("scene_features")
    data = SceneFeatures(root, "bbc_*.npz")
    assert len(data) == 7
    film = data[0]
    assert film.features["place"].shape == (len(film), 512)
    assert 5 < film.labels.sum() < len(film) / 3
    assert boundary_labels([[0, 9], [10, 19]], [[0, 12], [13, 19]]).tolist() == [1]


def test_generated_films_are_as_described():
    films = generate_films(30, 0)
    rate = np.mean([film.labels.mean() for film in films])
    assert 0.10 < rate < 0.16
    assert len({film.features["place"].tobytes() for film in films}) == 30
    again = generate_films(2, 0, first=3)
    np.testing.assert_array_equal(again[0].features["aud"], films[3].features["aud"])
    norms = np.linalg.norm(films[0].features["place"], axis=1)
    assert norms == pytest.approx(np.ones(120), abs=1e-5)


def test_segments(films):
    data = SegmentDataset(films, ("place", "aud"), seq_len=10, seed=0)
    windows, labels = data[3]
    assert windows["place"].shape == (10, 4, 8)
    assert labels.shape == (10,)
    seen = [set(), set()]
    for epoch in (0, 1):
        data.set_epoch(epoch)
        for k in range(len(data)):
            windows, labels = data[k]
            film = films[k // (len(data) // len(films))]
            # A window's middle shots say which boundary it is: its label must be that boundary's.
            for window, label in zip(windows["place"], labels, strict=True):
                shot = int(np.flatnonzero((film.features["place"] == window[1]).all(1))[0])
                assert label == film.labels[shot]
                seen[epoch].add((film.name, shot))
    assert len(seen[0] | seen[1]) > 0.9 * 6 * 39
    short = FilmData(
        "short", {"place": np.ones((4, 8), np.float32)}, np.array([0, 1, 0]), np.zeros((4, 2), np.int64)
    )
    windows, labels = SegmentDataset([short], ("place",), seq_len=10)[0]
    assert labels.tolist() == [0, 1, 0, *[-1] * 7]
    with pytest.raises(ValueError, match="expected n, n - 1 and n"):
        FilmData("x", {"place": np.ones((3, 1))}, np.array([0, 1, 0]), np.zeros((4, 2), np.int64))


def test_shuffled_scenes_stay_whole(films):
    plain = SegmentDataset(films, ("place",), seq_len=16)
    mixed = SegmentDataset(films, ("place",), seq_len=16, shuffle_scenes=True)
    changed = 0
    for k in range(len(plain)):
        (a, y), (b, z) = plain[k], mixed[k]
        changed += not np.array_equal(a["place"], b["place"])
        assert y[-1] == z[-1]
        own = sorted(map(bytes, a["place"][:, 1].copy()))
        assert own == sorted(map(bytes, b["place"][:, 1].copy()))  # the same shots
        for window, following in zip(b["place"], b["place"][1:], strict=False):
            np.testing.assert_array_equal(window[2], following[1])  # in one line
    assert changed > len(plain) / 3
