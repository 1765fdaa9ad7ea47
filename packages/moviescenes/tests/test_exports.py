"""Files for others, read by others."""

import csv
import io
import itertools
import json
import re
from dataclasses import replace
from fractions import Fraction
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moviescenes.export import FORMATS, render, save
from moviescenes.scenes import SceneList, VideoFacts
from moviescenes.shots import ShotList
from moviescenes.timecode import from_timecode, timecode
from tenfold._errors import UserInputError
from tenfold.testing import open_page, require

FILM = Fraction(24000, 1001)
NTSC = Fraction(30000, 1001)


def scenes_of(count, fps=FILM, name="my film.mp4", per_scene=2, length=37, pictures=True):
    """Scenes of two shots each, of so many frames."""
    edges = [(k * length, (k + 1) * length - 1) for k in range(count * per_scene)]
    shots = ShotList.from_frames(edges, fps)
    video = VideoFacts(name, fps, len(edges) * length, shots[-1].end_time, 320, 180)
    cuts = range(per_scene - 1, len(edges) - 1, per_scene)
    scores = np.linspace(0.2, 0.9, len(edges) - 1) if len(edges) > 1 else np.zeros(0)
    found = SceneList.from_cuts(
        list(cuts), shots, video, scores=scores, threads=[(0, 1)] * count if per_scene == 2 else ()
    )
    if pictures:
        from tenfold.viz import encode_image

        found.thumbnails = {
            k: encode_image(np.full((90, 160, 3), (k * 40) % 256, np.uint8), "JPEG")
            for k in range(len(edges))
        }
    return found


def test_scenes_tile():
    found = scenes_of(5)
    assert found[0].start_frame == 0
    assert found[-1].end_frame == found.shots[-1].end_frame
    for a, b in itertools.pairwise(found):
        assert b.start_frame == a.end_frame + 1
        assert b.start_time == a.end_time
    with pytest.raises(ValueError, match="expected boundaries of 10 shots"):
        SceneList.from_cuts([9], found.shots, found.video)


def test_time_codes():
    assert timecode(258_741, FILM) == "02:59:40:21"
    assert timecode(17_982, NTSC, drop=True) == "00:10:00;00"
    assert timecode(1800, NTSC, drop=True) == "00:01:00;02"
    assert timecode(1799, NTSC, drop=True) == "00:00:59;29"
    assert timecode(3 * 17_982 * 2, NTSC, drop=True) == "01:00:00;00"
    assert timecode(35_964, Fraction(60000, 1001), drop=True) == "00:10:00;00"
    with pytest.raises(ValueError, match=r"expected 29\.97"):
        timecode(3, FILM, drop=True)
    for text in ("00:01:00;00", "00:61:00:00", "1:2:3:4", "00:00:00:30"):
        with pytest.raises(UserInputError, match="timecode"):
            from_timecode(text, NTSC, drop=True)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 24 * 3600 * 23), st.sampled_from([FILM, NTSC, Fraction(60000, 1001), Fraction(25)]))
def test_time_codes_round_trip(frame, fps):
    drops = (False, True) if fps in (NTSC, Fraction(60000, 1001)) else (False,)
    for drop in drops:
        assert from_timecode(timecode(frame, fps, drop=drop), fps, drop=drop) == frame


def test_json_round_trip(tmp_path):
    found = scenes_of(4)
    found.save(tmp_path / "a.json")
    again = SceneList.from_json(tmp_path / "a.json")
    for one, other in zip(again, found, strict=True):
        assert (one.start_frame, one.end_frame, one.threads) == (
            other.start_frame,
            other.end_frame,
            other.threads,
        )
        assert (one.start_time, one.end_time) == pytest.approx((other.start_time, other.end_time), abs=1e-6)
        assert one.confidence == pytest.approx(other.confidence, abs=1e-6)
    assert again.shots.table().tolist() == found.shots.table().tolist()
    assert replace(again.video, duration=0) == replace(found.video, duration=0)
    document = json.loads((tmp_path / "a.json").read_text())
    assert document["schema"] == "moviescenes/1"
    assert list(document) == ["schema", "video", "params", "shots", "boundaries", "scenes"]
    for path, value in (("schema", "x"), ("shots", []), ("boundaries", []), ("video", {}), ("scenes", 3)):
        (tmp_path / "b.json").write_text(json.dumps({**document, path: value}))
        with pytest.raises(UserInputError, match=r"b\.json"):
            SceneList.from_json(tmp_path / "b.json")
    for last in (3, {**document["scenes"][-1], "threads": 3}):
        (tmp_path / "b.json").write_text(json.dumps({**document, "scenes": [*document["scenes"][:-1], last]}))
        with pytest.raises(UserInputError, match=r"b\.json: scenes\[3\]"):
            SceneList.from_json(tmp_path / "b.json")


def test_edl_by_an_independent_parser(tmp_path):
    """Three hours at 24000/1001: every frame comes back."""
    otio = require("opentimelineio")
    require("otio_cmx3600_adapter")
    for fps in (FILM, Fraction(25)):
        found = scenes_of(300, fps, length=432, pictures=False)
        (path,) = found.save(tmp_path / "a.edl")
        timeline = otio.adapters.read_from_string(path.read_text(), adapter_name="cmx_3600", rate=round(fps))
        clips = list(timeline.tracks[0].find_clips())
        assert len(clips) == 300
        for scene, clip in zip(found, clips, strict=True):
            span = clip.source_range
            assert (span.start_time.value, span.end_time_exclusive().value) == (
                scene.start_frame,
                scene.end_frame + 1,
            )
        assert found[-1].end_frame > 258_741
        assert all(
            len(line.split()[1]) <= 8 for line in path.read_text().splitlines() if re.match(r"\d{3} ", line)
        )


def test_edl_of_many_scenes_and_drop_frame(tmp_path):
    paths = scenes_of(1001, NTSC, length=30, pictures=False).save(tmp_path / "a.edl", drop_frame=True)
    assert [p.name for p in paths] == ["a_1.edl", "a_2.edl"]
    first, second = (p.read_text() for p in paths)
    assert "FCM: DROP FRAME" in first
    assert len(re.findall(r"^\d{3}  ", first, re.MULTILINE)) == 999
    assert len(re.findall(r"^\d{3}  ", second, re.MULTILINE)) == 2
    assert timecode(60 * 999, NTSC, drop=True) in second
    with pytest.raises(UserInputError, match=r"drop_frame: exists at 29\.97"):
        scenes_of(2).save(tmp_path / "b.edl", drop_frame=True)
    with pytest.raises(UserInputError, match=r"drop_frame: exists at 29\.97"):
        scenes_of(2).save(tmp_path / "b.csv", drop_frame=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a_1.edl", "a_2.edl"]
    text = render(
        scenes_of(2, name="Ünïcode / 电影 very long name.mp4"), "edl", start_timecode="01:00:00:00"
    )[".edl"]
    assert text.isascii()
    assert b"01:00:00:00 01:00:03:02" in text


def test_otio_reads_it(tmp_path):
    otio = require("opentimelineio")
    found = scenes_of(6)
    (path,) = found.save(tmp_path / "a.otio", start_timecode="01:00:00:00")
    timeline = otio.adapters.read_from_file(str(path))
    assert timeline.schema_name() == "Timeline"
    clips = list(timeline.find_clips())
    assert len(clips) == 6
    offset = 24 * 3600
    for scene, clip in zip(found, clips, strict=True):
        assert clip.source_range.start_time.value == offset + scene.start_frame
        assert clip.source_range.duration.value == scene.end_frame - scene.start_frame + 1
        assert clip.source_range.start_time.rate == pytest.approx(24000 / 1001)
        assert len(clip.markers) == 2
        assert clip.media_reference.target_url.startswith("file://")
        assert clip.available_range().duration.value == found.video.frames
    assert timeline.duration().value == found.video.frames


def test_csv_by_the_standard_reader():
    rows = list(csv.DictReader(io.StringIO(render(scenes_of(3), "csv")[".csv"].decode(), newline="")))
    assert [int(row["start_frame"]) for row in rows] == [0, 74, 148]
    assert rows[1]["start_timecode"] == timecode(74, FILM)
    assert float(rows[2]["end_s"]) == pytest.approx(222 * 1001 / 24000)
    assert render(scenes_of(3), "csv")[".csv"].count(b"\r\n") == 4


def test_chapters_and_keyframes():
    found = scenes_of(3, Fraction(25), length=250)
    texts = {name: next(iter(render(found, name).values())).decode() for name in FORMATS if name != "html"}
    assert texts["vtt"].startswith("WEBVTT\n\n1\n00:00:00.000 --> 00:00:20.000\nScene 1\n")
    assert "START=20000\nEND=40000\ntitle=Scene 2" in texts["ffmeta"]
    assert "CHAPTER02=00:00:20.000\nCHAPTER02NAME=Scene 2" in texts["ogm"]
    assert texts["youtube"] == "0:00 Scene 1\n0:20 Scene 2\n0:40 Scene 3\n"
    assert texts["qp"] == "0 I -1\n500 I -1\n1000 I -1\n"
    assert texts["keyframes"].splitlines()[2:5] == ["0", "250", "500"]
    tree = ElementTree.fromstring(texts["fcpxml"].partition("<!DOCTYPE fcpxml>")[2])
    clips = tree.findall(".//asset-clip")
    assert [clip.get("offset") for clip in clips] == ["0s", "20s", "40s"]
    assert len(tree.findall(".//marker")) == 6


def test_the_ending_says_the_format(tmp_path):
    found = scenes_of(2)
    for name, (ending, _) in FORMATS.items():
        (path,) = found.save(tmp_path / f"film{ending}")
        assert path.read_bytes() == next(iter(render(found, name).values()))


def test_unknown_formats(tmp_path):
    with pytest.raises(UserInputError, match="format: got 'avi'"):
        save(scenes_of(2), tmp_path / "a.avi")


def test_the_page_opens_and_unfolds(tmp_path):
    """In a browser without a network: no request, no error, shots appear on a click."""
    name = "<script>alert(1)<script> & film.mp4"
    (path,) = scenes_of(3, name=name).save(tmp_path / "a.html")
    text = path.read_text()
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", text)
    assert "<script" not in text
    page = open_page(path, width=400)
    assert page.title == f"Scenes of {name}"
    assert page.errors == []
    assert page.outside_requests == []
    assert page.failed_requests == []
    assert page.scroll_width <= 400
    assert "shot 3" not in page.text
    program = require("chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(program), args=["--no-sandbox"])
        tab = browser.new_context(offline=True, java_script_enabled=True).new_page()
        tab.goto(path.resolve().as_uri())
        assert not tab.locator("article#scene-2 li").first.is_visible()
        tab.locator("article#scene-2 summary").click()
        assert tab.locator("article#scene-2 li").first.is_visible()
        assert "shot 3" in tab.inner_text("article#scene-2")
        assert tab.locator("article#scene-2 .thread").all_inner_texts() == ["A", "B"]
        tab.locator("nav a").nth(2).click()
        assert tab.url.endswith("#scene-3")
        loaded = tab.evaluate(
            "[...document.images].filter(i => i.loading != 'lazy').every(i => i.naturalWidth == 160)"
        )
        assert loaded
        browser.close()
