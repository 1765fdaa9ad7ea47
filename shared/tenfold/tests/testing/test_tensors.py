import numpy as np
import pytest
import torch

from tenfold.testing import assert_bit_equal, stride_variant, stride_variants, threads, undrawn

NAN = torch.tensor([float("nan")])


@pytest.mark.parametrize(
    "value",
    [
        torch.arange(6.0).reshape(2, 3),
        NAN,
        torch.tensor(3),
        torch.zeros(0, 3),
        torch.tensor([1.5], dtype=torch.bfloat16),
        torch.tensor([1 + 2j]),
        torch.tensor([True]),
        np.array([[np.nan, -0.0]]),
        np.float32(2),
        np.zeros((0, 2)),
        {"a": [torch.ones(2), (1, "x", None)], "b": float("nan")},
    ],
)
def test_equal(value):
    assert_bit_equal(value, value)


def test_strides_and_conjugation_do_not_matter():
    a = torch.arange(6.0).reshape(2, 3)
    assert_bit_equal(a.t(), a.t().contiguous())
    z = torch.tensor([1 + 2j])
    assert_bit_equal(z.conj(), torch.tensor([1 - 2j]))


other_nan = torch.tensor([0x7FC00001], dtype=torch.int32).view(torch.float32)


@pytest.mark.parametrize(
    ("actual", "expected", "text"),
    [
        (torch.ones(2), torch.ones(2, dtype=torch.float64), r"torch.float32, expected torch.float64"),
        (torch.ones(2), torch.ones(2, 1), r"\(2,\), expected \(2, 1\)"),
        (
            torch.tensor([[0.0, 1.0]]),
            torch.tensor([[0.0, 1.0 + 2**-23]]),
            r"1 of 2 values differ, first at \(0, 1\)",
        ),
        (torch.tensor(-0.0), torch.tensor(0.0), r"first at \(\): -0.0 is not 0.0"),
        (NAN, other_nan, "nan is not nan"),
        (torch.ones(1), np.ones(1), "expected"),
        (np.ones(1), np.ones(1, np.float32), "float64, expected float32"),
        (np.array([0, 1]), np.array([0, 2]), r"first at \(1,\): 1 is not 2"),
        (np.array([[1]]), np.array([1]), r"\(1, 1\), expected \(1,\)"),
        ([1, 2], [1], "2 items, expected 1"),
        ([1], (1,), "expected"),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, "keys"),
        ({"a": [torch.zeros(1)]}, {"a": [torch.ones(1)]}, r"value\['a'\]\[0\]: 1 of 1 values differ"),
        (-0.0, 0.0, "first at"),
        (1, 1.0, "expected"),
        ("a", "b", "'a', expected 'b'"),
    ],
)
def test_differences_are_found(actual, expected, text):
    with pytest.raises(AssertionError, match=text):
        assert_bit_equal(actual, expected)


def test_threads_are_restored():
    before = torch.get_num_threads()
    with pytest.raises(KeyError), threads(before + 1):
        {}[torch.get_num_threads() - before]
    assert torch.get_num_threads() == before


TENSORS = [
    torch.arange(24.0).reshape(2, 3, 4),
    torch.arange(5),
    torch.tensor(2.5),
    torch.ones(3, 4, dtype=torch.bfloat16),
    torch.zeros(0, 3),
    torch.tensor([[True, False]]),
    torch.rand(2, 3, 4, 5),
    torch.tensor([1 + 2j, 3]),
    torch.tensor([[1, 2]], dtype=torch.uint8),
]


@pytest.mark.parametrize("tensor", TENSORS, ids=lambda t: f"{tuple(t.shape)}-{t.dtype}")
def test_variants_have_the_same_values(tensor):
    found = dict(stride_variants(tensor))
    for variant in found.values():
        assert_bit_equal(variant, tensor)
        assert (
            variant.untyped_storage().data_ptr() != tensor.untyped_storage().data_ptr() or not tensor.numel()
        )


def test_one_variant_is_that_of_its_number():
    values = torch.tensor([[1.0, 2.0]] * 3)
    layouts = [(v.stride(), v.storage_offset()) for _, v in stride_variants(values)]
    found = [stride_variant(values, number) for number in range(len(layouts) + 1)]
    assert [(v.stride(), v.storage_offset()) for v in found] == [*layouts, layouts[-1]]
    for variant in found:
        assert_bit_equal(variant, values)


def test_variants_are_what_their_names_say():
    found = dict(stride_variants(torch.arange(12.0).reshape(3, 4)))
    assert not found["transposed"].is_contiguous()
    assert found["offset"].storage_offset() > 0
    assert not found["every second along 1"].is_contiguous()
    assert not any(name.startswith("expanded") for name in found)
    equal = dict(stride_variants(torch.tensor([[1.0, 2.0]] * 3)))
    assert equal["expanded along 0"].stride(0) == 0
    assert "expanded along 1" not in equal
    assert dict(stride_variants(torch.rand(2, 3, 4, 5)))["channels last"].is_contiguous(
        memory_format=torch.channels_last
    )


def careless_sum(tensor, *, honour_offset):
    """Reads the storage and ignores strides, as a kernel with a forgotten `contiguous()` does."""
    flat = torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage())
    start = tensor.storage_offset() if honour_offset else 0
    return flat[start : start + tensor.numel()].sum()


@pytest.mark.parametrize("honour_offset", [True, False])
def test_a_careless_op_is_caught(honour_offset):
    values = torch.rand(3, 4, dtype=torch.float64)
    caught = [
        name
        for name, variant in stride_variants(values)
        if not torch.isclose(careless_sum(variant, honour_offset=honour_offset), values.sum())
    ]
    assert "contiguous" not in caught
    assert ("offset" in caught) != honour_offset
    assert {"every second along 0", "every second along 1"} <= set(caught)


def test_networks_made_undrawn_draw_nothing():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    with undrawn():
        layer = torch.nn.Linear(3, 2)
    assert layer.weight.shape == (2, 3)
    assert torch.equal(torch.get_rng_state(), state)
    assert {"normal_", "uniform_"}.isdisjoint(torch.Tensor.__dict__)
    assert torch.zeros(5).normal_().std() > 0
