"""Detectors on a user's own files, with a picture of what the module looks at. Needs no training extra."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from denfi.model import DenfiDet, bev_grid, build
from denfi.model.conv import DenfiConv
from denfi.model.proposal import BoundaryOutput
from denfi.targets import boundary_targets, decode_boundary
from tenfold._errors import UserInputError
from tenfold.lidar import predict as lidar
from tenfold.lidar.clouds import frame_name
from tenfold.lidar.predict import Detections, Prediction, find_objects, point_range, write_files
from tenfold.train.processes import use_threads

__all__ = ["Looks", "load_detector", "looks_of", "predict"]

_RESOLUTION = 0.05


def load_detector(checkpoint: str | Path) -> DenfiDet:
    """The detector of a checkpoint that ``denfi fit`` has written, in evaluation mode; no Lightning needed.

    Raises:
        UserInputError: a missing or damaged file, or one that is no checkpoint of this package.
    """
    model = lidar.load_detector(checkpoint, build)
    assert isinstance(model, DenfiDet)
    return model


class Looks:
    """Where the module looked for each detection of a frame.

    Args:
        owner: (P,) detection of each pixel of the feature map shown.
        pixels: (P, 2) their centres x, y, metres.
        proposals: (P, 5) boxes x, y, l, w, heading that the boundary proposals of these pixels describe; None for
            a variant without them.
        sampled: branch ("cls", "reg") -> (P, 2) sampling points, metres; only branches whose points move.
        middle: (n,) the pixel of each detection that is nearest to its centre, an index into the others; -1 where
            the detection has none.
    """

    def __init__(
        self,
        owner: npt.NDArray[np.int64],
        pixels: npt.NDArray[np.float32],
        proposals: npt.NDArray[np.float32] | None,
        sampled: dict[str, npt.NDArray[np.float32]],
        middle: npt.NDArray[np.int64],
    ) -> None:
        self.owner, self.pixels, self.proposals = owner, pixels, proposals
        self.sampled, self.middle = sampled, middle

    def to_dict(self) -> dict[str, Any]:
        """Plain data, one entry per detection."""
        entries = []
        for number, middle in enumerate(self.middle.tolist()):
            rows = (self.owner == number).nonzero()[0]
            entry: dict[str, Any] = {
                "pixels": self.pixels[rows].tolist(),
                **{f"sampled_{name}": points[rows].tolist() for name, points in self.sampled.items()},
            }
            if self.proposals is not None:
                entry["proposal"] = self.proposals[middle].tolist() if middle >= 0 else None
            entries.append(entry)
        return {"columns": ["x", "y", "l", "w", "heading"], "detections": entries}


def looks_of(model: DenfiDet, boxes: npt.NDArray[Any]) -> Looks:
    """Where the module looked in the frame that the model has seen last.

    Args:
        model: in evaluation mode, after it has run on one frame.
        boxes: (n, 7) detections of that frame; the pixels in their middles are shown.
    """
    grid, plug = bev_grid(model.detector), model.plug
    footprints = torch.from_numpy(np.asarray(boxes, np.float32)[:, [0, 1, 3, 4, 6]])
    made = boundary_targets(footprints, torch.zeros(len(footprints), dtype=torch.int64), grid)
    row, column = (made.labels >= 0).nonzero(as_tuple=True)
    x, y = grid.centres(footprints)
    pixels, owner = torch.stack((x[column], y[row]), 1), made.owner[row, column]
    proposals: Tensor | None = None
    if plug is not None and isinstance(plug.last, BoundaryOutput):
        decoded = decode_boundary(plug.last.dist[:1].float(), plug.last.proposals[:1, 4].float(), grid)
        proposals = decoded[0, row, column].cpu()
    sampled = {}
    for name in ("cls", "reg"):
        refine = None if plug is None else getattr(plug.denfi, f"refine_{name}")
        if isinstance(refine, DenfiConv) and refine.last_offset is not None:
            shift = refine.last_offset[0][:, row, column].cpu().float() * grid.cell
            sampled[name] = (pixels + shift.flip(0).T).numpy()
    middle = torch.full((len(footprints),), -1)
    for number in range(len(footprints)):
        rows = (owner == number).nonzero()[:, 0]
        if len(rows):
            middle[number] = rows[(pixels[rows] - footprints[number, :2]).norm(dim=1).argmin()]
    return Looks(
        owner.numpy(),
        pixels.numpy(),
        None if proposals is None else proposals.numpy(),
        sampled,
        middle.numpy().astype(np.int64),
    )


def predict(
    frame: Path,
    checkpoint: Path,
    out: Path = Path("predictions"),
    calib: Path | None = None,
    image: Path | None = None,
    min_score: float = 0.1,
    intensity_scale: float = 1.0,
    columns: int | None = None,
    threads: int | None = None,
) -> None:
    """Detect objects in one point cloud, and show what the module looks at.

    Writes what `tenfold lidar predict` writes (FRAME.json and pictures), and FRAME_looks.png and
    FRAME_looks.json: for each detection the box that the boundary proposal in its middle describes (white), and
    lines from the pixels of its middle to where each branch reads the features instead.

    Args:
        frame: Point cloud, .bin, .npy, .npz, .ply or .pcd; x forward, y left, z up, metres.
        checkpoint: Checkpoint written by `denfi fit`.
        out: Folder for the results.
        calib: KITTI calibration file of the frame.
        image: Camera image of the frame; needs a calibration.
        min_score: Leave out boxes with a smaller score.
        intensity_scale: Multiplies the intensity, which KITTI's models expect in [0, 1].
        columns: Of a .bin file, 4 by default.
        threads: Threads to use; all cores by default.
    """
    use_threads(threads)
    model = load_detector(checkpoint)
    if model.denfi_config.row.source == "oracle":
        raise UserInputError(
            f"{checkpoint}: variant: {model.denfi_config.variant!r} needs the objects of the frame"
        )
    seen = find_objects(
        model, frame, calib, image, min_score=min_score, intensity_scale=intensity_scale, columns=columns
    )
    files = {**seen.files, **look_files(model, seen, frame_name(frame))}
    write_files(out, files)
    print(f"{len(seen.found['scores'])} objects in {len(seen.points)} points -> {out / next(iter(files))}")


def look_files(model: DenfiDet, seen: Prediction, stem: str) -> dict[str, bytes]:
    """The picture and the numbers of where the module looked, as files."""
    from tenfold.viz import encode_image

    looks = looks_of(model, seen.found["boxes"])
    picture = look_picture(model, seen.points, seen.found, looks)
    return {
        f"{stem}_looks.png": encode_image(picture),
        f"{stem}_looks.json": (json.dumps(looks.to_dict(), indent=1) + "\n").encode(),
    }


def look_picture(
    model: DenfiDet,
    points: npt.NDArray[Any],
    found: Detections,
    looks: Looks,
    resolution: float = _RESOLUTION,
) -> npt.NDArray[np.uint8]:
    """Bird's-eye picture (H, W, 3): points, detections in colour, boundary proposals in white, sampling points."""
    from denfi.pictures import draw_looks
    from tenfold.viz import bev_image

    limits, shown = point_range(model), looks.middle[looks.middle >= 0]
    picture = bev_image(
        points,
        found["boxes"][:, :7],
        found["labels"],
        found["scores"],
        range=limits,
        resolution=resolution,
        class_names=model.class_names,
        point_size=2,
    )
    proposals = None if looks.proposals is None else looks.proposals[shown]
    return draw_looks(picture, limits, resolution, looks.pixels, looks.sampled, proposals)
