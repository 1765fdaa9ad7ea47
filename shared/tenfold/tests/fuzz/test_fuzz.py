"""Kernels against references on drawn calls: 300 an operator here, more in the session `sanitize`.

TENFOLD_FUZZ_CASES is the number of calls. A failure names the operator and the seed; the same seed draws the same
call again: ``CASES[operator].make(np.random.default_rng(seed))``.
"""

import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import tenfold
from tenfold.testing import kernels

sys.path.insert(0, str(Path(__file__).parent))

from cases import CASES

COUNT = int(os.environ.get("TENFOLD_FUZZ_CASES", "300"))
FIRST = int(os.environ.get("TENFOLD_FUZZ_FIRST", "0"))


def outcome(call):
    """The result, or the kind of error: both sides must refuse the same calls."""
    try:
        return call(), None
    except (ValueError, TypeError) as error:
        return None, type(error)


def check(name, seed):
    case = CASES[name]
    call = case.make(np.random.default_rng(seed))
    with tenfold.validation("meta"):  # below the level that refuses content, every input has a defined result
        got, error = outcome(call)
        with tenfold.reference():
            expected, expected_error = outcome(call)
    assert error == expected_error, f"{name}, seed {seed}: kernel {error}, reference {expected_error}"
    if error is None:
        try:
            kernels.assert_same(got, expected, rtol=case.rtol)
        except AssertionError as difference:
            raise AssertionError(f"{name}, seed {seed}: {difference}") from None


@pytest.mark.parametrize("name", CASES)
def test_kernel_equals_reference(name):
    start = time.perf_counter()
    for seed in range(FIRST, FIRST + COUNT):
        check(name, seed)
    print(f"{name}: {COUNT} calls in {time.perf_counter() - start:.0f} s")


# Native operators without a case of their own: parts of a public function that has one.
REACHED = {
    *("interpolate", "points_in_boxes_csr", "points_in_boxes_first", "points_in_boxes_mask", "voxel_table"),
    "voxelize_out",
}


def test_every_operator_is_fuzzed():
    names = {name.removesuffix("_padded").removesuffix("_multi") for name in tenfold.ops.__contract__}
    assert names - set(CASES) == REACHED
