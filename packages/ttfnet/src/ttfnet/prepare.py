"""The verb `prepare`: YOLO's text labels into COCO's annotation files."""

from __future__ import annotations

import math
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from tenfold._errors import UserInputError
from tenfold.io import read_image, write_json
from tenfold.train.progress import bar

__all__ = ["prepare", "yolo_to_coco"]

_IMAGES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}


def prepare(root: Path, names: Path | None = None) -> None:
    """Turn a data set with YOLO text labels into COCO's layout; the images stay where they are.

    Expected are images/SPLIT/*.jpg and labels/SPLIT/*.txt (class, then centre x, y, width, height relative to
    the image), and the class names in data.yaml or classes.txt. Written is annotations/instances_SPLIT.json,
    after which `ttfnet fit --config custom data.root=ROOT` works.

    Args:
        root: Folder of the data set.
        names: File with the class names: YAML with `names`, or one name a line.
    """
    classes = _class_names(root, names)
    splits = (
        sorted(p.name for p in (root / "images").iterdir() if p.is_dir())
        if (root / "images").is_dir()
        else []
    )
    if not splits:
        raise UserInputError(f"{root / 'images'}: no folders of images such as images/train")
    documents = {split: yolo_to_coco(root, split, classes) for split in splits}
    (root / "annotations").mkdir(exist_ok=True)
    for split, (document, problems) in documents.items():
        target = root / "annotations" / f"instances_{split}.json"
        write_json(target, document, indent=None)
        print(f"{len(document['images'])} images, {len(document['annotations'])} objects -> {target}")
        for problem, count in problems.items():
            print(f"{split}: {count} {problem}", file=sys.stderr)


def _class_names(root: Path, names: Path | None) -> list[str]:
    candidates = [names] if names else [root / n for n in ("data.yaml", "dataset.yaml", "classes.txt")]
    file = next((f for f in candidates if f.is_file()), None)
    if file is None:
        raise UserInputError(f"{candidates[0]}: no such file; the class names are read from it")
    text = _text(file)
    if file.suffix == ".txt":
        found: Any = [line.strip() for line in text.splitlines() if line.strip()]
    else:
        try:
            found = yaml.safe_load(text)["names"]
        except (yaml.YAMLError, KeyError, TypeError) as error:
            raise UserInputError(f"{file}: names: missing; expected a list of class names") from error
    if isinstance(found, dict):
        if sorted(found) != list(range(len(found))):
            raise UserInputError(f"{file}: names: expected the numbers 0 to {len(found) - 1} as keys")
        found = [found[k] for k in range(len(found))]
    if not isinstance(found, list) or not found:
        raise UserInputError(f"{file}: names: got {found!r}; expected a list of class names")
    return [str(name) for name in found]


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserInputError(f"{file}: file: cannot be read as text ({error})") from error


def yolo_to_coco(root: Path, split: str, classes: list[str]) -> tuple[dict[str, Any], Counter[str]]:
    """COCO's document of one split, and what was irregular.

    Raises:
        UserInputError: a label file with a wrong line, named with file and line; or no images.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    problems: Counter[str] = Counter()
    files = sorted(p for p in (root / "images" / split).iterdir() if p.suffix.lower() in _IMAGES)
    for file in bar(files, f"prepare {split}"):
        try:
            height, width = read_image(file).shape[:2]
        except UserInputError as error:
            problems["unreadable images are left out"] += 1
            print(f"left out: {error}", file=sys.stderr)
            continue
        images.append({"id": len(images) + 1, "file_name": file.name, "width": width, "height": height})
        label = root / "labels" / split / f"{file.stem}.txt"
        if not label.is_file():
            problems["images have no label file: they count as empty"] += 1
            continue
        for category, box in _boxes(label, len(classes), (height, width), problems):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": len(images),
                    "category_id": category + 1,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
    if not images:
        raise UserInputError(f"{root / 'images' / split}: no images that can be read")
    categories = [{"id": k + 1, "name": name} for k, name in enumerate(classes)]
    return {"images": images, "annotations": annotations, "categories": categories}, problems


def _boxes(
    file: Path, classes: int, size: tuple[int, int], problems: Counter[str]
) -> list[tuple[int, list[float]]]:
    found = []
    height, width = size
    for number, line in enumerate(_text(file).splitlines(), 1):
        if not line.strip():
            continue
        try:
            words = [float(word) for word in line.split()]
        except ValueError as error:
            raise UserInputError(f"{file}: line {number}: got {line[:60]!r}; expected numbers") from error
        if len(words) < 5 or not all(math.isfinite(w) for w in words):
            raise UserInputError(
                f"{file}: line {number}: got {len(words)} numbers; expected class, x, y, width, height"
            )
        if words[0] != int(words[0]) or not 0 <= words[0] < classes:
            raise UserInputError(f"{file}: line {number}: class {words[0]:g}; expected 0 to {classes - 1}")
        if len(words) > 5 and len(words) % 2:  # a polygon: its bounding box
            xs, ys = words[1::2], words[2::2]
            x1, y1, x2, y2 = min(xs), min(ys), max(xs), max(ys)
        else:
            x, y, w, h = words[1:5]
            x1, y1, x2, y2 = x - w / 2, y - h / 2, x + w / 2, y + h / 2
        if max(-x1, -y1, x2 - 1, y2 - 1) > 0.01:
            problems["boxes leave their image: clipped"] += 1
        x1, y1, x2, y2 = (min(max(v, 0.0), 1.0) for v in (x1, y1, x2, y2))
        if x2 <= x1 or y2 <= y1:
            problems["boxes without area are left out"] += 1
            continue
        found.append((int(words[0]), [x1 * width, y1 * height, (x2 - x1) * width, (y2 - y1) * height]))
    return found
