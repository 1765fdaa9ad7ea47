"""Training and evaluation: LightningModule, data module, evaluation, two processes, kill and resume."""

import json
import logging
import shutil
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

pytest.importorskip("lightning.pytorch")

from lightning.pytorch import seed_everything

from tenfold._errors import UserInputError
from tenfold.geometry import Calibration
from tenfold.lidar.data import DetectionFrames, Frame, collate, evaluation_labels
from tenfold.lidar.evaluation import Evaluated, evaluate, headline
from tenfold.lidar.kitti import KittiObject
from tenfold.lidar.models.two_stage import COUNTS
from tenfold.lidar.predict import EXTENSIONS, build_from, detect, load_detector, point_range
from tenfold.lidar.roi_targets import sample_rois
from tenfold.lidar.task import LidarData, LidarTask, simulate_into
from tenfold.testing import assert_training_resumes, draw_alike, quiet_trainer, two_gloo_ranks
from tenfold.train.lightning import LastCheckpoint

pytestmark = pytest.mark.filterwarnings("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
SIZE = (375, 1242)


trainer_in = partial(quiet_trainer, gradient_clip_val=10.0)


@pytest.fixture(scope="module")
def fitted(small_kitti, tiny, tmp_path_factory):
    """A run of two epochs: (trainer, task, folder)."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    task = LidarTask("second", "kitti", tiny, lr=0.01)
    data = LidarData(str(small_kitti), batch_size=2, counts={"Car": 4}, image_size=SIZE)
    trainer = trainer_in(folder)
    trainer.fit(task, datamodule=data)
    return trainer, task, folder


def test_a_run_trains_logs_evaluates_and_leaves_a_checkpoint(fitted, small_kitti):
    trainer, task, folder = fitted
    assert trainer.global_step == 6
    metrics = trainer.callback_metrics
    assert {"train/loss", "train/loss_cls", "val/Car", "val/mean"} <= set(metrics)
    assert torch.isfinite(metrics["train/loss"])
    assert task.result.frames == 2
    model = load_detector(folder / "checkpoints" / "last.ckpt")
    assert not model.training
    frame = KittiObject(small_kitti, "val", image_size=SIZE)[0]
    ours, loaded = detect(task.model.eval(), frame.points), detect(model, frame.points)
    for name, values in ours.items():
        np.testing.assert_array_equal(values, loaded[name])


def test_optimiser_and_schedule_are_the_recipe_s(fitted):
    trainer, task, _ = fitted
    optimizer = trainer.optimizers[0]
    assert type(optimizer) is torch.optim.AdamW
    (group,) = optimizer.param_groups
    assert len(group["params"]) == len(list(task.parameters()))  # norms and biases decay too
    assert group["weight_decay"] == 0.01
    assert group["betas"][1] == 0.99
    assert group["initial_lr"] == 0.01
    schedule = trainer.lr_scheduler_configs[0]
    assert schedule.interval == "step"
    values = [schedule.scheduler.schedules["lr"](step) for step in range(7)]
    assert values[0] == pytest.approx(0.1)
    assert max(values) == pytest.approx(1.0) == values[2]  # 40 % of six steps
    assert values[6] == pytest.approx(1e-5)
    assert trainer.gradient_clip_val == 10.0


def test_test_writes_results_that_evaluate_to_the_same(fitted, small_kitti, tiny, tmp_path, capsys):
    from tenfold.eval.kitti import read_annotation_folder

    _, task, _ = fitted
    again = LidarTask("second", "kitti", tiny, results=str(tmp_path / "results"))
    again.model.load_state_dict(task.model.state_dict())
    data = LidarData(str(small_kitti), batch_size=2, counts={}, image_size=SIZE)
    trainer_in(tmp_path, enable_checkpointing=False).test(again, datamodule=data, verbose=False)
    assert "KITTI object evaluation of 2 frames" in capsys.readouterr().out
    written = read_annotation_folder(tmp_path / "results" / "data", scores=True)
    assert list(written) == ["000006", "000007"]
    assert [record.frame_id for record in again.records] == ["000006", "000007"]
    document = json.loads((tmp_path / "results" / "metrics.json").read_text())
    assert document == json.loads(json.dumps(again.result.to_dict()))


def frames_of(root, split="train"):
    data = KittiObject(root, split, image_size=SIZE)
    return [data[k] for k in range(len(data))]


def perfect(frame, score=0.9, shift=0.0):
    labels = evaluation_labels(frame)
    own = frame.labels
    found = type(own)(
        names=own.names,
        truncation=own.truncation,
        occlusion=own.occlusion,
        alpha=own.alpha,
        boxes2d=own.boxes2d,
        boxes=own.boxes + np.array([0, shift, 0, 0, 0, 0, 0]),
        scores=np.full(len(own), score, np.float32),
    )
    return Evaluated(frame.frame_id, labels, found, frame.calibration)


def test_settings_of_method_packages_extend_the_detector(tiny, monkeypatch):
    monkeypatch.setitem(
        EXTENSIONS, "twin", lambda model, setting, dataset: torch.nn.ModuleList([model] * setting)
    )
    settings = {"detector": "second", "dataset": "kitti", "overrides": tiny}
    assert len(build_from({**settings, "twin": 2})) == 2
    assert build_from({**settings, "twin": None}).class_names == ("Car",)
    assert build_from(settings).class_names == ("Car",)

    def refuse(model, setting, dataset):
        raise ValueError(f"{setting} on {dataset}")

    monkeypatch.setitem(EXTENSIONS, "twin", refuse)
    with pytest.raises(UserInputError, match="model: 2 on kitti"):
        build_from({**settings, "twin": 2})


def test_labels_as_detections_reach_the_closed_form(small_kitti):
    frames = frames_of(small_kitti)
    result = evaluate([perfect(f) for f in frames], ("Car",))
    for difficulty in ("easy", "moderate", "hard"):
        n = result.curve("Car", "3d", difficulty).n_gt
        counted = [f.labels.difficulty for f in frames]
        level = ("easy", "moderate", "hard").index(difficulty)
        assert n <= sum(int(((d >= 0) & (d <= level)).sum()) for d in counted)
        assert n > 0
        assert result.ap("Car", "3d", difficulty) == pytest.approx(100 * min(n - 1, 40) / 40)
    moved = evaluate([perfect(f, shift=3.0) for f in frames], ("Car",))
    assert headline(moved)["Car_loose"] == 0
    assert headline(result)["mean"] == headline(result)["Car"] == result.ap("Car")


def test_other_classes_have_overlaps_too(small_kitti):
    result = evaluate([perfect(f) for f in frames_of(small_kitti)], ("Car", "Tram"))
    assert result.curve("Tram", "3d", table="loose").min_overlap == 0.25
    with pytest.raises(UserInputError, match="no frame"):
        evaluate([], ("Car",))


def test_evaluation_without_labels_is_refused(fitted):
    _, task, _ = fitted
    points, boxes = np.zeros((0, 4), np.float32), np.zeros((0, 8), np.float32)
    empty = Frame(0, "7", points, boxes, Calibration.kitti_like(), SIZE)
    task.model.eval()
    with pytest.raises(UserInputError, match="frame 7: labels: missing"):
        task.validation_step(collate([empty]), 0)


def test_data_module_says_what_is_missing(tmp_path, small_kitti, tiny):
    bare = tmp_path / "bare"
    shutil.copytree(small_kitti, bare, ignore=shutil.ignore_patterns("prepared"))
    task = LidarTask("second", "kitti", tiny)
    data = LidarData(str(bare), image_size=SIZE, batch_size=2)
    with pytest.raises(UserInputError, match="tenfold lidar prepare"):
        trainer_in(tmp_path, enable_checkpointing=False).fit(task, datamodule=data)
    with pytest.raises(UserInputError, match="too small"):
        LidarData(batch_size=0)
    with pytest.raises(UserInputError, match="is expected; remove the folder"):
        simulate_into(small_kitti, (9, 2), 0)
    simulate_into(small_kitti, (6, 2), 0)  # already there: nothing happens
    (bare / "simulation.json").unlink()
    with pytest.raises(UserInputError, match="holds other data"):
        simulate_into(bare, (6, 2), 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"detector": "third"}, "name: got 'third'"),
        ({"dataset": "moon"}, "dataset: got 'moon'"),
        ({"overrides": {"voxel": 1}}, "unknown option 'voxel'"),
        ({"overrides": {"voxel_size": [0.3, 0.3, 0.1]}}, "voxel_size"),
    ],
)
def test_wrong_models_are_the_user_s_error(settings, message):
    with pytest.raises(UserInputError, match=message):
        LidarTask(**settings)


# ---- two processes -------------------------------------------------------------------------------


def gradients(root, detector, overrides, rank, world):
    """Gradients of one step on four frames shared among `world` processes; BatchNorm in eval, float64."""
    torch.manual_seed(0)
    model = LidarTask(detector, "kitti", overrides).model.double().train()
    model.draw = draw_alike(sample_rois)
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()
    data = DetectionFrames(
        KittiObject(root, "train", image_size=SIZE), class_names=("Car",), limits=point_range(model)
    )
    # Odd frames keep one object: with two processes, each counts something else.
    frames = [data[k] for k in range(rank, 4, world)]
    batch = collate([replace(f, gt_boxes=f.gt_boxes[: 1 if f.index % 2 else None]) for f in frames])
    batch["points"], batch["gt_boxes"] = batch["points"].double(), batch["gt_boxes"].double()
    shared = torch.nn.parallel.DistributedDataParallel(model) if world > 1 else model
    losses = shared(batch)
    losses["loss"].backward()
    counts = {name: int(value) for name, value in losses.items() if name in COUNTS and name != "loss"}
    return {name: p.grad for name, p in model.named_parameters()}, counts


def gradients_of_rank(root, detector, overrides):
    dist = torch.distributed
    return gradients(root, detector, overrides, dist.get_rank(), dist.get_world_size())


@pytest.mark.parametrize("detector", ["second", "pv_rcnn"])
def test_two_processes_equal_one(small_kitti, tiny_models, detector):
    overrides = tiny_models[detector]
    if detector == "pv_rcnn":  # an untrained first stage proposes nothing good: everything is foreground
        stage = overrides["second"]
        sampling = {
            **stage["sampling"],
            "reg_fg": 0.01,
            "cls_fg": 0.5,
            "cls_bg": 0.1,
            "per_frame": 16,
            "fg_share": 1.0,
        }
        overrides = {**overrides, "second": {**stage, "sampling": sampling}}
    expected, counts = gradients(small_kitti, detector, overrides, 0, 1)
    found = two_gloo_ranks(gradients_of_rank, small_kitti, detector, overrides, timeout=300)
    assert counts["num_positives"] > 1
    for name, value in counts.items():
        assert sum(own[name] for _, own in found) == value > 0
        assert found[0][1][name] != found[1][1][name]  # else a wrong normaliser would not show
    for grads, _ in found:
        for name, grad in grads.items():
            assert grad.abs().max() > 0 or "conv_dir_cls" in name or expected[name].abs().max() == 0
            torch.testing.assert_close(grad, expected[name], atol=1e-6, rtol=1e-6)


# ---- kill and resume -----------------------------------------------------------------------------


class KeepAll(LastCheckpoint):
    """Keeps a copy of every checkpoint that a run could have been killed after."""

    def _save(self, trainer):
        super()._save(trainer)
        path = self.path(trainer)
        shutil.copy(path, path.with_name(f"kept-{trainer.global_step}.ckpt"))


def train(root, overrides, folder, ckpt=None, callbacks=()):
    seed_everything(0, verbose=False)
    task = LidarTask("second", "kitti", overrides, lr=0.01)
    data = LidarData(str(root), batch_size=2, counts={"Car": 4}, image_size=SIZE)
    trainer_in(folder, max_epochs=3, callbacks=list(callbacks)).fit(
        task, datamodule=data, ckpt_path=ckpt, weights_only=True
    )
    return task.state_dict()


def test_a_run_resumed_inside_or_between_epochs_equals_the_whole(small_kitti, tiny, tmp_path):
    expected = train(small_kitti, tiny, tmp_path / "whole", callbacks=[KeepAll(every_n_steps=1)])
    for step in (4, 6, 8):  # of nine steps in three epochs
        ckpt = str(tmp_path / "whole" / "checkpoints" / f"kept-{step}.ckpt")
        found = train(small_kitti, tiny, tmp_path / "resumed", ckpt)
        assert [name for name, value in found.items() if not torch.equal(expected[name], value)] == []


@pytest.mark.slow
@pytest.mark.parametrize("detector", ["second", "pointrcnn"])
def test_a_killed_run_resumes_bit_for_bit(small_kitti, tiny_models, tmp_path, detector):
    tiny = tiny_models[detector]

    def command(folder, *more):
        code = "import sys; from tenfold.cli import main; sys.exit(main())"
        words = [
            "lidar",
            "fit",
            f"model.detector={detector}",
            f"data.root={small_kitti}",
            "data.image_size=[375,1242]",
            "data.batch_size=2",
        ]
        words += [f"model.overrides={json.dumps(tiny)}", "model.lr=0.01", "data.counts={Car: 4}"]
        words += [f"trainer.default_root_dir={folder}", "trainer.max_epochs=3", "trainer.accelerator=cpu"]
        words += [
            "--checkpoint_every_n_steps",
            "1",
            "trainer.enable_progress_bar=false",
            "trainer.logger=false",
        ]
        return [sys.executable, "-c", code, *words, *more]

    # In the second epoch of three steps.
    assert_training_resumes(command, tmp_path, kill_at=4, steps=9, timeout=400)


def test_a_run_starts_from_the_weights_of_another(fitted, small_kitti, tiny, tmp_path):
    _, _, folder = fitted
    checkpoint = folder / "checkpoints" / "last.ckpt"
    task = LidarTask("second", "kitti", tiny, lr=0.0, start_from=str(checkpoint))
    data = LidarData(str(small_kitti), batch_size=2, counts={}, image_size=SIZE)
    trainer_in(tmp_path, max_epochs=1, limit_val_batches=0, enable_checkpointing=False).fit(
        task, datamodule=data
    )
    other = load_detector(checkpoint)
    for name, value in other.named_parameters():
        assert torch.equal(value, task.model.get_parameter(name)), name
    wrong = LidarTask("second", "kitti", {**tiny, "bev_channels": [16]}, start_from=str(checkpoint))
    with pytest.raises(UserInputError, match="of another shape"):
        trainer_in(tmp_path, max_epochs=1, enable_checkpointing=False).fit(wrong, datamodule=data)


def test_a_package_brings_its_own_detectors(tiny, tmp_path):
    """`build` makes the model of a task and of its checkpoints, and a task may group its parameters."""
    from tenfold.lidar import build_detector
    from tenfold.lidar.models.export import _output_names

    class Own(LidarTask):
        build = staticmethod(
            lambda settings: build_detector("second", direction=False, **settings["overrides"])
        )

        def parameter_groups(self):
            first, *rest = self.model.parameters()
            return [{"params": [first], "weight_decay": 0.0}, {"params": rest}]

    task = Own("mine", overrides=tiny)
    assert task.model.dense_head.conv_dir_cls is None
    task.trainer = trainer_in(tmp_path, max_steps=3, max_epochs=-1)
    groups = task.configure_optimizers()["optimizer"].param_groups
    assert [g["weight_decay"] for g in groups] == [0.0, 0.01]
    state = {f"model.{name}": value for name, value in task.model.state_dict().items()}
    torch.save({"hyper_parameters": dict(task.hparams), "state_dict": state}, tmp_path / "own.ckpt")
    model = load_detector(tmp_path / "own.ckpt", Own.build)
    assert model.dense_head.conv_dir_cls is None
    with pytest.raises(UserInputError, match="'mine'"):
        load_detector(tmp_path / "own.ckpt")
    assert _output_names(model) == ["classes", "boxes"]
    model.dense_head.output_names = ("a", "b")
    assert _output_names(model) == ["a", "b"]
