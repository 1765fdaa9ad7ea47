"""Training with Lightning: head and student, recipes, command line, resume, the demo."""

import copy
import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

pytest.importorskip("lightning.pytorch")

from lightning.pytorch import seed_everything

import ssl_kd
from ssl_kd.task import ClassifierTask, DistillTask, HeadTask, SSKDTask, ViewData, head_file
from tenfold._errors import UserInputError
from tenfold.distill import create_model, load_classifier, save_classifier
from tenfold.distill.small import stroke_set
from tenfold.testing import (
    QUIET_WORDS,
    PackageReliability,
    assert_bit_equal,
    assert_training_resumes,
    fit_and_resume,
    help_examples,
    quiet_fit,
    unwritable_path,
)
from tenfold.train.demo import read_demo

pytestmark = pytest.mark.filterwarnings("ignore")
CONFIGS = Path(ssl_kd.__file__).parent / "configs"
SMALL = {
    "dataset": "strokes",
    "preset": "ambiguous",
    "images": (160, 80),
    "pad": 2,
    "flip": 0.5,
    "batch_size": 16,
    "few_shot": 0.25,
    "views": "rotations",
}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A file with a teacher that knows nothing."""
    path = tmp_path_factory.mktemp("teacher") / "teacher.pt"
    torch.manual_seed(0)
    save_classifier(path, create_model("resnet8", 20), arch="resnet8", num_classes=20)
    return str(path)


def data_in(folder, **options):
    return ViewData(root=str(folder / "data"), **{**SMALL, **options})


def fit(folder, task, data=None, ckpt=None, **options):
    return quiet_fit(folder, task, data or data_in(folder), ckpt, **options)


def student(teacher, **options):
    return SSKDTask(**{"arch": "plain3", "num_classes": 20, "teacher": teacher, **options})


def test_both_stages(tmp_path, teacher, capsys):
    seed_everything(0, verbose=False)
    head = HeadTask(teacher, num_classes=20, heads=str(tmp_path / "heads"))
    backbone = copy.deepcopy(head.wrapper.backbone.state_dict())
    trainer = fit(tmp_path / "head", head, data_in(tmp_path))
    assert_bit_equal(dict(head.wrapper.backbone.state_dict()), dict(backbone))
    assert 0 < float(trainer.callback_metrics["train/retrieval"]) <= 1
    with pytest.raises(UserInputError, match="a self-supervision head has no test"):
        trainer.test(head, datamodule=data_in(tmp_path), verbose=False)
    (file,) = (tmp_path / "heads").iterdir()
    assert "trained on 40 images" in capsys.readouterr().out
    data = data_in(tmp_path)
    data.setup("fit")
    assert file == head_file(tmp_path / "heads", teacher, "contrastive", data)
    task = student(teacher, head=str(tmp_path / "heads"))
    trainer = fit(tmp_path / "student", task, data_in(tmp_path))
    assert_bit_equal(dict(task.step.teacher.proj_head.state_dict()), dict(head.head.state_dict()))
    metrics = trainer.callback_metrics
    assert {"train/loss", "train/ce", "train/kd", "train/tf", "train/ss", "train/n_ss", "val/top1"} <= set(
        metrics
    )
    said = capsys.readouterr().out
    assert "16 images per process and step, negatives of one process" in said
    found = load_classifier(tmp_path / "student" / "checkpoints" / "last.ckpt")
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(found.model(x), task.network().eval()(x))  # the head is left behind
    # Another subset of the data has no head yet.
    with pytest.raises(UserInputError, match="no such file; train it first"):
        fit(tmp_path / "x", student(teacher, head=str(tmp_path / "heads")), data_in(tmp_path, few_shot=0.5))


@pytest.mark.parametrize(
    ("options", "data", "message"),
    [
        ({"head": "none.pt"}, {}, "none.pt: head: no such file"),
        ({"weights": "best"}, {}, "weights: got 'best'"),
        ({"ss_task": "puzzle"}, {}, "ss_task: got 'puzzle'"),
        ({"ratio_ss": 2.0}, {}, "ratios"),
        ({"head": "untrained"}, {"views": "none"}, "data.views: got none; SSKD needs"),
        ({"teacher": "none.pt"}, {}, "none.pt"),
        ({"num_classes": 10}, {}, "the teacher has 20, the student 10"),
        ({"arch": "resnet9"}, {}, "model: got 'resnet9'"),
    ],
)
def test_wrong_settings_are_the_user_s_error(tmp_path, teacher, options, data, message):
    with pytest.raises(UserInputError, match=message):
        fit(tmp_path, student(**{"teacher": teacher, **options}), data_in(tmp_path, **data))


@pytest.mark.parametrize("name", ["rotation", "jigsaw", "exemplar"])
def test_other_self_supervision_tasks(tmp_path, teacher, name):
    views = "mixed" if name == "exemplar" else "rotations"
    heads = str(tmp_path / "heads")
    fit(
        tmp_path / "h",
        HeadTask(teacher, num_classes=20, ss_task=name, heads=heads),
        data_in(tmp_path, views=views),
        max_epochs=1,
    )
    task = student(teacher, ss_task=name, head=heads)
    trainer = fit(tmp_path / "s", task, data_in(tmp_path, views=views), max_epochs=1)
    assert float(trainer.callback_metrics["train/ss"]) >= 0


def test_a_baseline_with_noisy_labels(tmp_path, teacher):
    task = DistillTask("plain3", 20, teacher, method="pkt", ce_weight=1.0, kd_weight=1.0, input_size=16)
    trainer = fit(tmp_path, task, data_in(tmp_path, views="none", label_noise=0.5), max_epochs=1)
    assert float(trainer.callback_metrics["train/distiller"]) > 0


def test_a_run_resumed_inside_an_epoch_equals_the_whole(tmp_path, teacher):
    fit_and_resume(lambda: (student(teacher, head="untrained"), data_in(tmp_path)), tmp_path / "runs")


# ---- recipes and command line --------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_are_sound(path, tmp_path):
    recipe = yaml.safe_load(path.read_text())
    kinds = {kind.__name__: kind for kind in (SSKDTask, HeadTask, DistillTask, ClassifierTask)}
    kind = kinds[recipe["model"]["class_path"].rpartition(".")[2]]
    settings = dict(recipe["model"]["init_args"])
    if "imagenet" in path.stem:
        pytest.importorskip("torchvision")
    if "teacher" in settings:
        settings["teacher"] = "untrained:resnet8"
    task = kind(**settings)
    data = ViewData(**recipe["data"])
    assert (data.views == "none") == (kind in (DistillTask, ClassifierTask))
    if kind is SSKDTask and recipe["data"]["dataset"] == "cifar100":
        slow = settings["arch"] in ("MobileNetV2", "ShuffleV1", "ShuffleV2")
        assert settings["lr"] == (0.01 if slow else 0.05)
        assert task.step.sskd.weights == {"ce": 0.1, "kd": 0.9, "tf": 2.7, "ss": 10.0}
        assert recipe["trainer"]["max_epochs"] == 240


def test_every_published_row_has_a_recipe():
    rows = "wrn_40_2_wrn_16_2 wrn_40_2_wrn_40_1 resnet56_resnet20 resnet32x4_resnet8x4 vgg13_vgg8 vgg13_mobilenetv2"
    rows += " resnet50_mobilenetv2 resnet50_vgg8 resnet32x4_shufflev1 resnet32x4_shufflev2 wrn_40_2_shufflev1"
    for row in (
        *rows.split(),
        "few_shot",
        "noisy",
        "imagenet_resnet34_resnet18",
        "teacher",
        "ss_head",
        "distill",
    ):
        assert (CONFIGS / f"{row}.yaml").is_file(), row


def test_the_command_line_from_teacher_to_prediction(cli, tmp_path):
    small = ("data.images=[200,80]", "trainer.max_epochs=1", *QUIET_WORDS)
    code, _, err = cli("fit", "--config", "small_teacher", *small)
    assert code == 0, err
    code, _, err = cli("fit", "--config", "small_distill", *small)
    assert code == 2
    assert "ssl-kd fit --config ss_head" in err
    code, out, err = cli("fit", "--config", "small_ss_head", *small)
    assert code == 0, err
    assert "-> runs/heads/" in out
    code, out, err = cli("fit", "--config", "small_distill", *small)
    assert code == 0, err
    code, out, err = cli("test", "--config", "small_distill", "--ckpt_path", "last", *small[:1], *QUIET_WORDS)
    assert code == 0, err
    assert "test/top1" in out
    Image.new("RGB", (16, 16), (90, 20, 30)).save("photo.png")
    ckpt = "runs/small_distill/checkpoints/last.ckpt"
    assert cli("predict", "photo.png", ckpt)[0] == 0
    assert len(json.loads(Path("predictions/photo.json").read_text())["scores"]) == 5
    assert cli("export", ckpt, "student.pt")[0] == 0
    for words, message in (
        (("predict", "photo.png", "none.ckpt"), "none.ckpt"),
        (("fit", "--config", "small_distill", "model.weights=best", *small), "weights: got 'best'"),
        (("demo", "--out", unwritable_path(tmp_path)), "cannot be created"),
    ):
        code, _, err = cli(*words)
        assert code == 2, (words, err)
        assert message in err


class TestReliability(PackageReliability):
    app = "ssl_kd.cli:app"

    @pytest.fixture
    def prediction(self, teacher, tmp_path_factory):
        photo = tmp_path_factory.mktemp("photo") / "photo.png"
        Image.new("RGB", (16, 16), (90, 20, 30)).save(photo)
        return Path(teacher), lambda checkpoint, out: ("predict", photo, checkpoint, "--out", out)


def test_a_short_demo(tmp_path, monkeypatch):
    """The whole card with little training and few test images."""
    from ssl_kd import demo, experiment

    monkeypatch.setattr(experiment, "HEAD_EPOCHS", 2)
    monkeypatch.setattr(demo, "stroke_set", lambda preset, n=128, **more: stroke_set(preset, n, **more))
    result = demo.run_demo(tmp_path, 0, images=64, epochs=1)
    assert read_demo(tmp_path) == result
    assert [row[1] for row in result.rows] == [
        "64",
        "256",
        "256",
    ]  # teacher images: equal at equal computation
    assert result.rows[1][2] == pytest.approx(result.rows[2][2])
    assert Image.open(tmp_path / "views.png").size[1] > 200


def test_the_package_runs_as_a_module(monkeypatch, capsys):
    runpy.run_module("ssl_kd.__main__", run_name="__mp_main__")  # a worker's import runs nothing
    monkeypatch.setattr(sys, "argv", ["ssl-kd", "--version"])
    with pytest.raises(SystemExit, match=r"^0$"):
        runpy.run_module("ssl_kd", run_name="__main__")
    assert ssl_kd.__version__ in capsys.readouterr().out


@pytest.mark.slow
def test_a_killed_run_resumes_bit_for_bit(tmp_path, teacher):
    def command(folder, *more):
        words = ["fit", "--config", "small_distill", f"model.teacher={teacher}", "model.head=untrained"]
        words += [
            f"data.root={tmp_path / 'data'}",
            "data.images=[320,80]",
            "data.few_shot=0.25",
            "data.batch_size=16",
        ]
        words += [f"trainer.default_root_dir={folder}", "trainer.max_epochs=3", *QUIET_WORDS]
        return [sys.executable, "-m", "ssl_kd", *words, "--checkpoint_every_n_steps", "1", *more]

    assert_training_resumes(command, tmp_path, kill_at=7, steps=15)


@pytest.mark.slow
def test_the_examples_run(tmp_path):
    Image.new("RGB", (40, 30), (90, 20, 30)).save(tmp_path / "photo.png")
    small, few = "data.images=[320,80]", "data.images=[320,80] data.few_shot=0.25"
    done = help_examples(
        [sys.executable, "-m", "ssl_kd"],
        name="ssl-kd",
        folder=tmp_path,
        verbs=["fit", "test", "export", "predict"],
        # Without the official data.
        keep=lambda line: (
            "small_" in line or "student.pt" in line or line.split()[1] in ("predict", "export")
        ),
        replace={
            "--config small_teacher": f"--config small_teacher {small} trainer.max_epochs=1",
            "--config small_ss_head": f"--config small_ss_head {few} trainer.max_epochs=1",
            "--config small_distill": f"--config small_distill {few} trainer.max_epochs=2",
            "trainer.max_epochs=2 trainer.max_epochs=150": "trainer.max_epochs=3",
        },
        timeout=600,
    )
    assert {example.line.split()[1] for example in done} == {"fit", "test", "export", "predict"}
