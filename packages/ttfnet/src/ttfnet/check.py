"""The verb `check-data`."""

from collections import Counter
from pathlib import Path

import numpy as np

from tenfold._errors import UserInputError
from tenfold.io import read_image
from tenfold.train.progress import bar
from ttfnet.data.annotations import Annotations, read_annotations

__all__ = ["check_data", "check_images"]


def check_data(annotations: Path, images: Path | None = None) -> int:
    """Look for mistakes in a COCO annotation file, and in its images if their folder is given.

    The exit code is 2 if annotations or images cannot be used.

    Args:
        annotations: COCO annotation file.
        images: Folder of its images; every one is opened.
    """
    data = read_annotations(annotations)
    print(_summary(data))
    print(f"irregular:\n{data.report}")
    bad: list[str] = []
    if images is not None:
        if not images.is_dir():
            raise UserInputError(f"{images}: images: no such folder")
        bad = check_images(data, images)
        print(f"images: {len(data.records) - len(bad):,} can be used, {len(bad):,} cannot")
        print("\n".join(f"  {line}" for line in bad[:20]) + ("\n  ..." if len(bad) > 20 else ""))
    return 2 if bad or data.report.lost else 0


def check_images(data: Annotations, folder: Path) -> list[str]:
    """One sentence for each image that cannot be read or has another size than the annotations say."""
    bad = []
    for record in bar(data.records, "images"):
        path = folder / record.file_name
        try:
            shape = read_image(path).shape[:2]
        except UserInputError as error:
            bad.append(str(error))
            continue
        if shape != record.size:
            bad.append(
                f"{path}: image: is {shape[1]} x {shape[0]} when turned upright; the annotations say "
                f"{record.size[1]} x {record.size[0]}"
            )
    return bad


def _summary(data: Annotations) -> str:
    counts = data.counts()
    boxes = [r.boxes for r in data.records if len(r.boxes)]
    lines = [
        f"{data.path}: {len(data.records):,} images ({len(data.for_training()):,} to train on), "
        f"{int(counts.sum()):,} objects, {len(data.class_names)} classes"
    ]
    if boxes:
        together = np.concatenate(boxes)
        area = (together[:, 2:] - together[:, :2]).prod(1)
        small, large = float((area <= 32**2).mean()), float((area > 96**2).mean())
        lines.append(
            f"objects: {small:.0%} small (to 32 x 32), {1 - small - large:.0%} medium, {large:.0%} large"
        )
    ranked = Counter(dict(zip(data.class_names, counts.tolist(), strict=True))).most_common()
    lines.append("most frequent: " + ", ".join(f"{name} {count:,}" for name, count in ranked[:5]))
    lines.append("least frequent: " + ", ".join(f"{name} {count:,}" for name, count in ranked[-5:]))
    return "\n".join(lines)
