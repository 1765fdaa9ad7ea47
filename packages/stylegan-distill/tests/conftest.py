from dataclasses import replace

import pytest


@pytest.fixture(scope="session")
def tiny2():
    """A StyleGAN2 of 16 pixels."""
    from stylegan_distill.config import StyleGAN2Config

    return StyleGAN2Config(16, z_dim=16, w_dim=16, widths=(8, 8, 6), mapping_layers=3)


@pytest.fixture(scope="session")
def tiny3():
    """The small StyleGAN3-T of the reproduction, narrower."""
    from stylegan_distill.config import StyleGAN3Config

    return StyleGAN3Config(
        32, z_dim=16, w_dim=16, num_layers=6, margin_size=4, channel_base=128, channel_max=8
    )


@pytest.fixture(scope="session")
def four_layers3(tiny3):
    """The same with the fewest layers: for what takes its time for each of them."""
    return replace(tiny3, resolution=16, num_layers=4, first_stopband=3.0)
