import contextlib
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tenfold.io import PointCloud, save_checkpoint, write_bytes, write_image, write_points
from tenfold.testing import (
    assert_survives_disk_full,
    call_apart,
    disk_full,
    sigkill_and_resume,
    unwritable_path,
)

COUNTER = """
import os, pathlib, sys, time
state = pathlib.Path("state")
start = int(state.read_text()) if state.exists() else 0
for step in range(start, 6):
    SAVE
    print("step", step, flush=True)
    time.sleep(WAIT if step == 3 and not start else 0)
print("sum", sum(range(int(state.read_text()))), flush=True)
"""
ATOMIC = "pathlib.Path('new').write_text(str(step + 1)); os.replace('new', 'state')"


def counter(save=ATOMIC, wait=60):
    return [sys.executable, "-c", COUNTER.replace("SAVE", save).replace("WAIT", str(wait))]


def test_kill_and_resume(tmp_path):
    done = sigkill_and_resume(counter(), when=lambda lines: "step 3" in lines, cwd=tmp_path, timeout=30)
    assert done.killed.returncode == -9
    assert done.killed.stdout.splitlines() == [f"step {k}" for k in range(4)]
    assert done.resumed.returncode == 0
    assert done.resumed.stdout.splitlines() == ["step 4", "step 5", "sum 15"]


def test_condition_on_a_file_and_another_resume_command(tmp_path):
    done = sigkill_and_resume(
        counter(),
        when=lambda lines: (tmp_path / "state").exists() and (tmp_path / "state").read_text() == "4",
        resume_command=["/bin/sh", "-c", "echo $WORD; exit 3"],
        env={"WORD": "resumed"},
        cwd=tmp_path,
        timeout=30,
    )
    assert done.killed.returncode == -9
    assert (done.resumed.stdout, done.resumed.returncode) == ("resumed\n", 3)


def test_a_program_that_does_not_resume_is_caught(tmp_path):
    """The kit shows the loss: this one saves at its end only."""
    save = "state.write_text('6') if step == 5 else state.touch()"
    done = sigkill_and_resume(counter(save), when=lambda lines: "step 3" in lines, cwd=tmp_path, timeout=30)
    assert done.resumed.returncode != 0
    assert "ValueError" in done.resumed.stderr


def test_condition_that_never_holds(tmp_path):
    with pytest.raises(AssertionError, match=r"ended by itself \(0\) before the kill; output: (?s:.*)sum 15"):
        sigkill_and_resume(counter(wait=0), when=lambda lines: "step 9" in lines, cwd=tmp_path, timeout=30)


def test_kill_timeout_ends_the_whole_group(tmp_path):
    script = "sleep 60 & echo $! > child; wait"
    with pytest.raises(TimeoutError, match=r"took longer than 0\.5 s"):
        sigkill_and_resume(["/bin/sh", "-c", script], when=lambda lines: False, cwd=tmp_path, timeout=0.5)
    assert gone(int((tmp_path / "child").read_text()))


def test_kill_ends_children_too(tmp_path):
    script = "sleep 60 & echo $! > child; echo ready; wait"
    sigkill_and_resume(
        ["/bin/sh", "-c", script], when=lambda lines: "ready" in lines, resume_command=["true"], cwd=tmp_path
    )
    assert gone(int((tmp_path / "child").read_text()))


def gone(pid):
    for _ in range(200):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
            os.kill(pid, 0)
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.01)
    return False


def write_plainly(path, size):
    Path(path).write_bytes(bytes(size))
    return os.path.getsize(path)


def write_atomically(path, size):
    write_bytes(path, bytes(size))


def swallow(path, size):
    with contextlib.suppress(ValueError):
        write_bytes(path, bytes(size))


def leave_temporary(path, size):
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(bytes(size))
    os.replace(temporary, path)


def hide_the_name(path, size):
    try:
        write_bytes(path, bytes(size))
    except ValueError:
        raise RuntimeError("something went wrong") from None


def test_disk_full_of_a_function(tmp_path):
    done = disk_full(write_plainly, tmp_path / "a", 5000, limit_bytes=1000)
    assert done.returncode == 1
    assert done.error.startswith("OSError: [Errno 27] File too large")
    assert "write_plainly" in done.trace
    assert (tmp_path / "a").stat().st_size == 1000
    done = disk_full(write_plainly, tmp_path / "b", 1000, limit_bytes=1000)
    assert (done.returncode, done.value, done.error) == (0, 1000, "")


def leave_a_mark():
    found = "MARK" in os.environ, "mark" in sys.path, os.environ.get("WORD"), os.getcwd()
    os.environ["MARK"] = "x"
    sys.path.append("mark")
    print("said")
    return found


def kill_oneself():
    os.kill(os.getpid(), signal.SIGKILL)


def test_calls_share_a_start_and_nothing_else(tmp_path, monkeypatch):
    """Each has the folder and the environment of its caller, and leaves no trace for the next one."""
    for word in ("one", "two"):
        monkeypatch.chdir(tmp_path)
        done = disk_full(leave_a_mark, limit_bytes=1000, env={"WORD": word})
        assert done.value == (False, False, word, str(tmp_path))
        assert done.stdout == "said\n"
    assert disk_full(kill_oneself, limit_bytes=1000).returncode == -9


def parent_of_a_call():
    return os.getppid()


def fork_a_server_and_call():
    """In a child: how its own server's children end, and how many processes are above them."""
    from tenfold.testing import _fork

    _fork._COSTLY = ("numpy",)
    _fork.fork_server()
    keepers = [call_apart(parent_of_a_call).value for _ in range(2)]
    mark = disk_full(leave_a_mark, limit_bytes=1000, env={"WORD": "x"})
    return keepers, mark.value, mark.stdout, call_apart(kill_oneself).returncode


def test_a_server_forked_off_its_user_is_like_one_started_anew(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = call_apart(fork_a_server_and_call)
    assert done.error == "", done
    keepers, found, said, code = done.value
    assert len(set(keepers)) == 2
    assert found == (False, False, "x", str(tmp_path))
    assert (said, code) == ("said\n", -9)
    assert done.stdout == ""


def test_a_call_apart_has_no_limit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = call_apart(write_plainly, tmp_path / "a", 5000, env={"WORD": "x"})
    assert (done.returncode, done.value, done.error) == (0, 5000, "")
    assert call_apart(leave_a_mark, env={"WORD": "x"}).value[2:] == ("x", str(tmp_path))


def test_disk_full_of_a_command(tmp_path):
    line = ["/bin/sh", "-c", "head -c 5000 /dev/zero > big; echo said; echo $WORD"]
    done = disk_full(line, limit_bytes=1024, cwd=tmp_path, env={"WORD": "x"})
    assert (tmp_path / "big").stat().st_size == 1024
    assert done.stdout == "said\nx\n"
    with pytest.raises(TimeoutError, match="took longer"):
        disk_full(["sleep", "30"], limit_bytes=1, timeout=0.3)


def test_disk_full_refuses_a_lambda(tmp_path):
    with pytest.raises(TypeError, match="expected one defined at the top level of a file"):
        disk_full(lambda: 0, limit_bytes=1)


def test_atomic_writer_passes(tmp_path):
    done = assert_survives_disk_full(write_atomically, tmp_path / "out" / "a.bin", 100_000)
    assert done.error.startswith("UserInputError: ")


@pytest.mark.parametrize(
    ("writer", "complaint"),
    [
        (write_plainly, "old file is damaged"),
        (swallow, "did not fail"),
        (leave_temporary, r"files left behind: \['a.tmp'\]"),
        (hide_the_name, "does not name the file: RuntimeError: something went wrong"),
    ],
)
def test_bad_writers_are_caught(tmp_path, writer, complaint):
    with pytest.raises(AssertionError, match=complaint):
        assert_survives_disk_full(writer, tmp_path / "a.bin", 100_000)


def test_a_writer_that_writes_too_little_proves_nothing(tmp_path):
    with pytest.raises(AssertionError, match="did not fail"):
        assert_survives_disk_full(write_atomically, tmp_path / "a.bin", 10)


def save_tensors(path):
    import torch

    save_checkpoint(path, {"w": torch.zeros(10_000)})


def save_picture(path):
    write_image(path, np.random.default_rng(0).integers(0, 256, (99, 99, 3), dtype=np.uint8))


def save_cloud(path):
    write_points(path, PointCloud(np.random.default_rng(0).random((999, 3))))


@pytest.mark.parametrize(
    ("writer", "name"),
    [
        (save_tensors, "a.pt"),
        pytest.param(save_tensors, "a.safetensors", marks=pytest.mark.slow),
        (save_picture, "a.png"),
        *((save_cloud, f"a.{suffix}") for suffix in ("bin", "npy", "ply", "pcd")),
    ],
)
def test_every_writer_of_the_io_room_survives(tmp_path, writer, name):
    assert_survives_disk_full(writer, tmp_path / name)


def test_unwritable_path(tmp_path):
    path = unwritable_path(tmp_path)
    with pytest.raises(NotADirectoryError):
        path.write_text("x")
    with pytest.raises(NotADirectoryError):
        path.mkdir(parents=True)
    with pytest.raises(ValueError, match=r"output: file: cannot be written \(Not a directory\)"):
        write_bytes(path, b"x")
