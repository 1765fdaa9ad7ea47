import errno
import os
import stat

import numpy as np
import pytest

import tenfold.io.atomic as atomic
from tenfold._errors import UserInputError
from tenfold.io import (
    atomic_write,
    check_folder,
    check_output,
    make_folder,
    staged,
    write_bytes,
    write_json,
    write_text,
)


@pytest.fixture
def old(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    return path


def only_file(path):
    return [p.name for p in path.parent.iterdir()] == [path.name]


def test_new_file_and_replacement(tmp_path):
    path = tmp_path / "a.bin"
    write_bytes(path, b"one")
    write_bytes(str(path), memoryview(b"two"))
    assert path.read_bytes() == b"two"
    assert only_file(path)


def test_reader_sees_old_content_until_the_end(old):
    with atomic_write(old, "w") as file:
        file.write("new")
        file.flush()
        assert old.read_text() == "old"
    assert old.read_text() == "new"


@pytest.mark.parametrize("error", [RuntimeError("x"), KeyboardInterrupt(), SystemExit(3)])
def test_exception_keeps_old_and_is_not_changed(old, error):
    def write():
        with atomic_write(old, "w") as file:
            file.write("half")
            raise error

    with pytest.raises(type(error)):
        write()
    assert old.read_text() == "old"
    assert only_file(old)


def test_foreign_oserror_passes_unchanged(old):
    with pytest.raises(FileNotFoundError), atomic_write(old) as file:
        file.write((old.parent / "absent").read_bytes())
    assert old.read_text() == "old"
    assert only_file(old)


def test_error_of_a_socket_passes_unchanged(old):
    def write():
        with atomic_write(old) as file:
            file.write(b"half")
            raise ConnectionResetError(errno.ECONNRESET, "reset by peer")

    with pytest.raises(ConnectionResetError):
        write()
    assert old.read_text() == "old"
    assert only_file(old)


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_failing_system_call_keeps_old_and_names_path(old, monkeypatch, step):
    def fail(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic.os, step, fail)
    with pytest.raises(UserInputError, match=r"file\.txt: file: cannot be written \(No space left"):
        write_text(old, "new")
    assert old.read_text() == "old"
    assert only_file(old)


def test_file_and_folder_are_synced_in_order(old, monkeypatch):
    steps = []
    real = {name: getattr(os, name) for name in ("fsync", "replace")}

    def fsync(number):
        steps.append("folder" if stat.S_ISDIR(os.fstat(number).st_mode) else "file")
        real["fsync"](number)

    def replace(a, b):
        steps.append("rename")
        real["replace"](a, b)

    monkeypatch.setattr(atomic.os, "fsync", fsync)
    monkeypatch.setattr(atomic.os, "replace", replace)
    write_text(old, "new")
    assert steps == ["file", "rename", "folder"]


def test_folder_that_cannot_be_synced_is_fine(old, monkeypatch):
    real = os.fsync

    def fsync(number):
        if stat.S_ISDIR(os.fstat(number).st_mode):
            raise OSError(errno.EINVAL, "no")
        real(number)

    monkeypatch.setattr(atomic.os, "fsync", fsync)
    write_text(old, "new")
    assert old.read_text() == "new"


def test_permissions_and_umask(old):
    os.chmod(old, 0o640)
    write_text(old, "new")
    assert stat.S_IMODE(old.stat().st_mode) == 0o640
    mask = os.umask(0o027)
    try:
        write_text(old.with_name("fresh"), "x")
    finally:
        os.umask(mask)
    assert stat.S_IMODE(old.with_name("fresh").stat().st_mode) == 0o640


def test_symbolic_link_is_followed(old):
    link = old.with_name("link")
    link.symlink_to(old)
    write_text(link, "new")
    assert link.is_symlink()
    assert old.read_text() == "new"


@pytest.mark.parametrize("name", ["absent/file", "file.txt/below", "."])
def test_impossible_places(old, name):
    with pytest.raises(UserInputError, match="cannot be written"):
        write_text(old.parent / name, "x")
    assert only_file(old)


def test_long_name(tmp_path):
    write_text(tmp_path / ("ä" * 120), "x")
    with pytest.raises(UserInputError, match="too long"):
        write_text(tmp_path / ("a" * 300), "x")


def test_mode():
    with pytest.raises(ValueError, match="atomic_write: mode: got 'a'"), atomic_write("x", "a"):
        pass


def test_json(old):
    write_json(old, {"b": [1.5, None], "a": "ü"})
    assert old.read_text(encoding="utf-8") == '{\n  "b": [\n    1.5,\n    null\n  ],\n  "a": "ü"\n}\n'
    for bad, kind in ((np.float32(1), TypeError), (float("nan"), ValueError)):
        with pytest.raises(kind):
            write_json(old, {"value": bad})
    assert '"ü"' in old.read_text(encoding="utf-8")
    assert only_file(old)


def test_a_folder_for_results(tmp_path):
    assert make_folder(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert make_folder(str(tmp_path / "a" / "b")).is_dir()  # there already
    (tmp_path / "file").touch()
    with pytest.raises(UserInputError, match="file/below: results: cannot be created"):
        make_folder(tmp_path / "file" / "below", "results")


def test_a_folder_is_checked_before_the_work(tmp_path, monkeypatch):
    check_folder(tmp_path / "a" / "b")
    assert not list(tmp_path.iterdir())  # checked, not created
    (tmp_path / "file").touch()
    for bad in (tmp_path / "file", tmp_path / "file" / "below" / "deep"):
        with pytest.raises(UserInputError, match=r"file.*: results: cannot be created \(.*file is no folder"):
            check_folder(bad, "results")
    with pytest.raises(UserInputError, match="out: cannot be created"):
        check_folder(tmp_path / ("x" * 5000))
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(UserInputError, match=r"is not writable"):
        check_folder(tmp_path / "a")


def test_an_output_is_checked_before_the_work(tmp_path):
    check_output(tmp_path / "a.pt2")
    with pytest.raises(
        UserInputError, match=r"a\.txt: output: got the ending '\.txt'; expected \.onnx or \.pt2"
    ):
        check_output(tmp_path / "a.txt")
    with pytest.raises(UserInputError, match=r"out: got the ending ''; expected \.mp4"):
        check_output(tmp_path / "a", (".mp4",), "out")
    with pytest.raises(UserInputError, match=r"expected \.a, \.b or \.c"):
        check_output(tmp_path / "a", (".a", ".b", ".c"))
    with pytest.raises(UserInputError, match=r"output: the folder .* does not exist"):
        check_output(tmp_path / "none" / "a.onnx")


def test_staged_files_appear_together_or_not_at_all(tmp_path):
    target = tmp_path / "a.onnx"
    target.write_text("old")
    with pytest.raises(UnicodeError), staged(target) as written:
        written.with_name("a.onnx.data").write_text("\ud800", "utf-8")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("a.onnx", "old")]
    with staged(target) as written:
        written.write_text("new")
        written.with_name("a.onnx.data").write_text("weights")
        assert target.read_text() == "old"
    assert sorted((file.name, file.read_text()) for file in tmp_path.iterdir()) == [
        ("a.onnx", "new"),
        ("a.onnx.data", "weights"),
    ]
