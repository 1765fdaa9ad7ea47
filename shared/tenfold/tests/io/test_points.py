import io
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays as float_arrays

from tenfold._errors import UserInputError
from tenfold.io import (
    PointCloud,
    read_mesh,
    read_point_array,
    read_points,
    unpack_rgb,
    write_mesh,
    write_points,
)
from tenfold.testing import require, sample_data

PLY = ("ascii", "binary_little_endian", "binary_big_endian")
PCD = ("ascii", "binary", "binary_compressed")
FORMATS = [(".ply", e) for e in PLY] + [(".pcd", e) for e in PCD]


def bits(values):
    return values.dtype, values.shape, np.ascontiguousarray(values).tobytes()


def same(a, b):
    return bits(a.xyz) == bits(b.xyz) and {k: bits(v) for k, v in a.fields.items()} == {
        k: bits(v) for k, v in b.fields.items()
    }


@pytest.fixture
def rich():
    rng = np.random.default_rng(0)
    n = 50
    return PointCloud(
        rng.normal(size=(n, 3)).astype(np.float32),
        {
            "intensity": rng.random(n, dtype=np.float32),
            "time": rng.random(n),
            "label": rng.integers(-100, 100, n).astype(np.int16),
            "id": rng.integers(0, 2**32, n).astype(np.uint32),
            "red": rng.integers(0, 256, n).astype(np.uint8),
        },
    )


@pytest.mark.parametrize(("suffix", "encoding"), FORMATS)
def test_round_trip_keeps_every_bit(tmp_path, rich, suffix, encoding):
    path = tmp_path / f"a{suffix}"
    write_points(path, rich, encoding=encoding)
    assert same(read_points(path), rich)
    picked = read_points(path, ["z", "y", "x", "label"])
    assert list(picked.fields) == ["label"]
    assert np.array_equal(read_point_array(path, ["z", "y", "x"]), rich.xyz[:, ::-1])


@pytest.mark.parametrize(("suffix", "encoding"), FORMATS)
def test_empty_cloud(tmp_path, suffix, encoding):
    path = tmp_path / f"a{suffix}"
    cloud = PointCloud(np.empty((0, 3), np.float32), {"i": np.empty(0, np.uint8)})
    write_points(path, cloud, encoding=encoding)
    assert same(read_points(path), cloud)
    assert read_point_array(path).shape == (0, 4)


floats = st.sampled_from([np.float32, np.float64])


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from(FORMATS))
def test_round_trip_property(tmp_path_factory, data, kind):
    n = data.draw(st.integers(0, 8))
    dtype = data.draw(floats)
    canonical_nan = st.floats(width=32, allow_nan=False) | st.just(float("nan"))
    xyz = data.draw(float_arrays(dtype, (n, 3), elements=canonical_nan))
    fields = {}
    for k in range(data.draw(st.integers(0, 3))):
        code = data.draw(st.sampled_from(["i1", "u1", "i2", "u2", "i4", "u4", "f8"]))
        fields[f"f{k}"] = data.draw(float_arrays(np.dtype(code), n))
    if kind[1] == "ascii":  # text keeps that a value is NaN, not which one
        fields = {k: np.where(np.isnan(v), np.nan, v).astype(v.dtype) for k, v in fields.items()}
        xyz = np.where(np.isnan(xyz), np.nan, xyz).astype(dtype)
    path = tmp_path_factory.mktemp("cloud") / f"a{kind[0]}"
    write_points(path, PointCloud(xyz, fields), encoding=kind[1])
    assert same(read_points(path), PointCloud(xyz, fields))


@pytest.mark.parametrize("encoding", PCD)
def test_pcd_fields_of_several_values_and_64_bits(tmp_path, encoding):
    cloud = PointCloud(
        np.arange(6.0).reshape(2, 3),
        {
            "hist": np.arange(8, dtype=np.float32).reshape(2, 4),
            "big": np.array([2**63 + 1, 3], np.uint64),
            "low": np.array([-(2**63), 2**53 + 1], np.int64),
        },
    )
    write_points(tmp_path / "a.pcd", cloud, encoding=encoding)
    assert same(read_points(tmp_path / "a.pcd"), cloud)
    assert read_point_array(tmp_path / "a.pcd").shape == (2, 9)


def test_bin_and_npy(tmp_path, rich):
    cloud = PointCloud(rich.xyz, {"intensity": rich.fields["intensity"]})
    write_points(tmp_path / "a.bin", cloud)
    write_points(tmp_path / "a.npy", cloud)
    expected = np.concatenate([rich.xyz, rich.fields["intensity"][:, None]], 1)
    assert np.array_equal(np.fromfile(tmp_path / "a.bin", "<f4").reshape(-1, 4), expected)
    assert np.array_equal(np.load(tmp_path / "a.npy"), expected)
    assert same(read_points(tmp_path / "a.bin"), cloud)
    assert same(read_points(tmp_path / "a.npy", 4), cloud)
    assert np.array_equal(read_point_array(tmp_path / "a.npy"), expected)
    with pytest.raises(ValueError, match="id: got uint32 values that float32 cannot hold"):
        write_points(tmp_path / "a.bin", rich)


def test_bin_columns(tmp_path):
    path = tmp_path / "sweep.pcd.bin"
    np.arange(40, dtype="<f4").tofile(path)
    assert list(read_points(path).fields) == ["intensity", "ring"]
    assert list(read_points(path, 4).fields) == ["intensity"]
    assert list(read_points(path, 8).fields) == ["c3", "c4", "c5", "c6", "c7"]
    swapped = read_points(path, ["t", "z", "y", "x"])
    assert np.array_equal(swapped.xyz[0], [3, 2, 1])
    with pytest.raises(
        UserInputError, match=r"sweep\.pcd\.bin: columns: 160 bytes are no multiple of 6 .*24 bytes"
    ):
        read_points(path, 6)
    with pytest.raises(UserInputError, match="whole rows would be 4, 5, 8, 10 columns"):
        read_points(path, 7)


@pytest.mark.parametrize("wrong", [2, True, "xyz", ["x", "y"], ["x", "y", "z", "z"], 5000, 4.0])
def test_columns_argument(tmp_path, wrong):
    with pytest.raises((TypeError, ValueError), match="read_points: columns: got") as caught:
        read_points(tmp_path / "a.bin", wrong)
    assert not isinstance(caught.value, UserInputError)


def test_npy_and_npz_layouts(tmp_path):
    xyz = np.arange(12, dtype=">f8").reshape(4, 3)
    packed = np.zeros(4, [("y", "f4"), ("x", "f4"), ("z", "f4"), ("n", "u1", (2,))])
    packed["y"] = 5
    np.save(tmp_path / "s.npy", packed)
    cloud = read_points(tmp_path / "s.npy")
    assert cloud.fields["n"].shape == (4, 2)
    assert (cloud.xyz[:, 1] == 5).all()
    np.save(tmp_path / "f.npy", np.asfortranarray(xyz))
    assert same(read_points(tmp_path / "f.npy"), PointCloud(xyz.astype(float)))
    np.save(tmp_path / "h.npy", xyz.astype(np.float16))
    assert read_points(tmp_path / "h.npy").xyz.dtype == np.float32
    np.save(tmp_path / "i.npy", xyz.astype(np.int64))
    assert read_points(tmp_path / "i.npy").xyz.dtype == np.float64
    np.savez(tmp_path / "p.npz", points=xyz, pose=np.eye(4))
    np.savez_compressed(tmp_path / "x.npz", xyz=xyz, label=np.arange(4), pose=np.eye(4)[:2])
    np.savez(tmp_path / "one.npz", xyz)
    np.savez(tmp_path / "two.npz", a=xyz, b=xyz)
    assert np.array_equal(read_points(tmp_path / "p.npz").xyz, xyz)
    assert list(read_points(tmp_path / "x.npz", ["x", "y", "z", "label"]).fields) == ["label"]
    with pytest.raises(UserInputError, match=r"pose: got shape \(2, 4\); expected \(4,\)"):
        read_points(tmp_path / "x.npz")
    assert np.array_equal(read_points(tmp_path / "one.npz").xyz, xyz)
    with pytest.raises(UserInputError, match="points: is missing; the archive holds a, b"):
        read_points(tmp_path / "two.npz")


def npy(header, body=b""):
    text = header.encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + body


def npz(**members):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name + ".npy", data)
    return out.getvalue()


def forged_npz():
    data = bytearray(npz(points=b"x" * 5000))
    for at in range(len(data) - 4):  # the uncompressed size in both headers
        if data[at : at + 4] == struct.pack("<I", 5000):
            data[at : at + 4] = struct.pack("<I", 2**31)
    return bytes(data)


VERTEX = "element vertex 2\nproperty float x\nproperty float y\nproperty float z\n"
BIN = "ply\nformat binary_little_endian 1.0\n"
TXT = "ply\nformat ascii 1.0\n"


def pcd(data="ascii", **changes):
    lines = {
        "FIELDS": "x y z",
        "SIZE": "4 4 4",
        "TYPE": "F F F",
        "COUNT": "1 1 1",
        "WIDTH": "2",
        "HEIGHT": "1",
    }
    lines |= {"POINTS": "2", **changes}
    return "".join(f"{k} {v}\n" for k, v in lines.items() if v is not None) + f"DATA {data}\n"


DAMAGED = {
    "no known ending": ("a.las", b"", "name: has no known ending"),
    "bin size": ("a.bin", b"x" * 17, "columns: 17 bytes are no multiple of 4 columns"),
    "npy empty": ("a.npy", b"", "does not begin like"),
    "npy huge": (
        "a.npy",
        npy("{'descr':'<f4','fortran_order':False,'shape':(1000000000000,3)}"),
        "announces shape",
    ),
    "npy objects": (
        "a.npy",
        npy("{'descr':'|O','fortran_order':False,'shape':(1,)}", b"\x80\x04N."),
        "Python objects",
    ),
    "npy code": ("a.npy", npy("__import__('os').system('x')"), "header is damaged"),
    "npy deep": ("a.npy", npy("(" * 5000), "header is damaged"),
    "npy shape": ("a.npy", npy("{'descr':'<f4','fortran_order':False,'shape':(-1,3)}"), "is damaged"),
    "npy nothing": ("a.npy", npy("{'descr':'|V0','fortran_order':False,'shape':(10**12,3)}"), "damaged"),
    "npy of no rows": (
        "a.npy",
        npy("{'descr':'<f4','fortran_order':False,'shape':(0,2**59,2**59)}".replace("2**59", str(2**59))),
        "its shape .* is damaged",
    ),
    "npy long double": (
        "a.npy",
        npy("{'descr':'<f16','fortran_order':False,'shape':(1,3)}", bytes(48)),
        "at most 64 bits|header is damaged",  # the machine has such numbers, or not
    ),
    "npy 1d": (
        "a.npy",
        npy("{'descr':'<f4','fortran_order':False,'shape':(1,)}", b"1234"),
        r"array: got float32 of",
    ),
    "npy text": (
        "a.npy",
        npy("{'descr':'|S4','fortran_order':False,'shape':(1,3)}", b"1234" * 3),
        "expected numbers",
    ),
    "npz none": ("a.npz", b"PK", "archive: is damaged"),
    "npz member": ("a.npz", npz(points=b"junk"), "points: does not begin like"),
    "npz bomb": ("a.npz", forged_npz(), "points: claims 2147483648 bytes"),
    "npz 1d": (
        "a.npz",
        npz(cloud=npy("{'descr':'<f4','fortran_order':False,'shape':(1,)}", b"1234")),
        "cloud: got float32 of",
    ),
    "npz empty": ("a.npz", npz(), "points: is missing; the archive holds nothing"),
    "ply empty": ("a.ply", b"", "header: does not begin with the line 'ply'"),
    "ply no end": ("a.ply", (BIN + VERTEX).encode(), "header: ends before"),
    "ply no format": ("a.ply", b"ply\nend_header\n", "format: the header has no such line"),
    "ply format": ("a.ply", b"ply\nformat ascii 2.0\nend_header\n", "'format ascii 2.0', which is not"),
    "ply type": (
        "a.ply",
        (BIN + "element vertex 1\nproperty quad x\nend_header\n").encode(),
        "'quad x', which is not",
    ),
    "ply twice": ("a.ply", (BIN + VERTEX + "property float x\nend_header\n").encode(), "property x twice"),
    "ply count": ("a.ply", (BIN + VERTEX.replace("2", "-2") + "end_header\n").encode(), "vertex: got -2"),
    "ply short": (
        "a.ply",
        (BIN + VERTEX + "end_header\n").encode() + b"x" * 23,
        r"2 rows \(24 bytes\) but 23 bytes",
    ),
    "ply huge": (
        "a.ply",
        (BIN + VERTEX.replace("2", "9" * 17) + "end_header\n").encode(),
        "but 0 bytes follow",
    ),
    "ply no vertex": ("a.ply", (BIN + "end_header\n").encode(), "vertex: the header announces no"),
    "ply no z": (
        "a.ply",
        (TXT + "element vertex 1\nproperty int x\nproperty int y\nend_header\n1 2\n").encode(),
        "z: is missing; the file has x, y",
    ),
    "ply list": (
        "a.ply",
        (TXT + "element vertex 1\nproperty list int int x\nend_header\n1 2\n").encode(),
        "vertex: has a list property",
    ),
    "ply text short": ("a.ply", (TXT + VERTEX + "end_header\n1 2 3\n").encode(), "2 rows but 1 lines"),
    "ply text word": (
        "a.ply",
        (TXT + VERTEX + "end_header\n1 2 3\n4 five 6\n").encode(),
        "text is damaged .*row 1",
    ),
    "ply text wide": ("a.ply", (TXT + VERTEX + "end_header\n1 2 3\n4 5\n").encode(), "text is damaged"),
    "ply range": (
        "a.ply",
        (TXT + VERTEX.replace("float", "uchar") + "end_header\n1 2 3\n4 5 300\n").encode(),
        "text is damaged",
    ),
    "pcd empty": ("a.pcd", b"", "header: ends before the line 'DATA'"),
    "pcd garbage": ("a.pcd", b"\xff\xfe\n\n", "which is not understood"),
    "pcd data": ("a.pcd", pcd("zip").encode(), "DATA: got zip"),
    "pcd fields": ("a.pcd", pcd(FIELDS=None).encode(), "FIELDS: the header has no such line"),
    "pcd sizes": ("a.pcd", pcd(SIZE="4 4").encode(), "SIZE: got 2 entries; expected 3"),
    "pcd type": ("a.pcd", pcd(TYPE="F F C").encode(), "TYPE: got C of 4 bytes"),
    "pcd count": ("a.pcd", pcd(COUNT="1 0 1").encode(), "COUNT: expected 3 numbers"),
    "pcd count huge": ("a.pcd", pcd(COUNT="1 1 99999999").encode(), "COUNT: expected 3 numbers"),
    "pcd wide": (
        "a.pcd",
        pcd(FIELDS="x " * 999, SIZE="8 " * 999, TYPE="F " * 999, COUNT="65536 " * 999).encode(),
        "FIELDS: a field is named twice",
    ),
    "pcd wide padding": (
        "a.pcd",
        pcd(FIELDS="_ " * 999, SIZE="8 " * 999, TYPE="F " * 999, COUNT="65536 " * 999).encode(),
        "COUNT: a point would take",
    ),
    "pcd points": ("a.pcd", pcd(POINTS="3").encode(), r"POINTS: got 3; expected WIDTH x HEIGHT = 2"),
    "pcd width": ("a.pcd", pcd(WIDTH="1e3").encode(), "WIDTH: got 1e3; expected a whole number"),
    "pcd huge": ("a.pcd", pcd("binary", WIDTH="9" * 15, POINTS="9" * 15).encode(), "but 0 bytes follow"),
    "pcd short": ("a.pcd", pcd("binary").encode() + b"x" * 20, r"2 rows \(24 bytes\) but 20 bytes"),
    "pcd no sizes": ("a.pcd", pcd("binary_compressed").encode() + b"x", "before the compressed sizes"),
    "pcd other size": (
        "a.pcd",
        pcd("binary_compressed").encode() + struct.pack("<II", 1, 2**31),
        "2147483648 bytes are compressed but the header announces 24",
    ),
    "pcd cut": (
        "a.pcd",
        pcd("binary_compressed").encode() + struct.pack("<II", 50, 24),
        "50 compressed bytes are",
    ),
    "pcd lzf": (
        "a.pcd",
        pcd("binary_compressed").encode() + struct.pack("<II", 2, 24) + b"\x20\x00",
        "before its",
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_files(tmp_path, case):
    name, data, text = DAMAGED[case]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserInputError, match=text) as caught:
        read_points(tmp_path / name)
    assert str(caught.value).startswith(f"{tmp_path / name}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("suffix", "encoding"), [*FORMATS, (".npy", None), (".npz", None)])
def test_every_truncation_is_an_error(tmp_path, suffix, encoding):
    path = tmp_path / f"a{suffix}"
    cloud = PointCloud(np.arange(12.0).reshape(4, 3) * 1.25, {"i": np.arange(4, dtype=np.uint16)})
    if suffix == ".npz":
        np.savez_compressed(path, xyz=cloud.xyz)
    else:
        write_points(path, cloud, encoding=encoding)
    data = path.read_bytes()
    # Text that loses its last line end, or the end of its last number, is still a text.
    last = len(data) - 1 if encoding == "ascii" else len(data)
    for size in range(last):
        path.write_bytes(data[:size])
        with pytest.raises(UserInputError, match=rf"a\{suffix}: "):
            read_points(path)


@settings(max_examples=150, deadline=None)
@given(st.data(), st.sampled_from([*FORMATS, (".npy", None)]))
def test_damage_never_escapes(tmp_path_factory, data, kind):
    path = tmp_path_factory.mktemp("damage") / f"a{kind[0]}"
    cloud = PointCloud(np.arange(12.0).reshape(4, 3), {"i": np.arange(4, dtype=np.uint8)})
    write_points(path, cloud, encoding=kind[1])
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 5))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw)
    try:
        read_points(path)
    except UserInputError as error:
        assert "\n" not in str(error)  # noqa: PT017


def test_ply_extras(tmp_path):
    """Comments, carriage returns, an element before the vertices, ragged lists, doubles."""
    head = (
        "ply\r\nformat binary_big_endian 1.0\r\ncomment a b c\r\nobj_info x\r\n"
        "element camera 1\r\nproperty list uchar short view\r\nproperty float fov\r\n"
        "element vertex 4\r\nproperty double x\r\nproperty double y\r\nproperty double z\r\n"
        "element face 3\r\nproperty uchar flag\r\nproperty list uchar int vertex_index\r\nend_header\r\n"
    )
    body = struct.pack(">BhhhfB", 3, 1, 2, 3, 0.5, 0)[:-1]
    body += np.arange(12, dtype=">f8").tobytes()
    body += struct.pack(">BB3i", 9, 3, 0, 1, 2) + struct.pack(">BB4i", 9, 4, 0, 1, 2, 3)
    body += struct.pack(">BB3i", 9, 3, 3, 1, 0)
    path = tmp_path / "a.ply"
    path.write_bytes(head.encode() + body)
    cloud, faces = read_mesh(path)
    assert np.array_equal(cloud.xyz, np.arange(12.0).reshape(4, 3))
    assert faces.tolist() == [[0, 1, 2], [0, 1, 2], [0, 2, 3], [3, 1, 0]]
    assert np.array_equal(read_points(path).xyz, cloud.xyz)
    for cut in range(1, len(body) + 1):
        path.write_bytes(head.encode() + body[:-cut])
        with pytest.raises(UserInputError, match=r"(face|vertex|camera): "):
            read_mesh(path)


@pytest.mark.parametrize("kind", [BIN, TXT])
def test_more_faces_announced_than_there_are_bytes(tmp_path, kind):
    head = "element vertex 0\nproperty float x\nproperty float y\nproperty float z\n"
    face = f"element face {10**17}\nproperty list uchar int vertex_indices\nend_header\n"
    (tmp_path / "a.ply").write_text(kind + head + face + "3 0 0 0\n")
    with pytest.raises(UserInputError, match=r"face: the header announces 100000000000000000 rows but \d "):
        read_mesh(tmp_path / "a.ply")


@pytest.mark.parametrize("encoding", PLY)
def test_mesh_round_trip_and_damage(tmp_path, encoding):
    path = tmp_path / "a.ply"
    cloud = PointCloud(np.eye(3), {"nx": np.ones(3)})
    faces = np.array([[0, 1, 2], [2, 1, 0]])
    write_mesh(path, cloud, faces, encoding=encoding)
    back, triangles = read_mesh(path)
    assert same(back, cloud)
    assert np.array_equal(triangles, faces)
    with pytest.raises(ValueError, match="write_mesh: faces: got 0 to 3"):
        write_mesh(path, cloud, faces + np.array([[0, 0, 1], [0, 0, 0]]), encoding=encoding)
    write_points(path, cloud, encoding=encoding)
    with pytest.raises(UserInputError, match="face: the header announces no such element"):
        read_mesh(path)
    write_mesh(path, cloud, faces[:0], encoding=encoding)
    assert read_mesh(path)[1].shape == (0, 3)


@pytest.mark.parametrize(
    ("line", "text"),
    [("2 0 1", "less than 3 corners"), ("3 0 1 9", "vertex 9 of 2"), ("3 0 1 -1", "vertex -1 of 2")],
)
def test_bad_faces(tmp_path, line, text):
    path = tmp_path / "a.ply"
    face = "element face 1\nproperty list uchar int vertex_indices\nend_header\n"
    path.write_text(TXT + VERTEX + face + f"0 0 0\n1 1 1\n{line}\n")
    with pytest.raises(UserInputError, match=text):
        read_mesh(path)


def test_writers_refuse_what_they_cannot_hold(tmp_path):
    cloud = PointCloud(np.zeros((1, 3)), {"v": np.zeros((1, 2))})
    with pytest.raises(ValueError, match=r"write_ply: v: got shape \(1, 2\)"):
        write_points(tmp_path / "a.ply", cloud)
    with pytest.raises(ValueError, match="v: got int64 values"):
        write_points(tmp_path / "a.ply", PointCloud(np.zeros((1, 3)), {"v": np.array([2**40])}))
    with pytest.raises(ValueError, match="column name 'a b'"):
        write_points(tmp_path / "a.pcd", PointCloud(np.zeros((1, 3)), {"a b": np.zeros(1)}))
    with pytest.raises(ValueError, match="got complex128 values"):
        write_points(tmp_path / "a.pcd", PointCloud(np.zeros((1, 3)), {"a": np.zeros(1, complex)}))
    with pytest.raises(ValueError, match="encoding: got 'ascii'"):
        write_points(tmp_path / "a.bin", cloud, encoding="ascii")
    with pytest.raises(ValueError, match="encoding: got 'utf8'"):
        write_points(tmp_path / "a.pcd", cloud, encoding="utf8")
    with pytest.raises(ValueError, match="expected the ending"):
        write_points(tmp_path / "a.las", cloud)
    assert list(tmp_path.iterdir()) == []


def test_point_cloud_checks():
    with pytest.raises(TypeError, match="PointCloud: xyz: got int64"):
        PointCloud(np.zeros((2, 3), int))
    with pytest.raises(ValueError, match=r"xyz: got shape \(2, 4\)"):
        PointCloud(np.zeros((2, 4)))
    with pytest.raises(ValueError, match=r"fields: got 'a' of shape \(3,\)"):
        PointCloud(np.zeros((2, 3)), {"a": np.zeros(3)})
    with pytest.raises(ValueError, match="array: columns: got 'b'; this cloud has x, y, z, a"):
        PointCloud(np.zeros((2, 3)), {"a": np.zeros(2)}).array(["b"])


@pytest.mark.parametrize(
    ("suffix", "ascii_", "compressed"),
    [("ply", 1, 0), ("ply", 0, 0)] + [("pcd", *k) for k in ((1, 0), (0, 0), (0, 1))],
)
def test_open3d_writes_we_read(tmp_path, suffix, ascii_, compressed):
    o3d = require("open3d")
    rng = np.random.default_rng(1)
    xyz, colors, normals = (
        rng.normal(size=(300, 3)),
        rng.integers(0, 256, (300, 3)),
        rng.normal(size=(300, 3)),
    )
    theirs = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(xyz))
    theirs.colors = o3d.utility.Vector3dVector(colors / 255)
    theirs.normals = o3d.utility.Vector3dVector(normals)
    path = tmp_path / f"a.{suffix}"
    assert o3d.io.write_point_cloud(str(path), theirs, write_ascii=bool(ascii_), compressed=bool(compressed))
    ours = read_points(path)
    if suffix == "ply":
        rgb = np.stack([ours.fields[name] for name in ("red", "green", "blue")], 1)
        nx = ours.fields["nx"]
    else:
        rgb, nx = unpack_rgb(ours.fields["rgb"]), ours.fields["normal_x"]
    tolerance = 1e-5 if ascii_ else 1e-6
    np.testing.assert_allclose(ours.xyz, xyz, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(nx, normals[:, 0], rtol=tolerance, atol=tolerance)
    assert np.array_equal(rgb, colors)


@pytest.mark.parametrize(("suffix", "encoding"), FORMATS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_we_write_open3d_reads(tmp_path, suffix, encoding, dtype):
    o3d = require("open3d")
    rng = np.random.default_rng(2)
    cloud = PointCloud(
        rng.normal(size=(400, 3)).astype(dtype), {"intensity": rng.random(400, dtype=np.float32)}
    )
    path = tmp_path / f"a{suffix}"
    write_points(path, cloud, encoding=encoding)
    # The tensor reader; the legacy one reads the doubles of a binary .pcd as zeros.
    back = o3d.t.io.read_point_cloud(str(path)).point
    assert np.array_equal(back["positions"].numpy().astype(dtype), cloud.xyz)
    read = [name for name in ("intensity", "intensities") if name in back]
    assert read or suffix == ".ply"
    for name in read:
        assert np.array_equal(back[name].numpy().astype(np.float32).ravel(), cloud.fields["intensity"])


@pytest.mark.parametrize("encoding", PLY)
def test_open3d_reads_our_mesh_and_we_read_theirs(tmp_path, encoding):
    o3d = require("open3d")
    theirs = o3d.geometry.TriangleMesh.create_sphere(1.0, 8)
    xyz, triangles = np.asarray(theirs.vertices), np.asarray(theirs.triangles)
    path = tmp_path / "a.ply"
    write_mesh(path, PointCloud(xyz), triangles, encoding=encoding)
    back = o3d.io.read_triangle_mesh(str(path))
    assert np.array_equal(np.asarray(back.vertices), xyz)
    assert np.array_equal(np.asarray(back.triangles), triangles)
    o3d.io.write_triangle_mesh(str(path), theirs, write_ascii=encoding == "ascii")
    cloud, faces = read_mesh(path)
    np.testing.assert_allclose(cloud.xyz, xyz, atol=1e-5)
    assert np.array_equal(faces, triangles)


def test_kitti_and_nuscenes_files():
    scan = sorted(sample_data("kitti", "training", "velodyne").glob("*.bin"))[0]
    cloud = read_points(scan)
    assert np.array_equal(cloud.array(), np.fromfile(scan, np.float32).reshape(-1, 4))
    assert 0 <= cloud.fields["intensity"].min() <= cloud.fields["intensity"].max() <= 1
    sweep = next(p for p in sample_data("nuscenes").rglob("*.bin"))
    ring = read_points(sweep, 5).fields["ring"]
    assert set(np.unique(ring)) == set(range(32))


def test_real_frame_through_every_encoding(tmp_path):
    whole = read_points(sorted(sample_data("kitti", "training", "velodyne").glob("*.bin"))[0])
    # Every fifth point: text takes its time, and each is a number of its own anyway.
    cloud = PointCloud(whole.xyz[::5], {name: values[::5] for name, values in whole.fields.items()})
    for suffix, encoding in FORMATS:
        write_points(tmp_path / f"a{suffix}", cloud, encoding=encoding)
        assert same(read_points(tmp_path / f"a{suffix}"), cloud)
