"""Names of the nuScenes detection task: categories, classes, attributes, splits.

Source: the nuScenes schema and detection task.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["CLASS_OF", "RACK", "SAMPLING_COUNTS", "attribute_of", "scene_split"]

#: Detection class of each category; all others are left out.
CLASS_OF = {
    **{
        f"human.pedestrian.{kind}": "pedestrian"
        for kind in ("adult", "child", "construction_worker", "police_officer")
    },
    "movable_object.barrier": "barrier",
    "movable_object.trafficcone": "traffic_cone",
    "vehicle.bicycle": "bicycle",
    "vehicle.bus.bendy": "bus",
    "vehicle.bus.rigid": "bus",
    "vehicle.car": "car",
    "vehicle.construction": "construction_vehicle",
    "vehicle.motorcycle": "motorcycle",
    "vehicle.trailer": "trailer",
    "vehicle.truck": "truck",
}

#: Category of the boxes in which bicycles are not evaluated.
RACK = "static_object.bicycle_rack"

#: Objects that ground-truth sampling pastes for each class (OpenPCDet's CBGS recipe).
SAMPLING_COUNTS = {
    "car": 2,
    "truck": 3,
    "construction_vehicle": 7,
    "bus": 4,
    "trailer": 6,
    "barrier": 2,
    "motorcycle": 6,
    "bicycle": 6,
    "pedestrian": 2,
    "traffic_cone": 2,
}

_MOVING = {
    **dict.fromkeys(("car", "truck", "bus", "trailer", "construction_vehicle"), "vehicle.moving"),
    **dict.fromkeys(("bicycle", "motorcycle"), "cycle.with_rider"),
}
# Without speed: what stands still by definition, else the class's most frequent attribute in training.
_RESTING = {
    **dict.fromkeys(("car", "truck", "trailer", "construction_vehicle"), "vehicle.parked"),
    "bus": "vehicle.stopped",
    "pedestrian": "pedestrian.standing",
    **dict.fromkeys(("bicycle", "motorcycle"), "cycle.without_rider"),
}
_FAST = 0.2


def attribute_of(name: str, speed: float) -> str:
    """Attribute that a submission gives a detection of class `name` at `speed`, metres per second.

    Barriers and cones have none.

    >>> attribute_of("bus", 0.1), attribute_of("pedestrian", 1.2), attribute_of("barrier", 3.0)
    ('vehicle.stopped', 'pedestrian.moving', '')
    """
    if speed > _FAST:
        return {**_MOVING, "pedestrian": "pedestrian.moving"}.get(name, "")
    return _RESTING.get(name, "")


_MINI_VAL = (103, 916)
# Numbers of the 150 validation scenes of v1.0-trainval as (first, last); the other 700 are for training.
_VAL = (
    *((3, 3), (12, 18), (35, 36), (38, 39), (92, 110), (221, 221), (268, 278), (329, 332), (344, 346)),
    *((519, 524), (552, 565), (625, 627), (629, 630), (632, 638), (770, 771), (775, 775), (777, 778)),
    *((780, 784), (794, 800), (802, 802), (904, 917), (919, 931), (962, 963), (966, 969), (971, 972)),
    (1059, 1073),
)


def _names(numbers: Sequence[int]) -> frozenset[str]:
    return frozenset(f"scene-{number:04d}" for number in numbers)


def scene_split(names: Sequence[str], split: str) -> npt.NDArray[np.bool_]:
    """Which scenes ``(S,)`` belong to an official split: train, val, test, mini_train or mini_val.

    Raises:
        ValueError: another split.

    >>> scene_split(["scene-0103", "scene-0061"], "mini_val").tolist()
    [True, False]
    """
    mini = _names(_MINI_VAL)
    val = _names([k for first, last in _VAL for k in range(first, last + 1)])
    if split not in {"train", "val", "test", "mini_train", "mini_val"}:
        raise ValueError(
            f"scene_split: split: got {split!r}; expected train, val, test, mini_train or mini_val"
        )
    if split == "test":
        return np.ones(len(names), dtype=bool)
    chosen = np.array([name in (mini if split.startswith("mini") else val) for name in names], dtype=bool)
    return chosen if split.endswith("val") else ~chosen
