"""Images to learn from: generated sprites, archives of image folders, MNIST and CIFAR-10 at 32 pixels, batches."""

from stylegan_distill.data.archive import ImageSource, open_images
from stylegan_distill.data.batches import ImageBatches, to_float
from stylegan_distill.data.known import read_cifar10, read_mnist
from stylegan_distill.data.prepare import FILTERS, fit_square, prepare_images
from stylegan_distill.data.sprites import sprites

__all__ = [
    "FILTERS",
    "ImageBatches",
    "ImageSource",
    "fit_square",
    "open_images",
    "prepare_images",
    "read_cifar10",
    "read_mnist",
    "sprites",
    "to_float",
]
