"""Every detector learns two scenes by heart: its final boxes lie on the cars."""

import numpy as np
import pytest
import torch

from tenfold.lidar import build_detector
from tenfold.lidar.data import Frame, collate
from tenfold.lidar.demo import DETECTORS, small_overrides
from tenfold.lidar.simulator import SECTOR_32, SMALL_SCENE, sample_scene, scan
from tenfold.ops import box_iou_3d

RANGE = [0.0, -12.8, -3.0, 25.6, 12.8, 1.0]
STEPS = 120
LONGER = {"pointrcnn": 240}  # it sees each object as a few points of two thousand


def scene(seed):
    frame = scan(sample_scene(seed, SMALL_SCENE, region=(4.0, -11.0, 24.0, 11.0), n_cars=4), SECTOR_32)
    seen = frame.boxes[frame.counts >= 20]
    labelled = np.column_stack((seen, np.ones(len(seen)))).astype(np.float32)
    return Frame(seed, str(seed), frame.points, labelled)


@pytest.mark.slow
@pytest.mark.parametrize("name", DETECTORS)
def test_two_scenes_are_learnt_by_heart(name):
    torch.manual_seed(0)
    model = build_detector(name, **{**small_overrides(name), "point_range": RANGE})
    norms = [m for m in model.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    for module in norms:
        module.momentum = 0.1  # a hundred steps: 0.01 would keep the statistics of the first
    batch, steps = collate([scene(0), scene(1)]), LONGER.get(name, STEPS)
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-2, total_steps=steps)
    history = []
    for _ in range(steps):
        losses = model(batch)
        optimiser.zero_grad()
        losses["loss"].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimiser.step()
        schedule.step()
        history.append(losses["loss"].item())
    with torch.no_grad():
        found = model.eval()(batch)
    overlaps = []
    for detections, truth in zip(found, batch["gt_boxes"], strict=True):
        own = truth[truth[:, 7] > 0, :7].contiguous()
        sure = detections["boxes"][detections["scores"] > 0.3].contiguous()
        assert len(sure) <= len(own) + 1, (len(sure), len(own))
        overlaps += box_iou_3d(own, sure).amax(1).tolist() if len(sure) else [0.0] * len(own)
    print(name, f"loss {history[0]:.2f} -> {np.mean(history[-5:]):.2f}", np.round(overlaps, 2))
    assert len(overlaps) >= 6
    assert np.mean(history[-5:]) < 0.3 * history[0]
    assert np.mean(np.array(overlaps) > 0.5) >= 0.8
