"""Calls that validation of content refuses, on every device with the same words."""

import torch

from tenfold import ops

REFUSED = [
    lambda: ops.nms(torch.tensor([[0.0, 0, 1, 1], [0, 0, torch.nan, 1]]), torch.rand(2), 0.5),
    lambda: ops.nms(torch.tensor([[0.0, 0, 1, 1], [1, 0, 0, 1]]), torch.rand(2), 0.5),
    lambda: ops.nms_rotated(torch.full((1, 5), torch.inf), torch.rand(1), 0.5),
    lambda: ops.ball_query(torch.full((2, 3), torch.nan), torch.rand(1, 3), 1.0, 2),
    lambda: ops.knn(torch.rand(2, 3), torch.full((2, 3), torch.inf), 1),
    lambda: ops.farthest_point_sample(torch.full((3, 3), torch.nan), 2),
    lambda: ops.voxelize(torch.full((2, 3), torch.nan), (1, 1, 1), (0, 0, 0, 4, 4, 4), 2, 9),
    lambda: ops.scatter(torch.rand(3, 2), torch.tensor([0, 5, 1]), 2),
    lambda: ops.group(torch.rand(3, 2), torch.tensor([[0, 3]]), torch.ones(1, dtype=torch.int32)),
    lambda: ops.points_in_boxes(torch.rand(2, 3), torch.full((1, 7), torch.nan)),
    lambda: ops.box_iou_bev(torch.rand(1, 7), torch.full((2, 7), torch.nan)),
    lambda: ops.rulebook_submanifold(torch.zeros(2, 4, dtype=torch.int32), (3, 3, 3), 1, 3),
    lambda: ops.VoxelTable(torch.zeros(2, 4, dtype=torch.int32)),
    lambda: ops.bilinear_sample(torch.rand(1, 1, 2, 2), torch.full((1, 1, 2), torch.nan)),
]
