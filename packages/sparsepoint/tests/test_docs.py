"""The examples of README, documentation and docstrings run; what they name is there."""

from tenfold.testing import PackageDocuments


class TestDocuments(PackageDocuments):
    package = "sparsepoint"
