"""Section 8 of the contract: three pipelines compile without graph breaks, export, and run in forked workers."""

import multiprocessing
import shutil

import pytest
import torch
import torch._inductor.config
from torch.export import Dim, export

from tenfold import ops

SIZE, RANGE = (0.5, 0.5, 1.0), (0.0, 0.0, 0.0, 8.0, 8.0, 4.0)
SHAPE = (4, 16, 16)


def cloud(n, seed=0):
    return torch.rand(n, 4, generator=torch.Generator().manual_seed(seed)) * torch.tensor(
        [8.0, 8.0, 4.0, 1.0]
    )


class Voxels(torch.nn.Module):
    """Voxelise, mean of each voxel, submanifold convolution."""

    def __init__(self):
        super().__init__()
        weight = torch.randn(8, 3, 3, 3, 4, generator=torch.Generator().manual_seed(1))
        self.weight = torch.nn.Parameter(weight)

    def forward(self, points):
        coords, owner, _ = ops.dynamic_voxelize(points, SIZE, RANGE)
        feats = ops.scatter(points, owner, coords.shape[0], "mean")
        table = ops.rulebook_submanifold(coords, SHAPE, 1, 3)
        return coords, ops.sparse_conv(feats, self.weight, table, symmetric=True)


class Groups(torch.nn.Module):
    """Farthest points, their balls, grouped coordinates."""

    def forward(self, points):
        xyz = points[:, :3].contiguous()
        centers = ops.gather_rows(xyz, ops.farthest_point_sample(xyz, 16))
        idx, count = ops.ball_query(xyz, centers, 1.5, 8)
        return idx, ops.group(points, idx, count, center=centers)


class Suppress(torch.nn.Module):
    """Scores to the boxes that are kept."""

    def forward(self, points):
        corner = points[:, :2]
        boxes = torch.cat([corner, corner + points[:, 2:3].abs() + 0.5], dim=1)
        keep = ops.nms(boxes, points[:, 3].sigmoid(), 0.4)
        return keep, boxes[keep]


PIPELINES = [Voxels, Groups, Suppress]


def same(a, b):
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y)


@pytest.mark.parametrize("pipeline", PIPELINES)
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_as_one_graph(pipeline, dynamic):
    torch._dynamo.reset()
    model = pipeline()
    compiled = torch.compile(model, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for n, seed in ((60, 0), (90 if dynamic else 60, 1)):
        same(compiled(cloud(n, seed)), model(cloud(n, seed)))


COMPILER = shutil.which("g++") or shutil.which("clang++")


@pytest.mark.slow
@pytest.mark.skipif(COMPILER is None, reason="inductor needs a C++ compiler")
@pytest.mark.parametrize("pipeline", PIPELINES)
def test_inductor_runs_the_graph(pipeline, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch._dynamo.reset()
    model = pipeline()
    with torch._inductor.config.patch({"cpp.cxx": (None, COMPILER), "compile_threads": 1}):
        compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="inductor")
        for n, seed in ((60, 0), (90, 2)):
            same(compiled(cloud(n, seed)), model(cloud(n, seed)))


def test_compiled_gradients_equal_eager_ones():
    torch._dynamo.reset()
    grads = []
    for model in (Voxels(), torch.compile(Voxels(), fullgraph=True, backend="aot_eager")):
        points = cloud(60).requires_grad_()
        model(points)[1].square().sum().backward()
        grads.append((points.grad, next(model.parameters()).grad))
    same(*grads)


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_exports_with_a_dynamic_number_of_points(pipeline):
    model = pipeline()
    program = export(model, (cloud(60),), dynamic_shapes={"points": {0: Dim("n", min=17, max=4096)}})
    for n, seed in ((60, 0), (200, 1)):
        same(program.module()(cloud(n, seed)), model(cloud(n, seed)))


def _in_worker(seed):
    return [[part.detach().numpy() for part in pipeline()(cloud(80, seed))] for pipeline in PIPELINES]


def test_forked_workers_give_the_same_results():
    expected = _in_worker(3)  # the parent has used the kernels and their scratch memory before it forks
    with multiprocessing.get_context("fork").Pool(2) as pool:
        for results in pool.map(_in_worker, [3] * 4):
            for ours, theirs in zip(expected, results, strict=True):
                for a, b in zip(ours, theirs, strict=True):
                    assert (a == b).all()
