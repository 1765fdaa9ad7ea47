"""Training on the command line: recipes, resumption, processes."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import stylegan_distill as sd
from tenfold.io import write_image
from tenfold.testing import QUIET_WORDS, assert_training_resumes, child_environment, cli_fixture

cli = cli_fixture("stylegan_distill.cli:app")
CONFIGS = Path(sd.__file__).parent / "configs"
RECIPES = sorted(p.stem for p in CONFIGS.glob("*.yaml") if not p.stem.startswith("ablation_"))
ABLATIONS = sorted(p.stem for p in CONFIGS.glob("ablation_*.yaml"))
SIDE = 16
# What stands in for files that a user brings: tiny networks, few codes.
SMALL = (
    "data.batch_size=4", "data.workers=0", "data.path=images", "model.eval_count=8", "trainer.default_root_dir=run",
    *QUIET_WORDS,
)  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A teacher of each family with its discriminator, a pruned student, and a folder of images."""
    folder = tmp_path_factory.mktemp("files")
    torch.manual_seed(0)
    judge = sd.StyleGANDiscriminator(sd.DiscriminatorConfig(SIDE, widths=(6, 6, 4)))
    two = sd.StyleGAN2Generator(
        sd.StyleGAN2Config(SIDE, z_dim=16, w_dim=16, widths=(10, 10, 8), mapping_layers=2)
    )
    cfg3 = sd.StyleGAN3Config(
        SIDE,
        z_dim=16,
        w_dim=16,
        num_layers=4,
        margin_size=4,
        channel_base=128,
        channel_max=8,
        first_stopband=3.0,
    )
    three = sd.StyleGAN3Generator(cfg3)
    for name, net in (("two", two), ("three", three)):
        sd.save_checkpoint(folder / f"{name}.safetensors", sd.Checkpoint(G_ema=net.eval(), D=judge))
    slim = sd.make_student(two, 0.5, init="inherit", scores=sd.channel_scores(two, "l1_in"))
    sd.save_checkpoint(folder / "slim.safetensors", slim)
    (folder / "images").mkdir()
    rng = np.random.default_rng(0)
    for i in range(10):
        write_image(folder / "images" / f"{i}.png", rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))
    return folder


def words_for(recipe, files):
    """A recipe as it is, but for what its user brings."""
    words = ["fit", "--config", recipe, *SMALL]
    text = (CONFIGS / f"{recipe}.yaml").read_text()
    if "GanTask" in text:
        network = f"{{kind: stylegan2, resolution: {SIDE}, z_dim: 8, w_dim: 8, widths: [6, 6, 4], mapping_layers: 2}}"
        return [*words, f"model.network={network}", "model.discriminator={widths: [4, 4, 4]}"]
    teacher = "three" if "stylegan3" in recipe else "two"
    words += [
        f"model.teacher={files / teacher}.safetensors",
        "model.lpips=tiny",
        "model.vgg=null",
        "model.parser=null",
    ]
    if "discriminator: teacher" not in text:
        words.append("model.discriminator_widths=[4, 4, 4]")
    if "student:" in text:
        words.append(f"model.student={files / 'slim.safetensors'}")
    if "init: inherit" in text:
        words.append("model.score_samples=4")
    return [*words, "model.recipe.directions_per_block=2", "trainer.val_check_interval=2"]


def prepared(files, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").symlink_to(files / "images")


@pytest.mark.parametrize(
    "recipe",
    [r if r in ("ours_256", "teacher_256") else pytest.param(r, marks=pytest.mark.slow) for r in RECIPES],
)
def test_every_recipe_trains(cli, files, recipe, monkeypatch, tmp_path):
    """Two iterations of each, on tiny networks; its validation runs, and what it leaves is a checkpoint of ours."""
    prepared(files, monkeypatch, tmp_path)
    code, _, err = cli(*words_for(recipe, files), "trainer.max_steps=2", "trainer.val_check_interval=2")
    assert code == 0, err
    last = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == last["counters"]["iteration"] == 2
    found = sd.load_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert found.source_format == "training"
    assert found.G_ema(torch.randn(2, found.G_ema.z_dim)).shape == (2, 3, SIDE, SIDE)
    assert torch.isfinite(last["state_dict"]["best_fid"])
    assert [p.name for p in (tmp_path / "run" / "samples").iterdir()] == ["val0000002.png"]
    assert not any(key.startswith(("teacher", "loop")) for key in last["state_dict"])


@pytest.mark.slow
@pytest.mark.parametrize("ablation", ABLATIONS)
def test_every_ablation_trains(cli, files, ablation, monkeypatch, tmp_path):
    prepared(files, monkeypatch, tmp_path)
    words = words_for("ours_256", files)
    words[3:3] = ["--config", ablation]
    small = {
        "ablation_mapping_distilled": ["model.mapping_widths=[12, 16]", "model.mapping_steps=2"],
        "ablation_mimic_all": ["model.recipe.mimic_blocks=[1, 2]"],
    }
    code, _, err = cli(*words, *small.get(ablation, []), "trainer.max_steps=1")
    assert code == 0, err


def test_every_ablation_changes_something(cli, files):
    """No ablation repeats a default: a switch that does nothing would be reported as a result."""
    import yaml

    ours = yaml.safe_load((CONFIGS / "ours_256.yaml").read_text())["model"]["init_args"]
    usual = {**vars(sd.DistillConfig()), **ours.pop("recipe")}
    for name in ABLATIONS:
        values = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())["model"]["init_args"]
        for key, value in values.pop("recipe", {}).items():
            assert usual[key] != value, (name, key)
        for key, value in values.items():
            assert ours.get(key) != value, (name, key)


def test_fit_goes_on_and_test_measures(cli, files, monkeypatch, tmp_path):
    """A run continued from its checkpoint is the undisturbed run, bit for bit; `test` takes the average from it."""
    prepared(files, monkeypatch, tmp_path)
    words = [
        *words_for("ours_256", files),
        "model.augment=true",
        "trainer.val_check_interval=50",
        "--checkpoint_every_n_steps",
        "1",
    ]
    assert cli(*words, "trainer.max_steps=5", "trainer.default_root_dir=whole")[0] == 0
    assert cli(*words, "trainer.max_steps=3")[0] == 0
    code, _, err = cli(*words, "trainer.max_steps=5", "--ckpt_path", "last")
    assert code == 0, err
    whole, parts = (
        torch.load(tmp_path / d / "checkpoints" / "last.ckpt", weights_only=True) for d in ("whole", "run")
    )
    from tenfold.testing import assert_bit_equal

    for part in ("state_dict", "optimizer_states"):
        assert_bit_equal(parts[part], whole[part], part)
    assert_bit_equal(parts["counters"]["ema"], whole["counters"]["ema"], "average")
    assert torch.equal(parts["counters"]["rng"], whole["counters"]["rng"])
    code, out, err = cli("test", *words[1:], "--ckpt_path", "last")
    assert code == 0, err
    assert "test/fd_tiny" in out
    assert "test/ratio" in out


def test_bad_recipes(cli, files, monkeypatch, tmp_path):
    """One sentence and status 2."""
    prepared(files, monkeypatch, tmp_path)
    words = words_for("ours_256", files)
    for word, sentence in (
        ("model.teacher=none.pkl", "none.pkl: checkpoint: is no file"),
        ("data.batch_size=64", "data.batch_size: got 64; there are 10 images"),
        ("model.recipe.mimic_blocks=[7]", "mimic_blocks: got (7,)"),
        ("data.batch_size=1", "expected at least 2"),
        ("data.batch_size=6", "batch_size: got 6; expected a multiple of 4"),
        ("model.init=inherit model.second_conv_kernel=1", "inherited channels keep the teacher's 3"),
    ):
        code, _, err = cli(*words, *word.split(), "trainer.max_steps=1")
        assert (code, sentence in err) == (2, True), (word, code, err)


def command(files, folder, *more):
    words = words_for("ours_256", files)[3:]
    start = [sys.executable, "-m", "stylegan_distill", "fit", "--config", "ours_256", *words]
    return [*start, f"data.path={files / 'images'}", f"trainer.default_root_dir={folder}", *more]


@pytest.mark.slow
def test_a_killed_run_goes_on_bit_for_bit(files, tmp_path):
    def run(folder, *more):
        return command(
            files,
            folder,
            "trainer.max_steps=12",
            "--checkpoint_every_n_steps",
            "1",
            "trainer.val_check_interval=50",
            *more,
        )

    assert_training_resumes(run, tmp_path, kill_at=5, steps=12)


@pytest.mark.slow
def test_torchrun_trains_on_two_processes(files, tmp_path):
    """Two gloo processes end where one process of the same global batch does, but for the order of sums.

    Without the latent-direction loss, whose matrices are each process's own.
    """
    common = ["trainer.max_steps=5", "trainer.val_check_interval=5", "model.recipe.ld=0", "data.flip=0"]
    one = command(files, tmp_path / "one", *common, "data.batch_size=8")
    subprocess.run(one, check=True, env=child_environment(), capture_output=True, timeout=900)
    two = command(
        files, tmp_path / "two", *common, "data.batch_size=4", "trainer.devices=2", "trainer.strategy=ddp"
    )
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node",
        "2",
        "--standalone",
        *two[1:],
    ]
    done = subprocess.run(
        launcher, check=False, env=child_environment(), capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (
        torch.load(tmp_path / d / "checkpoints" / "last.ckpt", weights_only=True) for d in ("one", "two")
    )
    assert second["global_step"] == 5
    for key, value in first["state_dict"].items():
        if key != "best_fid":  # the average makes other images on two processes
            torch.testing.assert_close(second["state_dict"][key], value, rtol=1e-3, atol=1e-4, msg=key)
