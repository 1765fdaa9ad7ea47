"""Small folders in the official layouts of the four data sets, with what must come out of them."""

from __future__ import annotations

import io
import json
import struct
import zlib

import numpy as np
from PIL import Image

from tenfold.io import PointCloud, write_mesh

TURN = 0.4


def _turned(angle, shift):
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, -sin, 0, shift[0]], [sin, cos, 0, shift[1]], [0, 0, 1, shift[2]], [0, 0, 0, 1.0]])


def block(rng, low, high, number=60):
    """Points that fill a box, its two extreme corners among them."""
    points = rng.uniform(low, high, (number, 3))
    points[0], points[1] = low, high
    return points


def scannet(root, scenes=("scene0000_00", "scene0001_00")):
    """Two scans; returns align, boxes and labels of each."""
    rng = np.random.default_rng(0)
    (root / "scannetv2-labels.combined.tsv").write_text(
        "id\traw_category\tcategory\tnyu40id\n1\toffice chair\tchair\t5\n2\twall\twall\t1\n3\tbox\tbox\t29\n"
        "4\tcoffee table\ttable\t7\n5\tlamp\tlamp\t\n"
    )
    (root / "scannetv2_train.txt").write_text("\n".join(scenes) + "\n")
    (root / "scannetv2_test.txt").write_text("scene0707_00\n")
    expected = {}
    for name in scenes:
        chair, table = ((1.0, 1.0, 0.0), (1.5, 1.6, 0.9)), ((2.0, 0.5, 0.0), (3.2, 1.3, 0.7))
        parts = [
            block(rng, *chair),
            block(rng, *table),
            block(rng, (0, 0, 0), (4, 0.1, 2)),
            rng.uniform(0, 4, (30, 3)),
        ]
        aligned = np.concatenate(parts)
        align = _turned(TURN, (-1.5, 0.3, -0.1))
        raw = np.column_stack((aligned, np.ones(len(aligned)))) @ np.linalg.inv(align).T
        segment = np.concatenate([np.full(len(p), s) for p, s in zip(parts, (7, 11, 3, 99), strict=True)])
        folder = root / "scans" / name
        folder.mkdir(parents=True)
        colours = {
            c: rng.integers(0, 255, len(raw)).astype(np.uint8) for c in ("red", "green", "blue", "alpha")
        }
        write_mesh(
            folder / f"{name}_vh_clean_2.ply",
            PointCloud(raw[:, :3].astype(np.float32), colours),
            np.array([[0, 1, 2]]),
        )
        (folder / f"{name}_vh_clean_2.0.010000.segs.json").write_text(
            json.dumps({"segIndices": segment.tolist()})
        )
        groups = [
            {"id": 0, "objectId": 0, "label": "office chair", "segments": [7]},
            {"id": 1, "objectId": 1, "label": "coffee table", "segments": [11]},
            {"id": 2, "objectId": 2, "label": "wall", "segments": [3]},
            {"id": 3, "objectId": 3, "label": "a new thing", "segments": [1000]},
        ]
        (folder / f"{name}.aggregation.json").write_text(json.dumps({"segGroups": groups}))
        numbers = " ".join(f"{v:.6f}" for v in align.reshape(-1))
        (folder / f"{name}.txt").write_text(
            f"appVersionId = 2\naxisAlignment = {numbers} \nsceneType = Office\n"
        )
        boxes = [[*((np.add(lo, hi)) / 2), *np.subtract(hi, lo), 0.0] for lo, hi in (chair, table)]
        expected[name] = (align, np.array(boxes), [2, 4])
    test = root / "scans_test" / "scene0707_00"
    test.mkdir(parents=True)
    write_mesh(
        test / "scene0707_00_vh_clean_2.ply", PointCloud(np.eye(3, dtype=np.float32)), np.array([[0, 1, 2]])
    )
    (test / "scene0707_00.txt").write_text("sceneType = Bathroom\n")
    return expected


def votenet_scannet(root):
    """VoteNet's arrays of one scan; returns its boxes and labels."""
    rng = np.random.default_rng(1)
    np.save(root / "scene0000_00_vert.npy", rng.uniform(0, 3, (50, 6)))
    np.save(root / "scene0000_00_ins_label.npy", np.repeat([1, 2], 25).astype(np.uint32))
    np.save(root / "scene0000_00_sem_label.npy", np.repeat([5, 40], 25).astype(np.uint32))
    np.save(
        root / "scene0000_00_bbox.npy",
        np.array([[1.0, 1, 0.5, 0.5, 0.6, 1.0, 5], [2.0, 2, 0.5, 1, 1, 1, 40]]),
    )
    (root / "scannetv2_train.txt").write_text("scene0000_00\n")


def s3dis(root):
    """Six areas with a room each (two in area 5)."""
    rng = np.random.default_rng(2)
    base = root / "Stanford3dDataset_v1.2_Aligned_Version"
    shift = np.array([-10.0, 20.0, 1.0])
    for area, rooms in ((1, 1), (2, 1), (3, 1), (4, 1), (5, 2), (6, 1)):
        for room in range(1, rooms + 1):
            folder = base / f"Area_{area}" / f"office_{room}" / "Annotations"
            folder.mkdir(parents=True)
            things = {
                "chair_1": block(rng, (0.5, 0.5, 0), (1.0, 1.1, 0.9)),
                "board_1": block(rng, (0, 2, 1), (0.1, 3, 2)),
                "floor_1": block(rng, (0, 0, 0), (4, 4, 0)),
                "stairs_1": block(rng, (3, 3, 0), (3.5, 3.5, 1)),
            }
            for name, points in things.items():
                rows = np.column_stack((points + shift, rng.integers(0, 255, (len(points), 3))))
                text = "\n".join(" ".join(f"{v:.3f}" for v in row) for row in rows) + "\n"
                (folder / f"{name}.txt").write_text(text)
        (base / f"Area_{area}" / ".DS_Store").write_bytes(b"\0")
        (base / f"Area_{area}" / f"Area_{area}_alignmentAngle.txt").write_text("0\n")
    return {"chair": [0.75, 0.8, 0.45, 0.5, 0.6, 0.9, 0], "board": [0.05, 2.5, 1.5, 0.1, 1, 1, 0]}


def _grid(low, high, number=24):
    """A level sheet of triangles with normal z: vertices and faces."""
    x, y = (np.linspace(low[k], high[k], number) for k in (0, 1))
    z = np.linspace(low[2], high[2], number)
    points = np.stack([np.repeat(x, number), np.tile(y, number), np.tile(z, number)], 1)
    a = (np.arange(number - 1)[:, None] * number + np.arange(number - 1)).reshape(-1)
    faces = np.concatenate(
        (np.stack((a, a + 1, a + number), 1), np.stack((a + 1, a + number + 1, a + number), 1))
    )
    return points, faces


def matterport(root, houses=("17DRP5sb8fy", "2azQ1b91cZZ", "2t7WUuJeko7")):
    """A house of each split with regions of which one counts; returns its boxes and labels."""
    (root / "metadata").mkdir()
    (root / "metadata" / "category_mapping.tsv").write_text(
        "index\traw_category\tnyu40id\tmpcat40index\n1\tdining chair\t5\t3\n2\tdoor\t8\t4\n"
        "3\tplant\t40\t14\n4\todd\t\t\n"
    )
    sheets = [
        ((1.0, 1.0, 0.0), (1.6, 1.5, 0.8), "dining chair"),
        ((3.0, 0.0, 0.0), (3.1, 0.9, 2.0), "door"),
        ((2.0, 2.0, 0.0), (2.4, 2.4, 1.0), "plant"),
    ]
    for house in houses:
        folder = root / house / "region_segmentations"
        folder.mkdir(parents=True)
        (root / house / "house_segmentations").mkdir()
        points, faces, segments, start = [], [], [], 0
        for number, (low, high, _) in enumerate(sheets):
            own, triangles = _grid(low, high)
            points.append(own)
            faces.append(triangles + start)
            segments += [10 + number] * len(triangles)
            start += len(own)
        groups = [
            {"id": k, "objectId": k, "label": label, "segments": [10 + k]}
            for k, (_, _, label) in enumerate(sheets)
        ]
        cloud = PointCloud(np.concatenate(points).astype(np.float32))
        for region in range(2):
            write_mesh(folder / f"region{region}.ply", cloud, np.concatenate(faces))
            (folder / f"region{region}.fsegs.json").write_text(json.dumps({"segIndices": segments}))
            (folder / f"region{region}.semseg.json").write_text(json.dumps({"segGroups": groups}))
        yaw = 0.6
        lines = [
            "ASCII 1.1",
            "R 0 0 0 0 o 0 0 0 0 0 0 4 4 2 2 0 0 0 0",
            "R 1 0 0 0 Z 0 0 0 0 0 0 4 4 2 2 0 0 0 0",
            f"O 0 0 5 1.31 1.26 0.41 {np.cos(yaw)} {np.sin(yaw)} 0 {-np.sin(yaw)} {np.cos(yaw)} 0 0.4 0.2 0.45 0 0 0",
        ]
        (root / house / "house_segmentations" / f"{house}.house").write_text("\n".join(lines) + "\n")
    boxes = [[*(np.add(lo, hi) / 2), *np.subtract(hi, lo), 0.0] for lo, hi, _ in sheets[:2]]
    return np.array(boxes), [2, 5]


def _shuffled_bits(millimetres):
    """How the official depth files store a distance: the 16 bits rotated left by three."""
    raw = millimetres.astype(np.uint32)
    return (((raw << 3) | (raw >> 13)) & 0xFFFF).astype(np.uint16)


def sunrgbd(root):
    """Three frames (two to train on); returns camera, tilt, depth in metres and the boxes of the first."""
    from scipy.io import savemat

    rng = np.random.default_rng(3)
    k = np.array([[50.0, 0, 16.5], [0, 52.0, 12.5], [0, 0, 1]])
    tilt = np.array([[1.0, 0, 0], [0, np.cos(0.2), -np.sin(0.2)], [0, np.sin(0.2), np.cos(0.2)]])
    depth = rng.integers(800, 9500, (24, 32))
    depth[0, :5] = 0
    entries = []
    for number in range(1, 4):
        where = f"SUNRGBD/kv1/NYUdata/NYU{number:04d}"
        for part in ("image", "depth"):
            (root / where / part).mkdir(parents=True)
        Image.fromarray(rng.integers(0, 255, (24, 32, 3)).astype(np.uint8)).save(
            root / where / "image" / "a.png"
        )
        Image.fromarray(_shuffled_bits(depth)).save(root / where / "depth" / "a.png")
        box = {
            "classname": "bed",
            "centroid": np.array([[0.2, 3.0, -0.5]]),
            "coeffs": np.array(
                [[0.8, 1.1, -0.4]]
            ),  # half the width, the length, the height; signs do not count
            "orientation": np.array([[np.cos(0.7), np.sin(0.7), 0.0]]),
            "basis": np.eye(3),
        }
        other = {**box, "classname": "lamp"}
        boxes = [box, other] if number == 1 else ([box] if number == 2 else [])
        entries.append(
            {
                "rgbpath": f"/n/fs/sun3d/data/{where}/image/a.png",
                "depthpath": f"/n/fs/sun3d/data/{where}/depth/a.png",
                "K": k,
                "Rtilt": tilt,
                "groundtruth3DBB": _structs(boxes),
            }
        )
    savemat(root / "SUNRGBDMeta3DBB_v2.mat", {"SUNRGBDMeta": _structs(entries)})
    moved = [dict(e) for e in entries]
    moved[0]["groundtruth3DBB"] = _structs([])
    (root / "SUNRGBDtoolbox" / "Metadata").mkdir(parents=True)
    (root / "SUNRGBDtoolbox" / "traintestSUNRGBD").mkdir()
    savemat(root / "SUNRGBDtoolbox" / "Metadata" / "SUNRGBDMeta.mat", {"SUNRGBDMeta": _structs(moved)})
    names = [f"/n/fs/sun3d/data/SUNRGBD/kv1/NYUdata/NYU{n:04d}" for n in (1, 2, 3)]
    cells = {"alltrain": np.array(names[:2], object)[None], "alltest": np.array(names[2:], object)[None]}
    savemat(root / "SUNRGBDtoolbox" / "traintestSUNRGBD" / "allsplit.mat", cells)
    return k, tilt, np.minimum(depth / 1000, 8.0), np.array([[0.2, 3.0, -0.5, 2.2, 1.6, 0.8, 0.7]])


def as_matlab_7_3(path, name):
    """Write a variable of a MATLAB 7 file again as MATLAB 7.3 does: HDF5 behind its head of 512 bytes."""
    import h5py
    from scipy.io import loadmat

    entries = np.atleast_1d(loadmat(path, struct_as_record=False, squeeze_me=True)[name])
    with h5py.File(path, "w", userblock_size=512) as file:
        others = file.create_group("#refs#")

        def put(value):
            """A reference to a value."""
            label = f"v{len(others)}"
            if isinstance(value, str):
                item = others.create_dataset(label, data=np.array([[ord(c)] for c in value], np.uint16))
                item.attrs["MATLAB_class"], item.attrs["MATLAB_int_decode"] = np.bytes_("char"), 2
            elif hasattr(value, "_fieldnames"):
                item = struct_of(others.create_group(label), [value])
            elif value.dtype == object and len(value):
                item = struct_of(others.create_group(label), list(value))
            else:
                empty = value.size == 0
                item = others.create_dataset(
                    label, data=np.zeros(2, np.uint64) if empty else np.atleast_2d(value).T
                )
                item.attrs["MATLAB_class"] = np.bytes_("double")
                if empty:
                    item.attrs["MATLAB_empty"] = 1
            return item.ref

        def struct_of(group, rows):
            group.attrs["MATLAB_class"] = np.bytes_("struct")
            for field in rows[0]._fieldnames:
                refs = [put(getattr(row, field)) for row in rows]
                if len(rows) == 1:
                    file.move(file[refs[0]].name, f"{group.name}/{field}")
                else:
                    group.create_dataset(
                        field, data=np.array(refs, h5py.ref_dtype)[:, None], dtype=h5py.ref_dtype
                    )
            return group

        struct_of(file.create_group(name), list(entries))
    head = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM"
    path.write_bytes(head + path.read_bytes()[len(head) :])


def sens(path, frames=3, lost=(), colour_code=2, depth_code=1):
    """A recording that looks at a wall 2 m away, one step to the right each frame; returns depth in mm."""
    depth = np.full((12, 16), 2000, np.uint16)
    depth[0] = 0
    k = np.diag([16.0, 16.0, 1, 1])
    k[:2, 2] = 7.5, 5.5
    picture = np.zeros((24, 32, 3), np.uint8)
    picture[..., 0] = 200
    encoded = io.BytesIO()
    Image.fromarray(picture).save(encoded, "JPEG")
    colour = {0: picture.tobytes(), 2: encoded.getvalue(), -1: b""}[colour_code]
    big = np.diag([32.0, 32.0, 1, 1])
    big[:2, 2] = 15.5, 11.5
    parts = [struct.pack("<IQ", 4, 6), b"Camera"]
    parts += [m.astype("<f4").tobytes() for m in (big, np.eye(4), k, np.eye(4))]
    parts.append(struct.pack("<2i4IfQ", colour_code, depth_code, 32, 24, 16, 12, 1000.0, frames))
    packed = zlib.compress(depth.tobytes()) if depth_code == 1 else depth.tobytes()
    for number in range(frames):
        pose = np.eye(4)
        pose[:3, :3] = [[1, 0, 0], [0, 0, 1], [0, -1, 0]]  # looks along y, z is up
        pose[:3, 3] = [number, 0, 1]
        pose = np.full((4, 4), -np.inf) if number in lost else pose
        sizes = struct.pack("<4Q", number, number, len(colour), len(packed))
        parts += [pose.astype("<f4").tobytes(), sizes, colour, packed]
    path.write_bytes(b"".join(parts))
    return depth


def _structs(rows):
    """A MATLAB struct array."""
    if not rows:
        return np.zeros((0, 0))
    kinds = [(name, object) for name in rows[0]]
    found = np.empty((1, len(rows)), dtype=kinds)
    for number, row in enumerate(rows):
        for name, value in row.items():
            found[0, number][name] = value
    return found
