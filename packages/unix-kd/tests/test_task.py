"""Training with Lightning: recipes, command line, resume, two processes, the demo."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

pytest.importorskip("lightning.pytorch")

from lightning.pytorch import seed_everything

import unix_kd
from tenfold._errors import UserInputError
from tenfold.distill import create_model, save_classifier
from tenfold.distill.task import ClassifierTask, DistillTask, ImageData
from tenfold.testing import (
    QUIET_WORDS,
    PackageReliability,
    assert_training_resumes,
    fit_and_resume,
    help_examples,
    quiet_fit,
    quiet_trainer,
    sample_data,
    two_gloo_ranks,
    unwritable_path,
)
from tenfold.train import make_trainer
from tenfold.train.demo import read_demo
from unix_kd.task import UnixTask

pytestmark = pytest.mark.filterwarnings("ignore")
CONFIGS = Path(unix_kd.__file__).parent / "configs"
SMALL = {"dataset": "strokes", "images": (160, 80), "pad": 2, "flip": 0.0, "batch_size": 32, "few_shot": 0.5}


def unix(**options):
    usual = {"arch": "plain3", "num_classes": 20, "teacher": "untrained:resnet8", "input_size": 16}
    return UnixTask(**{**usual, **options})


def data_in(folder, **options):
    return ImageData(root=str(folder / "data"), **{**SMALL, **options})


def fit(folder, task, data=None, ckpt=None, **options):
    return quiet_fit(folder, task, data or data_in(folder), ckpt, **options)


def test_a_run_trains_logs_and_counts(tmp_path, capsys):
    seed_everything(0, verbose=False)
    task = unix(centres="train")
    trainer = fit(tmp_path, task)
    metrics = {k: float(v) for k, v in trainer.callback_metrics.items()}
    assert {
        "train/loss",
        "train/kd",
        "val/top1",
        "val/top5",
        "val/best_top1",
        "selection/entropy_kept",
    } <= set(metrics)
    assert metrics["val/best_top1"] >= metrics["val/top1"]
    assert metrics["selection/entropy_kept"] > metrics["selection/entropy_dropped"]
    assert metrics["selection/distance_to_centre"] > 0
    # 80 images: batches of 32, 32, 16; three quarters of each, twice
    assert metrics["cost/teacher_images"] == 2 * (24 + 24 + 12)
    assert metrics["cost/ratio"] == pytest.approx(0.75 + 1 / 31.88, abs=1e-4)
    assert "expected cost 78.1 % of KD" in capsys.readouterr().out
    checkpoint = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert not any("teacher" in key for key in checkpoint["state_dict"])
    assert checkpoint["images"]["size"] == 16
    assert len(checkpoint["images"]["class_names"]) == 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": 0}, "keep: got 0"),
        ({"keep": 40}, "keep: got 40; the batch has 32"),
        ({"keep": 1.5}, "keep: got 1.5"),
        ({"b": 40}, "b: got 40; the batch has 32"),
        ({"strategy": "doubt"}, "strategy"),
        ({"method": "vidd"}, "did you mean 'vid'"),
        ({"arch": "resnet9"}, "model: got 'resnet9'"),
        ({"teacher": "none.ckpt"}, "none.ckpt"),
        ({"cache_views": 2}, "nothing can be cached"),
        ({"num_classes": 10}, "num_classes: got 10; the data has 20"),
        ({"method": "fsp"}, "FSP"),
    ],
)
def test_wrong_settings_are_the_user_s_error(tmp_path, options, message):
    with pytest.raises(UserInputError, match=message):
        fit(tmp_path, unix(**options))


@pytest.mark.parametrize("method", ["at", "crd"])
def test_unix_with_another_distiller(tmp_path, method):
    task = unix(arch="resnet8", method=method, options={"negatives": 8} if method == "crd" else None)
    trainer = fit(tmp_path, task, max_steps=2)
    assert float(trainer.callback_metrics["train/extra"]) > 0


@pytest.mark.parametrize(("method", "initial"), [("kd", 0), ("rkd", 0), ("ft", 1), ("fsp", 1), ("crd", 0)])
def test_the_shared_distillers_run_as_tasks(tmp_path, method, initial):
    seed_everything(0, verbose=False)
    task = DistillTask(
        "resnet8",
        20,
        "untrained:resnet14",
        method=method,
        input_size=16,
        init_epochs=1,
        milestones=(1,),
        options={"negatives": 8} if method == "crd" else None,
    )
    trainer = fit(tmp_path, task, max_epochs=2 + initial)
    assert task.first_epoch() == initial
    assert bool(task.in_main_stage) == bool(initial)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.005)  # one epoch before, one after
    tested = quiet_trainer(tmp_path, enable_checkpointing=False)
    again = DistillTask(
        "resnet8",
        20,
        "untrained:resnet14",
        method=method,
        input_size=16,
        options={"negatives": 8} if method == "crd" else None,
    )
    tested.test(
        again,
        datamodule=data_in(tmp_path),
        ckpt_path=str(tmp_path / "checkpoints/last.ckpt"),
        verbose=False,
        weights_only=True,
    )
    assert float(tested.callback_metrics["test/top1"]) == pytest.approx(
        float(trainer.callback_metrics["val/top1"])
    )


def test_cached_teacher_logits_cost_one_query_for_each_crop(tmp_path):
    task = DistillTask("plain3", 20, "untrained:resnet8", input_size=16, cache_views=2)
    fit(tmp_path, task, data_in(tmp_path, fixed_views=2), max_epochs=4)
    assert task.step.cache.queries == 160  # 80 images, two crops
    with pytest.raises(UserInputError, match="fixed_views: got 0"):
        fit(tmp_path, DistillTask("plain3", 20, "untrained:resnet8", input_size=16, cache_views=2))


def test_data_options(tmp_path):
    data = data_in(tmp_path, holdout=40, label_noise=0.5)
    data.prepare_data()
    data.setup("fit")
    assert len(data.test_set) == 40  # held out of the training set
    assert len(data.train_set) == 60  # half of the other 120
    clean = data_in(tmp_path, holdout=40)
    clean.setup("fit")
    changed = data.train_set.labels != clean.train_set.labels
    assert changed.sum() == 40  # round(0.5 * 3) = 2 of 3 in each of twenty classes
    np.testing.assert_array_equal(data.train_set.data.images, clean.train_set.data.images)
    kept = data_in(tmp_path, save_subset=str(tmp_path / "s" / "subset.json"))
    kept.setup("fit")
    assert len(json.loads((tmp_path / "s" / "subset.json").read_text())["indices"]) == 80
    data_in(tmp_path).prepare_data()  # the same strokes again
    for options in ({"preset": "ambiguous"}, {"images": (200, 80)}):
        with pytest.raises(UserInputError, match="of an earlier run; expected"):
            data_in(tmp_path, **options).prepare_data()
    for options, message in (
        ({"batch_size": 0}, "too small"),
        ({"few_shot": 2.0, "label_noise": 2.0}, "ratio: got 2.0"),
        ({"dataset": "cifar100", "root": str(tmp_path / "none")}, "no such folder"),
    ):
        with pytest.raises(UserInputError, match=message):
            ImageData(**{**SMALL, "root": str(tmp_path / "data"), **options}).setup("fit")


def test_a_run_resumed_inside_an_epoch_equals_the_whole(tmp_path):
    whole, resumed = fit_and_resume(
        lambda: (unix(teacher="untrained:resnet8"), data_in(tmp_path)), tmp_path / "runs"
    )
    counted = [task.step.ledger.report() for task in (whole, resumed)]
    assert counted[0]["teacher_images"] == counted[1]["teacher_images"]
    assert torch.equal(torch.stack(whole.step.stats.counts), torch.stack(resumed.step.stats.counts))


def _accuracy(folder):
    """Two processes evaluate 81 images: the one that fills up the last batch counts once."""
    torch.manual_seed(0)
    task = ClassifierTask("plain3", 20)
    data = ImageData(root=str(folder), **{**SMALL, "images": (160, 81), "eval_batch_size": 20})
    trainer = make_trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        strategy="ddp",
        devices=2,
        num_nodes=1,
    )
    trainer.validate(task, datamodule=data, verbose=False)
    return float(trainer.callback_metrics["val/top5"]) if trainer.is_global_zero else None


def test_evaluation_of_two_processes_equals_one(tmp_path):
    data = ImageData(root=str(tmp_path), **{**SMALL, "images": (160, 81), "eval_batch_size": 20})
    torch.manual_seed(0)
    trainer = make_trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False
    )
    trainer.validate(ClassifierTask("plain3", 20), datamodule=data, verbose=False)
    expected = float(trainer.callback_metrics["val/top5"])
    assert two_gloo_ranks(_accuracy, tmp_path)[0] == pytest.approx(expected)


# ---- recipes and command line --------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_are_sound(path):
    recipe = yaml.safe_load(path.read_text())
    kind = {"UnixTask": UnixTask, "DistillTask": DistillTask, "ClassifierTask": ClassifierTask}[
        recipe["model"]["class_path"].rpartition(".")[2]
    ]
    settings = recipe["model"]["init_args"]
    if kind is not ClassifierTask:
        settings = {**settings, "teacher": "untrained:resnet8"}
    if "imagenet" in path.stem:
        pytest.importorskip("torchvision")
    assert kind(**settings).hparams["arch"] == settings["arch"]
    ImageData(**recipe["data"])
    slow = settings["arch"] in ("MobileNetV2", "ShuffleV1", "ShuffleV2")
    if recipe["data"]["dataset"] == "cifar100" and kind is UnixTask:
        assert settings.get("lr", 0.05) == (0.01 if slow else 0.05)
        assert recipe["trainer"]["max_epochs"] == 240
        assert recipe["data"]["batch_size"] == 64


def test_every_published_row_has_a_recipe():
    from unix_kd.cost import PUBLISHED

    for teacher, student, *_ in PUBLISHED:
        assert (CONFIGS / f"{teacher.lower()}_{student.lower()}.yaml").is_file()


def test_the_command_line_from_teacher_to_prediction(cli, tmp_path):
    small = ("data.images=[160,80]", "trainer.max_epochs=1", *QUIET_WORDS)
    assert cli("fit", "--config", "small_teacher", *small)[0] == 0
    code, out, err = cli("fit", "--config", "small_distill", "model.keep=24", "data.batch_size=32", *small)
    assert code == 0, err
    assert "expected cost" in out
    code, out, err = cli("test", "--config", "small_distill", "--ckpt_path", "last", *small[:1], *QUIET_WORDS)
    assert code == 0, err
    assert "test/top1" in out
    Image.new("RGB", (16, 16), (90, 20, 30)).save("photo.png")
    ckpt = "runs/small_distill/checkpoints/last.ckpt"
    code, out, err = cli("predict", "photo.png", ckpt)
    assert code == 0, err
    assert json.loads(Path("predictions/photo.json").read_text())["classes"][0].startswith("family")
    assert cli("export", ckpt, "student.pt")[0] == 0
    assert cli("predict", "photo.png", "student.pt", "--out", "found", "--top", "3")[0] == 0
    # The zoo's own names, an unwritable folder, a damaged checkpoint: one sentence, exit code 2.
    for words, message in (
        (("predict", "photo.png", "none.ckpt"), "none.ckpt: checkpoint: does not exist"),
        (("predict", "photo.png", ckpt, "--out", unwritable_path(tmp_path)), "cannot be created"),
        (("fit", "--config", "small_distil"), "did you mean 'small_distill'"),
        (("fit", "--config", "small_distill", "model.kep=3"), "kep"),
        (("fit", "--config", "small_distill", "model.keep=0", *small), "keep: got 0"),
        (("cost", "--keep", "2"), "keep: got 2"),
        (("cost", "--keep", "2", "--table", "true"), "keep: got 2"),
        (("cost", "--teacher", "resnet9"), "model: got 'resnet9'"),
        (("demo", "--out", unwritable_path(tmp_path)), "cannot be created"),
    ):
        code, _, err = cli(*words)
        assert code == 2, (words, err)
        assert message in err
        assert len(err.strip().splitlines()) <= 3, err


def test_the_help_of_fit_names_the_recipes(cli):
    assert "wrn_40_2_shufflev1" in cli("fit", "--help")[1]


class TestReliability(PackageReliability):
    app = "unix_kd.cli:app"

    @pytest.fixture
    def prediction(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("photo")
        photo, classifier = folder / "photo.png", folder / "student.pt"
        Image.new("RGB", (16, 16), (90, 20, 30)).save(photo)
        save_classifier(classifier, create_model("resnet8", 20), arch="resnet8", num_classes=20)
        return classifier, lambda checkpoint, out: ("predict", photo, checkpoint, "--out", out)


def test_a_short_demo(tmp_path):
    from unix_kd.demo import run_demo

    result = run_demo(tmp_path, 0, images=128, epochs=1)
    assert read_demo(tmp_path) == result
    assert result.rows[0][0] == "KD"
    assert [row[1] for row in result.rows] == ["128", "96", "96", "96"]
    assert result.rows[1][2] == pytest.approx(78.137, abs=1e-3)
    assert Image.open(tmp_path / "selection.png").size[0] > 600


def test_real_images_run(tmp_path):
    """Two steps on CIFAR-10 photographs."""
    root = str(sample_data("cifar10-jpeg.zip"))
    data = ImageData("small", root, per_class=8, batch_size=32)
    trainer = fit(
        tmp_path, UnixTask(arch="plain3", num_classes=10, teacher="untrained:resnet8"), data, max_steps=2
    )
    assert trainer.global_step == 2


def test_the_package_runs_as_a_module(monkeypatch, capsys):
    runpy.run_module("unix_kd.__main__", run_name="__mp_main__")  # a worker's import runs nothing
    monkeypatch.setattr(sys, "argv", ["unix-kd", "--version"])
    with pytest.raises(SystemExit, match=r"^0$"):
        runpy.run_module("unix_kd", run_name="__main__")
    assert unix_kd.__version__ in capsys.readouterr().out


@pytest.mark.slow
def test_a_killed_run_resumes_bit_for_bit(tmp_path):
    def command(folder, *more):
        words = ["fit", "--config", "small_distill", "model.teacher=untrained:resnet8"]
        words += [
            f"data.root={tmp_path / 'data'}",
            "data.images=[320,80]",
            "data.few_shot=0.5",
            "data.batch_size=32",
        ]
        words += [f"trainer.default_root_dir={folder}", "trainer.max_epochs=3", *QUIET_WORDS]
        return [sys.executable, "-m", "unix_kd", *words, "--checkpoint_every_n_steps", "1", *more]

    expected, found = assert_training_resumes(command, tmp_path, kill_at=7, steps=15)
    assert found["unix"]["ledger"]["forward_images"] == expected["unix"]["ledger"]["forward_images"]


@pytest.mark.slow
def test_the_examples_run(tmp_path):
    Image.new("RGB", (40, 30), (90, 20, 30)).save(tmp_path / "photo.png")
    done = help_examples(
        [sys.executable, "-m", "unix_kd"],
        name="unix-kd",
        folder=tmp_path,
        verbs=["demo", "fit", "test", "export", "predict", "cost"],
        # Without the official data, and without the demo at full length.
        keep=lambda line: "wrn_40_2" not in line and not line.startswith("unix-kd demo"),
        replace={
            "--config small_teacher": "--config small_teacher data.images=[320,80] trainer.max_epochs=1",
            "--config small_distill": "--config small_distill data.images=[320,80] trainer.max_epochs=2",
            "trainer.max_epochs=2 trainer.max_epochs=60": "trainer.max_epochs=3",
        },
        timeout=600,
    )
    assert {example.line.split()[1] for example in done} == {"fit", "test", "export", "predict", "cost"}
