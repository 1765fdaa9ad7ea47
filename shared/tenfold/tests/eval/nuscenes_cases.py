"""Generated nuScenes splits: every situation that the evaluation tells apart, as plain columns."""

import numpy as np

from tenfold.eval.nuscenes import ATTRIBUTES, CLASSES, NuScenesBoxes, NuScenesSample

#: Kinds of cases; each is drawn with several seeds.
KINDS = (
    "usual",
    "ties",
    "few classes",
    "racks",
    "far",
    "no detections",
    "only wrong",
    "zero scores",
    "noisy",
)
ALLOWED = {
    **dict.fromkeys(("car", "bus", "construction_vehicle", "trailer", "truck"), ATTRIBUTES[5:]),
    **dict.fromkeys(("bicycle", "motorcycle"), ATTRIBUTES[3:5]),
    "pedestrian": ATTRIBUTES[:3],
    "barrier": ("",),
    "traffic_cone": ("",),
}


def _quaternion(rng, yaw):
    # A slight tilt and any length: only the heading seen from above may count.
    tilt = rng.normal(0, 0.02, 2)
    q = np.array([np.cos(yaw / 2), tilt[0], tilt[1], np.sin(yaw / 2)])
    return q / np.linalg.norm(q) * rng.choice([1.0, -1.0])


def thousandths(values):
    """Rounded, so that a table of whole numbers keeps a case exactly."""
    return np.round(np.asarray(values, np.float64) * 1000) / 1000


def _boxes(rows, scores):
    if not rows:
        return NuScenesBoxes.empty(scores=scores)
    columns = list(zip(*rows, strict=True))
    name, centre, size, q, velocity, attribute, points, score = columns
    values = [thousandths(v) for v in (centre, size, q, velocity)]
    extra = {"score": thousandths(score)} if scores else {"num_points": np.array(points)}
    return NuScenesBoxes(name, *values, attribute, **extra)


def _frame(rng, kind, names, ego):
    truth, racks, found = [], [], []
    spread = 70 if kind == "far" else 35
    for _ in range(rng.integers(0, 14)):
        name = str(rng.choice(names))
        centre = np.append(ego + rng.uniform(-spread, spread, 2), rng.normal(1, 0.3))
        size = rng.uniform([0.4, 0.4, 0.8], [2.5, 6, 3])
        yaw = rng.uniform(-np.pi, np.pi)
        velocity = rng.normal(0, 3, 2) if rng.random() < 0.85 else np.full(2, np.nan)
        attribute = str(rng.choice(ALLOWED[name])) if rng.random() < 0.9 else ""
        points = int(rng.choice([0, 1, 5, 90], p=[0.1, 0.2, 0.3, 0.4]))
        truth.append((name, centre, size, _quaternion(rng, yaw), velocity, attribute, points, 0.0))
        if kind == "racks" and name in ("bicycle", "motorcycle") and rng.random() < 0.6:
            shift = np.append(rng.normal(0, 1.5, 2), rng.normal(0, 0.4))
            big = rng.uniform([2, 3, 1], [4, 8, 3])
            turn = _quaternion(rng, rng.uniform(-3, 3))
            racks.append(("rack", centre + shift, big, turn, np.zeros(2), "", 1, 0.0))
        for _ in range(rng.choice([0, 1, 2], p=[0.2, 0.6, 0.2])):
            noise = rng.choice([0.1, 0.4, 1.2, 3.0]) * (2 if kind == "noisy" else 1)
            said = name if rng.random() < 0.9 else str(rng.choice(names))
            spot = centre + np.append(rng.normal(0, noise, 2), rng.normal(0, 0.2))
            if rng.random() < 0.1:
                spot = centre + np.array(
                    [rng.choice([0.5, 1.0, 2.0, 4.0]), 0, 0]
                )  # on a limit, up to rounding
            guess = velocity + rng.normal(0, 1, 2) if rng.random() < 0.9 else np.full(2, np.nan)
            turn = yaw + rng.normal(0, 0.3) + (np.pi if rng.random() < 0.15 else 0)
            said_attribute = str(rng.choice(ALLOWED[said])) if rng.random() < 0.9 else ""
            score = np.clip(rng.normal(0.6 - 0.1 * noise, 0.2), 0.01, 1)
            scaled = size * rng.uniform(0.7, 1.4, 3)
            found.append((said, spot, scaled, _quaternion(rng, turn), guess, said_attribute, 0, score))
    for _ in range(rng.integers(0, 6)):
        name = str(rng.choice(names))
        spot = np.append(ego + rng.uniform(-spread, spread, 2), 1.0)
        size, q = rng.uniform(0.5, 4, 3), _quaternion(rng, rng.uniform(-3, 3))
        found.append(
            (name, spot, size, q, rng.normal(0, 1, 2), str(rng.choice(ALLOWED[name])), 0, rng.random())
        )
    if kind == "ties":
        found = [(*row[:7], float(np.round(row[7] * 4) / 4)) for row in found]
    if kind == "zero scores":
        found = [(*row[:7], 0.0 if rng.random() < 0.5 else row[7]) for row in found]
    if kind == "no detections":
        found = []
    if kind == "only wrong":
        found = [(row[0], row[1] + [0, 0, 0] + [9, 9, 0], *row[2:]) for row in found]
    order = rng.permutation(len(found))
    return truth, racks, [found[k] for k in order]


def make_case(seed, kind, frames=12):
    """(ground truth, detections) by token."""
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    names = list(rng.choice(CLASSES, 3, replace=False)) if kind == "few classes" else list(CLASSES)
    gt, det = {}, {}
    for k in range(frames):
        ego = thousandths(rng.uniform(200, 1500, 2))
        truth, racks, found = _frame(rng, kind, names, ego)
        token = f"frame{k:03d}"
        gt[token] = NuScenesSample(_boxes(truth, False), np.append(ego, 0.0), _boxes(racks, False))
        det[token] = _boxes(found, True)
    tokens = list(det)
    rng.shuffle(tokens)  # the order of the submission decides ties
    return gt, {token: det[token] for token in tokens}


# ---- cases in a file: whole numbers, so that later changes of the generator do not matter -----------------

_NAMES = ("rack", *CLASSES)
_WORDS = ("", *ATTRIBUTES)
_UNKNOWN = -(2**31)
_COLUMNS = {"translation": 3, "size": 3, "rotation": 4, "velocity": 2}


def pack(cases):
    """(rows, frames): boxes as (case, frame, side, name, attribute, points, score, columns ...)."""
    rows, frames = [], []
    for case, (gt, det) in enumerate(cases):
        order = {token: k for k, token in enumerate(det)}
        for frame, (token, sample) in enumerate(gt.items()):
            frames.append((case, order[token], *sample.ego[:2]))
            for side, boxes in enumerate((sample.boxes, sample.racks, det[token])):
                rows += [(case, frame, side, *_row(boxes, k)) for k in range(len(boxes))]
    frames = np.array(frames)
    frames[:, 2:] *= 1000
    return np.array(rows, np.int32), np.rint(frames).astype(np.int32)


def _row(boxes, k):
    numbers = [v for column in _COLUMNS for v in getattr(boxes, column)[k]]
    numbers.insert(0, 0.0 if boxes.score is None else boxes.score[k])
    whole = [_UNKNOWN if np.isnan(v) else round(v * 1000) for v in numbers]
    return _NAMES.index(boxes.name[k]), _WORDS.index(boxes.attribute[k]), boxes.num_points[k], *whole


def unpack(rows, frames):
    """The cases that `pack` was given."""
    for case in np.unique(frames[:, 0]):
        mine = frames[frames[:, 0] == case]
        table = rows[rows[:, 0] == case]
        gt, det = {}, {}
        for frame, (_, _, *ego) in enumerate(mine):
            here = table[table[:, 1] == frame]
            truth, racks, det[f"frame{frame}"] = (_unpacked(here[here[:, 2] == s], s == 2) for s in range(3))
            gt[f"frame{frame}"] = NuScenesSample(truth, np.array(ego) / 1000, racks)
        yield gt, {f"frame{frame}": det[f"frame{frame}"] for frame in np.argsort(mine[:, 1])}


def _unpacked(rows, scores):
    values = np.where(rows == _UNKNOWN, np.nan, rows / 1000)
    columns = np.split(values[:, 7:], np.cumsum(list(_COLUMNS.values()))[:-1], axis=1)
    return NuScenesBoxes(
        [_NAMES[k] for k in rows[:, 3]],
        *columns,
        [_WORDS[k] for k in rows[:, 4]],
        num_points=rows[:, 5],
        score=values[:, 6] if scores else None,
    )
