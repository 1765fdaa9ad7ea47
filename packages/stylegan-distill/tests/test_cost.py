"""Memory and time of a run, against sums by hand."""

import pytest
import torch

import stylegan_distill as sd
from stylegan_distill.cost import measure_run, peak_bytes


def test_peak_is_what_is_alive_at_once():
    x, w = torch.zeros(1000), torch.zeros(1000)

    def chain():  # never more than two results at once
        y = x + w
        for _ in range(5):
            y = y * 2
        return y

    def all_at_once():
        return [x + k for k in range(5)]

    def views_and_in_place():
        y = x + 1
        y.view(10, 100).t()[3].add_(1)
        return y.mul_(2).reshape(-1), x.view(-1), w.t()

    def two_steps():  # 3 results, all freed, then 2
        a, b, c = x + 1, x + 2, x + 3
        del a, b, c
        return x + 1, x + 2

    known = [x, w]
    assert peak_bytes(chain, known) == 8000
    assert peak_bytes(all_at_once, known) == 20_000
    assert peak_bytes(views_and_in_place, known) == 4000
    assert peak_bytes(two_steps, known) == 12_000
    assert peak_bytes(lambda: x, known) == 0
    assert peak_bytes(lambda: torch.zeros(10, dtype=torch.float64), known) == 80


def test_a_smaller_student_needs_less_and_nothing_changes(tiny2, tiny3):
    torch.manual_seed(0)
    for net in (sd.StyleGAN2Generator(tiny2), sd.StyleGAN3Generator(tiny3)):
        before = {k: v.clone() for k, v in net.state_dict().items()}
        whole = measure_run(net)
        assert net.training
        assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
        part = measure_run(sd.make_student(net, 0.7))
        image = 3 * tiny2.resolution**2 * 4
        assert image < part.activation_bytes < whole.activation_bytes
        # Maps grow with the batch; results for each image are put together once more.
        more = measure_run(net, batch=8)
        assert 3 < more.activation_bytes / whole.activation_bytes < 10
        assert measure_run(net).activation_bytes == whole.activation_bytes
        assert whole.milliseconds > 0
        assert (whole.device, whole.threads) == ("cpu", torch.get_num_threads())
    with pytest.raises(ValueError, match="batch, repeats: got 0, 3"):
        measure_run(net, batch=0)


def test_conditional_networks_can_be_measured():
    net = sd.StyleGAN2Generator(sd.StyleGAN2Config(8, z_dim=8, w_dim=8, c_dim=3, widths=(4, 4)))
    assert measure_run(net, repeats=1).activation_bytes > 0
