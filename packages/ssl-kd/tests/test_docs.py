"""The documents' examples run, and their numbers come from records."""

from pathlib import Path

import pytest

from tenfold.testing import assert_commands_exist, assert_docstrings_hold, repository_root, run_page_examples
from tenfold.train.claims import RESULTS, load_records

ROOT = repository_root(Path(__file__).parent)
DOCUMENTS = [ROOT / "packages/ssl-kd/README.md", ROOT / "docs/ssl-kd.md"]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.parent.name)
def test_python_examples_run(path):
    assert run_page_examples(path)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.parent.name)
def test_named_recipes_and_verbs_exist(path):
    from ssl_kd.cli import app

    assert assert_commands_exist(path, app)


def test_records_are_whole():
    for record in load_records("ssl-kd", ROOT / RESULTS):
        assert record["metrics"]["top1"] >= 0
        assert record["environment"]["versions"]["torch"]


def test_docstring_examples_run():
    assert_docstrings_hold("ssl_kd")
