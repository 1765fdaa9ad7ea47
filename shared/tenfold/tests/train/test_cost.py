import pytest
import torch
from torch import nn

from tenfold.train.cost import CostLedger, count_macs, count_parameters


@pytest.mark.parametrize(
    ("name", "parameters", "gmacs"),
    # Parameters and GMACs as torchvision publishes them with its weights.
    [("resnet18", 11_689_512, 1.814), ("mobilenet_v2", 3_504_872, 0.301), ("vit_b_16", 86_567_656, 17.564)],
)
def test_published_figures(name, parameters, gmacs):
    models = pytest.importorskip("torchvision.models")
    with torch.device("meta"):
        model = models.get_model(name, weights=None)
        image = torch.zeros(1, 3, 224, 224)
    assert count_parameters(model) == parameters
    assert count_macs(model, image).macs / 1e9 == pytest.approx(gmacs, abs=6e-4)


@pytest.mark.parametrize(
    ("layer", "shape", "macs"),
    [
        (nn.Conv2d(8, 12, 3, stride=2, padding=1, groups=4), (2, 8, 9, 7), 2 * 12 * 5 * 4 * 2 * 9),
        (nn.ConvTranspose2d(4, 6, 2, stride=2), (1, 4, 5, 5), 4 * 6 * 4 * 25),
        (nn.Conv1d(3, 5, 4), (1, 3, 10), 5 * 7 * 3 * 4),
        (nn.Conv3d(2, 3, 3), (1, 2, 5, 5, 5), 3 * 27 * 2 * 27),
        (nn.Linear(7, 3), (2, 5, 7), 10 * 21),
        (nn.LSTM(4, 6, batch_first=True), (1, 5, 4), 5 * 4 * 6 * (4 + 6)),
    ],
)
def test_closed_forms(layer, shape, macs):
    assert count_macs(layer, torch.zeros(shape)).macs == macs


def test_attention_counts_projections_and_both_products():
    layer = nn.MultiheadAttention(16, 4, batch_first=True)
    x = torch.zeros(1, 10, 16)
    # Query, key, value and output projections; scores and weighted sum.
    assert count_macs(layer, x, x, x, need_weights=False).macs == 4 * 10 * 16 * 16 + 2 * 10 * 10 * 16


def test_encoder_layer_s_fast_path_hides_nothing():
    layer = nn.TransformerEncoderLayer(16, 4, dim_feedforward=32, batch_first=True)
    assert count_macs(layer, torch.zeros(1, 10, 16)).macs == 10 * (4 * 256 + 2 * 160 + 2 * 16 * 32)


def test_modules_add_up_and_the_model_is_left_as_it_was():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Sequential(nn.Flatten(), nn.Linear(36, 2))
    )
    model[1].eval()
    modes = [module.training for module in model.modules()]
    mean = model[1].running_mean.clone()
    cost = count_macs(model, torch.randn(1, 3, 5, 5))
    assert cost.modules == {"": 972 + 72, "0": 972, "2": 72, "2.1": 72}
    assert sum(cost.operators.values()) == cost.macs
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(model[1].running_mean, mean)
    assert "| 0 | 972 | 93.1 % |" in cost.table()
    assert "2.1" not in cost.table(depth=1)


def test_deformable_convolution_counts_as_its_plain_shape():
    ops = pytest.importorskip("torchvision.ops")
    layer = ops.DeformConv2d(4, 6, 3, padding=1)
    macs = count_macs(layer, torch.zeros(1, 4, 8, 8), torch.zeros(1, 18, 8, 8)).macs
    assert macs == 6 * 4 * 9 * 64


def test_own_operators_by_formula():
    formulas = {torch.ops.aten.cumsum: lambda x, *rest, out_shape, **keywords: 5 * x[0]}
    assert count_macs(_Cumulative(), torch.zeros(11), formulas=formulas).macs == 55
    assert count_macs(_Cumulative(), torch.zeros(11)).macs == 0


class _Cumulative(nn.Module):
    def forward(self, x):
        return x.cumsum(0)


def test_parameters_shared_and_frozen():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    model[0].bias.requires_grad_(False)
    assert count_parameters(model) == 9 + 3 + 3
    assert count_parameters(model, trainable_only=True) == 12


@pytest.mark.parametrize(("multiplier", "percent"), [(1.0, 78.137), (2.0, None)])
def test_ledger_reproduces_the_cost_formula_of_a_distillation_run(multiplier, percent):
    # Teacher 29.88 times the student; 48 of 64 images kept, all 64 scored by the student first.
    ratio, batches = 29.88, 5
    teacher, student = nn.Linear(2, 2).requires_grad_(False), nn.Linear(2, 2)
    plain, ours = CostLedger(), CostLedger()
    for ledger, kept in ((plain, 64), (ours, 48)):
        handles = [ledger.watch("teacher", teacher, ratio), ledger.watch("student", student, 1.0)]
        for _ in range(batches):
            if kept < 64:
                with torch.no_grad():
                    student(torch.zeros(64, 2))
            teacher(torch.zeros(kept, 2))
            student(torch.zeros(kept, 2))
        for handle in handles:
            handle.remove()
    student(torch.zeros(9, 2))  # no longer watched
    assert ours.forward_images == {"teacher": 240, "student": 560}
    assert ours.backward_images == {"teacher": 0, "student": 240}
    formula = 48 / 64 + 1 / (ratio + 1 + multiplier)
    assert ours.relative_to(plain, multiplier) == pytest.approx(formula, rel=1e-12)
    if percent is not None:
        assert 100 * formula == pytest.approx(percent, abs=1e-3)
    again = CostLedger()
    again.load_state_dict(ours.state_dict())
    assert again == ours


def test_ledger_refuses_what_makes_no_sense():
    ledger = CostLedger()
    ledger.add("net", macs_per_image=3.0, forward=1)
    with pytest.raises(ValueError, match=r"macs_per_image: got 4\.0; expected 3\.0"):
        ledger.add("net", macs_per_image=4.0, forward=1)
    with pytest.raises(ValueError, match="none below 0"):
        ledger.add("net", macs_per_image=3.0, forward=-1)
