"""nms: contract, oracle (torchvision, bit-equal), reference, and proof that wrong variants are caught."""

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import tenfold
from tenfold import ref
from tenfold.ops import nms
from tenfold.testing import kernels


def make_boxes(n: int, seed: int = 0, *, coarse: bool = False, dtype=torch.float32) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    centre = torch.rand(n, 2, generator=g) * 100
    size = torch.rand(n, 2, generator=g) * 30
    boxes = torch.cat([centre - size / 2, centre + size / 2], dim=1)
    scores = torch.rand(n, generator=g)
    if coarse:  # many exact ties and touching boxes
        boxes, scores = (boxes / 8).round() * 8, (scores * 8).round() / 8
    return boxes.to(dtype), scores.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("threshold", [0.0, 0.05, 0.3, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("n", [0, 1, 2, 7, 300])
def test_equals_torchvision(n, coarse, threshold, dtype):
    boxes, scores = make_boxes(n, coarse=coarse, dtype=dtype)
    expected = torchvision.ops.nms(boxes, scores, threshold)
    kernels.assert_same(nms(boxes, scores, threshold), expected)
