import pytest
import torch
from torch import nn

from tenfold.train.ema import ModelEMA


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).double()


def walk(model, ema, steps):
    history = [{k: v.detach().clone() for k, v in model.state_dict().items()}]
    for _ in range(steps):
        model.train()
        model(torch.randn(6, 3, dtype=torch.float64))  # moves the running statistics
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn_like(p))
        ema.update(model)
        history.append({k: v.detach().clone() for k, v in model.state_dict().items()})
    return history


def test_average_is_the_closed_form_for_weights_and_buffers():
    model, decay, steps = net(), 0.9, 7
    ema = ModelEMA(model, decay)
    history = walk(model, ema, steps)
    for name in ("0.weight", "1.bias", "1.running_mean", "1.running_var"):
        expected = decay**steps * history[0][name]
        for t in range(1, steps + 1):
            expected = expected + (1 - decay) * decay ** (steps - t) * history[t][name]
        torch.testing.assert_close(ema.state[name], expected, rtol=1e-12, atol=1e-12)
    assert ema.state["1.num_batches_tracked"] == steps


def test_warm_up_starts_low_and_ends_at_the_decay():
    ema = ModelEMA(net(), 0.999, warmup=10)
    assert [ema.decay_at(t) for t in (0, 9)] == pytest.approx([0.1, 10 / 19])
    assert ema.decay_at(10**6) == 0.999
    assert ModelEMA(net(), lambda t: 1.0 / (t + 2)).decay_at(2) == 0.25


def test_running_mean_through_a_decay_function():
    model = net()
    ema = ModelEMA(model, lambda t: (t + 1) / (t + 2))  # the plain mean of all states
    history = walk(model, ema, 5)
    mean = torch.stack([state["0.bias"] for state in history]).mean(0)
    torch.testing.assert_close(ema.state["0.bias"], mean, rtol=1e-12, atol=1e-12)


def test_buffers_can_be_copied():
    model = net()
    ema = ModelEMA(model, 0.9, buffers="copy")
    walk(model, ema, 3)
    assert torch.equal(ema.state["1.running_mean"], model.state_dict()["1.running_mean"])
    assert not torch.equal(ema.state["0.weight"], model.state_dict()["0.weight"])


def test_state_survives_a_file_and_refuses_another_model(tmp_path):
    model = net()
    ema = ModelEMA(model, 0.9, warmup=10)
    walk(model, ema, 3)
    torch.save(ema.state_dict(), tmp_path / "ema.pt")
    again = ModelEMA(net(), 0.9, warmup=10)
    again.load_state_dict(torch.load(tmp_path / "ema.pt", weights_only=True))
    for each in (ema, again):
        each.update(model)
    assert all(torch.equal(ema.state[name], again.state[name]) for name in ema.state)
    assert again.updates == 4
    with pytest.raises(ValueError, match=r"differs at '0\.bias'"):
        ModelEMA(nn.Linear(3, 4), 0.9).load_state_dict(ema.state_dict())


def test_swap_restores_even_after_an_error():
    model = net()
    ema = ModelEMA(model, 0.5)
    walk(model, ema, 2)
    own = {k: v.clone() for k, v in model.state_dict().items()}
    seen = []

    def evaluate():
        with ema.swapped(model):
            seen.append(torch.equal(model[0].weight, ema.state["0.weight"]))
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        evaluate()
    assert seen == [True]
    assert all(torch.equal(own[name], value) for name, value in model.state_dict().items())


def test_half_precision_is_averaged_in_float32():
    model = nn.Linear(1, 1, bias=False).bfloat16()
    model.weight.data.fill_(1.0)
    ema = ModelEMA(model, 0.9999)
    model.weight.data.fill_(2.0)
    for _ in range(100):
        ema.update(model)
    assert float(ema.state["weight"]) == pytest.approx(2 - 0.9999**100, rel=1e-5)


@pytest.mark.parametrize(
    "bad", [{"decay": 1.5}, {"decay": 0.9, "warmup": -1}, {"decay": 0.9, "buffers": "keep"}]
)
def test_wrong_settings_are_refused(bad):
    with pytest.raises(ValueError, match="expected"):
        ModelEMA(net(), **bad)
