"""Simulated scenes in the range of the tiny detectors, as batches."""

from functools import cache

import torch

from tenfold.lidar.simulator import SECTOR_32, SMALL_SCENE, sample_scene, scan


@cache
def simulated(seed=0):
    """Points with batch index 0 and (1, M, 8) ground truth of a scene."""
    frame = scan(sample_scene(seed, SMALL_SCENE, region=(4.0, -11.0, 24.0, 11.0), n_cars=4), SECTOR_32)
    points = torch.from_numpy(frame.points)
    boxes = torch.from_numpy(frame.boxes)[torch.from_numpy(frame.counts >= 5)]
    gt = torch.cat((boxes, torch.ones(len(boxes), 1)), 1)
    return torch.cat((torch.zeros(len(points), 1), points), 1), gt[None]


def collate(*frames, velocity=False):
    """Frames as `simulated` gives them in one batch, with one velocity for all where asked to."""
    most = max(gt.shape[1] for _, gt in frames)
    points = [torch.cat((torch.full((len(p), 1), float(b)), p[:, 1:]), 1) for b, (p, _) in enumerate(frames)]
    boxes = torch.cat([torch.nn.functional.pad(gt, (0, 0, 0, most - gt.shape[1])) for _, gt in frames])
    if velocity:
        moving = torch.where(boxes[..., 7:] > 0, torch.tensor([1.0, -2.0]), 0.0)
        boxes = torch.cat((boxes[..., :7], moving, boxes[..., 7:]), -1)
    return {"points": torch.cat(points), "gt_boxes": boxes, "batch_size": len(frames)}
