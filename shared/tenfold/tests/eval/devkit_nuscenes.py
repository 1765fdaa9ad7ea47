"""The same numbers by the official development kit, and the fixture that keeps them.

Not a test: run `python tests/eval/devkit_nuscenes.py` with the kit (nuscenes-devkit 1.2.0) on PYTHONPATH to
write fixtures/nuscenes_official.npz again.
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from nuscenes_cases import KINDS, make_case, pack

from tenfold.eval.nuscenes import CLASSES, DISTANCES, ERRORS

FIXTURE = Path(__file__).parent / "fixtures" / "nuscenes_official.npz"


class Tables:
    """As much of the kit's database as its filters ask for."""

    def __init__(self, gt):
        self.records = {}
        for token, sample in gt.items():
            anns = []
            for k in range(len(sample.racks)):
                ann = f"{token}/{k}"
                anns.append(ann)
                columns = {
                    name: getattr(sample.racks, name)[k].tolist()
                    for name in ("translation", "size", "rotation")
                }
                self.records["sample_annotation", ann] = {
                    "category_name": "static_object.bicycle_rack",
                    **columns,
                }
            self.records["sample", token] = {"anns": anns, "data": {"LIDAR_TOP": token}}
            self.records["sample_data", token] = {"ego_pose_token": token}
            self.records["ego_pose", token] = {"translation": sample.ego.tolist()}

    def get(self, table, token):
        return self.records[table, token]


def kit_boxes(frames, scores):
    from nuscenes.eval.common.data_classes import EvalBoxes
    from nuscenes.eval.detection.data_classes import DetectionBox

    result = EvalBoxes()
    for token, boxes in frames.items():
        rows = [
            DetectionBox(
                sample_token=token,
                translation=tuple(boxes.translation[k]),
                size=tuple(boxes.size[k]),
                rotation=tuple(boxes.rotation[k]),
                velocity=tuple(boxes.velocity[k]),
                num_pts=int(boxes.num_points[k]),
                detection_name=boxes.name[k],
                detection_score=float(boxes.score[k]) if scores else -1.0,
                attribute_name=boxes.attribute[k],
            )
            for k in range(len(boxes))
        ]
        result.add_boxes(token, rows)
    return result


def official(gt, det):
    """(aps (10, 4), errors (10, 5), mean AP, NDS) of the development kit."""
    from nuscenes.eval.common.config import config_factory
    from nuscenes.eval.common.loaders import add_center_dist, filter_eval_boxes
    from nuscenes.eval.detection.evaluate import DetectionEval

    kit = DetectionEval.__new__(DetectionEval)
    kit.cfg, kit.verbose = config_factory("detection_cvpr_2019"), False
    tables = Tables(gt)
    sides = []
    for frames, scores in (({t: s.boxes for t, s in gt.items()}, False), (det, True)):
        boxes = add_center_dist(tables, kit_boxes(frames, scores))
        empty = not any(len(b) for b in frames.values())  # the kit's filter cannot name the class of no box
        sides.append(boxes if empty else filter_eval_boxes(tables, boxes, kit.cfg.class_range))
    kit.gt_boxes, kit.pred_boxes = sides
    metrics, _ = kit.evaluate()
    aps = [[metrics.get_label_ap(n, d) for d in DISTANCES] for n in CLASSES]
    errors = [[metrics.get_label_tp(n, e) for e in ERRORS] for n in CLASSES]
    return np.array(aps), np.array(errors), metrics.mean_ap, metrics.nd_score


def main(seeds=4):
    cases = [(kind, *make_case(seed, kind)) for kind in KINDS for seed in range(seeds)]
    found = [official(gt, det) for _, gt, det in cases]
    rows, frames = pack([(gt, det) for _, gt, det in cases])
    np.savez_compressed(
        FIXTURE,
        kinds=np.array([kind for kind, _, _ in cases]),
        rows=rows,
        frames=frames,
        aps=np.array([f[0] for f in found]),
        errors=np.array([f[1] for f in found]),
        means=np.array([f[2:] for f in found]),
    )
    print(len(cases), "cases,", len(rows), "boxes,", FIXTURE.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
