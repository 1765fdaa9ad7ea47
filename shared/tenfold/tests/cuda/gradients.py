"""Calls whose gradients reach every backward kernel."""

import numpy as np
import torch

from tenfold import ops


def leaf(rng, *shape, kind=torch.float32):
    return torch.from_numpy(rng.standard_normal(shape)).to(kind).requires_grad_()


def backward(result):
    weight = torch.linspace(-1, 1, result.numel(), dtype=result.dtype).reshape(result.shape)
    (result * weight).sum().backward()


def boxes(rng, m):
    centre, size = rng.uniform(-1, 1, (m, 3)), rng.uniform(0.5, 2, (m, 3))
    return torch.from_numpy(np.concatenate([centre, size, rng.uniform(-4, 4, (m, 1))], 1)).float()


def scatter(rng):
    for reduce in ("sum", "mean", "max", "min"):
        index = torch.from_numpy(rng.integers(-1, 7, 60))
        backward(ops.scatter(leaf(rng, 60, 5), index, 7, reduce))


def voxelize(rng):
    for mean in (False, True):
        points = leaf(rng, 80, 4)
        backward(ops.voxelize(points, (0.7, 0.7, 0.7), (-2, -2, -2, 2, 2, 2), 2, 20, mean=mean).voxels)


def group_max(rng):
    table = torch.from_numpy(rng.integers(-1, 30, (2, 12, 5)))
    backward(ops.group_max(leaf(rng, 2, 30, 7), table)[0])


def roi_point_pool(rng):
    points = torch.from_numpy(rng.uniform(-1, 1, (2, 50, 3))).float()
    rois = boxes(rng, 6).reshape(2, 3, 7)
    backward(ops.roi_point_pool(points, leaf(rng, 2, 50, 3), rois, 16)[0])


def roi_grid_pool3d(rng):
    points = torch.from_numpy(rng.uniform(-1, 1, (60, 3))).float()
    for mode in ("max", "avg"):
        backward(ops.roi_grid_pool3d(boxes(rng, 4), points, leaf(rng, 60, 3), 2, mode=mode, max_points=3))


def rotated_iou(rng):
    for kind in ("iou", "giou", "diou"):
        pred = boxes(rng, 20).requires_grad_()
        backward(ops.rotated_iou(pred, boxes(rng, 20), kind))


def bilinear_sample(rng):
    uv = torch.from_numpy(rng.uniform(-1, 6, (2, 30, 2))).float().requires_grad_()
    backward(ops.bilinear_sample(leaf(rng, 2, 5, 6, 5), uv))


def three_interpolate(rng):
    weight = torch.from_numpy(rng.random((40, 3))).float().requires_grad_()
    table = torch.from_numpy(rng.integers(-1, 9, (40, 3)))
    backward(ops.three_interpolate(leaf(rng, 9, 20), table, weight))


def twice(result, *leaves):
    """Gradients, and the gradients of their squares."""
    weight = torch.linspace(-1, 1, result.numel(), dtype=result.dtype).reshape(result.shape)
    grads = torch.autograd.grad((result.square() * weight).sum(), leaves, create_graph=True)
    sum(g.square().sum() for g in grads).backward()


def taps(rng, shape, kind):
    """Of absolute sum 1, so that sums stay at the size of what they add."""
    values = torch.from_numpy(rng.standard_normal(shape)).to(kind)
    return values / values.abs().sum()


def bias_act(rng):
    for kind, clamp in ((torch.float32, None), (torch.float64, 0.7)):
        x, bias, noise = (leaf(rng, *shape, kind=kind) for shape in ((2, 3, 5, 7), (3,), (1, 1, 5, 7)))
        twice(ops.bias_act(x, bias, noise=noise, clamp=clamp), x, bias, noise)


def upfirdn2d(rng):
    for kind, shape in ((torch.float32, (12,)), (torch.float64, (3, 4))):
        x, f = leaf(rng, 1, 2, 7, 9, kind=kind), taps(rng, shape, kind)
        twice(ops.upfirdn2d(x, f, up=(2, 1), down=(1, 3), padding=(5, 4, 6, -1), gain=4.0), x)


def filtered_lrelu(rng):
    for kind, shape, clamp in ((torch.float32, (8,), None), (torch.float64, (3, 5), 0.8)):
        x, bias = leaf(rng, 1, 2, 6, 8, kind=kind), leaf(rng, 2, kind=kind)
        filters = {"up_filter": taps(rng, (6,), kind), "down_filter": taps(rng, shape, kind)}
        more = {**filters, "up": 2, "down": 2, "padding": (5, 4, 5, 4)}
        twice(ops.filtered_lrelu(x, bias, clamp=clamp, **more), x, bias)


GRADIENTS = {
    f.__name__: f
    for f in (
        bias_act,
        bilinear_sample,
        filtered_lrelu,
        group_max,
        roi_grid_pool3d,
        roi_point_pool,
        rotated_iou,
        scatter,
        three_interpolate,
        upfirdn2d,
        voxelize,
    )
}
