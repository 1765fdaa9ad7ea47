"""Features: closed forms, the published recipe of sound, and the cache."""

import numpy as np
import pytest
import torch

from moviescenes.features import extract_features, extractor, names, parse_features, register
from moviescenes.features.colours import ColourHistogram
from moviescenes.features.motion import MotionHistogram, translation
from moviescenes.features.networks import ResNet50, prepare
from moviescenes.features.run import read_features
from moviescenes.features.skin import SkinLayout, skin_mask
from moviescenes.features.sound import MelStatistics, audio_image, mel_filters, spectrum
from moviescenes.shots import Shot, detect_shots
from moviescenes.video import probe
from tenfold._errors import UserInputError


def test_colour_histograms():
    image = np.zeros((20, 30, 3), np.uint8)
    image[:, :15] = (255, 0, 0)
    vector = ColourHistogram().describe([image])
    assert vector.shape == (640,)
    assert np.linalg.norm(vector) == pytest.approx(1)
    parts = vector.reshape(5, 128)
    assert (np.count_nonzero(parts, axis=1) == [2, 1, 1, 1, 1]).all()
    assert parts[0].max() == pytest.approx(0.5)  # half of half of the weight, under the root
    assert ColourHistogram().frames(Shot(0, 0, 3, 0, 1)) == [0]


def test_skin():
    image = np.zeros((90, 160, 3), np.uint8)
    assert not SkinLayout().describe([image]).any()
    image[20:50, 60:100] = (220, 160, 130)
    image[50:80, 60:100] = (20, 30, 200)  # a blue shirt below the face
    assert skin_mask(image).sum() == 30 * 40
    vector = SkinLayout().describe([image])
    assert vector.shape == (60,)
    assert vector[-1] == 1
    assert vector[0] == pytest.approx(30 * 40 / (90 * 160), abs=0.02)
    moved = SkinLayout().describe([np.roll(image, 40, 1)])
    assert moved[1] - vector[1] == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(("right", "down"), [(3, 0), (0, -2), (-4, 5)])
def test_motion(right, down):
    rng = np.random.default_rng(0)
    wide = rng.random((80, 120))
    a, b = wide[20:60, 20:100], wide[20 - down : 60 - down, 20 - right : 100 - right]
    assert translation(a, b) == (right, down)
    pictures = [np.repeat((255 * image)[..., None], 3, 2).astype(np.uint8) for image in (a, b)]
    vector = MotionHistogram().describe(pictures)
    assert vector.shape == (28,)
    assert vector[1:3].tolist() == [right, down]
    still = MotionHistogram().describe([pictures[0]] * 2)
    assert still[0] == 0
    assert still[12] == 1  # all blocks at rest
    assert MotionHistogram().frames(Shot(0, 4, 4, 0, 1)) == [4]
    assert not MotionHistogram().describe(pictures[:1]).any()


def test_directions_of_blocks():
    rng = np.random.default_rng(1)
    wide = rng.random((80, 120))
    pictures = [
        np.repeat((255 * w)[..., None], 3, 2).astype(np.uint8)
        for w in (wide[10:70, 10:110], wide[10:70, 8:108])
    ]
    vector = MotionHistogram().describe(pictures)
    assert vector[4] == pytest.approx(1)  # two pixels to the right, everywhere
    assert vector[13] == pytest.approx(2 / 3)


def test_sound():
    clock = np.arange(16000) / 16000
    tone = np.sin(2 * np.pi * 1000 * clock)
    levels = spectrum(tone)
    wanted = torch.stft(
        torch.from_numpy(tone),
        512,
        128,
        window=torch.hann_window(512, dtype=torch.float64),
        return_complex=True,
    )
    np.testing.assert_allclose(levels, wanted.abs().numpy(), atol=1e-9)
    assert (levels.mean(1).argmax()) == 32
    image = audio_image(tone)
    assert image.shape == (257, 90)
    assert image.max() - image.min() <= 80 + 1e-3
    for samples in (
        np.zeros(16000),
        np.zeros(0),
        np.ones(3),
        np.random.rand(3200),
    ):  # 0.2 s is repeated to 4 s
        assert np.isfinite(audio_image(samples)).all()
        assert audio_image(samples).shape == (257, 90)
    np.testing.assert_allclose(audio_image(0.01 * tone), image, atol=1e-3)  # each shot in its own range
    filters = mel_filters()
    assert filters.shape == (64, 257)
    assert (filters.max(1) > 0).all()
    loud, soft = (MelStatistics().describe(gain * tone.astype(np.float32)) for gain in (1, 0.1))
    assert loud.shape == (192,)
    band = int(filters[:, 32].argmax())
    assert loud[band] - soft[band] == pytest.approx(2, abs=1e-3)  # two powers of ten


def test_one_pass_cache_and_resume(film, tmp_path, monkeypatch):
    path, _ = film
    video, shots = probe(path), detect_shots(path)
    pictures = {}
    first = extract_features(video, shots, cache=tmp_path, thumbnails=pictures)
    assert {key: value.shape[1:] for key, value in first.arrays.items()} == {
        "place": (640,), "cast": (60,), "act": (28,), "aud": (192,),
    }  # fmt: skip
    assert all(np.isfinite(value).all() for value in first.arrays.values())
    assert pictures.keys() == set(range(len(shots)))
    assert all(data[:3] == b"\xff\xd8\xff" for data in pictures.values())
    # All there: nothing is decoded. One part gone or damaged: it alone is made anew.
    from moviescenes.features import run

    monkeypatch.setattr(run, "read_frames", None)
    again, seen = extract_features(video, shots, cache=tmp_path, thumbnails={}), {}
    for key in first.arrays:
        np.testing.assert_array_equal(again.arrays[key], first.arrays[key])
    monkeypatch.undo()
    (damaged,) = tmp_path.rglob("hsv-hist-*.npy")
    damaged.write_bytes(damaged.read_bytes()[:100])
    monkeypatch.setattr(SkinLayout, "describe", lambda *_: seen.setdefault("called", True))
    np.testing.assert_array_equal(
        extract_features(video, shots, cache=tmp_path).arrays["place"], first.arrays["place"]
    )
    assert not seen


def test_own_extractors(film):
    path, written = film
    video, shots = probe(path), detect_shots(path)

    class Lengths:
        name, modality, dim, version = "lengths", "act", (1,), 1

        def extract(self, video, shots):
            return np.array([[s.end_frame - s.start_frame + 1] for s in shots], np.float32)

    register("lengths", Lengths)
    assert "lengths" in names()
    found = extract_features(video, shots, "act=lengths")
    assert found.arrays["act"].ravel().sum() == len(written.times)
    Lengths.dim = (2,)
    with pytest.raises(UserInputError, match="lengths: gave shape"):
        extract_features(video, shots, "act=lengths")
    for text, message in (
        ("act=none", "got 'none'"),
        ("x=stft", "got 'x=stft'"),
        ("place=stft", "describes aud"),
        ("place=json.decoder:Nothing", "cannot be imported"),
        ("place=json.decoder:JSONDecoder", "no extractor"),
        ("place=resnet50", "needs a file of weights"),
    ):
        with pytest.raises(UserInputError, match=message):
            extract_features(video, shots, text)
    assert parse_features("action=motion-hist, audio=stft") == {"act": "motion-hist", "aud": "stft"}


def test_files_of_features(tmp_path):
    np.save(tmp_path / "place.npy", np.ones((4, 3)))
    found = read_features(f"npy:{tmp_path}", 4)
    assert found.arrays["place"].dtype == np.float32
    with pytest.raises(UserInputError, match="one row for each of 5 shots"):
        read_features(f"npy:{tmp_path}", 5)
    with pytest.raises(UserInputError, match="found none of"):
        read_features(f"npy:{tmp_path / 'x'}", 4)
    import pickle

    (tmp_path / "f.pkl").write_bytes(pickle.dumps({"aud": np.zeros((4, 2), np.float32)}))
    assert list(read_features(f"pkl:{tmp_path / 'f.pkl'}", 4).arrays) == ["aud"]
    (tmp_path / "g.pkl").write_bytes(pickle.dumps(print))
    with pytest.raises(UserInputError, match="not allowed"):
        read_features(f"pkl:{tmp_path / 'g.pkl'}", 4)


@pytest.mark.slow
def test_weights_in_the_usual_layouts(tmp_path):
    import torchvision

    torch.manual_seed(0)
    net = torchvision.models.resnet50(weights=None, num_classes=365).eval()
    wrapped = {"state_dict": {f"module.{key}": value for key, value in net.state_dict().items()}}
    torch.save(wrapped, tmp_path / "places.pth")
    own = extractor(f"resnet50:{tmp_path / 'places.pth'}")
    image = np.random.default_rng(0).integers(0, 256, (90, 160, 3)).astype(np.uint8)
    x = torch.from_numpy(prepare(image))
    assert x.shape == (3, 224, 224)
    with torch.no_grad():
        net.fc = torch.nn.Identity()
        np.testing.assert_allclose(own.describe([image]), net(x[None])[0].numpy(), rtol=1e-4, atol=1e-4)
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "bad.pth")
    with pytest.raises(UserInputError, match="do not fit ResNet"):
        ResNet50(str(tmp_path / "bad.pth"))
