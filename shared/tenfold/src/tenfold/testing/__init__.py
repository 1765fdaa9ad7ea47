"""The test kit that all packages share; names resolve lazily, so that a part loads only what it needs.

`tenfold.testing.strategies` holds the hypothesis strategies and is imported by its own name.
"""

from typing import TYPE_CHECKING

from tenfold.lazy import lazy_names

if TYPE_CHECKING:
    from tenfold.testing._child import Outcome, child_environment
    from tenfold.testing.apps import (
        assert_examples_run,
        assert_help_shows_examples,
        assert_light_help,
        cli_fixture,
    )
    from tenfold.testing.browser import Page, open_page
    from tenfold.testing.cli import Example, example_lines, help_examples
    from tenfold.testing.data import missing, repository_root, require, sample_data
    from tenfold.testing.detectors import TINY_DETECTORS, draw_alike
    from tenfold.testing.documents import PackageDocuments
    from tenfold.testing.faults import corruptions
    from tenfold.testing.pages import (
        assert_commands_exist,
        assert_docstrings_hold,
        assert_links_exist,
        page_examples,
        run_page_examples,
    )
    from tenfold.testing.processes import (
        KilledAndResumed,
        assert_survives_disk_full,
        call_apart,
        disk_full,
        full_disk,
        sigkill_and_resume,
        unwritable_path,
    )
    from tenfold.testing.ranks import RankError, averaged_gradients, two_gloo_ranks
    from tenfold.testing.reliability import PackageReliability, Prediction
    from tenfold.testing.tensors import assert_bit_equal, stride_variant, stride_variants, threads, undrawn
    from tenfold.testing.training import (
        QUIET_WORDS,
        assert_training_resumes,
        fit_and_resume,
        quiet_fit,
        quiet_trainer,
    )

__all__ = [
    "QUIET_WORDS",
    "TINY_DETECTORS",
    "Example",
    "KilledAndResumed",
    "Outcome",
    "PackageDocuments",
    "PackageReliability",
    "Page",
    "Prediction",
    "RankError",
    "assert_bit_equal",
    "assert_commands_exist",
    "assert_docstrings_hold",
    "assert_examples_run",
    "assert_help_shows_examples",
    "assert_light_help",
    "assert_links_exist",
    "assert_survives_disk_full",
    "assert_training_resumes",
    "averaged_gradients",
    "call_apart",
    "child_environment",
    "cli_fixture",
    "corruptions",
    "disk_full",
    "draw_alike",
    "example_lines",
    "fit_and_resume",
    "full_disk",
    "help_examples",
    "missing",
    "open_page",
    "page_examples",
    "quiet_fit",
    "quiet_trainer",
    "repository_root",
    "require",
    "run_page_examples",
    "sample_data",
    "sigkill_and_resume",
    "stride_variant",
    "stride_variants",
    "threads",
    "two_gloo_ranks",
    "undrawn",
    "unwritable_path",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "._child": ["Outcome", "child_environment"],
        ".apps": ["assert_examples_run", "assert_help_shows_examples", "assert_light_help", "cli_fixture"],
        ".browser": ["Page", "open_page"],
        ".cli": ["Example", "example_lines", "help_examples"],
        ".data": ["missing", "repository_root", "require", "sample_data"],
        ".detectors": ["TINY_DETECTORS", "draw_alike"],
        ".documents": ["PackageDocuments"],
        ".faults": ["corruptions"],
        ".pages": [
            "assert_commands_exist",
            "assert_docstrings_hold",
            "assert_links_exist",
            "page_examples",
            "run_page_examples",
        ],
        ".processes": [
            "KilledAndResumed",
            "assert_survives_disk_full",
            "call_apart",
            "disk_full",
            "full_disk",
            "sigkill_and_resume",
            "unwritable_path",
        ],
        ".ranks": ["RankError", "averaged_gradients", "two_gloo_ranks"],
        ".reliability": ["PackageReliability", "Prediction"],
        ".tensors": ["assert_bit_equal", "stride_variant", "stride_variants", "threads", "undrawn"],
        ".training": [
            "QUIET_WORDS",
            "assert_training_resumes",
            "fit_and_resume",
            "quiet_fit",
            "quiet_trainer",
        ],
    },
)
