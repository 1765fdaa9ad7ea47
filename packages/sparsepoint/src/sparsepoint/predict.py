"""Detectors on a user's own scans: points or a mesh in, boxes and pictures out. Needs no training extra."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from sparsepoint.align import estimate_alignment
from sparsepoint.checkpoint import load_detector
from sparsepoint.data.files import colours_of
from sparsepoint.data.scenes import choose_rows, floor_of, network_points
from sparsepoint.data.sens import sens_points
from sparsepoint.models import Detections3D
from sparsepoint.pictures import box_mesh, room_picture
from tenfold._errors import UserInputError
from tenfold.geometry import transform_boxes, transform_points
from tenfold.io import PointCloud, make_folder, read_mesh, read_points, write_bytes, write_mesh
from tenfold.train.processes import use_threads

__all__ = ["Scan", "detect", "predict", "read_scan", "sample_surface"]

_MIN_SCORE = 0.3


@dataclass(frozen=True, eq=False)
class Scan:
    """A user's scan in its own frame.

    Attributes:
        points: (N, 3) float64, finite.
        colours: (N, 3) float32 from 0 to 255, or None.
        dropped: points left out because they were not finite.
    """

    points: npt.NDArray[np.float64]
    colours: npt.NDArray[np.float32] | None
    dropped: int


def sample_surface(
    vertices: npt.NDArray[Any], faces: npt.NDArray[np.int64], number: int, rng: np.random.Generator
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Points (n, 3) drawn evenly from the surface of triangles, the triangle of each and its weights (n, 3) there.

    Raises:
        UserInputError: the triangles have no area.
    """
    corners = vertices[faces].astype(np.float64)
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    area = np.where(np.isfinite(area), area, 0.0)
    if not area.sum() > 0:
        raise UserInputError("mesh: face: the triangles have no area")
    own = rng.choice(len(faces), number, p=area / area.sum())
    u, v = rng.random((2, number))
    low = u + v > 1
    u, v = np.where(low, 1 - u, u), np.where(low, 1 - v, v)
    weights = np.stack((1 - u - v, u, v), 1)
    return (corners[own] * weights[..., None]).sum(1), own, weights


def read_scan(
    path: Path, mesh: Literal["auto", "vertices", "surface"] = "auto", number: int = 40000, seed: int = 0
) -> Scan:
    """Points of a scan; of a mesh its vertices, or points drawn from its surface.

    Args:
        path: .ply (points or mesh), .npy, .npz, .bin or .pcd; or a recording, .sens, of which see `sens_points`.
        mesh: "auto" draws from the surface where a mesh has fewer vertices than the network takes points.
        number: points to draw.
        seed: of the drawing.

    Raises:
        UserInputError: an unreadable or damaged file, no finite point, or "surface" without a mesh.
    """
    is_mesh = path.suffix.lower() == ".ply" and _has_faces(path)
    if mesh == "surface" and not is_mesh:
        raise UserInputError(f"{path}: mesh: the file has no faces; expected a mesh for --mesh surface")
    cloud, faces = read_mesh(path) if is_mesh and mesh != "vertices" else (_read_cloud(path), None)
    with np.errstate(invalid="ignore"):  # what is not finite is left out below
        points, colours = cloud.xyz.astype(np.float64), colours_of(cloud)
    if faces is not None and (mesh == "surface" or len(points) < number):
        rng = np.random.default_rng(seed)
        try:
            points, own, weights = sample_surface(points, faces, number, rng)
        except UserInputError as error:
            raise UserInputError(f"{path}: {error}") from error
        if colours is not None:
            colours = (colours[faces[own]] * weights[..., None]).sum(1).astype(np.float32)
    good = np.isfinite(points).all(1)
    if not good.any():
        raise UserInputError(f"{path}: points: no finite point among {len(points)}")
    return Scan(points[good], None if colours is None else colours[good], int((~good).sum()))


def _read_cloud(path: Path) -> PointCloud:
    return sens_points(path) if path.suffix.lower() == ".sens" else read_points(path)


def _has_faces(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(8192).split(b"end_header")[0]
    except OSError:
        return False  # the reader will say what is wrong
    words = [line.split() for line in head.splitlines() if line.startswith(b"element face")]
    return any(len(w) == 3 and w[2].isdigit() and int(w[2]) > 0 for w in words)


def detect(
    model: Any,
    scan: Scan,
    *,
    align: npt.NDArray[np.float64] | None = None,
    seed: int = 0,
    **options: Any,
) -> Detections3D:
    """Detections of a scan in its own frame, best first.

    Args:
        model: `SparsePoint` or `VoteNet` in evaluation mode.
        scan: the points.
        align: (4, 4) from the scan's frame to the one the network knows; boxes are turned back.
        seed: of the subsample.
        **options: of ``predict``.
    """
    matrix = np.eye(4) if align is None else align
    points = transform_points(scan.points, matrix).astype(np.float32)
    rows = choose_rows(len(points), model.config.num_points, np.random.default_rng(seed))
    colours = None if scan.colours is None else torch.from_numpy(scan.colours[rows])
    seen = network_points(torch.from_numpy(points[rows]), floor_of(points), colours, model.config.features)
    found: Detections3D = model.predict(seen[None], **options)[0]
    if align is None:
        return found
    back = torch.from_numpy(np.linalg.inv(matrix)).to(found.boxes.dtype)
    boxes = transform_boxes(found.boxes, back, tolerance=0.5)
    return Detections3D(boxes, found.scores, found.labels, found.proposal_index)


def predict(
    scan: Path,
    checkpoint: str,
    out: Path = Path("predictions"),
    min_score: float = _MIN_SCORE,
    class_scores: dict[str, float] | None = None,
    align: Literal["none", "auto"] = "none",
    gravity: tuple[float, float, float] | None = None,
    mesh: Literal["auto", "vertices", "surface"] = "auto",
    stages: int | None = None,
    nms: float | None = None,
    all_labels: bool = False,
    seed: int = 0,
    threads: int | None = None,
) -> None:
    """Detect objects in one scan; write boxes as JSON and as a mesh, and a picture.

    Writes SCAN.json, SCAN_boxes.ply (the edges of the boxes, for any viewer) and SCAN.png. Nothing is suppressed: every
    proposal is one object or none.

    Args:
        scan: Point cloud or mesh: .ply, .npy, .npz, .bin or .pcd; or a recording of ScanNet, .sens; metres, z up.
        checkpoint: Checkpoint written by `sparsepoint fit`, or tiny: the package's own, which knows generated rooms.
        out: Folder for the results.
        min_score: Leave out boxes with a smaller score.
        class_scores: Least scores of single classes, such as '{chair: 0.5}'.
        align: auto turns the scan so that its walls lie along the axes and its floor at zero, as ScanNet's models
            expect; boxes are in the scan's own frame all the same.
        gravity: Direction of the gravity in the scan's frame, such as '[0, 0.1, -1]', where it is known; align auto
            then takes no plane for the floor.
        mesh: Of a mesh take the vertices, or draw points from the surface; auto draws where there are few vertices.
        stages: Stop after so many refinements.
        nms: Suppress boxes of a class above this overlap; off by default, since it is not needed.
        all_labels: Give a box under every class that is likely enough, not only under its best.
        seed: Of the subsample.
        threads: Threads to use; all cores by default.
    """
    use_threads(threads)
    model = load_detector(checkpoint)
    levels = score_levels(model.class_names, min_score, class_scores)
    most = model.config.num_stages
    if stages is not None and model.config.dense:
        raise UserInputError(f"stages: got {stages}; {checkpoint} is a dense detector, which has none")
    if stages is not None and not 1 <= stages <= most:
        raise UserInputError(f"stages: got {stages}; expected 1 to {most}")
    if gravity is not None and align == "none":
        raise UserInputError(f"gravity: got {gravity} without --align auto, which alone uses it")
    read = read_scan(scan, mesh, model.config.num_points, seed)
    if read.dropped:
        print(f"note: {scan}: {read.dropped} points that are not finite are left out", file=sys.stderr)
    matrix = estimate_alignment(read.points, seed, gravity) if align == "auto" else None
    options: dict[str, Any] = {"score_thr": levels, "single_label": not all_labels, "stages": stages}
    if nms is not None or not model.config.dense:
        options["nms"] = nms
    found = detect(model, read, align=matrix, seed=seed, **options)
    files = result_files(scan.stem, read, found, model.class_names, matrix)
    make_folder(out)
    for name, content in files.items():
        write_bytes(out / name, content)
    print(f"{len(found)} objects in {len(read.points)} points -> {out / next(iter(files))}")


def score_levels(names: Sequence[str], least: float, own: Mapping[str, float] | None) -> list[float]:
    """Least score of every class.

    Raises:
        UserInputError: an unknown class, or a score outside 0 to 1.
    """
    for name in own or ():
        if name not in names:
            raise UserInputError(f"class_scores: got {name!r}; expected some of {', '.join(names)}")
    for option, value in (("min_score", least), *((f"class_scores: {k}", v) for k, v in (own or {}).items())):
        if not 0 <= value <= 1:
            raise UserInputError(f"{option}: got {value}; expected a score from 0 to 1")
    return [(own or {}).get(name, least) for name in names]


def result_files(
    stem: str,
    scan: Scan,
    found: Detections3D,
    names: Sequence[str],
    align: npt.NDArray[np.float64] | None = None,
) -> dict[str, bytes]:
    """File name -> content of everything `predict` writes."""
    from tenfold.viz import encode_image

    boxes, labels = found.boxes.double().numpy(), found.labels.numpy()
    document = {
        "boxes": boxes.tolist(),
        "scores": found.scores.tolist(),
        "labels": labels.tolist(),
        "names": [names[k] for k in labels],
        "proposals": found.proposal_index.tolist(),
        "columns": ["x", "y", "z", "dx", "dy", "dz", "yaw"],
        "points": len(scan.points),
        "align": None if align is None else align.tolist(),
    }
    picture = room_picture(scan.points, boxes, labels, found.scores.numpy(), names)
    return {
        f"{stem}.json": (json.dumps(document, indent=1) + "\n").encode(),
        f"{stem}_boxes.ply": _ply(boxes, labels),
        f"{stem}.png": encode_image(picture),
    }


def _ply(boxes: npt.NDArray[Any], labels: npt.NDArray[Any]) -> bytes:
    vertices, colours, faces = box_mesh(boxes, labels)
    fields = {name: colours[:, k] for k, name in enumerate(("red", "green", "blue"))}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "boxes.ply"
        write_mesh(path, PointCloud(vertices.astype(np.float32), dict(fields)), faces)
        return path.read_bytes()
