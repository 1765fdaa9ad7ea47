"""The two bindings of the C functions: same results, checked arguments, no torch."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tenfold import host
from tenfold.build import cache_folder
from tenfold.host import _backend
from tenfold.testing import child_environment


def kitti_case(seed: int, frames: int = 12):
    """Random frames with exact ties in overlaps and scores, all states, empty frames."""
    rng = np.random.default_rng(seed)
    det_n, gt_n = rng.integers(0, 7, frames), rng.integers(0, 6, frames)
    det_offsets = np.concatenate([[0], np.cumsum(det_n)]).astype(np.int64)
    gt_offsets = np.concatenate([[0], np.cumsum(gt_n)]).astype(np.int64)
    total_det, total_gt = int(det_offsets[-1]), int(gt_offsets[-1])
    return {
        "det_offsets": det_offsets,
        "gt_offsets": gt_offsets,
        "overlaps": rng.integers(0, 11, int((det_n * gt_n).sum())) / 10,
        "det_state": rng.choice(np.array([0, 0, 0, 1, -1], np.int8), total_det),
        "gt_state": rng.choice(np.array([0, 0, 0, 1, -1], np.int8), total_gt),
        "det_score": rng.integers(0, 8, total_det) / 8,
        "det_alpha": rng.uniform(-3, 3, total_det),
        "gt_alpha": rng.uniform(-3, 3, total_gt),
        "dontcare": rng.integers(0, 11, total_det) / 10,
    }


SCORES = ("det_offsets", "gt_offsets", "overlaps", "det_state", "gt_state", "det_score")
COUNTS = (*SCORES, "det_alpha", "gt_alpha", "dontcare")


def run(case):
    scores = host.match_kitti_scores(*(case[k] for k in SCORES), 0.5)
    counts = host.match_kitti(*(case[k] for k in COUNTS), 0.5, np.linspace(0, 1, 9))
    return scores, counts.true_positives, counts.false_positives, counts.misses, counts.similarity


def test_bindings_agree_bit_for_bit(both_bindings):
    for seed in range(50):
        first, second = both_bindings(lambda case=kitti_case(seed): run(case))
        for a, b in zip(first, second, strict=True):
            np.testing.assert_array_equal(a, b)


def test_both_bindings_offer_every_function():
    module, library = _backend.load_pybind(), _backend.load_ctypes()
    offered = {name for name in dir(module) if not name.startswith("_")}
    assert offered == set(_backend.SIGNATURES)
    assert all(callable(getattr(library, name)) for name in _backend.SIGNATURES)


def test_what_the_user_built_serves_where_the_installation_has_nothing(monkeypatch, tmp_path):
    installed, built = tmp_path / "installed", tmp_path / "cache"
    monkeypatch.setenv("TENFOLD_CACHE", str(built))
    libraries = [Path(module.__file__) for module in (_backend.load_pybind(),)]
    libraries.append(_backend._PACKAGE / "_libtenfold_host.so")
    monkeypatch.setattr(_backend, "_PACKAGE", installed)
    assert _backend.load_pybind() is None
    assert _backend.load_ctypes() is None
    monkeypatch.setattr(_backend, "_backend", None)
    with pytest.raises(RuntimeError, match=r"run `python -m tenfold\.build`"):
        run(kitti_case(0))
    cache_folder().mkdir(parents=True)
    for library in libraries:
        (cache_folder() / library.name).symlink_to(library)
    for load in (_backend.load_pybind, _backend.load_ctypes):
        monkeypatch.setattr(_backend, "_backend", load())
        assert len(run(kitti_case(0))) == 5


def test_pybind_refuses_wrong_buffers():
    module = _backend.load_pybind()
    case = kitti_case(0)
    args = [len(case["det_offsets"]) - 1, *(case[k] for k in SCORES), 0.5, np.empty(len(case["gt_state"]))]
    assert module.kitti_scores(*args) >= 0
    with pytest.raises(TypeError, match="float64"):
        module.kitti_scores(*args[:3], args[3].astype(np.float32), *args[4:])
    with pytest.raises(ValueError, match="C-contiguous"):
        module.kitti_scores(*args[:3], np.repeat(args[3], 2)[::2], *args[4:])
    frozen = np.empty(len(case["gt_state"]))
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match=r"read-only|writeable"):
        module.kitti_scores(*args[:-1], frozen)


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        ("overlaps", np.zeros(3), ValueError, "overlaps: got 3 entries; expected"),
        ("overlaps", np.zeros(3, np.float32), TypeError, "overlaps: got float32; expected float64"),
        ("det_offsets", np.array([1, 2]), ValueError, "det_offsets: expected non-decreasing offsets from 0"),
        ("det_offsets", np.zeros(0, np.int64), ValueError, "det_offsets: expected non-decreasing"),
        ("gt_offsets", np.array([0, 5, 3]), ValueError, "gt_offsets: expected non-decreasing"),
        ("det_score", np.zeros(1), ValueError, "det_score: got 1 entries"),
        ("det_state", np.zeros((2, 2), np.int8), ValueError, r"det_state: got shape \(2, 2\)"),
    ],
)
def test_wrong_input_is_named(name, value, error, message):
    case = kitti_case(3) | {name: value}
    with pytest.raises(error, match=message):
        host.match_kitti_scores(*(case[k] for k in SCORES), 0.5)


def naive_counts(case, min_overlap, threshold):
    """The matching rules of the metric, said once more in plain Python."""
    tp = fp = fn = 0
    similarity = 0.0
    block = 0
    for f in range(len(case["det_offsets"]) - 1):
        dets = range(case["det_offsets"][f], case["det_offsets"][f + 1])
        gts = range(case["gt_offsets"][f], case["gt_offsets"][f + 1])
        overlap = case["overlaps"][block : block + len(dets) * len(gts)].reshape(len(dets), len(gts))
        block += overlap.size
        free = {d for d in dets if case["det_state"][d] >= 0 and case["det_score"][d] >= threshold}
        for column, g in enumerate(gts):
            if case["gt_state"][g] < 0:
                continue
            near = sorted(d for d in free if overlap[d - dets.start, column] > min_overlap)
            counting = [d for d in near if case["det_state"][d] == 0]
            chosen = (
                max(counting, key=lambda d: overlap[d - dets.start, column])
                if counting
                else (near or [None])[0]
            )
            if chosen is None:
                fn += case["gt_state"][g] == 0
                continue
            free.remove(chosen)
            if case["gt_state"][g] == 0 and case["det_state"][chosen] == 0:
                tp += 1
                similarity += (1 + np.cos(case["gt_alpha"][g] - case["det_alpha"][chosen])) / 2
        fp += sum(case["det_state"][d] == 0 and case["dontcare"][d] <= min_overlap for d in free)
    return tp, fp, fn, similarity


@pytest.mark.parametrize("seed", range(30))
def test_counts_equal_a_plain_restatement(seed):
    case = kitti_case(seed)
    thresholds = np.linspace(0, 1, 9)
    got = host.match_kitti(*(case[k] for k in COUNTS), 0.5, thresholds)
    for i, threshold in enumerate(thresholds):
        tp, fp, fn, similarity = naive_counts(case, 0.5, threshold)
        assert (got.true_positives[i], got.false_positives[i], got.misses[i]) == (tp, fp, fn)
        assert got.similarity[i] == pytest.approx(similarity, abs=1e-12)


def test_threads_do_not_disturb_each_other():
    cases = [kitti_case(seed, frames=200) for seed in range(8)]
    expected = [run(case) for case in cases]
    with ThreadPoolExecutor(4) as pool:
        for want, got in zip(expected * 5, pool.map(run, cases * 5), strict=True):
            for a, b in zip(want, got, strict=True):
                np.testing.assert_array_equal(a, b)


def test_ctypes_serves_where_the_module_is_missing():
    code = "import sys; from tenfold import host; import numpy as np\n"
    code += "z = np.zeros(1, np.int64); e = np.zeros(0); s = np.zeros(0, np.int8)\n"
    code += "print(host.match_kitti_scores(z, z, e, s, s, e, .5), 'torch' in sys.modules)"
    env = child_environment({"TENFOLD_HOST_BINDING": "ctypes"})
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["[]", "False"], done.stderr
