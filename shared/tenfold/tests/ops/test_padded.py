"""The twins of fixed size of `batched_nms`, `pairs_iou_bev`, `dynamic_voxelize` and `rulebook_strided`.

The oracle is the plain operator, whose own tests have oracles that we did not write: the twin's rows are its first
ones, cut or filled up, and its count is the number of all.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import tenfold
from tenfold import ops
from tenfold.testing import kernels

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "fuzz"))

from cases import CASES

SIZE, RANGE = (0.5, 0.5, 1.0), (0.0, 0.0, 0.0, 8.0, 8.0, 4.0)
SHAPE = (4, 16, 16)  # cells of that range
STEP = {"stride": 2, "padding": 1}


@dataclass(frozen=True)
class Twin:
    """One twin and its plain operator, called on the same tensors.

    Args:
        draw: makes the tensors for a number of rows and a seed.
        plain: results of the plain operator.
        padded: the same of the twin, and the count; takes the size behind the tensors.
        fill: what stands behind the rows of each result.
        raw: what the operator itself takes behind the tensors, for a size.
        rows: the dimension of rows in each result.
        counts_all: the count goes on where the size ends.
    """

    draw: Callable[[int, int], tuple[Tensor, ...]]
    plain: Callable[..., tuple[Tensor, ...]]
    padded: Callable[..., tuple[Tensor, ...]]
    fill: tuple[int, ...]
    raw: Callable[..., tuple[Any, ...]]
    rows: tuple[int, ...]
    counts_all: bool = True


def _suppression(n: int, seed: int) -> tuple[Tensor, ...]:
    g = torch.Generator().manual_seed(seed)
    corner = torch.rand(n, 2, generator=g) * 40
    boxes = torch.cat([corner, corner + torch.rand(n, 2, generator=g) * 20], dim=1)
    labels = torch.randint(-2, 3, (2, n), generator=g)
    return boxes, (torch.rand(n, generator=g) * 32).round() / 32, labels[0], labels[1]


def _overlaps(n: int, seed: int) -> tuple[Tensor, ...]:
    g = torch.Generator().manual_seed(seed)
    boxes = torch.rand(2, n, 5, generator=g) * torch.tensor([9.0, 9.0, 4.0, 4.0, 6.0])
    return boxes[0], boxes[1, : n // 2 + 1]


def _cloud(n: int, seed: int) -> tuple[Tensor, ...]:
    g = torch.Generator().manual_seed(seed)
    points = torch.rand(n, 4, generator=g) * torch.tensor([9.0, 9.0, 4.5, 1.0]) - 0.25
    return points, torch.tensor([0, n // 3, n // 3, n])


def _sites(n: int, seed: int) -> tuple[Tensor, ...]:
    flat = np.random.default_rng(seed).permutation(2 * 4 * 16 * 16)[:n]
    return (torch.from_numpy(np.stack(np.unravel_index(flat, (2, *SHAPE)), axis=1).astype(np.int32)),)


def _dynamic(points: Tensor, offsets: Tensor, order: str) -> tuple[Tensor, Tensor]:
    coords, _, counts = ops.dynamic_voxelize(points, SIZE, RANGE, offsets=offsets, order=order)
    return coords, counts


def _dynamic_padded(points: Tensor, offsets: Tensor, size: int, order: str) -> tuple[Tensor, ...]:
    """Without the map of points, which is checked by itself."""
    coords, owner, counts, count = ops.dynamic_voxelize_padded(
        points, SIZE, RANGE, size, offsets=offsets, order=order
    )
    expected = ops.dynamic_voxelize(points, SIZE, RANGE, offsets=offsets, order=order)[1]
    kernels.assert_same(owner, torch.where(expected < size, expected, -1))
    return coords, counts, count


def _strided_padded(coords: Tensor, size: int) -> tuple[Tensor, ...]:
    sites, table, _, count = ops.rulebook_strided_padded(coords, SHAPE, 2, 3, size, **STEP)
    return sites, table, count


def _voxel_twin(order: str) -> Twin:
    cells = ([0.5, 0.5, 1.0], [0.0, 0.0, 0.0], [16, 16, 4])
    return Twin(
        _cloud,
        lambda p, o: _dynamic(p, o, order),
        lambda p, o, size: _dynamic_padded(p, o, size, order),
        (-1, 0),
        lambda size: (*cells, size, order == "lex", True),
        (0, 0),
    )


TWINS = {
    "batched_nms_padded": Twin(
        _suppression,
        lambda b, s, c, g: (ops.batched_nms(b, s, c, 0.3, batch=g),),
        lambda b, s, c, g, size: ops.batched_nms_padded(b, s, c, 0.3, batch=g, max_out=size),
        (-1,),
        lambda size: (0.3, size, None, None, True),
        (0,),
        counts_all=False,
    ),
    "pairs_iou_bev_padded": Twin(
        _overlaps,
        lambda a, b: ops.pairs_iou_bev(a, b, 0.1),
        lambda a, b, size: ops.pairs_iou_bev_padded(a, b, 0.1, size),
        (-1, -1, 0),
        lambda size: (0.1, size, True),
        (0, 0, 0),
    ),
    "dynamic_voxelize_padded": _voxel_twin("lex"),
    "dynamic_voxelize_padded, first": _voxel_twin("first"),
    "rulebook_strided_padded": Twin(
        _sites,
        lambda c: ops.rulebook_strided(c, SHAPE, 2, 3, **STEP)[:2],
        _strided_padded,
        (-1, -1),
        lambda size: (list(SHAPE), 2, [3] * 3, size, [2] * 3, [1] * 3, [1] * 3, True),
        (0, 1),
    ),
}
EVERY = pytest.mark.parametrize("name", TWINS)


def operator(name: str) -> Any:
    return getattr(torch.ops.tenfold, name.split(",")[0]).default


def operator_args(name: str, tensors: tuple[Tensor, ...], size: int) -> tuple[Any, ...]:
    tensors = tensors[:3] if name == "batched_nms_padded" else tensors
    return (*tensors, *TWINS[name].raw(size))


def check_rows(name: str, padded: Callable[..., tuple[Tensor, ...]], n: int, seed: int, size: int) -> None:
    twin = TWINS[name]
    tensors = twin.draw(n, seed)
    *results, count = padded(*tensors, size)
    plain = twin.plain(*tensors)
    found = plain[0].shape[0]
    assert count.shape == ()
    assert count.dtype is (torch.int64 if "pairs" in name else torch.int32)
    assert int(count) == (found if twin.counts_all else min(found, size))
    for result, expected, value, dim in zip(results, plain, twin.fill, twin.rows, strict=True):
        used = min(found, size)
        assert result.shape[dim] == size
        assert result.dtype is expected.dtype
        kernels.assert_same(result.narrow(dim, 0, used), expected.narrow(dim, 0, used))
        assert bool((result.narrow(dim, used, size - used) == value).all())


# No input; nothing that fits; cut; about as many; filled up.
SCENES = ((0, 0), (0, 3), (60, 0), (60, 7), (60, 40), (60, 900), (1, 1))


def check(name: str, padded: Callable[..., tuple[Tensor, ...]]) -> None:
    for seed, (n, size) in enumerate(SCENES):
        check_rows(name, padded, n, seed, size)
    found = TWINS[name].plain(*TWINS[name].draw(60, 9))[0].shape[0]
    for size in (found - 1, found, found + 1):
        check_rows(name, padded, 60, 9, size)


@EVERY
def test_rows_are_the_first_of_the_plain_operator(name):
    check(name, TWINS[name].padded)


def filled_with_something_else(padded, *args):
    *results, count = padded(*args)
    return *(torch.where(r == r.new_tensor(-1), r.new_tensor(0), r) for r in results), count


def last_rows(padded, *args):
    *results, count = padded(*args[:-1], 2000)
    kept = min(int(count), args[-1])
    return *(r[int(count) - kept :][: args[-1]] for r in results), count


def other_count(padded, *args):
    *results, count = padded(*args)
    return *results, padded(*args[:-1], 2000)[-1] + (count == args[-1])


def narrower(padded, *args):
    return tuple(r[: args[-1] - 1] if r.dim() else r for r in padded(*args))


@pytest.mark.parametrize("wrong", [filled_with_something_else, last_rows, other_count, narrower])
@EVERY
def test_wrong_variants_are_caught(name, wrong):
    with pytest.raises((AssertionError, RuntimeError)):
        check(name, lambda *args: wrong(TWINS[name].padded, *args))


@EVERY
@settings(max_examples=25, deadline=None, derandomize=True)
@given(n=st.integers(0, 150), seed=st.integers(0, 2**20), size=st.integers(0, 200), special=st.booleans())
def test_equals_plain_operator_and_reference(name, n, seed, size, special):
    check_rows(name, TWINS[name].padded, n, seed, size)
    tensors = list(TWINS[name].draw(n, seed))
    first = tensors[0]
    if special and first.numel():
        odd = (torch.nan, torch.inf, -0.0, 1e30) if first.dtype.is_floating_point else (-1, 99, 2**31 - 1, 0)
        first.view(-1)[seed % first.numel()] = odd[seed % 4]
    with tenfold.validation("meta"):
        actual = TWINS[name].padded(*tensors, size)
        with tenfold.reference():
            expected = TWINS[name].padded(*tensors, size)
    kernels.assert_same(actual, expected, rtol=1e-5 if "pairs" in name else None)


@EVERY
def test_threads_levels_strides_and_stale_memory(name):
    twin = TWINS[name]
    for n, size in ((900, 300), (40_000 if "voxel" in name else 1500, 250)):
        tensors = twin.draw(n, 1)
        kernels.check_threads(lambda t=tensors, size=size: twin.padded(*t, size))
        kernels.check_levels(lambda t=tensors, size=size: twin.padded(*t, size))
    kernels.check_strides(lambda *t: twin.padded(*t, 30), *twin.draw(50, 2))
    for n, size in ((900, 2000), (3, 2000), (0, 50), (900, 5)):
        check_rows(name, twin.padded, n, 4, size)


@EVERY
def test_scratch_is_that_of_the_plain_operator(name):
    twin, tensors = TWINS[name], TWINS[name].draw(1200, 1)
    bound = kernels.scratch_bytes(lambda: twin.plain(*tensors))
    assert kernels.scratch_bytes(lambda: twin.padded(*tensors, 100)) <= bound


@EVERY
def test_opcheck(name):
    for n, size in ((30, 10), (30, 200), (0, 4)):
        args = operator_args(name, TWINS[name].draw(n, 3), size)
        kernels.check_op(operator(name), args, traced=(n, size) == (30, 10))


@EVERY
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_to_a_graph_of_known_shapes(name, dynamic):
    shapes = []

    def backend(graph, _):
        found = [n.meta["example_value"].shape for n in graph.graph.nodes if n.target is torch.add]
        shapes.extend(tuple(shape) for shape in found)
        return graph.forward

    def program(*tensors):
        return [torch.add(r, 1) for r in operator(name)(*operator_args(name, tensors, 25))]

    torch._dynamo.reset()
    compiled = torch.compile(program, fullgraph=True, dynamic=dynamic, backend=backend)
    tensors = TWINS[name].draw(40, 1)
    kernels.assert_same(compiled(*tensors), program(*tensors))
    assert len(shapes) == len(program(*tensors))
    rows = [size for shape in shapes for size in shape]
    if "voxelize" in name:
        rows.remove(shapes[1][0])  # the map has a row for every point
    assert all(isinstance(size, int) for size in rows)


@EVERY
def test_shapes_on_the_meta_device(name):
    args = operator_args(name, TWINS[name].draw(20, 0), 11)
    results = operator(name)(*(a.to("meta") if isinstance(a, Tensor) else a for a in args))
    assert [tuple(r.shape) for r in results] == [tuple(r.shape) for r in operator(name)(*args)]


@pytest.mark.parametrize("name", ["batched_nms_padded", "pairs_iou_bev_padded", "dynamic_voxelize_padded"])
def test_no_gradient_and_half_precision(name):
    twin, tensors = TWINS[name], TWINS[name].draw(30, 5)
    leaves = [t.requires_grad_() if t.dtype.is_floating_point else t for t in tensors]
    assert not any(r.requires_grad for r in twin.padded(*leaves, 9))
    half = [t.detach().half() if t.dtype.is_floating_point else t for t in tensors]
    wide = [t.float() if t.dtype.is_floating_point else t for t in half]
    kernels.assert_same(twin.padded(*half, 9), twin.padded(*wide, 9))


@EVERY
def test_wrong_sizes_are_named(name):
    twin, tensors = TWINS[name], TWINS[name].draw(9, 0)
    op = name.split(",")[0]
    what = {"batched_nms_padded": "max_out", "rulebook_strided_padded": "max_out"}.get(
        op, "max_pairs" if "pairs" in op else "max_voxels"
    )
    for size, error, text in (
        (-1, ValueError, "got -1; expected a number from 0 to 2"),
        (2**31, ValueError, "got 2147483648; expected a number from 0"),
        (2.0, TypeError, "got float; expected an int"),
        (None, TypeError, "got NoneType; expected an int"),
    ):
        with pytest.raises(error, match=f"{op}: {what}: {text}"):
            twin.padded(*tensors, size)
    for size in (-1, 2**31):
        with pytest.raises(RuntimeError, match=f"{op}: {what}: expected a count"):
            operator(name)(*operator_args(name, tensors, size))


def test_messages_name_the_twin():
    boxes, scores, labels, _ = _suppression(5, 0)
    with pytest.raises(TypeError, match=r"batched_nms_padded: labels: got torch\.float32"):
        ops.batched_nms_padded(boxes, scores, scores, 0.5, max_out=3)
    with pytest.raises(ValueError, match="pairs_iou_bev_padded: thr: got 2"):
        ops.pairs_iou_bev_padded(torch.zeros(1, 5), torch.zeros(1, 5), 2, 3)
    with pytest.raises(ValueError, match="dynamic_voxelize_padded: order: got 'x'"):
        ops.dynamic_voxelize_padded(torch.zeros(1, 3), SIZE, RANGE, 3, order="x")
    with pytest.raises(ValueError, match="rulebook_strided_padded: stride: got 0"):
        ops.rulebook_strided_padded(*_sites(3, 0), SHAPE, 2, 3, 3, stride=0)
    odd = torch.full((2, 5), torch.nan)
    content = {
        "batched_nms_padded: scores: row 0 is NaN": lambda: ops.batched_nms_padded(
            boxes, scores * torch.nan, labels, 0.5, max_out=3
        ),
        "pairs_iou_bev_padded: a: row 0 is not finite": lambda: ops.pairs_iou_bev_padded(odd, odd, 0.1, 3),
        "dynamic_voxelize_padded: points: row 0 is not finite": lambda: ops.dynamic_voxelize_padded(
            odd, SIZE, RANGE, 3
        ),
        "rulebook: coords: row 2 repeats a site": lambda: ops.rulebook_strided_padded(
            torch.zeros(3, 4, dtype=torch.int32) + torch.tensor([[1], [0], [0]]).int(), SHAPE, 2, 3, 3
        ),
    }
    for text, call in content.items():
        with pytest.raises(ValueError, match=text):
            call()
        with tenfold.reference(), pytest.raises(ValueError, match=text):
            call()


# ---- a network whose every shape is known before it runs ---------------------------------------------------


class Static(torch.nn.Module):
    """Voxels, their means, a strided convolution: all of fixed size."""

    def __init__(self, voxels: int, sites: int):
        super().__init__()
        self.voxels, self.sites = voxels, sites
        self.weight = torch.nn.Parameter(
            torch.randn(5, 3, 3, 3, 4, generator=torch.Generator().manual_seed(1))
        )

    def forward(self, points: Tensor) -> tuple[Tensor, ...]:
        coords, owner, _, voxels = ops.dynamic_voxelize_padded(points, SIZE, RANGE, self.voxels)
        means = ops.scatter(points, owner, self.voxels, "mean")
        found, table, _, sites = ops.rulebook_strided_padded(coords, SHAPE, 1, 3, self.sites, **STEP)
        return found, ops.sparse_conv(means, self.weight, table), voxels, sites


def test_a_network_of_fixed_sizes_equals_the_one_of_any_size():
    model = Static(300, 200)
    points = _cloud(150, 0)[0]
    coords, owner, _ = ops.dynamic_voxelize(points, SIZE, RANGE)
    means = ops.scatter(points, owner, len(coords), "mean")
    found, table, _ = ops.rulebook_strided(coords, SHAPE, 1, 3, **STEP)
    expected = ops.sparse_conv(means, model.weight, table)
    with tenfold.validation("meta"):  # rows of padding are outside the grid
        compiled = torch.compile(model, fullgraph=True, dynamic=False, backend="aot_eager")
        program = torch.export.export(model, (points,)).module()
        for run in (model, compiled, program):
            sites, result, voxels, count = run(points)
            assert (int(voxels), int(count)) == (len(coords), len(found))
            kernels.assert_same(sites[: len(found)], found)
            kernels.assert_same(result[: len(found)], expected)
            assert not result[len(found) :].any()


# ---- every operator that needs a twin has one --------------------------------------------------------------

# The operators whose results have as many rows as the data ask for, and what replaces each in a static graph.
FIXED = {
    "batched_nms": "batched_nms_padded",
    "dynamic_voxelize": "dynamic_voxelize_padded",
    "nms": "nms_padded",
    "nms_rotated": "nms_rotated_padded",
    "pairs_iou_bev": "pairs_iou_bev_padded",
    "points_in_boxes_csr": "points_in_boxes_padded",
    "rulebook_strided": "rulebook_strided_padded",
    "voxelize": "voxelize_padded",
    "voxelize_out": "voxelize_padded",
}


class _Sizes(TorchDispatchMode):
    """Calls each of our operators on the meta device too, where an unknown size is an error."""

    def __init__(self):
        super().__init__()
        self.known, self.unknown = set(), set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func.namespace != "tenfold":
            return result
        name = func._schema.name.removeprefix("tenfold::")
        try:
            func(*(a.to("meta") if isinstance(a, Tensor) else a for a in args))
            self.known.add(name)
        except RuntimeError:
            self.unknown.add(name)
        return result


def test_every_operator_of_unknown_size_has_a_twin_of_fixed_size():
    with tenfold.validation("meta"), _Sizes() as sizes:
        for case in CASES.values():
            for seed in range(8):
                try:
                    case.make(np.random.default_rng(seed))()
                except (ValueError, TypeError):
                    continue
        points = torch.rand(20, 4)
        grid = (SIZE, RANGE, 3, 40)
        ops.voxelize(points, *grid, out=ops.voxelize(points, *grid))
        ops.voxelize_padded(points, *grid)
        ops.points_in_boxes_padded(points[:, :3], torch.ones(2, 7), 3)
        ops.nms_padded(*_suppression(9, 0)[:2], 0.5, max_out=3)
        ops.nms_rotated_padded(_overlaps(9, 0)[0], torch.rand(9), 0.5, 3)
    assert sizes.unknown == set(FIXED)
    assert set(FIXED.values()) <= sizes.known - sizes.unknown
