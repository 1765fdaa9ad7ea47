"""group, gather_rows, group_max, three_interpolate: index loops, closed forms, gradients, wrong variants."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tenfold
from tenfold import _native, ref
from tenfold.ops import ball_query, gather_rows, group, group_max, three_interpolate
from tenfold.testing import kernels, stride_variant


def make(n=40, c=20, m=15, k=6, seed=0, *, batch=None, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    lead = () if batch is None else (batch,)
    feats = torch.randn(*lead, n, c, generator=g).to(dtype)
    idx = torch.randint(-1, n, (*lead, m, k), generator=g, dtype=torch.int32)
    count = torch.randint(0, k + 1, (*lead, m), generator=g, dtype=torch.int32)
    return feats, idx, count


def loop_group(feats, idx, count=None, center=None, *, ignore_count=False, center_on_empty=False):
    """The definition entry by entry; the options make wrong variants."""
    feats, idx = np.asarray(feats), np.asarray(idx)
    out = np.zeros((*idx.shape, feats.shape[-1]), feats.dtype)
    for place in np.ndindex(*idx.shape):
        row = idx[place]
        empty = count is not None and int(count[place[:-1]]) == 0 and not ignore_count
        fine = 0 <= row < len(feats) and not empty
        if fine:
            out[place] = feats[row]
        if center is not None and (fine or center_on_empty):
            out[place][:3] -= np.asarray(center[place[:-1]])
    return torch.from_numpy(out)


def loop_max(feats, idx, count=None, *, last=False, empty=0.0):
    feats, idx = np.asarray(feats), np.asarray(idx)
    groups = idx.shape[:-1]
    out = np.full((*groups, feats.shape[1]), empty, feats.dtype)
    arg = np.full(out.shape, -1, np.int32)
    for place in np.ndindex(*groups):
        slots = idx.shape[-1] if count is None else int(count[place])
        rows = [r for r in idx[place][:slots] if 0 <= r < len(feats)]
        for c in range(feats.shape[1] if rows else 0):
            values = feats[rows, c]
            best = len(rows) - 1 - values[::-1].argmax() if last else values.argmax()  # NaN is the maximum
            out[(*place, c)], arg[(*place, c)] = values[best], rows[best]
    return torch.from_numpy(out), torch.from_numpy(arg)


def check_empty_groups(do):
    feats, idx, count = make()
    count[3], idx[3] = 0, 2
    kernels.assert_same(do(feats, idx, count), loop_group(feats, idx, count))


def check_center(do):
    feats, idx, count = make()
    center = torch.randn(15, 3, generator=torch.Generator().manual_seed(1))
    kernels.assert_same(do(feats, idx, count, center), loop_group(feats, idx, count, center))


def check_max_ties(do):
    feats, idx, count = make()
    feats = feats.round()
    kernels.assert_same(do(feats, idx, count), loop_max(feats, idx, count))


def check_max_empty(do):
    feats, idx, count = make()
    feats -= 10
    count[2], idx[5] = 0, -1
    kernels.assert_same(do(feats, idx, count), loop_max(feats, idx, count))


GROUP_CHECKS = {check_empty_groups: {"ignore_count": True}, check_center: {"center_on_empty": True}}
MAX_CHECKS = {check_max_ties: {"last": True}, check_max_empty: {"empty": float("-inf")}}


def grouped(feats, idx, count=None, center=None):
    return group(feats, idx, count, center=center)


@pytest.mark.parametrize("check", GROUP_CHECKS)
def test_group_definition(check):
    check(grouped)
    check(lambda feats, idx, count, center=None: ref.group(feats, idx, count, center))


@pytest.mark.parametrize("check", MAX_CHECKS)
def test_group_max_definition(check):
    check(group_max)
    check(ref.group_max)


@pytest.mark.parametrize("check", [*GROUP_CHECKS, *MAX_CHECKS])
def test_wrong_variants_are_caught(check):
    options = {**GROUP_CHECKS, **MAX_CHECKS}[check]
    wrong = loop_group if check in GROUP_CHECKS else loop_max
    with pytest.raises(AssertionError):
        check(lambda *args: wrong(*args, **options))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("c", [1, 3, 4, 7, 16, 31, 32, 33, 64, 67, 130])
def test_every_width(c, dtype):
    feats, idx, count = make(c=c, dtype=dtype)
    kernels.assert_same(group(feats, idx), loop_group(feats, idx))
    kernels.assert_same(group(feats, idx.long(), count.long()), loop_group(feats, idx, count))
    kernels.assert_same(group_max(feats, idx, count), loop_max(feats, idx, count))
    kernels.assert_same(gather_rows(feats, idx[0]), loop_group(feats, idx[0]))
    weight = torch.rand(idx.shape, generator=torch.Generator().manual_seed(2)).to(dtype)
    kernels.assert_same(three_interpolate(feats, idx, weight), ref.interpolate(feats, idx, weight), rtol=1e-6)
    three = three_interpolate(feats, idx[:, :3], weight[:, :3])
    kernels.assert_same(three, ref.interpolate(feats, idx[:, :3], weight[:, :3]))


def test_half_precision():
    feats, idx, count = make()
    center = torch.randn(15, 3)
    for dtype in (torch.float16, torch.bfloat16):
        half = feats.to(dtype)
        kernels.assert_same(group(half, idx, count), group(half.float(), idx, count).to(dtype))
        wide = group(half.float(), idx, count, center=center.to(dtype).float()).to(dtype)
        kernels.assert_same(group(half, idx, count, center=center.to(dtype)), wide)
        kernels.assert_same(group_max(half, idx)[0], group_max(half.float(), idx)[0].to(dtype))
        weight = torch.rand(idx.shape)
        kernels.assert_same(
            three_interpolate(half, idx, weight), three_interpolate(half.float(), idx, weight).to(dtype)
        )
        leaf = half.clone().requires_grad_()
        group(leaf, idx).sum().backward()
        assert leaf.grad.dtype == dtype
        visits = torch.bincount(idx[idx >= 0].long(), minlength=40)
        kernels.assert_same(leaf.grad[:, 0].float(), visits.to(dtype).float())


def test_padded_batches():
    feats, idx, count = make(batch=3)
    center = torch.randn(3, 15, 3)
    weight = torch.rand(idx.shape)
    each = [group(f, i, c, center=p) for f, i, c, p in zip(feats, idx, count, center, strict=True)]
    kernels.assert_same(group(feats, idx, count, center=center), torch.stack(each))
    each = [group_max(f, i, c) for f, i, c in zip(feats, idx, count, strict=True)]
    kernels.assert_same(group_max(feats, idx, count), [torch.stack(part) for part in zip(*each, strict=True)])
    each = [three_interpolate(f, i, w) for f, i, w in zip(feats, idx, weight, strict=True)]
    kernels.assert_same(three_interpolate(feats, idx, weight), torch.stack(each))
    kernels.assert_same(gather_rows(feats, idx[:, 0]), group(feats, idx)[:, 0])
    more = idx.view(3, 5, 3, 6)  # any number of axes
    kernels.assert_same(group(feats, more), group(feats, idx).view(3, 5, 3, 6, 20))


def test_equals_group_then_max_behind_a_ball_query():
    xyz = torch.rand(2000, 3, generator=torch.Generator().manual_seed(0)) * 10
    feats = torch.randn(2000, 40, generator=torch.Generator().manual_seed(1))
    idx, count = ball_query(xyz, xyz[:300], 0.8, 16)
    kernels.assert_same(group_max(feats, idx, count)[0], group(feats, idx, count).amax(dim=1))


def test_a_linear_layer_may_run_before_the_group():
    xyz = torch.rand(500, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 5
    feats, weight = torch.randn(500, 8, dtype=torch.float64), torch.randn(16, 11, dtype=torch.float64)
    idx, count = ball_query(xyz, xyz[:50], 1.0, 16)
    rows = torch.cat([xyz, feats], dim=1)
    after = (group(rows, idx, count, center=xyz[:50]) @ weight.T).amax(dim=1)
    before = group_max(rows @ weight.T, idx, count)[0] - xyz[:50] @ weight[:, :3].T
    torch.testing.assert_close(before, after, rtol=1e-12, atol=1e-12)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.data())
def test_fuzz(data):
    draw = data.draw
    n, c, m, k = (draw(st.integers(0, high)) for high in (60, 40, 12, 9))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    feats, idx, count = make(max(n, 1), c, m, k, draw(st.integers(0, 1000)), dtype=dtype)
    feats = feats[:n]
    if draw(st.booleans()):
        feats = feats.round()
    if feats.numel() and draw(st.booleans()):
        special = st.sampled_from([float("nan"), float("inf"), -float("inf"), -0.0, 1e-42])
        feats.view(-1)[draw(st.integers(0, feats.numel() - 1))] = draw(special)
    if idx.numel() and draw(st.booleans()):
        idx.view(-1)[draw(st.integers(0, idx.numel() - 1))] = draw(
            st.sampled_from([n, -2, 2**31 - 1, -(2**31)])
        )
    if draw(st.booleans()):
        idx = idx.long()
    count = draw(st.sampled_from([None, count, count - 2, count + 100]))
    if feats.numel():
        feats = stride_variant(feats, draw(st.integers(0, 2)))
    weight = torch.rand(idx.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    with tenfold.validation("meta"):
        kernels.assert_same(group(feats, idx, count), ref.group(feats, idx, count, None))
        kernels.assert_same(group_max(feats, idx, count), ref.group_max(feats, idx, count))
        got = three_interpolate(feats, idx, weight)
        kernels.assert_same(got, ref.interpolate(feats, idx, weight), rtol=1e-6)
        grad = torch.ones_like(got)
        args = (grad, feats, idx, weight, True, True)
        kernels.assert_same(
            torch.ops.tenfold.interpolate_backward(*args), ref.interpolate_backward(*args), rtol=1e-5
        )
        best, arg = group_max(feats, idx, count)
        args = (torch.ones_like(best), arg, n, False)
        kernels.assert_same(torch.ops.tenfold.group_max_backward(*args), ref.group_max_backward(*args))


# ---- gradients


@pytest.mark.parametrize("batch", [None, 2])
def test_gradcheck(batch):
    feats, idx, count = make(8, 5, 4, 3, batch=batch, dtype=torch.float64)
    feats.requires_grad_()
    center = torch.randn(*idx.shape[:-1], 3, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(idx.shape, dtype=torch.float64, requires_grad=True)
    check = torch.autograd.gradcheck
    assert check(lambda f, p: group(f, idx, count, center=p), (feats, center))
    assert check(lambda f: gather_rows(f, idx), (feats,))
    assert check(lambda f: group_max(f, idx, count)[0], (feats,))
    assert check(lambda f, w: three_interpolate(f, idx, w), (feats, weight))


def test_gradient_of_a_sum_counts_visits():
    feats = torch.zeros(3, 2, requires_grad=True)
    idx = torch.arange(512) % 3
    gather_rows(feats, idx).sum().backward()
    assert feats.grad[:, 0].tolist() == [171.0, 171.0, 170.0]
    weights = torch.full((100, 3), 0.5)
    feats = torch.zeros(3, 2, requires_grad=True)
    three_interpolate(feats, torch.tensor([[0, 0, 2]]).expand(100, 3), weights).sum().backward()
    assert feats.grad[:, 0].tolist() == [100.0, 0.0, 50.0]


def test_gradients_that_are_not_needed_cost_nothing():
    feats, idx, count = make()
    weight = torch.rand(idx.shape, requires_grad=True)
    three_interpolate(feats, idx, weight).sum().backward()
    assert weight.grad.shape == weight.shape
    center = torch.randn(15, 3, requires_grad=True)
    group(feats, idx, count, center=center).sum().backward()
    used = ((idx >= 0) & (count > 0)[:, None]).sum(dim=1)
    kernels.assert_same(center.grad[:, 0], -used.float())
    best, arg = group_max(feats.requires_grad_(), idx)
    assert best.requires_grad
    assert not arg.requires_grad


def test_second_derivatives():
    feats, idx, _ = make(8, 3, 4, 3, dtype=torch.float64)
    idx = idx.clamp(min=0)
    feats.requires_grad_()
    assert torch.autograd.gradgradcheck(lambda f: group(f, idx), (feats,))  # it is linear
    (first,) = torch.autograd.grad(group_max(feats, idx)[0].square().sum(), feats, create_graph=True)
    with pytest.raises(NotImplementedError, match="group_max: second derivatives"):
        first.sum().backward()


# ---- the same bits everywhere


def test_threads_levels_strides():
    feats, idx, count = make(3000, 64, 4000, 16)
    center, weight = torch.randn(4000, 3), torch.rand(idx.shape)
    grad = torch.randn(4000, 64)
    arg = group_max(feats, idx, count)[1]
    for call in (
        lambda: group(feats, idx, count, center=center),
        lambda: group_max(feats, idx, count),
        lambda: torch.ops.tenfold.group_max_backward(grad, arg, 3000, False),
    ):
        kernels.check_threads(call)
        kernels.check_levels(call)
    for call in (
        lambda: three_interpolate(feats, idx, weight),
        lambda: torch.ops.tenfold.interpolate_backward(grad, feats, idx, weight, True, True),
    ):
        kernels.check_threads(call)
        kernels.check_levels(call, rtol=1e-5)
    f, i, c, p, w = feats[:50, :9], idx[:6] % 50, count[:6], center[:6], weight[:6]
    kernels.check_strides(lambda f, i, c, p: group(f, i, c, center=p), f, i, c, p)
    kernels.check_strides(group_max, f, i, c)
    kernels.check_strides(three_interpolate, f, i, w)


def test_operator_checks():
    feats, idx, count = make(8, 5, 4, 3)
    feats.requires_grad_()
    center = torch.randn(4, 3, requires_grad=True)
    weight = torch.rand(idx.shape, requires_grad=True)
    ops = torch.ops.tenfold
    kernels.check_op(ops.group.default, (feats, idx, count, center, True))
    kernels.check_op(ops.group.default, (feats, idx, None, None, True), traced=False)
    kernels.check_op(ops.group_max.default, (feats, idx, count, True))
    kernels.check_op(ops.interpolate.default, (feats, idx, weight, True))
    plain, out = feats.detach(), torch.empty(4, 3, 5)
    kernels.check_op(ops.group_out.default, (plain, idx, count, None, True, out))
    best, arg = group_max(plain, idx)
    kernels.check_op(ops.group_max_backward.default, (best, arg, 8, False), traced=False)
    back = (torch.ones(4, 5), plain, idx, weight.detach(), True, True)
    kernels.check_op(ops.interpolate_backward.default, back, traced=False)


def test_compiles_without_graph_breaks():
    def features(feats, idx, count):
        return group(feats, idx, count).sum() + group_max(feats, idx, count)[0].sum()

    compiled = torch.compile(features, fullgraph=True, backend="aot_eager", dynamic=True)
    for m in (10, 30):
        feats, idx, count = make(m=m)
        results = []
        for call in (features, compiled):
            leaf = feats.clone().requires_grad_()
            value = call(leaf, idx, count)
            value.backward()
            results.append((value.detach(), leaf.grad))
        kernels.assert_same(*results)


def test_out():
    feats, idx, count = make(400, 32, 300, 8)
    out = torch.full((300, 8, 32), float("nan"))
    assert group(feats, idx, count, out=out) is out
    kernels.assert_same(out, group(feats, idx, count))
    center = torch.randn(300, 3)
    kernels.assert_same(
        group(feats, idx, count, center=center, out=out), group(feats, idx, count, center=center)
    )
    half = torch.empty(300, 8, 32, dtype=torch.float16)
    kernels.assert_same(
        group(feats.half(), idx, center=center.half(), out=half),
        group(feats.half(), idx, center=center.half()),
    )


def test_a_large_out_is_written_past_the_caches():
    """17 MB: the kernel stores whole vectors around the caches where the rows are aligned."""
    feats, idx = torch.randn(50, 64), torch.randint(-1, 50, (2048, 32), dtype=torch.int32)
    count = torch.randint(0, 2, (2048,), dtype=torch.int32)
    expected = group(feats, idx, count)
    room = torch.full((expected.numel() + 1,), float("nan"))
    for start in (0, 1):  # aligned to vectors or not
        out = room[start : start + expected.numel()].view(expected.shape)
        kernels.check_levels(lambda out=out: group(feats, idx, count, out=out.fill_(torch.nan)).clone())
        kernels.assert_same(group(feats, idx, count, out=out.fill_(torch.nan)), expected)
        with kernels.threads(2):
            kernels.assert_same(group(feats, idx, count, out=out.fill_(torch.nan)), expected)


def test_nothing_in_nothing_out():
    idx = torch.zeros(0, 4, dtype=torch.int32)
    assert group(torch.zeros(5, 3), idx).shape == (0, 4, 3)
    assert group_max(torch.zeros(5, 3), idx)[0].shape == (0, 3)
    assert group_max(torch.zeros(5, 3), torch.zeros(2, 0, dtype=torch.int32))[1].tolist() == [[-1] * 3] * 2
    missing = torch.full((2, 3), -1)
    assert group(torch.zeros(0, 3), missing).tolist() == torch.zeros(2, 3, 3).tolist()
    assert three_interpolate(torch.zeros(0, 2), missing, torch.ones(2, 3)).tolist() == [[0.0, 0.0]] * 2
    leaf = torch.zeros(0, 2, requires_grad=True)
    (group(leaf, missing).sum() + three_interpolate(leaf, missing, torch.ones(2, 3)).sum()).backward()
    assert leaf.grad.shape == (0, 2)


@pytest.mark.parametrize("batch", [None, 2])
def test_indices_of_a_group_without_members_are_not_looked_at(batch):
    feats, idx, count = make(batch=batch)
    idx.view(-1, 6)[3], count.view(-1)[3] = 10**6, 0
    expected = torch.where((count > 0)[..., None], idx, -1)
    for do in (lambda i, c: group(feats, i, c), lambda i, c: group_max(feats, i, c)):
        kernels.assert_same(do(idx, count), do(expected, count))
        kernels.assert_same(do(idx.long(), count), do(expected, count))
        with tenfold.reference():
            kernels.assert_same(do(idx, count), do(expected, count))
    idx.view(-1, 6)[7, 2], count.view(-1)[7] = -5, 1
    for do in (group, group_max):
        for run in (lambda: do(feats, idx, count), lambda: _by_reference(do, feats, idx, count)):
            with pytest.raises(
                ValueError, match=r"idx: entry \((0, )?7, 2\) is -5; expected values from -1 to 39"
            ):
                run()


def _by_reference(do, *args):
    with tenfold.reference():
        return do(*args)


def test_a_cloud_without_points():
    xyz, feats = torch.zeros(0, 3), torch.zeros(0, 5, requires_grad=True)
    idx, count = ball_query(xyz, torch.rand(4, 3), 1.0, 3)
    center = torch.rand(4, 3, requires_grad=True)
    rows = group(feats, idx, count, center=center)
    assert rows.tolist() == torch.zeros(4, 3, 5).tolist()
    best, arg = group_max(feats, idx, count)
    assert best.tolist() == torch.zeros(4, 5).tolist()
    assert arg.unique().tolist() == [-1]
    (rows.sum() + best.sum()).backward()
    assert feats.grad.shape == (0, 5)
    assert center.grad.tolist() == torch.zeros(4, 3).tolist()
    with pytest.raises(ValueError, match=r"group: idx: entry \(0, 0\) is 0; expected values from -1 to -1"):
        group(feats, idx)


def test_forked_workers():
    args = make(3000, 64, 4000, 16)
    kernels.check_forked(lambda: group_max(*args))


@pytest.mark.skipif(_native.cpu_level() == 0, reason="counts the kernels' scratch bytes")
def test_scratch_bound():
    feats, idx, count = make(3000, 64, 8000, 16)
    weight, grad = torch.rand(idx.shape), torch.randn(8000, 64)
    for call, bound in (
        (lambda: group(feats, idx, count), 0),
        (lambda: group_max(feats, idx, count), 1024),
        (
            lambda: torch.ops.tenfold.interpolate_backward(grad, feats, idx, weight, True, True),
            12 * 8000 * 16,
        ),
    ):
        assert kernels.scratch_bytes(call) <= bound + 65_536


F, IDX = torch.zeros(5, 4), torch.zeros(3, 2, dtype=torch.int64)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: group([1], IDX), TypeError, "group: feats: got list"),
        (lambda: group(F.long(), IDX), TypeError, "group: feats: got torch.int64"),
        (lambda: group(F[0], IDX), ValueError, r"group: feats: got shape \(4,\)"),
        (lambda: group(F, IDX.float()), TypeError, "group: idx: got torch.float32"),
        (lambda: group(F[None], IDX), ValueError, "group: idx: got shape"),
        (lambda: group(F, IDX, torch.zeros(2).int()), ValueError, "group: count: got shape"),
        (lambda: group(F, IDX, torch.zeros(3)), TypeError, "group: count: got torch.float32"),
        (lambda: group(F, IDX, center=torch.zeros(3, 2)), ValueError, "group: center: got shape"),
        (
            lambda: group(F[:, :2], IDX, center=torch.zeros(3, 3)),
            ValueError,
            "feats: got 2 channels with center",
        ),
        (
            lambda: group(F, IDX + 5),
            ValueError,
            r"group: idx: entry \(0, 0\) is 5; expected values from -1 to 4",
        ),
        (lambda: group(F, IDX, out=torch.zeros(3, 2, 3)), ValueError, "group: out: got shape"),
        (
            lambda: group(F, IDX, out=torch.zeros(3, 2, 4).double()),
            TypeError,
            "group: out: got torch.float64",
        ),
        (lambda: group(torch.zeros(6, 4), IDX, out=torch.zeros(6, 4).view(3, 2, 4)[:, :, :]), None, ""),
        (lambda: group_max(F, IDX - 2), ValueError, r"group_max: idx: entry \(0, 0\) is -2"),
        (
            lambda: three_interpolate(F, IDX, torch.zeros(3, 3)),
            ValueError,
            "three_interpolate: weight: got shape",
        ),
        (
            lambda: three_interpolate(F, IDX + 9, torch.zeros(3, 2)),
            ValueError,
            "three_interpolate: idx: entry",
        ),
        (lambda: gather_rows(F, torch.tensor(0)), ValueError, "gather_rows: idx: got shape"),
    ],
)
def test_messages(call, error, text):
    if error is None:
        call()
        return
    with pytest.raises(error, match=text):
        call()


def test_out_must_not_share_memory_or_need_a_gradient():
    base = torch.zeros(6, 4)
    with pytest.raises(ValueError, match="group: out: shares memory"):
        group(base, IDX, out=base.view(3, 2, 4))
    with pytest.raises(ValueError, match="group: out: an input requires a gradient"):
        group(torch.zeros(6, 4, requires_grad=True), IDX, out=torch.zeros(3, 2, 4))
