"""stack, pad and offsets_from_batch_index: round trips, gradients, messages."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tenfold.ops import offsets_from_batch_index, pad, stack
from tenfold.testing import kernels


def test_stack_joins_the_used_rows():
    padded = torch.arange(12.0).view(2, 3, 2)
    stacked, offsets = stack(padded, torch.tensor([1, 3], dtype=torch.int32))
    assert stacked.tolist() == [[0, 1], [6, 7], [8, 9], [10, 11]]
    assert offsets.tolist() == [0, 1, 4]
    assert offsets.dtype == torch.int64


def test_stack_without_lengths_takes_all_rows():
    padded = torch.arange(12).view(2, 3, 2)
    stacked, offsets = stack(padded)
    kernels.assert_same(stacked, padded.view(6, 2))
    assert offsets.tolist() == [0, 3, 6]


def test_pad_fills_unused_rows():
    padded, lengths = pad(torch.arange(4.0), torch.tensor([0, 0, 3, 4]), value=-1)
    assert padded.tolist() == [[-1, -1, -1], [0, 1, 2], [3, -1, -1]]
    assert lengths.tolist() == [0, 3, 1]
    assert pad(torch.arange(4.0), torch.tensor([0, 4]), length=6)[0].shape == (1, 6)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(lengths=st.lists(st.integers(0, 6), max_size=6), columns=st.sampled_from([(), (3,), (2, 2)]))
def test_round_trip(lengths, columns):
    rows = torch.arange(sum(lengths))
    stacked = rows.view(-1, *([1] * len(columns))).expand(-1, *columns)
    index = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths, dtype=torch.int64))
    offsets = offsets_from_batch_index(index, len(lengths))
    assert offsets.tolist() == [sum(lengths[:b]) for b in range(len(lengths) + 1)]
    padded, counts = pad(stacked, offsets)
    assert counts.tolist() == lengths
    assert padded.shape == (len(lengths), max(lengths, default=0), *columns)
    back, back_offsets = stack(padded, counts)
    kernels.assert_same((back, back_offsets), (stacked, offsets))


def test_strides_do_not_matter():
    kernels.check_strides(stack, torch.randn(3, 4, 2), torch.tensor([2, 0, 4]))
    kernels.check_strides(pad, torch.randn(6, 2), torch.tensor([0, 2, 2, 6]))
    kernels.check_strides(lambda i: offsets_from_batch_index(i, 4), torch.tensor([0, 0, 1, 3, 3]))


def test_gradients():
    padded = torch.randn(2, 3, 2, dtype=torch.float64, requires_grad=True)
    lengths = torch.tensor([1, 3])
    assert torch.autograd.gradcheck(lambda x: stack(x, lengths)[0], (padded,))
    stacked = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    offsets = torch.tensor([0, 2, 2, 5])
    assert torch.autograd.gradcheck(lambda x: pad(x, offsets)[0], (stacked,))
    pad(stacked, offsets)[0].sum().backward()
    assert bool((stacked.grad == 1).all())


def test_pad_compiles_without_graph_breaks():
    def layout(x, offsets):
        return pad(x, offsets, length=4)[0] * 2

    stacked, offsets = torch.randn(5, 2), torch.tensor([0, 2, 2, 5])
    compiled = torch.compile(layout, fullgraph=True, backend="eager")
    kernels.assert_same(compiled(stacked, offsets), layout(stacked, offsets))


def test_nothing_in_nothing_out():
    assert stack(torch.zeros(0, 5, 3))[1].tolist() == [0]
    assert stack(torch.zeros(0, 5, 3), torch.zeros(0, dtype=torch.int64))[0].shape == (0, 3)
    assert pad(torch.zeros(0, 3), torch.tensor([0]))[0].shape == (0, 0, 3)
    assert pad(torch.zeros(0, 3), torch.tensor([0, 0]))[0].shape == (1, 0, 3)
    assert offsets_from_batch_index(torch.zeros(0, dtype=torch.int64), 2).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: stack([1]), TypeError, "stack: padded: got list"),
        (lambda: stack(torch.zeros(3)), ValueError, "stack: padded: got shape"),
        (
            lambda: stack(torch.zeros(2, 3), torch.tensor([1.0, 2.0])),
            TypeError,
            "stack: lengths: got torch.float32",
        ),
        (lambda: stack(torch.zeros(2, 3), torch.tensor([1])), ValueError, "stack: lengths: got shape"),
        (lambda: stack(torch.zeros(2, 3), torch.tensor([1, 4])), ValueError, "stack: lengths: entry 1 is 4"),
        (
            lambda: stack(torch.zeros(2, 3), torch.tensor([-1, 3])),
            ValueError,
            "stack: lengths: entry 0 is -1",
        ),
        (lambda: pad(torch.zeros(()), torch.tensor([0])), ValueError, "pad: stacked: got shape"),
        (lambda: pad(torch.zeros(3), torch.tensor([[0, 3]])), ValueError, "pad: offsets: got shape"),
        (lambda: pad(torch.zeros(3), torch.tensor([1, 3])), ValueError, "pad: offsets: entry 0 is 1"),
        (lambda: pad(torch.zeros(3), torch.tensor([0, 2, 1, 3])), ValueError, "pad: offsets: entry 2 is 1"),
        (lambda: pad(torch.zeros(3), torch.tensor([0, 2])), ValueError, "pad: offsets: entry 1 is 2"),
        (lambda: pad(torch.zeros(3), torch.tensor([0, 3]), length=2), ValueError, "pad: length: got 2"),
        (
            lambda: offsets_from_batch_index(torch.tensor([0.0]), 1),
            TypeError,
            "batch_index: got torch.float32",
        ),
        (
            lambda: offsets_from_batch_index(torch.tensor([0, 2]), 2),
            ValueError,
            "batch_index: got values from 0 to 2",
        ),
        (
            lambda: offsets_from_batch_index(torch.tensor([1, 0]), 2),
            ValueError,
            "batch_index: row 1 is 0 after 1",
        ),
        (lambda: offsets_from_batch_index(torch.tensor([0]), -1), ValueError, "batch_size: got -1"),
    ],
)
def test_messages(call, error, text):
    with pytest.raises(error, match=text):
        call()
