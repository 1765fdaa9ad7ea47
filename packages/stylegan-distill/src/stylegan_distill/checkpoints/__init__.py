"""Checkpoints of every public family, read without running anything that they hold."""

from stylegan_distill.checkpoints.checkpoint import (
    Checkpoint,
    load_checkpoint,
    load_generator,
)
from stylegan_distill.checkpoints.native import save_checkpoint
from tenfold.io import UnsafePickleError

__all__ = ["Checkpoint", "UnsafePickleError", "load_checkpoint", "load_generator", "save_checkpoint"]
