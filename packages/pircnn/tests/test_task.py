"""Training with Lightning: recipes, optimiser, short runs that are resumed and evaluated."""

import logging
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

pytest.importorskip("lightning.pytorch")

from pircnn.checkpoints import load_detector, load_segmentation
from pircnn.cli import app
from pircnn.task import PircnnTask, SegData, SegTask
from tenfold._errors import UserInputError
from tenfold.testing import QUIET_WORDS, assert_training_resumes, undrawn

pytestmark = pytest.mark.filterwarnings("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
RECIPES = sorted(app.config_folder().glob("*.yaml"))


def inline(settings):
    return yaml.safe_dump(settings, default_flow_style=True, width=10_000).strip()


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda p: p.stem)
def test_recipes_build_their_models(recipe):
    settings = yaml.safe_load(recipe.read_text())
    kind, own = settings["model"]["class_path"], settings["model"]["init_args"]
    assert settings["trainer"]["gradient_clip_val"] == 10.0
    if kind.endswith("SegTask"):
        assert SegTask(**own).model.num_classes == 10
        return
    with undrawn():
        task = PircnnTask(**own)
    assert task.model.config.branch == own["branch"]
    if recipe.stem.startswith("kitti"):
        assert settings["trainer"]["max_epochs"] == 80
        assert own["lr"] == 0.01
        assert bool(settings["data"]["init_args"]["counts"]) == (recipe.stem == "kitti_gtaug")
        assert task.model.config.stored == (recipe.stem == "kitti_gtaug")


def words_of(root, narrow, **more):
    return [
        "--config", "kitti_paper", f"model.overrides={inline(narrow)}", f"data.root={root}", "data.batch_size=2",
        "data.workers=0", "trainer.check_val_every_n_epoch=1", *QUIET_WORDS,
        *(f"{k.replace('__', '.')}={v}" for k, v in more.items()),
    ]  # fmt: skip


def test_frozen_fit_resume_and_test(cli, kitti, narrow, seg_checkpoint, tmp_path):
    """A killed run goes on from its last checkpoint; the image network stays as it was trained."""
    root, _ = kitti
    words = words_of(root, narrow, model__segmentation=seg_checkpoint, trainer__default_root_dir="run")
    code, _, err = cli("fit", *words, "trainer.max_epochs=1")
    assert code == 0, err
    last = tmp_path / "run/checkpoints/last.ckpt"
    first = torch.load(last, weights_only=True)
    model = load_detector(last)
    wanted = load_segmentation(seg_checkpoint).state_dict()
    for name, value in model.image_net.state_dict().items():
        assert torch.equal(value, wanted[name]), name
    assert cli("fit", *words, "trainer.max_epochs=2", "--ckpt_path", "last")[0] == 0
    second = torch.load(last, weights_only=True)
    assert second["global_step"] == 2 * first["global_step"] == 2
    key = "model.fusion.fuse.kernel.0.weight"
    assert not torch.equal(first["state_dict"][key], second["state_dict"][key])
    code, out, _ = cli("test", *words, "--ckpt_path", "last", "model.results=results")
    assert code == 0
    assert "R40" in out
    assert (tmp_path / "results/data/000000.txt").is_file()
    code, _, err = cli("fit", *words_of(root, narrow, trainer__default_root_dir="run2"))
    assert code == 2
    assert "model.segmentation: missing" in err


def test_pasting_and_caching(cli, kitti, narrow, seg_checkpoint, checkpoint, tmp_path):
    root, _ = kitti
    assert cli("prepare", root, "--segmentation", seg_checkpoint, "--maps", "true")[0] == 0
    assert (
        cli(
            "prepare",
            root,
            "--split",
            "val",
            "--segmentation",
            seg_checkpoint,
            "--maps",
            "true",
            "--objects",
            "false",
        )[0]
        == 0
    )
    stored = {**narrow, "stored": True}
    more = {"model__segmentation": seg_checkpoint, "data__counts": "{Car: 6}", "trainer__max_epochs": 1}
    code, _, err = cli("fit", *words_of(root, stored, **more, model__branch="cached"))
    assert code == 0, err
    # Semantics of another image network are refused, with the file's name.
    more["model__segmentation"] = checkpoint
    code, _, err = cli("fit", *words_of(root, stored, **more))
    assert code == 2
    assert "objects_train_semantic.json: checkpoint" in err
    more["model__segmentation"] = seg_checkpoint
    code, _, err = cli("fit", *words_of(root, stored, **more, model__fusion="{features: logits}"))
    assert code == 2
    assert "objects_train_semantic.json: features: got prob; the detector reads logits" in err
    more["model__segmentation"] = "none.ckpt"
    code, _, err = cli("fit", *words_of(root, stored, **more))
    assert code == 2
    assert "none.ckpt: file: cannot be read" in err


def test_joint_with_semantics_and_the_image_networks_own_fit(cli, kitti, narrow, tmp_path):
    root, _ = kitti
    words = [
        "--config", "seg_small", "data.root=seg", "data.simulate=10", "data.size=[48,160]",
        "model.widths=[4,4]", "trainer.max_epochs=1", "trainer.default_root_dir=segrun", *QUIET_WORDS,
    ]  # fmt: skip
    code, _, err = cli("fit", *words)
    assert code == 0, err
    last = tmp_path / "segrun/checkpoints/last.ckpt"
    assert load_segmentation(last).num_classes == 10
    code, out, _ = cli("test", *words, "--ckpt_path", "last")
    assert code == 0
    assert "miou" in out
    ten = {**narrow, "seg_classes": 10}
    more = {
        "model__branch": "joint", "model__segmentation": last, "data__semantics": "seg",
        "data__semantics_size": "[48,160]", "trainer__max_epochs": 1, "trainer__default_root_dir": "joint",
    }  # fmt: skip
    code, _, err = cli("fit", *words_of(root, ten, **more))
    assert code == 0, err
    saved = torch.load(tmp_path / "joint/checkpoints/last.ckpt", weights_only=True)
    peaks = [
        g["initial_lr"] if "initial_lr" in g else g["lr"]
        for g in saved["optimizer_states"][0]["param_groups"]
    ]
    assert len(peaks) == 2
    assert peaks[1] == pytest.approx(peaks[0] / 10)
    before, after = load_segmentation(last), load_segmentation(tmp_path / "joint/checkpoints/last.ckpt")
    assert not torch.equal(before.out.weight, after.out.weight)


@pytest.mark.slow
def test_a_killed_run_goes_on_bit_for_bit(kitti, narrow, seg_checkpoint, tmp_path):
    root, _ = kitti
    words = words_of(root, narrow, model__segmentation=seg_checkpoint, trainer__max_epochs=4)
    words[words.index("data.batch_size=2")] = "data.batch_size=1"

    def command(folder, *more):
        own = (f"trainer.default_root_dir={folder}", "--checkpoint_every_n_steps", "1")
        return [sys.executable, "-m", "pircnn", "fit", *words, *own, *more]

    # In the second epoch of two steps.
    assert_training_resumes(command, tmp_path, kill_at=3, steps=8)


def test_metrics_of_the_image_network_are_those_of_all_processes(monkeypatch):
    """Five pictures on two processes: the one that fills up counts once."""
    task = SegTask(2, [4, 4])
    logged = {}
    task.log = lambda name, value, **_: logged.setdefault(name, value)
    task._trainer = SimpleNamespace(testing=False, datamodule=SimpleNamespace(sets={"val": range(5)}))
    right, wrong = np.diag([4, 0]), np.array([[0, 4], [0, 0]])
    parts = [[right, right, right], [wrong, wrong, right]]
    monkeypatch.setattr("pircnn.task.gather_values", lambda own: parts)
    task.on_validation_epoch_end()
    assert logged["val/pixel_accuracy"] == pytest.approx(60)
    assert logged["val/pixel_accuracy_per_image"] == pytest.approx(60)


def test_a_split_without_pictures_is_an_error(tmp_path):
    data = SegData(str(tmp_path / "toy"), simulate=4)
    data.prepare_data()
    with pytest.raises(UserInputError, match="val: no picture left; every fifth is for val"):
        data.setup("fit")
