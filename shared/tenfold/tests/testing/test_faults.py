import json

import numpy as np
import pytest

from tenfold._errors import UserInputError
from tenfold.io import PointCloud, read_json, read_points, write_points
from tenfold.testing import corruptions


def test_variants_are_many_distinct_from_the_original_and_repeatable(tmp_path):
    data = bytes(range(256)) * 4
    (tmp_path / "a").write_bytes(data)
    found = dict(corruptions(data))
    assert found == dict(corruptions(tmp_path / "a"))
    assert len(found) >= 20
    assert all(damaged != data for damaged in found.values())
    assert found["empty"] == b""
    assert found["cut at 50%"] == data[:512]
    flips = [d for name, d in found.items() if "flipped" in name]
    assert len(flips) >= 6
    assert all(sum(bin(a ^ b).count("1") for a, b in zip(d, data, strict=True)) == 1 for d in flips)
    assert dict(corruptions(data, seed=1)) != found


@pytest.mark.parametrize("data", [b"", b"x", b"ab"])
def test_tiny_files(data):
    assert all(damaged != data for _, damaged in corruptions(data))


def careless_reader(path):
    data = path.read_bytes()
    count = int.from_bytes(data[:4], "little")
    return np.frombuffer(data, "<f4", count, 4)


def test_a_careless_reader_is_caught(tmp_path):
    path = tmp_path / "a"
    raised = set()
    for _, damaged in corruptions(np.uint32(64).tobytes() + np.arange(64, dtype="<f4").tobytes()):
        path.write_bytes(damaged)
        try:
            careless_reader(path)
        except Exception as error:
            raised.add(type(error))
    assert raised - {UserInputError}


@pytest.mark.parametrize("suffix", ["ply", "pcd", "npy"])
def test_our_readers_answer_all_of_them(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    write_points(path, PointCloud(np.random.default_rng(0).random((50, 3))))
    errors = 0
    for name, damaged in corruptions(path.read_bytes(), flips=60):
        path.write_bytes(damaged)
        try:
            read_points(path)
        except UserInputError:
            errors += 1
        else:
            assert "flipped" in name or "middle" in name or "third twice" in name, name
    assert errors > 20


def test_json(tmp_path):
    path = tmp_path / "a.json"
    for _, damaged in corruptions(json.dumps({"a": list(range(50))}).encode()):
        path.write_bytes(damaged)
        try:
            read_json(path)
        except UserInputError as error:
            assert "a.json" in str(error)  # noqa: PT017
