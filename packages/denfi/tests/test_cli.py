"""The command line, in this process except where a fresh one is the point."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from denfi.cli import app
from denfi.predict import load_detector, looks_of
from tenfold.io import PointCloud, write_points
from tenfold.lidar.predict import detect
from tenfold.lidar.task import simulate_into
from tenfold.testing import PackageReliability, assert_examples_run, sample_data

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def scan_file(street, tmp_path):
    points = street[0].numpy()
    write_points(tmp_path / "scan.bin", PointCloud(points[:, :3], {"intensity": points[:, 3]}))
    return tmp_path / "scan.bin"


def test_predict_shows_where_it_looks(cli, scan_file, eager_checkpoint, tmp_path):
    code, out, err = cli("predict", scan_file, eager_checkpoint)
    assert (code, err) == (0, "")
    files = ["scan.json", "scan_bev.png", "scan_looks.json", "scan_looks.png"]
    assert sorted(p.name for p in (tmp_path / "predictions").iterdir()) == files
    document = json.loads((tmp_path / "predictions/scan.json").read_text())
    looks = json.loads((tmp_path / "predictions/scan_looks.json").read_text())
    assert len(looks["detections"]) == len(document["boxes"]) > 3
    assert f"{len(document['boxes'])} objects" in out
    model = load_detector(eager_checkpoint)
    points = np.fromfile(scan_file, np.float32).reshape(-1, 4)
    found = detect(model, points)
    own = looks_of(model, found["boxes"])
    shift = model.plug.denfi.refine_reg.last_offset[0]
    for number, entry in enumerate(looks["detections"]):
        box = document["boxes"][number]
        pixels = np.array(entry["pixels"])
        assert len(pixels) == len(entry["sampled_cls"]) == len(entry["sampled_reg"])
        # Pixels lie in the box's middle, and the points are theirs plus the offset, in metres.
        if len(pixels) > 1:
            rel = pixels - np.array(box[:2])
            u = rel @ [np.cos(box[6]), np.sin(box[6])]
            assert np.abs(u).max() <= 0.45 * box[3] / 2 + 1e-4
        for pixel, sampled in zip(pixels, np.array(entry["sampled_reg"]), strict=True):
            column, row = (int((pixel[k] - low) / 1.6) for k, low in ((0, 0.0), (1, -12.8)))
            wanted = pixel + 1.6 * shift[:, row, column].flip(0).numpy()
            np.testing.assert_allclose(sampled, wanted, atol=1e-4)
    assert own.proposals is not None
    picture = np.asarray(Image.open(tmp_path / "predictions/scan_looks.png"))
    assert picture.shape == (512, 512, 3)
    for colour in ((255, 208, 70), (90, 220, 255)):
        assert (np.abs(picture.astype(int) - colour).max(-1) < 20).sum() > 20


def test_real_frame(cli, eager_checkpoint, tmp_path):
    folder = sample_data("kitti") / "training"
    code, _, err = cli(
        "predict", folder / "velodyne/000001.bin", eager_checkpoint, "--calib", folder / "calib/000001.txt",
        "--image", folder / "image_2/000001.png",
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert len(list((tmp_path / "predictions").iterdir())) == 6


def test_other_rows_have_pictures_too(street, eager):
    from denfi.predict import look_files
    from tenfold.lidar.predict import Prediction

    points = street[0].numpy()
    for name in ("base", "dsc", "denfi-cls", "ga"):
        model = eager(name)
        found = detect(model, points)
        assert len(found["scores"]) > 0
        looks = looks_of(model, found["boxes"])
        assert set(looks.sampled) == ({"cls"} if name == "denfi-cls" else set())
        assert (looks.proposals is None) == (name in ("base", "ga", "dsc"))
        assert len(look_files(model, Prediction(points, found, {}), "a")) == 2
        none = {k: v[:0] for k, v in found.items()}
        assert (
            json.loads(look_files(model, Prediction(points, none, {}), "a")["a_looks.json"])["detections"]
            == []
        )


def test_the_oracle_predicts_nothing(cli, scan_file, eager_checkpoint, tmp_path):
    checkpoint = torch.load(eager_checkpoint, weights_only=True)
    checkpoint["hyper_parameters"]["variant"] = "denfi-oracle"
    torch.save(checkpoint, tmp_path / "oracle.ckpt")
    code, _, err = cli("predict", scan_file, "oracle.ckpt")
    assert (code, "oracle.ckpt: variant: 'denfi-oracle' needs the objects" in err) == (2, True)


def test_users_mistakes_end_with_two(cli, scan_file, eager_checkpoint, tmp_path):
    for words, message in (
        (("predict", "none.bin", eager_checkpoint), "none.bin"),
        (("predict", scan_file, "none.ckpt"), "none.ckpt"),
        (("predict", scan_file, eager_checkpoint, "--image", "a.png"), "needs the calibration"),
        (("ablate", "denfidet_huge"), "config: got 'denfidet_huge'"),
        (("ablate", "denfidet_tiny", "--variants", "[x]"), "variants: got 'x'"),
        (("ablate", "denfidet_tiny", "--runs", "0"), "runs: got 0"),
        (("demos",), "verb: got 'demos' (did you mean 'demo'?)"),
        (("fit", "--config", "second_smal"), "second_smal"),
        (("prepare", "none"), "none"),
    ):
        code, _, err = cli(*words)
        assert code == 2, words
        assert message in err
        assert "Traceback" not in err
    assert [p.name for p in tmp_path.iterdir()] == ["scan.bin"]


def test_ablate_prints_and_writes_every_row(cli, tmp_path):
    code, out, err = cli("ablate", "denfidet_tiny", "--runs", "1", "--out", "costs.json")
    assert (code, err) == (0, "")
    rows = {r["variant"]: r for r in json.loads((tmp_path / "costs.json").read_text())["rows"]}
    assert rows["base"]["parameters"] == 16_351
    assert rows["denfi"]["parameters"] == 18_781
    # By hand: 24 x 2 x 9 and three of 24 x 24 x 9 at 48 x 48 pixels, and the head's seven outputs.
    assert rows["base"]["gmacs"] == pytest.approx((432 + 3 * 5184 + 7 * 24) * 48 * 48 / 1e9)
    extra = 2 * (24 * 9 + 24 * 24 + 10) + 24 * 28
    assert rows["denfi"]["gmacs"] - rows["base"]["gmacs"] == pytest.approx(extra * 48 * 48 / 1e9)
    assert all(name in out for name in rows)
    assert rows["dc"]["gmacs"] > rows["denfi"]["gmacs"] > rows["dsc"]["gmacs"]


@pytest.mark.slow
def test_the_examples_run(cli, eager_checkpoint, tmp_path):
    simulate_into(tmp_path / "data/kitti", (4, 2), 0, (375, 1242))
    for file in ("velodyne/000001.bin", "calib/000001.txt", "image_2/000001.png"):
        shutil.copy(tmp_path / "data/kitti/training" / file, tmp_path)
    shutil.copy(eager_checkpoint, tmp_path / "last.ckpt")
    small = "--config second_small trainer.max_epochs=1 data.simulate=[4,2] data.batch_size=2"
    replace = {"--config second_small": small, "max_epochs=25": "max_epochs=3"}
    assert_examples_run(cli, app, leave_out="second_3class", replace=replace)


class TestReliability(PackageReliability):
    app = "denfi.cli:app"

    @pytest.fixture
    def prediction(self, scan_file, eager_checkpoint):
        return eager_checkpoint, lambda checkpoint, out: ("predict", scan_file, checkpoint, "--out", out)
