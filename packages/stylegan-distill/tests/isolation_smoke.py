"""Run by `nox -s isolation` where only this package's wheel and what it declares are installed."""

import sys

import torch

import stylegan_distill as sd

teacher = sd.StyleGAN2Generator(
    sd.StyleGAN2Config(16, z_dim=16, w_dim=16, widths=(8, 8, 6), mapping_layers=2)
)
judge = sd.StyleGANDiscriminator(sd.DiscriminatorConfig(16, widths=(8, 8, 6)))
images = teacher(torch.randn(2, 16))
judge(images).sum().backward()
assert images.shape == (2, 3, 16, 16)
small = sd.StyleGAN3Config(
    32, z_dim=16, w_dim=16, num_layers=6, margin_size=4, channel_base=128, channel_max=8
)
assert sd.StyleGAN3Generator(small)(torch.randn(1, 16)).shape == (1, 3, 32, 32)
assert sd.count_cost(teacher).params == sum(p.numel() for p in teacher.parameters())

from stylegan_distill.cli import app  # noqa: E402  # after the networks: the command line may ask for more

for verb in app.all_verbs():
    assert app([verb.name, "--help"]) in (0, 4)
for module in ("lightning", "matplotlib", "open3d"):
    assert module not in sys.modules, module
