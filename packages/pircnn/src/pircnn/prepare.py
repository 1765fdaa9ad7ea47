"""The verb `prepare`: object database with stored semantics, and cached maps of the image network."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from pircnn.checkpoints import load_segmentation
from pircnn.data.cache import SemanticCache
from pircnn.data.frames import FusionFrame, KittiFusionDataset, ObjectFrames
from pircnn.model import SegUNet, image_tensor
from tenfold._errors import UserInputError
from tenfold.io import file_hash, read_json, write_json
from tenfold.lidar.sampling import build_database, prepared_paths
from tenfold.train.progress import bar

__all__ = ["prepare", "read_facts", "semantic_map"]


def semantic_map(
    network: SegUNet, image: npt.NDArray[np.uint8], features: str = "prob"
) -> npt.NDArray[np.float32]:
    """Map (Cs, H, W) that the image network makes of a picture (H, W, 3) uint8 RGB.

    Args:
        network: in evaluation mode.
        image: of any size of at least 16 pixels a side.
        features: "prob" or "logits".
    """
    reference = next(network.parameters())
    with torch.inference_mode():
        logits = network(image_tensor(torch.from_numpy(np.ascontiguousarray(image)))[None].to(reference))
        told = logits.softmax(1) if features == "prob" else logits
    result: npt.NDArray[np.float32] = told[0].float().cpu().numpy()
    return result


def prepare(
    root: Path,
    split: str = "train",
    segmentation: Path | None = None,
    objects: bool = True,
    maps: bool = False,
    features: Literal["prob", "logits"] = "prob",
    dtype: Literal["float16", "uint8"] = "float16",
    fov_only: bool = True,
) -> None:
    """Write what training needs beside the official files, into ROOT/prepared.

    The object database for ground-truth sampling: with an image network, pasted points bring along the semantics of
    the image they were measured in (their pixel elsewhere would be somebody else's); without one, pasted points are
    unseen by the camera. And for the branch "cached" the network's maps of every frame. An interrupted run continues.

    Args:
        root: Folder of the data set.
        split: Name of the list of frames.
        segmentation: Checkpoint with an image network.
        objects: Write the object database.
        maps: Write the cached maps, about 9 MB a frame in float16 at ten classes; needs segmentation.
        features: What to store, as the detector's fusion reads it.
        dtype: Of cached maps; uint8 halves them.
        fov_only: Use only points that the camera sees, as training does.
    """
    if segmentation is None and maps:
        raise UserInputError("maps: needs an image network; add --segmentation seg.ckpt")
    network = None if segmentation is None else load_segmentation(segmentation)
    source = None if segmentation is None else file_hash(segmentation)
    if maps:
        assert network is not None
        assert source is not None
        _write_maps(root, split, network, source, features, dtype)
    if objects:
        _write_objects(root, split, network, source, features, fov_only)


def _write_maps(root: Path, split: str, network: SegUNet, source: str, features: str, dtype: str) -> None:
    frames = KittiFusionDataset(root, split, fov_only=False)
    folder = root / "prepared" / f"maps_{split}"
    cache = SemanticCache.create(folder, network.num_classes, features, source, dtype)
    for index in bar(range(len(frames)), f"maps {split}"):
        name = frames.ids[index]
        if not cache.path(name).is_file():
            camera = frames[index].camera
            assert camera is not None
            assert camera.image is not None
            cache.write(name, semantic_map(network, camera.image, features))
    print(f"{len(frames)} maps -> {folder}")


def _write_objects(
    root: Path, split: str, network: SegUNet | None, source: str | None, features: str, fov_only: bool
) -> None:
    def semantics(frame: FusionFrame) -> npt.NDArray[np.float32]:
        assert network is not None
        assert frame.camera is not None
        assert frame.camera.image is not None
        return semantic_map(network, frame.camera.image, features)

    stored = 0 if network is None else network.num_classes
    frames = ObjectFrames(
        root, split, semantics=None if network is None else semantics, stored=stored, fov_only=fov_only
    )
    database = build_database(frames, progress=lambda indices: bar(indices, f"objects {split}"))
    file = prepared_paths(root, frames.prepared_name)[0]
    if network is not None:
        write_json(
            file.with_suffix(".json"), {"channels": stored, "checkpoint": source, "features": features}
        )
    print(f"{len(database)} objects of {len(frames)} frames -> {file}")


def read_facts(root: Path, split: str) -> tuple[dict[str, Any], Path]:
    """What image network the stored semantics of a split come from, and the file that says so.

    Raises:
        UserInputError: no database with semantics.
    """
    place = prepared_paths(root, f"{split}_semantic")[0].with_suffix(".json")
    if not place.is_file():
        raise UserInputError(
            f"{place}: no object database with semantics; write it with `pircnn prepare ROOT --segmentation seg.ckpt`, "
            "or switch ground-truth sampling off with data.counts={}"
        )
    facts: dict[str, Any] = read_json(place)
    return facts, place
