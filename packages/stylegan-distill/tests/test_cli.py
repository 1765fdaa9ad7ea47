"""The command line, in this process except where a fresh one is the point."""

import json
import shutil
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from stylegan_distill.checkpoints import load_generator, save_checkpoint
from stylegan_distill.cli import app
from stylegan_distill.cost import measure_run
from stylegan_distill.networks import StyleGAN2Generator, StyleGAN3Generator
from stylegan_distill.student import make_student
from tenfold.io import write_image
from tenfold.testing import PackageReliability, assert_examples_run, cli_fixture, require

pytestmark = pytest.mark.filterwarnings("ignore")
cli = cli_fixture("stylegan_distill.cli:app")


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory, tiny2, tiny3):
    """A teacher, its student, and a StyleGAN3, as native files."""
    folder = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(0)
    teacher = StyleGAN2Generator(tiny2).eval()
    paths = {}
    for name, net in (
        ("teacher", teacher),
        ("student", make_student(teacher, 0.5).eval()),
        ("alias_free", StyleGAN3Generator(tiny3).eval()),
    ):
        paths[name] = folder / f"{name}.safetensors"
        save_checkpoint(paths[name], net)
    return paths


@pytest.mark.slow
def test_the_examples_run(cli, checkpoints, tmp_path):
    for module in ("av", "onnx", "onnxscript"):
        require(module)
    for name in ("teacher", "student"):
        shutil.copy(checkpoints[name], tmp_path)
    np.save(tmp_path / "directions.npy", np.eye(16, dtype=np.float32)[:6])
    (tmp_path / "photos").mkdir()
    for number in range(3):
        write_image(tmp_path / "photos" / f"{number}.png", np.full((70, 80, 3), 60 * number, np.uint8))
    shutil.copy(tmp_path / "photos/1.png", tmp_path / "photo.png")
    replace = {
        "trainer.max_steps": "model.eval_count=16 data.batch_size=4 trainer.max_steps",
        "--config sprites --ckpt_path": "--config sprites model.eval_count=16 --ckpt_path",
        "max_steps=20": "max_steps=2",
        "max_steps=1000": "max_steps=3",
        "--count 512": "--count 32",
        "--count 256": "--count 32",
        "convert ffhq.pkl": "convert teacher.safetensors",
        "train-gan sprites teacher.safetensors": "train-gan sprites new.safetensors --steps 2",
    }
    # Files of others; `convert` reads ours as well.
    left_out = r"ffhq(?!\.pkl ffhq\.safetensors|\.safetensors$)|train-gan photos"
    assert_examples_run(cli, app, leave_out=left_out, replace=replace)


class TestReliability(PackageReliability):
    app = "stylegan_distill.cli:app"

    @pytest.fixture
    def prediction(self, checkpoints):
        words = ("--count", "3", "--noise", "none")
        return checkpoints["student"], lambda checkpoint, out: ("generate", checkpoint, *words, "--out", out)


def test_generate_shows_both_for_the_same_codes(cli, checkpoints, tmp_path):
    words = ("generate", checkpoints["student"], "--beside", checkpoints["teacher"], "--count", 3)
    code, out, err = cli(*words, "--noise", "none")
    assert (code, err) == (0, "")
    assert "3 images" in out
    facts = json.loads((tmp_path / "generated/generated.json").read_text())
    net = load_generator(checkpoints["student"])
    with torch.no_grad():
        wanted = net(torch.tensor(facts["z"]), noise="none")
    image = np.asarray(Image.open(tmp_path / "generated/image0001.png"))
    pixels = wanted[1].clamp(-1, 1).add(1).mul(127.5).round().byte().permute(1, 2, 0).numpy()
    np.testing.assert_allclose(image.astype(int), pixels.astype(int), atol=1)
    grid = np.asarray(Image.open(tmp_path / "generated/grid.png"))
    assert grid.shape == (2 * (20 + 48), 3 * 51 - 3, 3)


def test_directions_edits_and_videos(cli, checkpoints, tmp_path):
    av = pytest.importorskip("av")
    assert cli("directions", checkpoints["teacher"], "--k", 2)[0] == 0
    vectors = np.load(tmp_path / "directions.npy")
    assert vectors.shape == (4, 16)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert (tmp_path / "directions.png").is_file()
    words = ("--directions", "directions.npy", "--only", "[0,3]", "--codes", 2, "--seconds", 0.25)
    code, out, err = cli("edit", checkpoints["student"], "--beside", checkpoints["teacher"], *words)
    assert (code, err) == (0, "")
    assert "2 codes, 2 directions" in out
    for name in ("edits", "interpolation"):
        with av.open(str(tmp_path / f"edits/{name}.mp4")) as video:
            frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
        assert len(frames) == 6
        assert frames[0].shape[1] == 2 * 51 - 4
        assert max(np.abs(frames[0].astype(int) - frame).mean() for frame in frames) > 0.2
    code, _, err = cli("edit", checkpoints["student"], "--directions", "directions.npy", "--only", "[9]")
    assert code == 2
    assert "only: got [9]" in err


def test_videos_without_their_package_are_refused_first(cli, checkpoints, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    code, _, err = cli("edit", checkpoints["student"])
    assert (code, "stylegan-distill[video]" in err) == (4, True)
    assert list(tmp_path.iterdir()) == []


def test_evaluate_prints_and_appends(cli, checkpoints, tmp_path):
    words = ("evaluate", checkpoints["student"], "--teacher", checkpoints["teacher"], "--count", 32)
    code, out, err = cli(
        *words, "--out", "log.jsonl", "--metrics", "[cost,discrepancy,kid]", "--data", "sprites"
    )
    assert (code, err) == (0, "")
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    found = {k: v for line in lines for k, v in line.items()}
    net = load_generator(checkpoints["student"])
    assert found["params"] == sum(p.numel() for p in net.parameters())
    assert found["activation_bytes"] == measure_run(net).activation_bytes
    assert {"ratio", "lpips_tiny", "kid_tiny", "features", "filter", "seed"} <= set(found)
    assert "kid_tiny" in out
    code, _, err = cli(*words, "--metrics", "[fidd]")
    assert (code, "fidd" in err) == (2, True)
    code, _, err = cli("evaluate", checkpoints["student"], "--metrics", "[fid]")
    assert (code, "data: missing" in err) == (2, True)
    code, _, err = cli("evaluate", checkpoints["student"], "--metrics", "[equivariance]", "--count", 4)
    assert (code, "StyleGAN3" in err) == (2, True)
    code, _, err = cli(*words, "--metrics", "[mixing]", "--count", 0)
    assert (code, "count, batch: got 0, 32" in err) == (2, True)
    words = ("evaluate", checkpoints["student"], "--teacher", checkpoints["alias_free"], "--count", 4)
    code, _, err = cli(*words, "--metrics", "[discrepancy]")
    assert (code, "teacher: resolution: got 32; the generator has 16" in err) == (2, True)


def test_project_prune_inspect_convert(cli, checkpoints, tmp_path):
    write_image(tmp_path / "photo.png", np.full((40, 30, 3), 90, np.uint8))
    code, out, err = cli("project", checkpoints["teacher"], "photo.png", "--iterations", 3)
    assert (code, err) == (0, "")
    values = json.loads((tmp_path / "projected/projected.json").read_text())
    assert values["psnr"] > 5
    with np.load(tmp_path / "projected/projected.npz") as found:
        assert found["ws"].shape == (1, 6, 16)
    code, out, _ = cli("prune", checkpoints["teacher"], "p.safetensors", "--method", "l1_style")
    assert code == 0
    assert load_generator(tmp_path / "p.safetensors").widths == (3, 3, 3, 3, 2, 2)
    code, out, _ = cli("inspect", checkpoints["alias_free"], "--out", "samples.png", "--images", 2)
    assert code == 0
    assert "stylegan3" in out
    assert "MB of activations" in out
    assert (tmp_path / "samples.png").is_file()
    code, out, _ = cli("inspect", checkpoints["teacher"], "--images", 0)
    assert code == 0
    assert "multiply-accumulates" in out
    assert "activations" not in out
    assert not (tmp_path / "inspect.png").exists()
    assert cli("inspect", checkpoints["teacher"])[0] == 0
    with Image.open(tmp_path / "inspect.png") as picture:
        assert picture.size == (8 * 51 - 3, 48)
    code, out, _ = cli("convert", checkpoints["teacher"], "copy.safetensors")
    assert code == 0
    assert load_generator(tmp_path / "copy.safetensors").cfg == load_generator(checkpoints["teacher"]).cfg


def test_train_gan_writes_a_teacher_with_its_recipe(cli, tmp_path):
    code, out, err = cli("train-gan", "sprites", "t.safetensors", "--steps", 1, "--batch_size", 4)
    assert (code, err) == (0, "")
    net = load_generator(tmp_path / "t.safetensors")
    assert (net.cfg.w_dim, net.cfg.widths) == (64, (40, 40, 32))
    assert (tmp_path / "t.png").is_file()
    assert "step" in out


def test_users_mistakes_end_with_two(cli, checkpoints, tmp_path):
    teacher, other = checkpoints["teacher"], checkpoints["alias_free"]
    (tmp_path / "bad.npy").write_bytes(b"no array")
    for words, message in (
        (("generate", "none.pkl"), "none.pkl"),
        (("generate", teacher, "--count", "0"), "count: got 0"),
        (("generate", teacher, "--beside", "none.pt"), "none.pt"),
        (("generate", teacher, "--beside", other), "beside: resolution: got 32; the generator has 16"),
        (("edit", teacher, "--directions", "bad.npy"), "bad.npy"),
        (("edit", teacher, "--beside", other), "beside: resolution: got 32; the generator has 16"),
        (("edit", teacher, "--codes", "0"), "codes: got 0"),
        (("inspect", teacher, "--images", "-1", "--out", "x.png"), "images: got -1"),
        (("prune", teacher, "p.safetensors", "--remove_ratio", "1"), "remove_ratio"),
        (("convert", teacher, "x.pt"), ".safetensors"),
        (("export", teacher, "x.bin"), ".onnx or .pt2"),
        (("export", teacher, "x"), "output: got no ending"),
        (("export", teacher, "x.onnx", "--format", "pt2"), "got the ending '.onnx' with format pt2"),
        (("directions", teacher, "--blocks", "[7]"), "blocks"),
        (("project", teacher, "none.png"), "none.png"),
        (("project", teacher, "none.png", "--vgg", "vgg16.pth"), "vgg16.pth: vgg: LPIPS needs its heads"),
        (("train-gan", "none.zip", "t.safetensors"), "none.zip"),
        (("train-gan", "sprites", "t.safetensors", "--steps", "0"), "steps: got 0"),
        (("train-gan", "sprites", "t.safetensors", "--batch_size", "6"), "batch_size: got 6"),
        (("prepare", "none", "x.zip"), "none"),
        (("distil", "--config", "x"), "did you mean 'distill'"),
    ):
        code, _, err = cli(*words)
        assert code == 2, words
        assert message in err
        assert "Traceback" not in err
    assert [p.name for p in tmp_path.iterdir()] == ["bad.npy"]
