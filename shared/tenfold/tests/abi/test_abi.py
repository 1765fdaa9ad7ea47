"""The built kernels under whichever torch runs them; `nox -s abi` runs this on the wheel."""

import os

import pytest
import torch

import tenfold
from tenfold import _native, ref
from tenfold.ops import __contract__, nms


def test_runs_under_the_torch_it_was_asked_for():
    wanted = os.environ.get("TENFOLD_ABI_TORCH", torch.__version__)
    assert torch.__version__.split("+")[0] == wanted.split("+")[0]


def test_native_kernels_are_loaded_and_state_every_contract():
    assert _native.status.library is not None, _native.status.reason
    for op, number in __contract__.items():
        assert _native.status.library.tenfold_contract(op.encode()) == number
    assert "none, reference" not in tenfold.show_config()


def test_kernel_equals_reference():
    g = torch.Generator().manual_seed(0)
    corner = torch.rand(200, 2, generator=g) * 50
    boxes = torch.cat([corner, corner + torch.rand(200, 2, generator=g) * 20], dim=1)
    scores = torch.rand(200, generator=g)
    assert torch.equal(nms(boxes, scores, 0.5), ref.nms(boxes, scores, 0.5))


def test_an_error_raised_in_the_kernel_arrives_as_value_error():
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, float("nan"), 1.0]])
    with pytest.raises(ValueError, match=r"^nms: boxes: row 1 is not finite"):
        nms(boxes, torch.ones(2), 0.5)


def test_misuse_of_the_raw_operator_raises():
    with pytest.raises(RuntimeError, match="expected shape"):
        torch.ops.tenfold.nms(torch.zeros(3, 5), torch.zeros(3), 0.5, None, None, False)
