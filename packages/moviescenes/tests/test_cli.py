"""The command line, in this process."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from moviescenes.cli import app
from moviescenes.commands import _segmenter
from moviescenes.model import LGSS, LGSSConfig
from moviescenes.scenes import SceneList
from moviescenes.segment import save_model
from tenfold.testing import PackageReliability, assert_examples_run, child_environment


@pytest.fixture
def movie(film, tmp_path):
    shutil.copy(film[0], tmp_path / "movie.mp4")
    return film[1]


def test_segment_writes_everything(cli, movie, tmp_path):
    formats = "json,csv,edl,otio,html,fcpxml,vtt,ffmeta,ogm,youtube,qp,keyframes"
    code, out, err = cli("segment", "movie.mp4", "--format", formats, "--cache", "cache")
    assert (code, err) == (0, "")
    assert "no trained model" in out
    assert len(list((tmp_path / "scenes").iterdir())) == 12
    found = SceneList.from_json(tmp_path / "scenes" / "movie.json")
    assert found[0].start_frame == 0
    assert found[-1].end_frame == len(movie.times) - 1
    starts = [s.start_frame for s in found[1:]]
    assert len(set(starts) & set(movie.plan.scene_cuts)) >= len(movie.plan.scene_cuts) - 1
    page = (tmp_path / "scenes" / "movie.html").read_text()
    assert page.count("data:image/jpeg") >= len(found.shots)
    # Again, from the cache, printed; and by its other name.
    code, out, _ = cli("predict", "movie.mp4", "--json_stdout", "true", "--cache", "cache")
    assert code == 0
    assert json.loads(out)["scenes"] == json.loads((tmp_path / "scenes" / "movie.json").read_text())["scenes"]


def test_options(cli, movie, tmp_path):
    assert cli("shots", "movie.mp4", "--out", "shots.txt", "--images", "images")[0] == 0
    assert len(list((tmp_path / "images").iterdir())) == 3 * (len(movie.plan.hard_cuts) + 1)
    code, out, _ = cli("shots", "movie.mp4", "--detector", "adaptive", "--end", "1.5")
    assert code == 0
    assert len(out.splitlines()[0].split()) == 5
    words = (
        "segment",
        "movie.mp4",
        "--format",
        "json",
        "--shots",
        "shots.txt",
        "--features",
        "place=hsv-hist",
    )
    for more, check in (
        (("--scenes", "3"), lambda s: len(s) == 3),
        (("--scenes", "2:4", "--no_global", "true"), lambda s: 2 <= len(s) <= 4),
        (("--no_global", "true", "--threshold", "2"), lambda s: len(s) == 1),
        (("--start", "0.5", "--end", "2"), lambda s: s[0].start_time >= 0.5 and s[-1].end_time < 2.1),
    ):
        code, _, err = cli(*words, *more)
        assert (code, err) == (0, ""), more
        assert check(SceneList.from_json(tmp_path / "scenes" / "movie.json")), more
    assert cli("features", "movie.mp4", "--features", "aud=logmel-stats", "--shots", "shots.txt")[0] == 0
    count = len(movie.plan.hard_cuts) + 1
    assert np.load(tmp_path / "features" / "aud.npy").shape == (count, 192)
    assert (
        cli("segment", "movie.mp4", "--format", "edl", "--shots", "shots.txt", "--features", "npy:features")[
            0
        ]
        == 0
    )
    assert cli("convert", "scenes/movie.json", "m.fcpxml")[0] == 0
    assert cli("convert", "scenes/movie.json", "m.txt")[0] == 0
    shots = SceneList.from_json(tmp_path / "scenes" / "movie.json").shots
    assert len((tmp_path / "m.txt").read_text().splitlines()) == len(shots)
    assert cli("convert", "scenes/movie.json", "m.chapters.txt")[0] == 0
    assert (tmp_path / "m.chapters.txt").read_text().startswith("CHAPTER01=")
    assert cli("convert", "shots.txt", "again.txt")[0] == 0
    assert (tmp_path / "again.txt").read_text() == (tmp_path / "shots.txt").read_text()


def test_split_copies_each_scene(cli, movie, tmp_path):
    from moviescenes.video import read_frames

    words = ("segment", "movie.mp4", "--format", "json", "--features", "place=hsv-hist", "--split", "true")
    code, _, err = cli(*words)
    assert (code, err) == (0, "")
    found = SceneList.from_json(tmp_path / "scenes" / "movie.json")
    files = sorted((tmp_path / "scenes").glob("*.mp4"))
    assert [file.name for file in files] == [f"movie-scene-{k + 1}.mp4" for k in range(len(found))]
    for scene, file in zip(found, files, strict=True):
        count = sum(1 for _ in read_frames(file))
        assert count >= scene.end_frame - scene.start_frame + 1
        assert count <= scene.end_frame + 1


@pytest.fixture
def network(tmp_path):
    """An untrained network that says what it reads: (file, network)."""
    torch.manual_seed(0)
    net = LGSS(LGSSConfig(dims={"place": 640, "aud": 192}, channels=2, hidden=2, head=2))
    save_model(tmp_path / "m.pt", net, {"place": "hsv-hist", "aud": "logmel-stats"})
    return tmp_path / "m.pt", net


def test_a_trained_network_segments(cli, movie, network, tmp_path):
    path, net = network
    code, out, err = cli("segment", "movie.mp4", "--model", path, "--format", "json", "--threads", "1")
    assert (code, err) == (0, "")
    assert "no trained model" not in out
    assert SceneList.from_json(tmp_path / "scenes" / "movie.json").params["model"] == "lgss"
    save_model(tmp_path / "n.pt", net, {})
    code, _, err = cli("segment", "movie.mp4", "--model", "n.pt")
    assert code == 2
    assert "give --features" in err


def test_threads_count_without_a_network_too(monkeypatch):
    chosen = []
    monkeypatch.setattr("torch.set_num_threads", chosen.append)
    assert _segmenter("unsupervised", None, "movie", 3).model is None
    assert chosen == [3]


def test_mistakes_end_with_two_and_leave_nothing(cli, movie, tmp_path):
    (tmp_path / "bad.mp4").write_bytes((tmp_path / "movie.mp4").read_bytes()[:2000])
    (tmp_path / "shots.txt").write_text("0 10\n12 20\n")
    before = sorted(p.name for p in tmp_path.iterdir())
    for words, message in (
        (("segment", "none.mp4"), "none.mp4: video: does not exist"),
        (("segment", "bad.mp4"), "bad.mp4: video: cannot be read"),
        (("segment", "movie.mp4", "--format", "avi"), "format: got avi"),
        (("segment", "movie.mp4", "--features", "place=x"), "features: got 'x'"),
        (("segment", "movie.mp4", "--detector", "x"), "detector: got 'x'"),
        (("segment", "movie.mp4", "--shots", "shots.txt"), "shot 2: starts at frame 12"),
        (("segment", "movie.mp4", "--scenes", "x"), "scenes: got 'x'"),
        (("segment", "movie.mp4", "--scenes", "9:3"), "scenes: got 9:3"),
        (("segment", "movie.mp4", "--drop_frame", "true"), "drop_frame: exists at"),
        (("segment", "movie.mp4", "--start_timecode", "1:2"), "timecode: got '1:2'"),
        (("segment", "movie.mp4", "--start", "99"), "no frame lies between"),
        (("segment", "movie.mp4", "--model", "none.ckpt"), "none.ckpt"),
        (("convert", "none.json", "a.edl"), "none.json"),
        (("convert", "shots.txt", "a.edl"), "format: got edl; shots.txt is a list of shots"),
        (("convert", "shots.txt", "a.txt", "--format", "avi"), "format: got avi"),
        (("baselines", "nowhere"), "root: got nowhere"),
        (("baselines", "generated", "--methods", "[x]"), "methods: got 'x'"),
        (("segmnt",), "did you mean 'segment'"),
    ):
        code, _, err = cli(*words)
        assert code == 2, words
        assert message in err, words
        assert "Traceback" not in err
    assert sorted(p.name for p in tmp_path.iterdir()) == before


@pytest.mark.parametrize("verb", ["segment", "features", "shots"])
def test_an_unwritable_folder_is_noticed_before_the_work(cli, movie, tmp_path, monkeypatch, verb):
    def work(*_args, **_options):
        raise AssertionError("the film was read")

    monkeypatch.setattr("moviescenes.video._decode", work)
    (tmp_path / "file").touch()
    for words in (("--out", "file/below/x"), *((("--images", "file"),) if verb == "shots" else ())):
        code, _, err = cli(verb, "movie.mp4", *words)
        assert code == 2
        assert "cannot be created" in err
        assert words[0][2:] in err


@pytest.mark.slow
def test_the_examples_run(cli, movie, tmp_path):
    pytest.importorskip("onnxscript")
    assert cli("shots", "movie.mp4", "--out", "shots.txt")[0] == 0
    small = "--config tiny trainer.max_epochs=1 data.films=[2,1,1]"
    replace = {
        "--config tiny": small,
        "max_epochs=15": "max_epochs=3",
        "export last.ckpt": "export runs/moviescenes_tiny/checkpoints/last.ckpt",
        "5:12": "3:5",
    }
    assert_examples_run(cli, app, leave_out=r"paper|scene318|shots\.csv", replace=replace)


class TestReliability(PackageReliability):
    app = "moviescenes.cli:app"

    @pytest.fixture
    def prediction(self, film, network):
        words = ("segment", film[0], "--format", "html")
        return network[0], lambda checkpoint, out: (*words, "--model", checkpoint, "--out", out)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_film(tmp_path):
    """Peak memory of a film four times as long is the same to within what lists of shots take."""
    from moviescenes.data.film import plan_film, write_film

    peaks = []
    for scenes in (4, 16):
        write_film(tmp_path / "f.mp4", plan_film(0, scenes, frames=(40, 60)), size=(640, 360))
        code = (
            "import resource, sys; from moviescenes.cli import app\n"
            "assert app(['segment', 'f.mp4', '--format', 'json']) == 0\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env=child_environment(),
            capture_output=True,
            text=True,
            check=True,
        )
        peaks.append(int(done.stdout.split()[-1]) / 1024)
    assert peaks[1] - peaks[0] < 40, peaks  # megabytes; one second of its frames has 17
