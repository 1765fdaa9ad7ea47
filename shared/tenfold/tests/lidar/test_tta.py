"""Test-time augmentation: views undo themselves, merging keeps the best, a blind detector sees more."""

import numpy as np
import pytest
import torch

from tenfold._errors import UserInputError
from tenfold.geometry import wrap_angle
from tenfold.lidar.task import LidarTask
from tenfold.lidar.tta import View, detect_views, make_views, merge_detections

ALL = make_views(["x", "y", "xy"], [0.3, -0.2], [0.95, 1.1])


def test_views():
    assert len(ALL) == 4 * 3 * 3
    assert ALL[0] == View()
    assert make_views([""], [0.0]) == (View(),)
    for wrong in ({"flip": "z"}, {"scale": 0.0}):
        with pytest.raises(ValueError, match="View"):
            View(**wrong)
    with pytest.raises(UserInputError, match="flip: got 'up'"):
        LidarTask(tta_flips=["up"], overrides={"class_names": ["Car"]})


@pytest.mark.parametrize("view", ALL)
def test_boxes_of_a_view_come_back(view):
    """A box is moved as its centre, its front and its velocity's tip are, and back again."""
    box = torch.tensor([[10.0, 3, -1, 4, 2, 1.5, 0.7, 2.0, 1.0]], dtype=torch.float64)
    ahead = torch.tensor([[torch.cos(box[0, 6]), torch.sin(box[0, 6]), 0]])
    marks = torch.cat((box[:, :3], box[:, :3] + ahead, box[:, :3] + torch.tensor([[2.0, 1.0, 0]])))
    seen = view.points(torch.cat((marks, torch.full((3, 1), 0.5)), 1))
    assert (seen[:, 3] == 0.5).all()
    front, tip = seen[1, :2] - seen[0, :2], seen[2, :2] - seen[0, :2]
    found = box.clone()
    found[0, :3] = seen[0, :3]
    found[0, 3:6] *= view.scale
    found[0, 6] = torch.atan2(front[1], front[0])
    found[0, 7:] = tip
    back = view.boxes_back(found)
    torch.testing.assert_close(back[:, :6], box[:, :6])
    torch.testing.assert_close(back[:, 7:], box[:, 7:])
    assert abs(float(wrap_angle(back[0, 6] - box[0, 6]))) < 1e-9


def boxes(*rows):
    return torch.tensor(rows, dtype=torch.float32)


def test_merging():
    car, far = [10.0, 0, 0, 4, 2, 1.5, 0.0], [30.0, 0, 0, 4, 2, 1.5, 0.0]
    first = {"boxes": boxes(car), "scores": torch.tensor([0.4]), "labels": torch.tensor([0])}
    second = {
        "boxes": boxes([10.2, *car[1:]], far, car),
        "scores": torch.tensor([0.8, 0.3, 0.5]),
        "labels": torch.tensor([0, 0, 1]),
    }
    merged = merge_detections([first, second])
    np.testing.assert_allclose(merged["scores"], [0.8, 0.5, 0.3])
    assert merged["labels"].tolist() == [0, 1, 0]  # classes do not suppress each other
    assert len(merge_detections([first, second], most=2)["scores"]) == 2
    empty = {
        "boxes": torch.zeros(0, 7),
        "scores": torch.zeros(0),
        "labels": torch.zeros(0, dtype=torch.int64),
    }
    assert len(merge_detections([empty, empty])["scores"]) == 0
    assert len(merge_detections([empty, first])["scores"]) == 1


class LeftEye:
    """Finds the mean of each frame's points, but only on the left."""

    def __call__(self, batch):
        found = []
        for k in range(batch["batch_size"]):
            points = batch["points"][batch["points"][:, 0] == k, 1:]
            left = points[points[:, 1] > 0, :3]
            rows = [[*left.mean(0).tolist(), 4.0, 2.0, 1.5, 0.0]] if len(left) else []
            found.append(
                {
                    "boxes": torch.tensor(rows).reshape(-1, 7),
                    "scores": torch.full((len(rows),), 0.5),
                    "labels": torch.zeros(len(rows), dtype=torch.int64),
                }
            )
        return found


def test_views_see_what_one_does_not():
    points = torch.tensor([[0.0, 10, -5, 0, 1], [0, 10, -5, 0, 1], [1, 20, 7, 0, 1]])
    batch = {"points": points, "batch_size": 2}
    alone = detect_views(LeftEye(), batch, (View(),))
    assert [len(f["scores"]) for f in alone] == [0, 1]
    both = detect_views(LeftEye(), batch, make_views(["x"]))
    assert [len(f["scores"]) for f in both] == [1, 1]
    np.testing.assert_allclose(both[0]["boxes"][0, :3], [10, -5, 0], atol=1e-5)
