"""Rows of rulebooks, sparse convolution and the encoder of SECOND."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from kernels import frames
from kernels.limits import Limits
from kernels.model import Call, Case, Goal, Peer, Row, Verdict, bit_equal, within

# The grid of SECOND around a whole sweep, so that there are sites enough for the largest size.
_CELL = np.array([0.05, 0.05, 0.1], dtype=np.float32)
_LOW = np.array([-80.0, -80.0, -3.0], dtype=np.float32)
_SHAPE = (41, 3200, 3200)
_KERNEL = [3, 3, 3]


@lru_cache(maxsize=1)
def _sites_by_azimuth() -> np.ndarray:
    """Cells (0, z, y, x) of a sweep in the order in which the turning scanner meets them; unique."""
    points = frames.kitti().points[:, :3]
    cell = np.floor((points - _LOW) / _CELL).astype(np.int64)
    keep = ((cell >= 0) & (cell < np.array([3200, 3200, 40]))).all(axis=1)
    turn = np.argsort(np.arctan2(points[keep, 1], points[keep, 0]), kind="stable")
    cell = cell[keep][turn]
    _, first = np.unique(cell @ np.array([1, 3200, 3200 * 3200]), return_index=True)
    cell = cell[np.sort(first)]
    return np.concatenate([np.zeros((len(cell), 1), np.int64), cell[:, ::-1]], axis=1).astype(np.int32)


def _sites(count: int) -> torch.Tensor:
    """Sites of a sector of the sweep, as many as asked for, as hard voxelisation orders them: unsorted."""
    chosen = _sites_by_azimuth()[:count]
    return torch.from_numpy(np.random.default_rng(count).permutation(chosen))


def _pairs(coords: np.ndarray, out: np.ndarray, stride: int, padding: int) -> np.ndarray:
    """Table (27, outputs) by binary search for every offset: the definition."""
    scale = np.array([_SHAPE[1] + 8, _SHAPE[2] + 8], dtype=np.int64)

    def key(c: np.ndarray) -> Any:
        return ((c[:, 1] + 4) * scale[0] + c[:, 2] + 4) * scale[1] + c[:, 3] + 4

    known = key(coords.astype(np.int64))
    order = np.argsort(known)
    table = np.full((27, len(out)), -1, dtype=np.int32)
    steps = np.stack(np.meshgrid(*[np.arange(3)] * 3, indexing="ij"), axis=-1).reshape(27, 3)
    for k, step in enumerate(steps):
        wanted = out.astype(np.int64).copy()
        wanted[:, 1:] = wanted[:, 1:] * stride - padding + step
        at = np.searchsorted(known, key(wanted), sorter=order).clip(max=len(known) - 1)
        hit = known[order[at]] == key(wanted)
        table[k, hit] = order[at[hit]]
    return table


def _rulebook_case(count: int) -> Callable[[float, str], Case]:
    def make(scale: float, _dtype: str) -> Case:
        coords = _sites(round(count * scale))
        return Case(
            len(coords), f"{len(coords):,} sites", {"coords": coords, "source": frames.kitti().source}
        )

    return make


# ------------------------------------------------------------------ rulebooks


def _spconv_pairs(case: Case, *, subm: bool) -> Any:
    from spconv.core import ConvAlgo
    from spconv.pytorch.ops import get_indice_pairs

    stride = [1] * 3 if subm else [2] * 3
    geometry = (_KERNEL, stride, [1] * 3, [1] * 3, [0] * 3)
    return get_indice_pairs(case["coords"], 1, list(_SHAPE), ConvAlgo.Native, *geometry, subm)


def _spconv_table(raw: Any, subm: bool) -> np.ndarray:
    """Its pair lists as a table; of a submanifold layer it stores the first half, the rest is its mirror."""
    out, pairs, counts = (part.numpy() for part in raw)
    table = np.full((27, len(out)), -1, dtype=np.int32)
    for k in range(13 if subm else 27):
        source, target = pairs[:, k, : counts[k]]
        table[k, target] = source
        if subm:
            table[26 - k, source] = target
    if subm:
        table[13] = np.arange(len(out))
    return table


def _ours_submanifold(case: Case) -> Call:
    from tenfold.ops import rulebook_submanifold

    return lambda: rulebook_submanifold(case["coords"], _SHAPE, 1, 3)


def _submanifold_row(key: str, count: int, **more: Any) -> Row:
    return Row(
        key=key,
        op="rulebook_submanifold",
        title=f"rulebook, submanifold 3x3x3, {count // 1000} k sites",
        make=_rulebook_case(count),
        ours=_ours_submanifold,
        agree=bit_equal,
        normal=lambda raw, _: raw.numpy(),
        peers=(
            Peer(
                "spconv",
                "spconv",
                "spconv",
                lambda case: lambda: _spconv_pairs(case, subm=True),
                normal=lambda raw, _: _spconv_table(raw, True),
                note="lists half of the pairs; the others are their mirror",
            ),
        ),
        oracle=lambda case: _pairs(case["coords"].numpy(), case["coords"].numpy(), 1, 1),
        goal=Goal("ratio", 8, 15),
        limit=lambda case, limits: limits.copy(16 * case.size + 4 * 27 * case.size),
        parallel=True,
        **more,
    )


def _ours_strided(case: Case) -> Call:
    from tenfold.ops import rulebook_strided

    return lambda: rulebook_strided(case["coords"], _SHAPE, 1, 3, stride=2, padding=1)[:2]


def _sorted_outputs(out: np.ndarray, table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.lexsort(out[:, ::-1].T)
    return out[order], table[:, order]


def _strided_by_definition(case: Case) -> tuple[np.ndarray, np.ndarray]:
    coords = case["coords"].numpy().astype(np.int64)
    reached = []
    steps = np.stack(np.meshgrid(*[np.arange(3)] * 3, indexing="ij"), axis=-1).reshape(27, 3)
    extent = np.array([(n + 2 - 3) // 2 + 1 for n in _SHAPE])
    for step in steps:
        twice = coords[:, 1:] + 1 - step
        out = twice // 2
        keep = ((twice % 2 == 0) & (out >= 0) & (out < extent)).all(axis=1)
        reached.append(out[keep])
    sites = np.unique(np.concatenate(reached), axis=0)
    out = np.concatenate([np.zeros((len(sites), 1), np.int64), sites], axis=1).astype(np.int32)
    return out, _pairs(case["coords"].numpy(), out, 2, 1)


_STRIDED = Row(
    key="rulebook-strided-16k",
    op="rulebook_strided",
    title="rulebook, strided 3x3x3 by 2, 16 k sites",
    make=_rulebook_case(16_000),
    ours=_ours_strided,
    agree=bit_equal,
    normal=lambda raw, _: (raw[0].numpy(), raw[1].numpy()),
    peers=(
        Peer(
            "spconv",
            "spconv",
            "spconv",
            lambda case: lambda: _spconv_pairs(case, subm=False),
            normal=lambda raw, _: _sorted_outputs(raw[0].numpy(), _spconv_table(raw, False)),
            note="output sites in first-come order; sorted for the comparison",
        ),
    ),
    oracle=_strided_by_definition,
    goal=Goal("ratio", 8, 15),
    parallel=True,
    quick=True,
)


# ------------------------------------------------------------------ convolution


def _conv_case(channels: int) -> Callable[[float, str], Case]:
    def make(scale: float, dtype: str) -> Case:
        from tenfold.ops import rulebook_submanifold

        coords = _sites(round(16_000 * scale))
        table = rulebook_submanifold(coords, _SHAPE, 1, 3)
        rng = np.random.default_rng(channels)
        kind = getattr(torch, dtype)
        data = {
            "coords": coords,
            "table": table,
            "features": torch.from_numpy(rng.standard_normal((len(coords), channels))).to(kind),
            "weight": torch.from_numpy(rng.standard_normal((channels, 3, 3, 3, channels)) / 10).to(kind),
            "pairs": int((table >= 0).sum()),
            "channels": channels,
            "source": frames.kitti().source,
        }
        text = f"{len(coords):,} sites, {data['pairs']:,} pairs, {channels} to {channels} channels"
        return Case(len(coords), text, data)

    return make


def _ours_conv(case: Case) -> Call:
    from tenfold.ops import sparse_conv

    return lambda: sparse_conv(case["features"], case["weight"], case["table"], symmetric=True)


def _spconv_conv(case: Case) -> Call:
    from spconv.core import ConvAlgo
    from spconv.pytorch.ops import indice_conv

    _, pairs, counts = _spconv_pairs(case, subm=True)
    rows = len(case["coords"])
    return lambda: indice_conv(
        case["features"], case["weight"], pairs, counts, rows, False, True, ConvAlgo.Native
    )


def _gather_matmul(features: torch.Tensor, weight: torch.Tensor, pairs: Any, rows: int) -> torch.Tensor:
    """One matrix product for each kernel offset, between a gather and an index_add; torch differentiates it."""
    out = features.new_zeros(rows, weight.shape[0])
    flat = weight.reshape(weight.shape[0], -1, weight.shape[-1])
    for k, (source, target) in enumerate(pairs):
        if len(source):
            out = out.index_add(0, target, features[source] @ flat[:, k].t())
    return out


def _pair_lists(table: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    targets = [(row >= 0).nonzero()[:, 0] for row in table]
    return [(row[target].long(), target) for row, target in zip(table, targets, strict=True)]


def _torch_conv(case: Case) -> Call:
    pairs = _pair_lists(case["table"])

    def run() -> torch.Tensor:
        with torch.no_grad():
            return _gather_matmul(case["features"], case["weight"], pairs, len(case["coords"]))

    return run


def _conv_by_definition(case: Case) -> Any:
    """In float64, with pairs that do not come from our rulebook."""
    coords = case["coords"].numpy()
    pairs = _pair_lists(torch.from_numpy(_pairs(coords, coords, 1, 1)))
    return _gather_matmul(case["features"].double(), case["weight"].double(), pairs, len(coords)).numpy()


def _numpy(raw: torch.Tensor, _: Case) -> np.ndarray:
    return raw.detach().double().numpy()


def _products(case: Case, limits: Limits) -> tuple[str, float]:
    """Two operations for each pair and pair of channels, at the rate of a large matrix product."""
    return "matrix product", 2.0 * case["pairs"] * case["channels"] ** 2 / limits.gemm_flops


def _conv_row(channels: int, must: float, stretch: float, **more: Any) -> Row:
    return Row(
        key=f"sparse-conv-{channels}",
        op="sparse_conv",
        title=f"submanifold convolution, 16 k sites, {channels} channels",
        make=_conv_case(channels),
        ours=_ours_conv,
        agree=within(1e-4),
        normal=_numpy,
        peers=(
            Peer("spconv", "spconv", "spconv", _spconv_conv, normal=_numpy),
            Peer("torch gather + matmul", "torch", "torch", _torch_conv, normal=_numpy),
        ),
        oracle=_conv_by_definition,
        goal=Goal("ratio", must, stretch),
        limit=_products,
        parallel=True,
        **more,
    )


# ------------------------------------------------------------------ maximum


def _ours_max_pool(case: Case) -> Call:
    from tenfold.ops import sparse_max_pool

    return lambda: sparse_max_pool(case["features"], case["table"])


def _torch_max_pool(case: Case) -> Call:
    missing = (case["table"] < 0)[..., None]
    rows = case["table"].clamp(min=0).long()

    def run() -> torch.Tensor:
        return case["features"][rows].masked_fill_(missing, float("-inf")).amax(dim=0)

    return run


def _max_pool_by_definition(case: Case) -> Any:
    features, best = case["features"].double().numpy(), None
    for row in case["table"].numpy():
        values = np.where((row >= 0)[:, None], features[row], -np.inf)
        best = values if best is None else np.maximum(best, values)
    return best


_MAX_POOL = Row(
    key="sparse-max-pool",
    op="sparse_max_pool",
    title="maximum over 3x3x3 cells, 16 k sites, 64 channels",
    make=_conv_case(64),
    ours=_ours_max_pool,
    agree=bit_equal,
    normal=_numpy,
    peers=(Peer("torch indexing + amax", "torch", "torch", _torch_max_pool, normal=_numpy),),
    oracle=_max_pool_by_definition,
    limit=lambda case, limits: limits.copy((case["pairs"] + case.size) * 64 * 4),
    parallel=True,
)


# ------------------------------------------------------------------ SECOND's encoder


def _encoder_case(scale: float, _dtype: str) -> Case:
    """Voxels of the 80 degrees ahead, as SECOND sees a KITTI frame."""
    from tenfold.ops import voxelize

    points = frames.kitti().points
    ahead = points[np.abs(np.arctan2(points[:, 1], points[:, 0])) < np.deg2rad(40) * min(scale, 1)]
    found = voxelize(
        *(torch.from_numpy(ahead), (0.05, 0.05, 0.1), (0, -40, -3, 70.4, 40, 1), 5, 40_000), mean=True
    )
    coords = found.coords
    data = {"coords": coords, "features": found.voxels, "shape": (41, 1600, 1408)}
    return Case(len(coords), f"{len(coords):,} voxels", data | {"source": frames.kitti().source})


@lru_cache(maxsize=1)
def _encoder() -> Any:
    from tenfold.lidar.models.voxel_backbone import VoxelBackBone8x
    from tenfold.sparse import SparseTensor

    torch.manual_seed(0)
    net = VoxelBackBone8x(4)
    # Statistics of one pass, so that activations keep their size through the layers.
    norms = [m for m in net.modules() if isinstance(m, torch.nn.BatchNorm1d)]
    for norm in norms:
        norm.momentum = 1.0
    case = _encoder_case(1.0, "float32")
    with torch.no_grad():
        net.train()(SparseTensor(case["features"], case["coords"], case["shape"], 1))
    return net.eval()


def _spconv_encoder() -> Any:
    """The same layers and weights from spconv's modules."""
    import spconv.pytorch as spconv
    from spconv.core import ConvAlgo
    from torch import nn

    def after(layer: Any, channels: int) -> list[Any]:
        return [layer, nn.BatchNorm1d(channels, eps=1e-3), nn.ReLU()]

    def subm(c_in: int, c_out: int, key: str) -> list[Any]:
        more = {"bias": False, "indice_key": key, "algo": ConvAlgo.Native}
        return after(spconv.SubMConv3d(c_in, c_out, 3, padding=1, **more), c_out)

    def down(c_in: int, c_out: int, kernel: Any, stride: Any, padding: Any) -> list[Any]:
        more = {"bias": False, "algo": ConvAlgo.Native}
        return after(spconv.SparseConv3d(c_in, c_out, kernel, stride, padding, **more), c_out)

    layers = [*subm(4, 16, "1"), *subm(16, 16, "1")]
    widths = ((16, 32, 1), (32, 64, 1), (64, 64, (0, 1, 1)))
    for stage, (c_in, c_out, padding) in enumerate(widths, start=2):
        layers += down(c_in, c_out, 3, 2, padding)
        layers += [part for _ in range(2) for part in subm(c_out, c_out, str(stage))]
    layers += down(64, 128, (3, 1, 1), (2, 1, 1), 0)
    net = spconv.SparseSequential(*layers).eval()
    with torch.no_grad():
        for theirs, ours in zip(net.parameters(), _encoder().parameters(), strict=True):
            theirs.copy_(ours)
        for theirs, ours in zip(net.buffers(), _encoder().buffers(), strict=True):
            theirs.copy_(ours)
    return net


def _ours_encoder(case: Case) -> Call:
    from tenfold.sparse import SparseTensor

    net = _encoder()

    def run() -> Any:
        with torch.no_grad():
            return net(SparseTensor(case["features"], case["coords"], case["shape"], 1)).out

    return run


def _spconv_forward(case: Case) -> Call:
    import spconv.pytorch as spconv

    net = _spconv_encoder()

    def run() -> Any:
        with torch.no_grad():
            return net(spconv.SparseConvTensor(case["features"], case["coords"], list(case["shape"]), 1))

    return run


def _ours_features(raw: Any, _: Case) -> tuple[np.ndarray, np.ndarray]:
    return raw.coords.numpy(), raw.features.numpy()


def _spconv_features(raw: Any, _: Case) -> tuple[np.ndarray, np.ndarray]:
    out = raw.indices.numpy()
    order = np.lexsort(out[:, ::-1].T)
    return out[order], raw.features.numpy()[order]


def _torch_layers(case: Case) -> tuple[Any, list[Any]]:
    """The encoder as torch operators on the pair lists of each layer, for results and gradients."""
    from tenfold.sparse import SparseTensor

    tables = []

    def note(module: Any, inputs: Any, output: Any) -> None:
        book = module_book(module, inputs[0])
        tables.append((_pair_lists(book), len(output.coords)))

    def module_book(module: Any, x: Any) -> torch.Tensor:
        if hasattr(module, "geometry"):
            return x.sites.strided(module.geometry).table  # type: ignore[no-any-return]
        return x.sites.submanifold(module.kernel_size, module.dilation).table  # type: ignore[no-any-return]

    net = _encoder()
    hooks = [m.register_forward_hook(note) for m in net.modules() if hasattr(m, "kernel_size")]
    with torch.no_grad():
        out = net(SparseTensor(case["features"], case["coords"], case["shape"], 1)).out
    for hook in hooks:
        hook.remove()
    return out, tables


def _seed_gradient(rows: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).standard_normal((rows, 128), dtype=np.float32))


def _ours_training(case: Case) -> Call:
    from tenfold.sparse import SparseTensor

    net = _encoder()
    weights = list(net.parameters())

    def run() -> list[torch.Tensor]:
        out = net(SparseTensor(case["features"], case["coords"], case["shape"], 1)).out.features
        return list(torch.autograd.grad(out, weights, _seed_gradient(len(out))))

    return run


def _torch_training(case: Case) -> Call:
    """Forward and backward with torch's own operators; the pair lists are made before."""
    import torch.nn.functional as F

    _, tables = _torch_layers(case)
    weights = list(_encoder().parameters())
    norms = [m for m in _encoder().modules() if isinstance(m, torch.nn.BatchNorm1d)]

    def run() -> list[torch.Tensor]:
        x = case["features"]
        for layer, (pairs, rows) in enumerate(tables):
            kernel, scale, shift = weights[3 * layer : 3 * layer + 3]
            mean, var = norms[layer].running_mean, norms[layer].running_var
            x = (_gather_matmul(x, kernel, pairs, rows) - mean) * (scale * (var + 1e-3) ** -0.5) + shift
            x = F.relu(x)
        return list(torch.autograd.grad(x, weights, _seed_gradient(len(x))))

    return run


def _gradients_agree(ours: Any, other: Any) -> Verdict:
    """Distance of each gradient relative to its length: a ReLU may flip where its input is zero to within rounding."""
    worst = max(
        float((a.double() - b.double()).norm() / b.double().norm().clamp(min=1e-30))
        for a, b in zip(ours, other, strict=True)
    )
    passed = worst < 1e-2
    return Verdict(passed, f"{'within' if passed else 'differs by'} {worst:.1e} of its length")


_ENCODER = Row(
    key="second-encoder",
    op="sparse_conv",
    title="SECOND's encoder, forward, rulebooks included",
    make=_encoder_case,
    ours=_ours_encoder,
    agree=within(1e-3),
    normal=_ours_features,
    peers=(Peer("spconv", "spconv", "spconv", _spconv_forward, normal=_spconv_features),),
    goal=Goal("ratio", 1.65, 2),
    parallel=True,
    growth=False,
)

_TRAINING = Row(
    key="second-encoder-training",
    op="sparse_conv",
    title="the same, forward and backward (goal: forward alone takes 1/3.2 to 1/2.8 of it)",
    make=_encoder_case,
    ours=_ours_training,
    agree=_gradients_agree,
    peers=(
        Peer(
            "torch gather + matmul",
            "torch",
            "torch",
            _torch_training,
            note="pair lists made before",
        ),
        Peer("our forward", "tenfold", "tenfold", _ours_encoder, same=False, note="forward alone"),
    ),
    goal=Goal("ratio", 1 / 3.2, 1 / 2.8, against="our forward"),
    parallel=True,
    growth=False,
)

ROWS: tuple[Row, ...] = (
    _submanifold_row("rulebook-submanifold-4k", 4_000, quick=True),
    _submanifold_row("rulebook-submanifold-16k", 16_000),
    _STRIDED,
    _conv_row(16, 1.8, 3, quick=True),
    _conv_row(32, 1.4, 1.8),
    _conv_row(64, 1.4, 1.8),
    _MAX_POOL,
    _ENCODER,
    _TRAINING,
)
