"""Generated driving frames: ground truth and detections with every case that the evaluation tells apart."""

import numpy as np
import pytest

from tenfold.eval.kitti import KittiAnnotations

FOCAL, CENTRE, IMAGE = 721.5, (609.6, 172.9), (1242.0, 375.0)
SIZES = {  # height, width, length in metres
    "Car": (1.5, 1.6, 3.9),
    "Van": (2.2, 1.9, 5.0),
    "Truck": (3.2, 2.6, 10.0),
    "Pedestrian": (1.75, 0.65, 0.85),
    "Person_sitting": (1.25, 0.6, 0.8),
    "Cyclist": (1.75, 0.6, 1.75),
    "Misc": (1.8, 1.5, 3.0),
}
SHARES = (0.45, 0.1, 0.04, 0.2, 0.05, 0.12, 0.04)
CONFUSED = {
    "Van": "Car",
    "Truck": "Car",
    "Person_sitting": "Pedestrian",
    "Cyclist": "Pedestrian",
    "Misc": "Car",
}


def image_box(size, place):
    x, y, z = place
    half = FOCAL * max(size[1], 0.5 * size[2]) / z / 2
    u, bottom = CENTRE[0] + FOCAL * x / z, CENTRE[1] + FOCAL * y / z
    box = [u - half, bottom - FOCAL * size[0] / z, u + half, bottom]
    return np.clip(box, 0, [IMAGE[0] - 1, IMAGE[1] - 1] * 2)


class Rows:
    """Rows of a label file, rounded to the two decimals of KITTI's."""

    def __init__(self):
        self.names, self.rows = [], []

    def add(self, name, truncated, occluded, alpha, bbox, size, place, ry, score=0.0):
        self.names.append(name)
        self.rows.append([truncated, occluded, alpha, *bbox, *size, *place, ry, score])

    def annotations(self, scores):
        t = np.array(self.rows).reshape(-1, 15).round(2)
        columns = (t[:, 0], t[:, 1], t[:, 2], t[:, 3:7], t[:, 7:10], t[:, 10:13], t[:, 13])
        return KittiAnnotations(self.names, *columns, t[:, 14] if scores else None)


def add_detection(rng, det, name, size, place, ry, score, noise):
    place = place + rng.normal(0, noise, 3) * [0.5, 0.2, 1]
    size = size * rng.uniform(1 - noise / 3, 1 + noise / 3, 3)
    ry = ry + rng.normal(0, noise) + (np.pi if rng.random() < 0.1 else 0)
    bbox = image_box(size, place) + rng.normal(0, 6 * noise, 4)
    det.add(name, -1, -1, ry - np.arctan2(place[0], place[2]), bbox, size, place, ry, score)


def random_frame(rng):
    gt, det = Rows(), Rows()
    for _ in range(rng.integers(0, 9)):
        name = str(rng.choice(list(SIZES), p=SHARES))
        size = np.array(SIZES[name]) * rng.uniform(0.85, 1.15, 3)
        z = rng.uniform(6, 60)
        place = np.array([rng.uniform(-0.7, 0.7) * z, 1.7 + rng.normal(0, 0.1), z])
        ry = rng.uniform(-np.pi, np.pi)
        bbox = image_box(size, place)
        if rng.random() < 0.08:  # exactly as high as a limit
            bbox[1] = np.floor(bbox[1])
            bbox[3] = bbox[1] + rng.choice([25, 40])
        truncated = rng.choice([0, 0, 0, 0.15, 0.2, 0.3, 0.45, 0.5, 0.7])
        gt.add(
            *(name, truncated, rng.choice(4, p=[0.6, 0.2, 0.15, 0.05])),
            *(ry - np.arctan2(place[0], z), bbox, size, place, ry),
        )
        for _ in range(rng.choice([0, 1, 2, 3], p=[0.15, 0.6, 0.2, 0.05])):
            said = CONFUSED.get(name, name) if rng.random() < 0.5 else name
            noise = rng.choice([0.05, 0.15, 0.5])
            add_detection(
                rng, det, said, size, place, ry, np.clip(rng.normal(0.7 - noise / 2, 0.2), 0.01, 1), noise
            )
    for _ in range(rng.integers(0, 3)):
        left, top = rng.uniform(0, 1000), rng.uniform(100, 250)
        region = [left, top, left + rng.uniform(20, 200), top + rng.uniform(20, 100)]
        gt.add("DontCare", -1, -1, -10, region, (-1, -1, -1), (-1000, -1000, -1000), -10)
    for _ in range(rng.integers(0, 4)):
        name = str(rng.choice(["Car", "Pedestrian", "Cyclist"]))
        z = rng.uniform(6, 60)
        place = np.array([rng.uniform(-0.7, 0.7) * z, 1.7, z])
        add_detection(rng, det, name, np.array(SIZES[name]), place, rng.uniform(-3, 3), rng.beta(2, 4), 0.1)
    return gt.annotations(scores=False), det.annotations(scores=True)


def make_frames(seed, count):
    rng = np.random.default_rng(seed)
    pairs = [random_frame(rng) for _ in range(count)]
    return [p[0] for p in pairs], [p[1] for p in pairs]


@pytest.fixture(scope="session")
def random_frames():
    return make_frames
