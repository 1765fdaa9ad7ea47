"""Rows of the suppression family and of rotated IoU."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from kernels import boxes as make_boxes
from kernels.limits import Limits
from kernels.model import Call, Case, Goal, Peer, Row, bit_equal, within


def _tensor(array: Any, dtype: str) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(getattr(torch, dtype))


# ------------------------------------------------------------------ axis-aligned


def _plane_case(generate: Callable[..., Any], count: int, classes: int = 0) -> Callable[[float, str], Case]:
    def make(scale: float, dtype: str) -> Case:
        n = max(1, round(count * scale))
        rng = np.random.default_rng(n)
        data = {
            "boxes": _tensor(generate(rng, n), dtype),
            "scores": _tensor(make_boxes.distinct_scores(rng, n), dtype),
            "threshold": 0.5,
        }
        if classes:
            data["labels"] = torch.from_numpy(rng.integers(0, classes, n))
        return Case(n, f"{n:,} boxes" + (f", {classes} classes" if classes else ""), data)

    return make


def _ours_nms(case: Case) -> Call:
    from tenfold.ops import nms

    return lambda: nms(case["boxes"], case["scores"], case["threshold"])


def _ours_batched(case: Case) -> Call:
    from tenfold.ops import batched_nms

    return lambda: batched_nms(case["boxes"], case["scores"], case["labels"], case["threshold"])


def _torchvision_nms(case: Case) -> Call:
    from torchvision.ops import nms

    return lambda: nms(case["boxes"], case["scores"], case["threshold"])


def _torchvision_batched(case: Case) -> Call:
    from torchvision.ops import batched_nms

    return lambda: batched_nms(case["boxes"], case["scores"], case["labels"], case["threshold"])


def _mmcv_nms(case: Case) -> Call:
    from mmcv.ops import nms

    return lambda: nms(case["boxes"], case["scores"], case["threshold"])


def _nms_by_definition(case: Case) -> torch.Tensor:
    """Greedy suppression with torchvision's arithmetic on the (up-cast) inputs, class by class."""
    wide = torch.float64 if case["boxes"].dtype == torch.float64 else torch.float32
    boxes, scores = case["boxes"].to(wide).numpy(), case["scores"].to(wide).numpy()
    labels = case.data.get("labels", torch.zeros(len(boxes), dtype=torch.int64)).numpy()
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    order = np.argsort(-scores, kind="stable")
    alive = np.ones(len(boxes), dtype=bool)
    kept = []
    for label in np.unique(labels):
        members = order[labels[order] == label]
        for position, i in enumerate(members):
            if not alive[i]:
                continue
            kept.append(i)
            rest = members[position + 1 :]
            low, high = np.maximum(boxes[i, :2], boxes[rest, :2]), np.minimum(boxes[i, 2:], boxes[rest, 2:])
            side = np.maximum(0, high - low)
            overlap = side[:, 0] * side[:, 1]
            with np.errstate(invalid="ignore"):  # two empty boxes: 0 / 0 suppresses nothing
                iou = overlap / (area[i] + area[rest] - overlap)
            alive[rest[iou > case["threshold"]]] = False
    rank = np.empty(len(boxes), dtype=np.int64)
    rank[order] = np.arange(len(boxes))
    return torch.from_numpy(np.array(sorted(kept, key=lambda i: rank[i]), dtype=np.int64))


_TORCHVISION = Peer("torchvision", "torchvision", "torchvision", _torchvision_nms)
_MMCV = Peer("mmcv", "onedl-mmcv", "mmcv.ops", _mmcv_nms, normal=lambda raw, _: raw[1])


def _iou_tests(each: float) -> Callable[[Case, Limits], tuple[str, float]]:
    """Fourteen float operations for each of `each` IoU tests per box."""
    return lambda case, limits: limits.vector(14 * each * case.size)


def _nms_row(
    key: str, title: str, generate: Callable[..., Any], count: int, goal: Goal | None, **more: Any
) -> Row:
    return Row(
        key=key,
        op="nms",
        title=title,
        make=_plane_case(generate, count),
        ours=_ours_nms,
        agree=bit_equal,
        peers=(_TORCHVISION, _MMCV),
        goal=goal,
        **more,
    )


def _batched_row(count: int, must: float, stretch: float, **more: Any) -> Row:
    return Row(
        key=f"batched-nms-{count // 1000}k",
        op="batched_nms",
        title=f"batched_nms, {count:,} boxes, 80 classes",
        make=_plane_case(make_boxes.uniform, count, classes=80),
        ours=_ours_batched,
        agree=bit_equal,
        oracle=_nms_by_definition,
        peers=(Peer("torchvision", "torchvision", "torchvision", _torchvision_batched),),
        goal=Goal("ratio", must, stretch),
        parallel=True,
        **more,
    )


def _two_boxes(_scale: float, dtype: str) -> Case:
    boxes = _tensor([[0.0, 0, 10, 10], [20, 20, 30, 30]], dtype)
    return Case(2, "2 boxes", {"boxes": boxes, "scores": _tensor([0.9, 0.8], dtype), "threshold": 0.5})


# ------------------------------------------------------------------ rotated


def _ground_case(generate: Callable[..., Any], count: int, threshold: float) -> Callable[[float, str], Case]:
    def make(scale: float, dtype: str) -> Case:
        n = max(1, round(count * scale))
        rng = np.random.default_rng(n)
        boxes = _tensor(generate(rng, n), dtype)
        scores = _tensor(make_boxes.distinct_scores(rng, n), dtype)
        return Case(n, f"{n:,} boxes", {"boxes": boxes, "scores": scores, "threshold": threshold})

    return make


def _ours_rotated(case: Case) -> Call:
    from tenfold.ops import nms_rotated

    return lambda: nms_rotated(case["boxes"], case["scores"], case["threshold"])


def _shapely_greedy(case: Case) -> Call:
    """A tree finds the pairs that touch; a greedy loop over the pairs' IoU keeps boxes."""
    import shapely

    def run() -> np.ndarray:
        polygons = shapely.polygons(make_boxes.footprint_corners(case["boxes"].double().numpy()))
        scores = case["scores"].double().numpy()
        order = np.argsort(-scores, kind="stable")
        rank = np.empty(len(order), dtype=np.int64)
        rank[order] = np.arange(len(order))
        first, second = shapely.STRtree(polygons).query(polygons, predicate="intersects")
        later = rank[first] < rank[second]
        first, second = first[later], second[later]
        overlap = shapely.area(shapely.intersection(polygons[first], polygons[second]))
        area = shapely.area(polygons)
        hit = overlap / (area[first] + area[second] - overlap) > case["threshold"]
        first, second = first[hit], second[hit]
        by_first = np.argsort(first, kind="stable")
        second = second[by_first]
        start = np.searchsorted(first[by_first], np.arange(len(order) + 1))
        alive = np.ones(len(order), dtype=bool)
        kept = []
        for i in order:
            if alive[i]:
                kept.append(i)
                alive[second[start[i] : start[i + 1]]] = False
        return np.array(kept, dtype=np.int64)

    return run


def _upright_iou(corners: np.ndarray, others: np.ndarray) -> np.ndarray:
    """IoU of the axis-aligned hulls, which spconv asks for as a first reject."""
    from torchvision.ops import box_iou

    hulls = [
        torch.from_numpy(np.concatenate([c.min(axis=1), c.max(axis=1)], axis=1)) for c in (corners, others)
    ]
    return np.asarray(box_iou(*hulls))


def _spconv_rotated(case: Case) -> Call:
    from spconv.utils import rotate_non_max_suppression_cpu

    def run() -> np.ndarray:
        corners = make_boxes.footprint_corners(case["boxes"].double().numpy()).astype(np.float32)
        order = np.argsort(-case["scores"].numpy(), kind="stable").astype(np.int32)
        return np.asarray(
            rotate_non_max_suppression_cpu(corners, order, _upright_iou(corners, corners), case["threshold"])
        )

    return run


def _mmcv_rotated(case: Case) -> Call:
    from mmcv.ops import nms_rotated

    return lambda: nms_rotated(case["boxes"], case["scores"], case["threshold"])


_SHAPELY = "Shapely tree + NumPy"
_ROTATED_PEERS = (
    Peer(_SHAPELY, "shapely", "shapely", _shapely_greedy, note="tree built in the call; float64"),
    Peer(
        "spconv (Boost)",
        "spconv",
        "spconv",
        _spconv_rotated,
        # Its list starts with one zero for each box before the kept ones.
        normal=lambda raw, case: raw[case.size :],
        note="suppresses at >= instead of >; hull IoU of all pairs included; leading zeros cut off",
        max_size=5000,
    ),
    Peer(
        "mmcv", "onedl-mmcv", "mmcv.ops", _mmcv_rotated, normal=lambda raw, _: raw[1], note=">= instead of >"
    ),
)


def _rotated_row(
    key: str,
    title: str,
    generate: Callable[..., Any],
    count: int,
    *,
    threshold: float,
    goal: Goal,
    **more: Any,
) -> Row:
    return Row(
        key=key,
        op="nms_rotated",
        title=title,
        make=_ground_case(generate, count, threshold),
        ours=_ours_rotated,
        agree=bit_equal,
        peers=_ROTATED_PEERS,
        goal=goal,
        parallel=True,
        **more,
    )


# Both sets are as crowded as those behind the goals, for which the Shapely peer took 4.4 s and 0.8 s.
def _dense(rng: np.random.Generator, n: int) -> np.ndarray:
    return make_boxes.ground_clusters(rng, n, each=65.0, shift=0.5, turn=0.3, stretch=0.1)


def _spread(rng: np.random.Generator, n: int) -> np.ndarray:
    return make_boxes.ground_spread(rng, n, area_each=1.6)


def _fine(rng: np.random.Generator, n: int) -> np.ndarray:
    return make_boxes.ground_clusters(rng, n, each=6.0, shift=0.15, turn=0.045, stretch=0.04)


# ------------------------------------------------------------------ rotated IoU


def _iou_case(scale: float, dtype: str) -> Case:
    n = max(1, round(500 * scale**0.5))
    rng = np.random.default_rng(n)
    a, b = (make_boxes.ground_spread(rng, n, area_each=40.0) for _ in range(2))
    return Case(n * n, f"{n:,} × {n:,} boxes", {"a": _tensor(a, dtype), "b": _tensor(b, dtype)})


def _ours_iou(case: Case) -> Call:
    from tenfold.ops import box_iou_bev

    return lambda: box_iou_bev(case["a"], case["b"])


def _torchvision_iou(case: Case) -> Call:
    from torchvision.ops import box_iou

    def turned(boxes: torch.Tensor) -> torch.Tensor:
        # Degrees, and clockwise in x right, y up.
        return torch.cat([boxes[:, :4], -torch.rad2deg(boxes[:, 4:])], dim=1)

    return lambda: box_iou(turned(case["a"]), turned(case["b"]), fmt="cxcywhr")


def _spconv_iou(case: Case) -> Call:
    from spconv.utils import rbbox_iou

    def run() -> np.ndarray:
        a, b = (make_boxes.footprint_corners(case[k].double().numpy()).astype(np.float32) for k in ("a", "b"))
        return np.asarray(rbbox_iou(a, b, _upright_iou(a, b), 0.0))

    return run


def _shapely_iou(case: Case) -> Call:
    import shapely

    def run() -> np.ndarray:
        a, b = (shapely.polygons(make_boxes.footprint_corners(case[k].double().numpy())) for k in ("a", "b"))
        overlap = shapely.area(shapely.intersection(a[:, None], b[None]))
        return np.asarray(overlap / (shapely.area(a)[:, None] + shapely.area(b)[None] - overlap))

    return run


def _mmcv_iou(case: Case) -> Call:
    from mmcv.ops import box_iou_rotated

    return lambda: box_iou_rotated(case["a"], case["b"])


def _pairs_case(scale: float, dtype: str) -> Case:
    n = round(2000 * scale)
    rng = np.random.default_rng(n)
    a, b = (make_boxes.ground_spread(rng, n, area_each=40.0) for _ in range(2))
    return Case(n, f"{n:,} and {n:,} boxes", {"a": _tensor(a, dtype), "b": _tensor(b, dtype)})


def _ours_pairs(case: Case) -> Call:
    from tenfold.ops import pairs_iou_bev

    return lambda: pairs_iou_bev(case["a"], case["b"], 0.1)


def _shapely_pairs(case: Case) -> Call:
    import shapely

    def run() -> tuple[np.ndarray, np.ndarray]:
        a, b = (shapely.polygons(make_boxes.footprint_corners(case[k].double().numpy())) for k in ("a", "b"))
        i, j = shapely.STRtree(b).query(a)
        overlap = shapely.area(shapely.intersection(a[i], b[j]))
        iou = overlap / (shapely.area(a[i]) + shapely.area(b[j]) - overlap)
        order = np.lexsort([j, i])
        found = order[iou[order] > 0.1]
        return np.stack([i[found], j[found]]), iou[found]

    return run


_PAIRS = Row(
    key="pairs-iou-bev",
    op="pairs_iou_bev",
    title="pairs_iou_bev, 2,000 and 2,000 spread boxes, t .1",
    make=_pairs_case,
    ours=_ours_pairs,
    agree=within(1e-5),
    normal=lambda raw, _: (np.stack([raw[0].numpy(), raw[1].numpy()]), raw[2].numpy()),
    peers=(Peer(_SHAPELY, "shapely", "shapely", _shapely_pairs, note="float64"),),
    parallel=True,
)


ROWS: tuple[Row, ...] = (
    _nms_row(
        "nms-1k",
        "nms, 1,000 uniform boxes",
        make_boxes.uniform,
        1000,
        Goal("ratio", 10, 20),
        limit=_iou_tests(25),
        quick=True,
        oracle=_nms_by_definition,
    ),
    _nms_row(
        "nms-10k",
        "nms, 10,000 uniform boxes",
        make_boxes.uniform,
        10_000,
        Goal("ratio", 30, 100),
        limit=_iou_tests(25),
        quick=True,
        dtypes=("float32", "float64", "bfloat16"),
        oracle=_nms_by_definition,
    ),
    _nms_row(
        "nms-30k",
        "nms, 30,000 uniform boxes",
        make_boxes.uniform,
        30_000,
        Goal("ratio", 60, 200),
        limit=_iou_tests(25),
        parallel=True,
    ),
    _nms_row(
        "nms-10k-clustered",
        "nms, 10,000 clustered boxes",
        make_boxes.clustered,
        10_000,
        Goal("ratio", 4, 8),
        oracle=_nms_by_definition,
        quick=True,
    ),
    _batched_row(5_000, 7, 12, quick=True),
    _batched_row(20_000, 8, 20),
    _batched_row(100_000, 10, 30),
    Row(
        "nms-overhead",
        "nms",
        "nms call overhead, 2 boxes",
        _two_boxes,
        _ours_nms,
        bit_equal,
        peers=(_TORCHVISION,),
        goal=Goal("ms", 0.007, 0.005),
        growth=False,
        near_linear=False,
        quick=True,
    ),
    _rotated_row(
        "nms-rotated-dense",
        "nms_rotated, 4,096 dense boxes, t .1",
        _dense,
        4096,
        threshold=0.1,
        goal=Goal("ratio", 4000, 10_000, against=_SHAPELY),
    ),
    _rotated_row(
        "nms-rotated-spread",
        "nms_rotated, 4,096 spread boxes, t .01",
        _spread,
        4096,
        threshold=0.01,
        goal=Goal("ratio", 600, 1500, against=_SHAPELY),
        quick=True,
    ),
    _rotated_row(
        "nms-rotated-9k",
        "nms_rotated, 9,000 boxes, t .8",
        _fine,
        9000,
        threshold=0.8,
        goal=Goal("ms", 45, 15),
    ),
    Row(
        "box-iou-bev",
        "box_iou_bev",
        "box_iou_bev, 500 × 500 spread boxes",
        _iou_case,
        _ours_iou,
        within(1e-5),
        peers=(
            Peer(
                "torchvision",
                "torchvision",
                "torchvision",
                _torchvision_iou,
                note="degrees converted in the call",
            ),
            Peer("spconv (Boost)", "spconv", "spconv", _spconv_iou, note="corners and hull IoU in the call"),
            Peer("Shapely", "shapely", "shapely", _shapely_iou, note="float64"),
            Peer("mmcv", "onedl-mmcv", "mmcv.ops", _mmcv_iou),
        ),
        goal=Goal("ratio", 25, 60),
        parallel=True,
        quick=True,
        limit=lambda case, limits: limits.vector(6 * case.size),
    ),
    _PAIRS,
)
