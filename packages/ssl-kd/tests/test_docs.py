"""The documents' examples run, and their numbers come from records."""

from pathlib import Path

from tenfold.testing import PackageDocuments, repository_root
from tenfold.train.claims import RESULTS, load_records

ROOT = repository_root(Path(__file__).parent)


class TestDocuments(PackageDocuments):
    package = "ssl_kd"


def test_records_are_whole():
    for record in load_records("ssl-kd", ROOT / RESULTS):
        assert record["metrics"]["top1"] >= 0
        assert record["environment"]["versions"]["torch"]
