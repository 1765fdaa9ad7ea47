import pytest
import torch
from torch import nn

from tenfold.io import CheckpointMismatchError
from tenfold.sparse import (
    SparseConv3d,
    SparseSequential,
    SparseTensor,
    SubMConv3d,
    convert_spconv_state_dict,
    load_spconv_state_dict,
)
from tenfold.testing import require, threads

# Axes that bring (C_out, kz, ky, kx, C_in) into each layout.
TO = {"KRSC": (0, 1, 2, 3, 4), "RSCK": (1, 2, 3, 4, 0), "RSKC": (1, 2, 3, 0, 4)}
SHAPE = (4, 6, 5)


def network():
    return SparseSequential(
        SubMConv3d(4, 16, 3, bias=False),
        nn.BatchNorm1d(16),
        SubMConv3d(16, 16, 3, bias=True),
        SparseConv3d(16, 8, 3),
    )


def stored(model, layout):
    return {k: v.permute(TO[layout]) if v.dim() == 5 else v for k, v in model.state_dict().items()}


def frame(channels, n=40, seed=0):
    g = torch.Generator().manual_seed(seed)
    cells = torch.randperm(4 * 6 * 5, generator=g)[:n]
    coords = torch.stack((cells * 0, cells // 30, cells // 5 % 6, cells % 5), 1).int()
    return torch.randn(n, channels, generator=g), coords


@pytest.mark.parametrize("layout", TO)
@pytest.mark.parametrize("named", [True, False])
def test_every_layout_gives_the_same_weights(layout, named):
    source, target = network(), network()
    report = load_spconv_state_dict(target, stored(source, layout), layout if named else "auto")
    assert report.complete
    assert len(report.loaded) == len(source.state_dict())
    loaded = target.state_dict()
    for key, value in source.state_dict().items():
        assert torch.equal(loaded[key], value), key


def test_ambiguous_shapes_are_an_error():
    model = SparseSequential(SubMConv3d(16, 16, 3, bias=False))
    with pytest.raises(ValueError, match="RSCK and RSKC"):
        load_spconv_state_dict(model, stored(model, "RSCK"))
    assert load_spconv_state_dict(model, stored(model, "RSCK"), "RSCK").complete
    three = SparseSequential(SubMConv3d(3, 3, 3, bias=False))
    with pytest.raises(ValueError, match="KRSC and RSCK and RSKC"):
        load_spconv_state_dict(three, three.state_dict())


def test_mixed_and_wrong_layouts_are_an_error():
    model = network()
    mixed = {**stored(model, "KRSC"), "0.weight": stored(model, "RSCK")["0.weight"]}
    with pytest.raises(ValueError, match="no single layout"):
        load_spconv_state_dict(model, mixed)
    with pytest.raises(ValueError, match=r"KRSC does not fit 0\.weight"):
        load_spconv_state_dict(model, stored(model, "RSCK"), "KRSC")
    with pytest.raises(ValueError, match="expected auto, KRSC"):
        load_spconv_state_dict(model, stored(model, "RSCK"), "RSC")


def test_every_key_is_reported():
    model = network()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = stored(network(), "RSCK")
    del state["1.bias"]
    state["9.weight"] = torch.zeros(1)
    state["2.weight"] = torch.zeros(3, 3, 3, 16, 17)
    state["3.bias"] = torch.zeros(9)
    with pytest.raises(CheckpointMismatchError) as caught:
        load_spconv_state_dict(model, state)
    report = caught.value.report
    assert report.missing == ["1.bias"]
    assert report.unexpected == ["9.weight"]
    assert report.reshaped == {
        "2.weight": ((3, 3, 3, 16, 17), (16, 3, 3, 3, 16)),
        "3.bias": ((9,), (8,)),
    }
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    with pytest.raises(ValueError, match=r"2\.weight: got shape \(3, 3, 3, 16, 17\)"):
        convert_spconv_state_dict(model, state)


@pytest.mark.parametrize("kind", ["subm", "strided", "subm3", "stride 2"])
def test_pointwise_layers_equal_spconv(kind):
    spconv = require("spconv") and require("spconv.pytorch")
    from spconv.core import ConvAlgo

    options = {"algo": ConvAlgo.Native, "bias": True}
    theirs, ours = {
        "subm": lambda: (spconv.SubMConv3d(4, 7, 1, **options), SubMConv3d(4, 7, 1)),
        "strided": lambda: (spconv.SparseConv3d(4, 7, 1, **options), SparseConv3d(4, 7, 1)),
        "subm3": lambda: (spconv.SubMConv3d(4, 7, 3, **options), SubMConv3d(4, 7, 3)),
        "stride 2": lambda: (
            spconv.SparseConv3d(4, 7, 1, stride=2, **options),
            SparseConv3d(4, 7, 1, stride=2),
        ),
    }[kind]()
    x, coords = frame(4)
    load_spconv_state_dict(ours, theirs.state_dict(), "KRSC")
    with torch.no_grad(), threads(1):  # on two threads spconv loses a row now and then
        found = ours(SparseTensor(x, coords, SHAPE, 1)).dense()
        wanted = theirs(spconv.SparseConvTensor(x, coords, list(SHAPE), 1)).dense()
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
        if kind in ("subm", "strided"):
            ours.load_state_dict(theirs.state_dict())  # as stored: the transposed matrix, off by O(1)
            assert (ours(SparseTensor(x, coords, SHAPE, 1)).dense() - wanted).abs().max() > 0.1
