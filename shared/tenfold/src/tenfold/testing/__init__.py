"""The test kit that all packages share."""

from tenfold.testing.data import missing, repository_root, require, sample_data

__all__ = ["missing", "repository_root", "require", "sample_data"]
