"""COCO's numbers against hand-computed cases, and the confusion matrix."""

import json

import numpy as np
import pytest

from tenfold._errors import UserInputError
from tenfold.testing import require
from ttfnet.data import read_annotations
from ttfnet.evaluation import NAMES, coco_evaluate, confusion_matrix, evaluate
from ttfnet.plots import confusion_image, precision_recall_chart, write_plots

require("pycocotools")


def truth(tmp_path, boxes, images=1, crowd=()):
    """Annotation file with boxes of category 5 (of 5 and 9), one in each image or all in the first."""
    content = {
        "images": [{"id": k, "file_name": f"{k}.jpg", "width": 200, "height": 200} for k in range(images)],
        "annotations": [
            {
                "id": k,
                "image_id": k if images > 1 else 0,
                "category_id": 5,
                "bbox": list(b),
                "area": b[2] * b[3],
                "iscrowd": int(k in crowd),
            }
            for k, b in enumerate(boxes)
        ],
        "categories": [{"id": 5, "name": "five"}, {"id": 9, "name": "nine"}],
    }
    file = tmp_path / "truth.json"
    file.write_text(json.dumps(content))
    return file


def found(box, score=0.9, image=0, category=5):
    return {"image_id": image, "category_id": category, "bbox": list(box), "score": score}


BOX = (20, 20, 60, 60)


@pytest.mark.parametrize(
    ("boxes", "rows", "ap", "ap50"),
    [
        ([BOX], [found(BOX)], 1.0, 1.0),
        ([BOX], [found(BOX, 0.8), found((120, 120, 60, 60), 0.9)], 0.5, 0.5),
        ([BOX, (110, 110, 60, 60)], [found(BOX)], 51 / 101, 51 / 101),
        ([BOX], [found((20, 20, 60, 60 * 9 / 11))], 0.7, 1.0),  # overlap 9/11: thresholds 0.5 to 0.8
        ([BOX], [found((20, 20, 60, 30))], 0.1, 1.0),  # exactly 0.5
        ([BOX], [found(BOX, category=9)], 0.0, 0.0),
        ([BOX], [], 0.0, 0.0),
    ],
)
def test_hand_computed_cases(tmp_path, boxes, rows, ap, ap50):
    numbers = coco_evaluate(rows, truth(tmp_path, boxes))
    assert tuple(numbers) == NAMES
    assert numbers["AP"] == pytest.approx(ap, abs=1e-6)
    assert numbers["AP50"] == pytest.approx(ap50, abs=1e-6)


def test_images_without_detections_count_and_crowds_do_not(tmp_path):
    file = truth(tmp_path, [BOX, BOX], images=2)
    assert coco_evaluate([found(BOX)], file)["AP"] == pytest.approx(51 / 101)
    file = truth(tmp_path, [BOX, (100, 100, 90, 90)], crowd=(1,))
    rows = [found(BOX, 0.5), found((110, 110, 20, 20), 0.9)]
    assert coco_evaluate(rows, file)["AP"] == pytest.approx(1.0)


def test_areas_are_bounded_on_both_sides(tmp_path):
    numbers = coco_evaluate([found((0, 0, 32, 32))], truth(tmp_path, [(0, 0, 32, 32)]))
    assert (numbers["APs"], numbers["APm"], numbers["APl"]) == pytest.approx((1, 1, -1))


def test_annotation_ids_of_zero_do_not_spoil_the_result(tmp_path):
    # pycocotools takes a matched id of 0 for "no match".
    assert coco_evaluate([found(BOX)], truth(tmp_path, [BOX]))["AP"] == pytest.approx(1)


def test_results_that_do_not_fit_are_named(tmp_path):
    file = truth(tmp_path, [BOX])
    with pytest.raises(UserInputError, match=r"\[0\]: image 4, category 5 are not in"):
        coco_evaluate([found(BOX, image=4)], file)
    with pytest.raises(UserInputError, match=r"\[0\]\.score: missing"):
        coco_evaluate([{"image_id": 0, "category_id": 5, "bbox": [0, 0, 1, 1]}], file)
    (tmp_path / "rows.json").write_text("{}")
    with pytest.raises(UserInputError, match=r"rows\.json: document: got a dict"):
        coco_evaluate(tmp_path / "rows.json", file)
    (tmp_path / "rows.json").write_text(json.dumps([found(BOX)]))
    assert coco_evaluate(tmp_path / "rows.json", file)["AP"] == pytest.approx(1)


def test_confusion_matrix(tmp_path):
    data = read_annotations(truth(tmp_path, [BOX, (110, 110, 60, 60)]))
    rows = [
        found((22, 20, 60, 60), category=9),
        found(BOX, 0.1),  # below the threshold
        found((150, 0, 20, 20)),
    ]
    assert confusion_matrix(rows, data).tolist() == [[0, 1, 1], [0, 0, 0], [1, 0, 0]]


def test_plots(tmp_path):
    data = read_annotations(truth(tmp_path, [BOX]))
    result = evaluate([found(BOX)], data)
    assert result.per_class == pytest.approx({"five": 1.0, "nine": -1.0})
    assert "mean" in precision_recall_chart(result)
    paths = write_plots(tmp_path, result, confusion_matrix([found(BOX)], data), data.class_names)
    assert [p.name for p in paths] == ["precision_recall.svg", "confusion.png"]
    assert all(p.stat().st_size > 200 for p in paths)
    many = confusion_image(np.eye(81, dtype=np.int64), [f"class {k}" for k in range(80)])
    assert many.shape[0] < 1200
    empty = evaluate([], data)
    assert empty.numbers["AP"] == 0
    assert precision_recall_chart(empty) == ""
