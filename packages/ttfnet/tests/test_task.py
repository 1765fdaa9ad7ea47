"""Training: recipe, LightningModule, data module, two processes, kill and resume, other class counts."""

import json
import logging
import shutil
import sys

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("lightning.pytorch")

from lightning.pytorch import Callback, seed_everything

from tenfold._errors import UserInputError
from tenfold.testing import assert_training_resumes, two_gloo_ranks
from tenfold.train import make_trainer
from tenfold.train.lightning import LastCheckpoint
from ttfnet.checkpoint import load_detector, save_detector
from ttfnet.health import HealthMonitor, HealthWarning
from ttfnet.losses import heatmap_focal_sum
from ttfnet.model import CenterNet, LossOptions, TTFNet
from ttfnet.predict import load
from ttfnet.recipe import milestones, parameter_groups, scaled_lr, sgd, warmup_schedule
from ttfnet.task import DetectionData, DetectionTask

pytestmark = pytest.mark.filterwarnings("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
NETWORK = {
    "backbone": "small",
    "neck_op": "conv",
    "neck_channels": [8, 8, 8],
    "head_channels": [8, 8],
    "head_layers": [1, 1],
    "lr": 0.01,
    "base_lr": 0.01,
    "base_batch": 4,
}
DATA = {"train_split": "train", "val_split": "val", "size": (64, 64), "batch_size": 4, "augment": "heavy"}


# ---- recipe --------------------------------------------------------------------------------------


def test_parameter_groups_follow_the_published_rule():
    model = TTFNet("small", 2)
    groups = parameter_groups(model, 0.1, offset_lr_mult=0.1)
    place = {id(p): (round(g["lr"], 6), g["weight_decay"]) for g in groups for p in g["params"]}
    assert len(place) == len(list(model.parameters()))
    assert place[id(model.head.heatmap[0].bias)] == (0.2, 0)
    assert place[id(model.head.heatmap[0].weight)] == (0.1, 4e-4)
    assert place[id(model.neck.norms[0].bias)] == (0.1, 4e-4)
    assert place[id(model.neck.convs[0].bias)] == (0.2, 0)
    assert place[id(model.neck.convs[0].offset_mask.weight)] == (0.01, 4e-4)
    model.backbone.freeze(1)
    assert sum(len(g["params"]) for g in parameter_groups(model, 0.1)) < len(place)


def test_learning_rates_of_the_main_table():
    assert scaled_lr(0.016, 128, 8 * 16) == 0.016
    assert milestones(12 * 916, 916) == [9 * 916, 11 * 916]
    assert milestones(24 * 1222, 1222) == [18 * 1222, 22 * 1222]
    assert milestones(120 * 916, 916) == [90 * 916, 110 * 916]
    optimizer = sgd(nn.Conv2d(1, 1, 1, bias=False), 0.016)
    schedule = warmup_schedule(optimizer, 12 * 916, 916)
    rates = []
    for _ in range(12 * 916):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[0] == pytest.approx(0.016 / 5)
    assert rates[250] == pytest.approx(0.016 * 0.6)
    assert rates[500] == rates[9 * 916 - 1] == pytest.approx(0.016)
    assert rates[9 * 916] == pytest.approx(0.0016)
    assert rates[11 * 916] == pytest.approx(0.00016)


# ---- runs ----------------------------------------------------------------------------------------


def trainer_in(folder, **options):
    usual = {"max_epochs": 2, "accelerator": "cpu", "logger": False, "enable_progress_bar": False}
    return make_trainer(
        default_root_dir=folder,
        enable_model_summary=False,
        gradient_clip_val=35.0,
        num_sanity_val_steps=0,
        **{**usual, **options},
    )


@pytest.fixture(scope="module")
def fitted(shapes, tmp_path_factory):
    """A run of two epochs: (trainer, task, folder)."""
    folder = tmp_path_factory.mktemp("run")
    seed_everything(0, verbose=False)
    task = DetectionTask(**NETWORK, ema=0.9)
    trainer = trainer_in(folder, logger=True)
    trainer.fit(task, datamodule=DetectionData(str(shapes), **DATA))
    return trainer, task, folder


def test_a_run_trains_logs_evaluates_and_leaves_a_checkpoint(fitted):
    trainer, task, folder = fitted
    assert trainer.global_step == 6
    assert task.hparams["num_classes"] == 3
    logged = trainer.callback_metrics
    for name in (
        "loss",
        "loss_heatmap",
        "loss_box",
        "num_pos",
        "weight_sum",
        "peak_iou",
        "grad_norm",
        "lr",
        "hours",
        "images_per_second",
    ):
        assert torch.isfinite(logged[f"train/{name}"]), name
    assert 0 <= logged["val/AP"] <= 1
    stamp = json.loads((folder / "environment.json").read_text())
    assert stamp["versions"]["torch"] == torch.__version__.split("+")[0]
    record = json.loads((folder / "results.json").read_text())
    assert record["numbers"]["AP"] == pytest.approx(float(logged["val/AP"]))
    assert [row["epoch"] for row in record["curve"]] == [1, 2]
    assert 0 < record["curve"][0]["hours"] < record["curve"][1]["hours"] <= record["hours"]
    assert "<svg" in (folder / "ap_hours.svg").read_text()
    model, info = load_detector(folder / "checkpoints" / "last.ckpt")
    assert (info.class_names, info.size) == (["rectangle", "ellipse", "triangle"], (64, 64))
    average = load_detector(folder / "checkpoints" / "last.ckpt", average=False)[0].state_dict()
    own = task.model.state_dict()
    assert all(torch.equal(average[k], own[k]) for k in own)
    assert not all(torch.equal(v, own[k]) for k, v in model.state_dict().items())


def test_a_test_writes_results(fitted, shapes, tmp_path, capsys):
    _, _, folder = fitted
    task = DetectionTask(**NETWORK, results=str(tmp_path / "results"))
    trainer_in(tmp_path).test(
        task,
        datamodule=DetectionData(str(shapes), **DATA),
        ckpt_path=str(folder / "checkpoints" / "last.ckpt"),
        verbose=False,
        weights_only=True,
    )
    rows = json.loads((tmp_path / "results" / "detections.json").read_text())
    assert {row["category_id"] for row in rows} <= {1, 2, 3}
    numbers = json.loads((tmp_path / "results" / "results.json").read_text())
    assert set(numbers["numbers"]) >= {"AP", "AP50", "ARl"}
    assert (tmp_path / "results" / "confusion.png").is_file()


def test_fine_tuning_with_other_classes(fitted, shapes, tmp_path):
    _, _, folder = fitted
    root = tmp_path / "data"
    shutil.copytree(shapes, root)
    for split in ("train", "val"):
        file = root / "annotations" / f"instances_{split}.json"
        content = json.loads(file.read_text())
        content["categories"] = content["categories"][:2]
        content["annotations"] = [a for a in content["annotations"] if a["category_id"] < 3]
        file.write_text(json.dumps(content))
    source = folder / "checkpoints" / "last.ckpt"
    task = DetectionTask(**NETWORK, pretrained=str(source))
    trainer_in(tmp_path, max_epochs=1).fit(task, datamodule=DetectionData(str(root), **DATA))
    assert task.model.num_classes == 2
    donor, _ = load_detector(source)
    fresh = DetectionTask(**NETWORK, num_classes=2)
    from ttfnet.task import load_pretrained

    load_pretrained(fresh.model, str(source))
    loaded = fresh.model.state_dict()
    for key, value in donor.state_dict().items():
        same = torch.equal(loaded[key], value) if "head.heatmap.2" not in key else None
        assert same in (True, None), key


def test_on_a_cpu_deformable_convolutions_use_standard_operators(shapes, tmp_path):
    task = DetectionTask(**{**NETWORK, "neck_op": "dcnv2"})
    trainer = trainer_in(tmp_path, max_epochs=1, limit_train_batches=1, limit_val_batches=1)
    trainer.fit(task, datamodule=DetectionData(str(shapes), **DATA))
    assert [conv.decomposed for conv in task.model.neck.convs] == [True] * 3
    loaded, _ = load_detector(tmp_path / "checkpoints" / "last.ckpt")
    assert [conv.decomposed for conv in loaded.neck.convs] == [False] * 3
    images = torch.randn(1, 3, 64, 64)
    for ours, theirs in zip(task.model.eval()(images), loaded(images), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_centernet_trains_too(shapes, tmp_path):
    options = {k: v for k, v in NETWORK.items() if k != "lr"}
    task = DetectionTask("centernet", **options, optimizer="adam")
    data = DetectionData(str(shapes), **{**DATA, "augment": "centernet"})
    trainer_in(tmp_path, max_epochs=1).fit(task, datamodule=data)
    assert isinstance(task.model, CenterNet)
    assert task.trainer.global_step == 3


def test_centernet_evaluates_pictures_as_they_are(shapes, tmp_path):
    options = {k: v for k, v in NETWORK.items() if k != "lr"}
    task = DetectionTask("centernet", **options, optimizer="adam")
    seen = []
    step = task.validation_step

    def watched(batch, batch_idx):
        seen.append(tuple(batch.images.shape))
        step(batch, batch_idx)

    task.validation_step = watched
    data = DetectionData(str(shapes), **{**DATA, "augment": "centernet", "resize": "original"})
    trainer_in(tmp_path, max_epochs=1).fit(task, datamodule=data)
    assert set(seen) == {(1, 3, 96, 96)}  # 64 x 64 pictures, (64 | 31) + 1, one at a time
    save_detector(tmp_path / "c.pt", task.model, task.info)
    found = load(tmp_path / "c.pt").predict_images([np.zeros((50, 90, 3), np.uint8)], conf=0.0, batch_size=4)[
        0
    ]
    assert len(found)
    assert (found.boxes <= torch.tensor([90, 50, 90, 50])).all()


def test_a_compiled_network_trains_to_the_same_checkpoint(shapes, tmp_path, monkeypatch):
    compiled = []
    own = torch.nn.Module.compile
    # The backend that runs the captured graphs as they are: what is tested is that they are captured.
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda self: (compiled.append(self), own(self, backend="eager"))[1]
    )
    weights = []
    for flag in (False, True):
        seed_everything(0, verbose=False)
        task = DetectionTask(**NETWORK, compile=flag)
        trainer = trainer_in(tmp_path / str(flag), max_epochs=1, limit_val_batches=0)
        trainer.fit(task, datamodule=DetectionData(str(shapes), **DATA))
        weights.append(load_detector(tmp_path / str(flag) / "checkpoints" / "last.ckpt")[0].state_dict())
    assert len(compiled) == 1
    for key, value in weights[0].items():
        torch.testing.assert_close(weights[1][key], value, msg=key)


def test_training_draws_sizes(shapes, tmp_path):
    task = DetectionTask(**NETWORK)
    sides = []
    forward = task.forward
    task.forward = lambda images: (
        sides.append(images.shape[-1]) if task.training else None,
        forward(images),
    )[1]
    data = DetectionData(str(shapes), **DATA, sizes=[32, 64, 96])
    trainer_in(tmp_path, max_epochs=4, limit_val_batches=0).fit(task, datamodule=data)
    assert len(sides) == 12
    assert len(set(sides)) > 1
    assert set(sides) <= {32, 64, 96}
    with pytest.raises(UserInputError, match=r"data\.sizes: got 50"):
        DetectionData(str(shapes), sizes=[50])


class StopAtOnce(Callback):
    def on_train_batch_end(self, trainer, *rest):
        trainer.should_stop = True


def test_a_time_budget_sets_the_epochs(shapes, tmp_path, capsys):
    task = DetectionTask(**NETWORK, time_budget="1h")
    task._step_seconds = lambda: 3600 / 3 / 30  # thirty epochs an hour
    trainer = trainer_in(tmp_path, max_epochs=1, limit_val_batches=0, callbacks=[StopAtOnce()])
    trainer.fit(task, datamodule=DetectionData(str(shapes), **DATA))
    assert trainer.global_step == 1
    assert trainer.max_epochs == 24
    assert "24 epochs" in capsys.readouterr().out
    # Resumed, the run keeps its length however long a step takes now.
    again = DetectionTask(**NETWORK, time_budget="1h")
    trainer = trainer_in(tmp_path, max_epochs=1, limit_val_batches=0, callbacks=[StopAtOnce()])
    file = str(tmp_path / "checkpoints" / "last.ckpt")
    trainer.fit(again, datamodule=DetectionData(str(shapes), **DATA), ckpt_path=file, weights_only=True)
    assert trainer.max_epochs == 24


def test_the_time_of_a_step_is_measured_without_side_effects(fitted):
    _, task, _ = fitted
    before = {k: v.clone() for k, v in task.state_dict().items()}
    state = torch.get_rng_state()
    assert task._step_seconds(1) > 0
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(v, before[k]) for k, v in task.state_dict().items())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta": 3.0}, "model: targets: beta: got 3.0"),
        ({"backbone": "vgg", "num_classes": 2}, "model: backbone: got 'vgg'"),
        ({"frozen_stages": 9, "num_classes": 2}, "freeze: stages: got 9"),
    ],
)
def test_wrong_models_are_the_user_s_error(settings, message):
    with pytest.raises(UserInputError, match=message):
        DetectionTask(**settings)


def test_wrong_data_is_the_user_s_error(shapes, tmp_path):
    with pytest.raises(UserInputError, match="too small"):
        DetectionData(batch_size=0)
    with pytest.raises(UserInputError, match="size: got"):
        DetectionData(size=(50, 64))
    with pytest.raises(UserInputError, match="the data has 3 classes"):
        trainer_in(tmp_path).fit(
            DetectionTask(**NETWORK, num_classes=7), datamodule=DetectionData(str(shapes), **DATA)
        )


# ---- two processes -------------------------------------------------------------------------------

BOXES = [
    [[4.0, 4, 40, 50], [30, 20, 60, 44], [2, 30, 20, 60]],
    [],
    [],
    [[10.0, 10, 50, 60]],
]
LABELS = [[0, 1, 2], [], [], [1]]


def gradients(kind, images, rank, world):
    """Gradients of one step on some of four images; BatchNorm in evaluation mode, float64."""
    torch.manual_seed(0)
    losses = LossOptions(sync_normalizer=True)
    model = (
        TTFNet("small", 3, neck_op="conv", wh_bias_init=1.0, losses=losses)
        if kind == "ttfnet"
        else CenterNet("small", 3, neck_op="conv", losses=losses)
    )
    model = model.double().train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    pixels = torch.randn(4, 3, 64, 64, dtype=torch.float64)
    mine = images[rank::world] if images is not None else []
    shared = nn.parallel.DistributedDataParallel(model) if world > 1 else model
    boxes = [torch.tensor(BOXES[k], dtype=torch.float64).reshape(-1, 4) for k in mine]
    labels = [torch.tensor(LABELS[k], dtype=torch.long) for k in mine]
    found = model.loss(shared(pixels[list(mine)]), boxes, labels)
    found["loss"].backward()
    return {name: p.grad for name, p in model.named_parameters()}, float(found["num_pos"])


def gradients_of_rank(kind, images):
    return gradients(kind, images, torch.distributed.get_rank(), torch.distributed.get_world_size())


@pytest.mark.parametrize(
    ("kind", "images"),
    [
        ("ttfnet", (0, 3, 1, 2)),
        ("ttfnet", (0, 1, 3, 2)),
        pytest.param("ttfnet", (1, 1, 2, 2), marks=pytest.mark.slow),
        pytest.param("centernet", (0, 1, 3, 2), marks=pytest.mark.slow),
    ],
    ids=["unequal", "one empty", "none", "centernet, one empty"],
)
def test_two_processes_equal_one(kind, images):
    expected, positives = gradients(kind, images, 0, 1)
    found = two_gloo_ranks(gradients_of_rank, kind, images, timeout=300)
    assert sum(number for _, number in found) == positives
    if images == (0, 1, 3, 2):
        assert found[1][1] == 0 < found[0][1]
    for grads, _ in found:
        for name, grad in grads.items():
            torch.testing.assert_close(grad, expected[name], atol=1e-6, rtol=1e-5)


# ---- kill and resume -----------------------------------------------------------------------------


class KeepAll(LastCheckpoint):
    """Keeps a copy of every checkpoint that a run could have been killed after."""

    def _save(self, trainer):
        super()._save(trainer)
        path = self.path(trainer)
        shutil.copy(path, path.with_name(f"kept-{trainer.global_step}.ckpt"))


def train(root, folder, ckpt=None, callbacks=()):
    seed_everything(0, verbose=False)
    task = DetectionTask(**NETWORK, ema=0.9)
    trainer_in(folder, max_epochs=3, callbacks=list(callbacks)).fit(
        task, datamodule=DetectionData(str(root), **DATA), ckpt_path=ckpt, weights_only=True
    )
    return task.state_dict()


def test_a_run_resumed_inside_or_between_epochs_equals_the_whole(shapes, tmp_path):
    expected = train(shapes, tmp_path / "whole", callbacks=[KeepAll(every_n_steps=1)])
    for step in (4, 6):  # of nine steps in three epochs
        ckpt = str(tmp_path / "whole" / "checkpoints" / f"kept-{step}.ckpt")
        found = train(shapes, tmp_path / "resumed", ckpt)
        assert [name for name, value in found.items() if not torch.equal(expected[name], value)] == []


@pytest.mark.slow
def test_a_killed_run_resumes_bit_for_bit(shapes, tmp_path):
    def command(folder, *more):
        words = ["-m", "ttfnet", "fit", f"data.root={shapes}", "data.train_split=train", "data.val_split=val"]
        words += ["data.size=[64,64]", "data.batch_size=4", "data.augment=heavy"]
        words += [f"model.{name}={value}" for name, value in NETWORK.items()]
        words += [f"trainer.default_root_dir={folder}", "trainer.max_epochs=3", "trainer.accelerator=cpu"]
        words += [
            "trainer.enable_progress_bar=false",
            "trainer.logger=false",
            "--checkpoint_every_n_steps",
            "1",
        ]
        return [sys.executable, *words, *more]

    # In the second epoch of three steps.
    assert_training_resumes(command, tmp_path, kill_at=4, steps=9)


# ---- health --------------------------------------------------------------------------------------


def warned(monitor, call):
    def twice():
        call(monitor)
        call(monitor)

    with pytest.warns(HealthWarning) as said:
        twice()
    assert len(said) == 1  # once
    return str(said[0].message)


def test_health_names_the_known_failures():
    dead = heatmap_focal_sum(torch.full((1, 1, 1, 1), -60.0), torch.ones(1, 1, 1, 1), clamp=True).total
    losses = {"loss": dead, "loss_heatmap": dead}
    assert "heat map is dead" in warned(HealthMonitor(10), lambda m: m.losses(11, losses, [1]))
    nan = {"loss": torch.tensor(float("nan")), "loss_heatmap": torch.tensor(1.0)}
    assert "images [3, 4]" in warned(HealthMonitor(), lambda m: m.losses(0, nan, [3, 4]))
    assert "model.lr=null" in warned(HealthMonitor(), lambda m: m.learning_rate(0.016, 0.002))
    assert "sync_batchnorm" in warned(HealthMonitor(), lambda m: m.batch_norm(2, 4, nn.BatchNorm2d(1)))
    assert "2 classes" in warned(HealthMonitor(), lambda m: m.data(["a", "b", "c"], [0, 3, 0]))
    assert "raise data.size" in warned(HealthMonitor(), lambda m: m.batch([1], 200, 150))
    model = TTFNet("small", 2)
    nn.init.constant_(model.head.distances[-1].bias, -1.0)
    out = model(torch.zeros(1, 3, 64, 64))
    assert "4 of 4 distance channels" in warned(HealthMonitor(0), lambda m: m.output(1, out))

    def clipped(monitor):
        for _ in range(200):
            monitor.gradient(100.0)

    assert "gradients were cut" in warned(HealthMonitor(0), clipped)


@pytest.mark.filterwarnings("error")
def test_health_is_silent_where_all_is_well():
    monitor = HealthMonitor(0)
    monitor.learning_rate(0.016, 0.016)
    monitor.data(["a"], [3])
    monitor.batch([1], 100, 2)
    model = TTFNet("small", 2, wh_bias_init=1.0)
    monitor.output(1, model(torch.zeros(1, 3, 64, 64)))
    for _ in range(300):
        monitor.gradient(3.0)
    monitor.losses(5, {"loss": torch.tensor(2.0), "loss_heatmap": torch.tensor(1.0)}, [1])
