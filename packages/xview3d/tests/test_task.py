"""Training by several processes, and after a kill."""

import sys

import pytest
import torch
import yaml
from xview3d_tiny import tiny_batch, tiny_model, tiny_views

from tenfold.testing import (
    QUIET_WORDS,
    TINY_DETECTORS,
    assert_training_resumes,
    averaged_gradients,
    require,
    two_gloo_ranks,
)
from tenfold.train.processes import rank_and_world


def gradients():
    """Gradients of one step on this process's frame, averaged as DistributedDataParallel does; float64."""
    rank, world = rank_and_world()
    model = tiny_model("second").double().train()
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()
    whole = tiny_batch()
    points, boxes = whole["points"].double(), whole["gt_boxes"].double()
    boxes[1, 1:] = 0  # another number of cars in each frame
    if world > 1:
        points, boxes = points[points[:, 0] == rank], boxes[rank : rank + 1]
        points[:, 0] = 0
    losses = model({"points": points, "gt_boxes": boxes, "batch_size": 2 // world})
    losses["loss"].backward()
    return averaged_gradients(model)


def test_two_processes_equal_one():
    expected = gradients()
    views = [name for name in expected if name.startswith("view_encoders.")]
    assert {name.split(".")[1] for name in views} == {"0", "1"}
    assert min(expected[name].abs().max() for name in views if name.endswith("weight")) > 0
    for found in two_gloo_ranks(gradients):
        for name, gradient in found.items():
            torch.testing.assert_close(gradient, expected[name], atol=1e-9, rtol=1e-6, msg=name)


def test_branches_are_looked_at_once(monkeypatch):
    """Not again while gradients of the first step accumulate."""
    require("lightning")
    from xview3d import task

    seen = []
    monkeypatch.setattr(task, "assert_branches_work", lambda model, batch: seen.append(batch))
    views = [{"center": list(view.center), "voxel": list(view.voxel)} for view in tiny_views("second")]
    own = task.XViewTask({"views": views}, detector="second", overrides=TINY_DETECTORS["second"])
    for number in range(3):
        own.on_train_batch_start(number, number)
    assert seen == [0]


def test_branches_are_looked_at_without_the_age_where_it_is_dropped():
    require("lightning")
    from xview3d.task import XViewTask

    views = [{"center": list(view.center), "voxel": list(view.voxel)} for view in tiny_views("second")]
    xview = {"views": views, "nus_drop_time": True}
    own = XViewTask(xview, detector="second", overrides=TINY_DETECTORS["second"])
    batch = tiny_batch()
    aged = torch.cat((batch["points"], torch.rand(len(batch["points"]), 1)), 1)
    own.on_train_batch_start({**batch, "points": aged}, 0)
    assert own.model.xview.nus_drop_time


@pytest.mark.slow
def test_a_killed_run_goes_on_bit_for_bit(tmp_path):
    require("lightning")
    views = [{"center": list(view.center), "voxel": list(view.voxel)} for view in tiny_views("second")]
    settings = {
        "model": {
            "detector": "second",
            "dataset": "kitti",
            "xview": {"views": views},
            "overrides": TINY_DETECTORS["second"],
        },
        "data": {
            "root": str(tmp_path / "data"),
            "simulate": [4, 2],
            "image_size": [375, 1242],
            "batch_size": 2,
            "counts": {},
        },
    }
    config = tmp_path / "own.yaml"
    config.write_text(yaml.safe_dump(settings))

    def command(folder, *more):
        own = (
            f"trainer.default_root_dir={folder}",
            "--checkpoint_every_n_steps",
            "1",
            "trainer.max_epochs=3",
        )
        return [sys.executable, "-m", "xview3d", "fit", "--config", str(config), *QUIET_WORDS, *own, *more]

    # In the second epoch of two steps.
    assert_training_resumes(command, tmp_path, kill_at=3, steps=6)
