"""X-view and DENFI on one SECOND: views from two places feed the map that boundary-aware features read.

Both are plug-ins: each takes a detector and gives one back, so that they stack. Here a narrow SECOND learns for some
steps on simulated scans; for KITTI take `tenfold.lidar.task` or your own loop.
"""

import numpy as np
import torch

import denfi
from tenfold.lidar import build_detector
from tenfold.lidar.simulator import SECTOR_32, SMALL_SCENE, sample_scene, scan
from xview3d import View, add_xview, diagnostics

SMALL = {
    "class_names": ["Car"],
    "point_range": [0.0, -12.8, -3.0, 25.6, 12.8, 1.0],
    "voxel_size": [0.2, 0.2, 0.1],
    "channels": [4, 8, 8, 16],
    "out_channels": 16,
    "bev_layers": [1],
    "bev_strides": [1],
    "bev_channels": [16],
    "up_strides": [1],
    "up_channels": [16],
}


def frames(seeds):
    """A batch of simulated scans with their cars."""
    points, cars = [], []
    for row, seed in enumerate(seeds):
        seen = scan(sample_scene(seed, SMALL_SCENE, region=(4.0, -12.0, 25.0, 12.0)), SECTOR_32, seed)
        points.append(np.insert(seen.points, 0, row, axis=1))
        cars.append(seen.boxes[[name == "Car" for name in seen.names]])
    boxes = torch.zeros(len(cars), max(map(len, cars)), 8)
    for row, own in enumerate(cars):
        boxes[row, : len(own), :7], boxes[row, : len(own), 7] = torch.from_numpy(own), 1
    return {
        "points": torch.from_numpy(np.concatenate(points)),
        "gt_boxes": boxes,
        "batch_size": len(cars),
    }


def main(steps=30):
    """Train; returns the losses, and how much each view and the boundary offsets do."""
    torch.manual_seed(0)
    voxel = {"voxel": (0.2, 0.04, 0.04)}
    # The two lines.
    model = add_xview(build_detector("second", **SMALL), [View(**voxel), View((15.0, 0.0, 0.0), **voxel)])
    model = denfi.plug_in(model)

    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for step in range(steps):
        loss = model.train()(frames((2 * step, 2 * step + 1)))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    unseen = frames((1000,))
    effects = diagnostics.branch_effect(model, unseen)
    print(f"loss {np.mean(losses[:5]):.2f} -> {np.mean(losses[-5:]):.2f}; views change {effects}")
    return losses, effects, model, unseen


if __name__ == "__main__":
    main()
