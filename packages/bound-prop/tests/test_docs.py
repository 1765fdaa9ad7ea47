"""The examples of README, documentation and docstrings run; what they name is there."""

import torch

from tenfold.testing import PackageDocuments


class TestDocuments(PackageDocuments):
    package = "bound_prop"

    def check(self, names):
        margins = names["margins"] if "margins" in names else names["bounds"].lower
        assert torch.isfinite(margins).all()
