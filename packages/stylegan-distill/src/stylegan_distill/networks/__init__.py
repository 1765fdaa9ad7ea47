"""StyleGAN2 and StyleGAN3 generators and their discriminator, with NVIDIA's names of modules."""

from stylegan_distill.networks.discriminator import StyleGANDiscriminator, minibatch_stddev
from stylegan_distill.networks.generator import Generator, make_mapping
from stylegan_distill.networks.layers import FullyConnected, modulated_conv2d
from stylegan_distill.networks.mapping import Mapping
from stylegan_distill.networks.stylegan2 import StyleGAN2Generator, StyleGAN2Synthesis
from stylegan_distill.networks.stylegan3 import StyleGAN3Generator, StyleGAN3Synthesis

__all__ = [
    "FullyConnected",
    "Generator",
    "Mapping",
    "StyleGAN2Generator",
    "StyleGAN2Synthesis",
    "StyleGAN3Generator",
    "StyleGAN3Synthesis",
    "StyleGANDiscriminator",
    "make_mapping",
    "minibatch_stddev",
    "modulated_conv2d",
]
