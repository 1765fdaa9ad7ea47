import math

import numpy as np
import pytest
import torch

from tenfold.losses import corner_loss, direction_loss, sigmoid_focal_loss, sin_difference, smooth_l1


def focal_numpy(x, t, alpha, gamma):
    """The formula of the paper, in float64."""
    p = 1 / (1 + np.exp(-x))
    pt = np.where(t == 1, p, 1 - p)
    return -np.where(t == 1, alpha, 1 - alpha) * (1 - pt) ** gamma * np.log(pt)


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.5, 0.0), (0.9, 1.5)])
def test_focal_equals_the_formula(alpha, gamma):
    rng = np.random.default_rng(0)
    x, t = rng.normal(0, 4, (50, 3)), rng.integers(0, 2, (50, 3)).astype(float)
    ours = sigmoid_focal_loss(torch.tensor(x), torch.tensor(t), alpha=alpha, gamma=gamma)
    np.testing.assert_allclose(ours.numpy(), focal_numpy(x, t, alpha, gamma), rtol=1e-10)


def test_focal_is_finite_at_large_logits():
    x = torch.tensor([-200.0, 200.0, -200.0, 200.0], requires_grad=True)
    loss = sigmoid_focal_loss(x, torch.tensor([1.0, 1.0, 0.0, 0.0]))
    loss.sum().backward()
    assert loss.tolist() == [50.0, 0.0, 0.0, 150.0]
    assert x.grad.isfinite().all()


def test_focal_gradient():
    x = torch.randn(6, dtype=torch.float64, requires_grad=True)
    t = torch.tensor([1.0, 0, 1, 0, 0, 1], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda v: sigmoid_focal_loss(v, t), (x,))


def test_smooth_l1_equals_the_definition_and_torch():
    rng = np.random.default_rng(1)
    a, b = rng.normal(0, 0.3, (40, 7)), rng.normal(0, 0.3, (40, 7))
    w, beta = rng.uniform(0.5, 2, 7), 1 / 9
    d = np.abs(w * (a - b))
    expected = np.where(d < beta, 0.5 * d**2 / beta, d - beta / 2)
    assert 0 < (d < beta).mean() < 1
    ours = smooth_l1(torch.tensor(a), torch.tensor(b), code_weights=list(w))
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-12)
    plain = torch.nn.functional.smooth_l1_loss(torch.tensor(a), torch.tensor(b), beta=0.3, reduction="none")
    torch.testing.assert_close(smooth_l1(torch.tensor(a), torch.tensor(b), beta=0.3), plain)
    torch.testing.assert_close(smooth_l1(torch.tensor(a), torch.tensor(b), beta=0), torch.tensor(a - b).abs())


def test_smooth_l1_ignores_unknown_targets():
    pred = torch.ones(3, requires_grad=True)
    loss = smooth_l1(pred, torch.tensor([0.0, float("nan"), 1.0]))
    loss.sum().backward()
    assert loss[1] == 0
    assert pred.grad.tolist() == [1.0, 0.0, 0.0]


def test_sin_difference_is_the_sine_of_the_difference():
    a, b = torch.randn(2, 30, 7, dtype=torch.float64) * 3
    p, t = sin_difference(a, b)
    torch.testing.assert_close((p - t)[:, 6], (a - b)[:, 6].sin())
    torch.testing.assert_close((p - t)[:, :6], (a - b)[:, :6])
    p, t = sin_difference(a, torch.cat((a[:, :6], a[:, 6:] + math.pi), 1))
    assert (p - t).abs().max() < 1e-12  # an opposite heading costs nothing here ...
    ours = direction_loss(torch.tensor([[9.0, 0.0]] * 2), torch.tensor([1.0, 1.0 + math.pi]))
    assert ours[0] < 1e-3 < 8 < ours[1]  # ... and is told apart by the direction class


def test_direction_loss_equals_the_definition():
    rng = np.random.default_rng(2)
    x, heading = rng.normal(size=(30, 2)), rng.uniform(-7, 7, 30)
    bins = np.floor(np.mod(heading - 0.78539, 2 * np.pi) / np.pi).astype(int)
    expected = np.log(np.exp(x).sum(1)) - x[np.arange(30), bins]
    ours = direction_loss(torch.tensor(x), torch.tensor(heading), offset=0.78539)
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-12)


def test_empty_inputs():
    none = torch.zeros(0, 7, requires_grad=True)
    assert sigmoid_focal_loss(none, none.detach()).shape == (0, 7)
    smooth_l1(*sin_difference(none, none.detach())).sum().backward()
    assert none.grad.shape == (0, 7)
    assert direction_loss(torch.zeros(0, 2), torch.zeros(0)).shape == (0,)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: sigmoid_focal_loss(torch.zeros(2, 3), torch.zeros(2, 4)), ValueError, "targets"),
        (lambda: sigmoid_focal_loss(torch.zeros(2), torch.zeros(2).long()), TypeError, "targets"),
        (lambda: sigmoid_focal_loss(torch.zeros(2), torch.zeros(2), alpha=2), ValueError, "alpha"),
        (lambda: sigmoid_focal_loss(torch.zeros(2), torch.zeros(2), gamma=-1), ValueError, "gamma"),
        (lambda: smooth_l1(torch.zeros(2, 7), torch.zeros(7)), ValueError, "target"),
        (lambda: smooth_l1(torch.zeros(7), torch.zeros(7), beta=-1), ValueError, "beta"),
        (lambda: smooth_l1(torch.zeros(7), torch.zeros(7), code_weights=[1.0]), ValueError, "code_weights"),
        (lambda: sin_difference(torch.zeros(2, 6), torch.zeros(2, 6)), ValueError, "column"),
        (lambda: direction_loss(torch.zeros(2, 2), torch.zeros(3)), ValueError, "heading"),
        (lambda: corner_loss(torch.ones(2, 7), torch.ones(2, 7), beta=0), ValueError, "beta"),
    ],
)
def test_wrong_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
