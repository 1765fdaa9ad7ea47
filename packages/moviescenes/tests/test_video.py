"""Decoding: what real files are like."""

import os
import threading
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from moviescenes.data.film import plan_film, write_film
from moviescenes.segment import SceneSegmenter
from moviescenes.shots import detect_shots
from moviescenes.video import probe, read_audio, read_frames, shot_audio
from tenfold._errors import UserInputError

PLAN = plan_film(5, 2, shots=(2, 2), frames=(16, 20))
SIZE = (96, 64)


def write(path, **options):
    return write_film(path, PLAN, **{"size": SIZE, **options})


def test_facts(film):
    video = probe(film[0])
    assert (video.width, video.height, video.has_audio) == (160, 96, True)
    assert video.fps == Fraction(24000, 1001)
    assert video.frames == len(film[1].times)


def test_variable_rate_and_negative_stamps(tmp_path):
    film = write(tmp_path / "v.mkv", variable=True)
    frames = list(read_frames(tmp_path / "v.mkv"))
    assert [f.time for f in frames] == pytest.approx(film.times, abs=2e-3)
    shots = detect_shots(tmp_path / "v.mkv")
    assert shots.vfr
    assert [s.start_frame for s in shots] == PLAN.starts
    assert [s.start_time for s in shots] == pytest.approx([film.times[k] for k in PLAN.starts], abs=2e-3)
    write(tmp_path / "late.mkv", first_pts=40, audio=False)
    write(tmp_path / "early.mp4", first_pts=-5, audio=False)
    for name in ("late.mkv", "early.mp4"):
        frames = list(read_frames(tmp_path / name))
        assert frames[0].time == 0
        assert np.diff([f.time for f in frames]) == pytest.approx(0.04, abs=2e-3)
        assert all(s.start_time >= 0 for s in detect_shots(tmp_path / name))


def test_sound_and_silence(tmp_path):
    write(tmp_path / "none.mp4", audio=False)
    assert list(read_audio(tmp_path / "none.mp4")) == []
    found = SceneSegmenter().segment(tmp_path / "none.mp4")
    assert found.params["absent"] == ["aud"]
    write(tmp_path / "short.mp4", audio_seconds=0.5)
    video = probe(tmp_path / "short.mp4")
    parts = list(shot_audio(video, [(0.0, 0.3), (0.3, 1.0), (1.0, 2.0)]))
    assert [len(p) for p in parts] == [4800, 11200, 16000]
    assert np.abs(parts[0]).max() > 0.1
    assert np.abs(parts[1][:2000]).max() > 0.1
    assert not parts[2].any()


def test_sound_is_where_it_belongs(tmp_path):
    """Each scene has a tone of its own: its pitch must be found in the shots of the scene."""
    write(tmp_path / "a.mp4")
    video, shots = probe(tmp_path / "a.mp4"), detect_shots(tmp_path / "a.mp4")
    spans = [(s.start_time, s.end_time) for s in shots]
    pitches = []
    for samples in shot_audio(video, spans):
        middle = samples[len(samples) // 4 : -len(samples) // 4]
        spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
        pitches.append(spectrum.argmax() * 16000 / len(middle))
    wanted = [180 * 2 ** ((scene * 5 % 24) / 6) for scene in PLAN.scene_of]
    assert pitches == pytest.approx(wanted, rel=0.04)


def rotated(source, target, degrees):
    """The same file with a display matrix."""
    data = bytearray(source.read_bytes())
    matrix = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}[degrees]
    place = data.index(b"tkhd") + 4 + 40
    for offset, value in zip((0, 4, 12, 16), matrix, strict=True):
        data[place + offset : place + offset + 4] = (value * 65536).to_bytes(4, "big", signed=True)
    target.write_bytes(data)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotation(tmp_path, degrees):
    write(tmp_path / "a.mp4", audio=False)
    rotated(tmp_path / "a.mp4", tmp_path / "b.mp4", degrees)
    with av.open(str(tmp_path / "b.mp4")) as container:
        raw = next(container.decode(video=0))
        # The matrix (0, 1, -1, 0) sends right to down: a quarter turn clockwise.
        wanted = np.rot90(raw.to_ndarray(format="rgb24"), -degrees // 90)
    frame = next(iter(read_frames(tmp_path / "b.mp4")))
    np.testing.assert_array_equal(frame.rgb(), wanted)
    video = probe(tmp_path / "b.mp4")
    assert (video.width, video.height) == (SIZE if degrees == 180 else SIZE[::-1])
    assert len(detect_shots(tmp_path / "b.mp4")) == len(PLAN.lengths)


def test_odd_sizes_and_unicode_names(tmp_path):
    path = tmp_path / "mein schöner: film 电影.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 71, 53, "yuvj444p"
        for k in range(40):
            image = np.full((53, 71, 3), (220, 40, 40) if k < 20 else (40, 40, 220), np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    found = SceneSegmenter().segment(path, thumbnails=True)
    assert [s.start_frame for s in found.shots] == [0, 20]
    assert len(found) == 1
    assert set(found.thumbnails) == {0, 1}


def test_one_shot_and_one_frame(tmp_path):
    for name, count in (("one.mp4", 30), ("frame.mp4", 1)):
        plan = type(PLAN)((count,), (0,), (0,))
        write_film(tmp_path / name, plan, size=SIZE, audio=False)
        found = SceneSegmenter().segment(tmp_path / name)
        assert (len(found), len(found.shots)) == (1, 1)
        assert found[0].end_frame == count - 1
        assert found[0].confidence == 1
        assert found.scores.shape == (0,)


def test_damaged_frames(tmp_path):
    """Damage in the middle is left out; more than eight frames in a row, or no frame at all, ends the reading."""
    with av.open(str(tmp_path / "a.avi"), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        rng = np.random.default_rng(0)
        for _ in range(40):
            image = rng.integers(0, 256, (6, 8, 3)).astype(np.uint8).repeat(8, 0).repeat(8, 1)
            for packet in stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")):
                container.mux(packet)
    data = bytearray((tmp_path / "a.avi").read_bytes())
    starts = [
        k for k in range(len(data) - 1) if data[k : k + 4] == b"00dc" and data[k + 8 : k + 10] == b"\xff\xd8"
    ]
    assert len(starts) == 40
    for count, survives in ((3, True), (12, False)):
        hurt = bytearray(data)
        for start in starts[10 : 10 + count]:
            size = int.from_bytes(hurt[start + 4 : start + 8], "little")
            hurt[start + 8 : start + 8 + size] = bytes(size)
        (tmp_path / "b.avi").write_bytes(hurt)
        if survives:
            assert len(list(read_frames(tmp_path / "b.avi"))) == 40 - count
        else:
            with pytest.raises(UserInputError, match="frames in a row are damaged after frame 10"):
                list(read_frames(tmp_path / "b.avi"))


def test_files_that_are_no_videos(tmp_path):
    (tmp_path / "text.mp4").write_text("not a video")
    (tmp_path / "empty.mp4").write_bytes(b"")
    write(tmp_path / "a.mp4")
    (tmp_path / "cut.mp4").write_bytes((tmp_path / "a.mp4").read_bytes()[:3000])
    with av.open(str(tmp_path / "sound.mka"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1600), np.int16), format="s16", layout="mono")
        frame.sample_rate = 16000
        for packet in stream.encode(frame):
            container.mux(packet)
    for name, message in (
        ("text.mp4", "cannot be read"),
        ("empty.mp4", "cannot be read"),
        ("cut.mp4", "cannot be read"),
        ("none.mp4", "does not exist"),
        (".", "is no file"),
        ("sound.mka", "has no picture"),
    ):
        with pytest.raises(UserInputError, match=message):
            probe(tmp_path / name)


def test_leaving_early_ends_the_reader_and_closes_the_file(tmp_path):
    write(tmp_path / "b.mp4")
    frames = read_frames(tmp_path / "b.mp4")
    first = next(frames)
    assert open_files().count("b.mp4") == 1
    frames.close()
    assert open_files().count("b.mp4") == 0
    assert not [t for t in threading.enumerate() if t.name.startswith("tenfold-reader")]
    assert first.rgb().shape == (64, 96, 3)


def open_files():
    """Names of the files that this process has open."""
    return [Path(os.path.realpath(link)).name for link in Path("/proc/self/fd").iterdir()]
