"""The progress bar of videos, whose number of frames is known only roughly."""

from tenfold.train.progress import Bar

__all__ = ["Bar"]
