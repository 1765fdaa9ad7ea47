import sys
from fractions import Fraction
from pathlib import Path

import pytest

from tenfold.testing import cli_fixture

sys.path.insert(0, str(Path(__file__).parent))  # for movienet_tree

cli = cli_fixture("moviescenes.cli:app")


@pytest.fixture(scope="session")
def film(tmp_path_factory):
    """(path, film): a small generated film with sound at 24000/1001 frames a second."""
    from moviescenes.data.film import plan_film, write_film

    path = tmp_path_factory.mktemp("film") / "movie.mp4"
    plan = plan_film(3, 4, shots=(3, 4), frames=(16, 24))
    return path, write_film(path, plan, fps=Fraction(24000, 1001), size=(160, 96))


@pytest.fixture(scope="session")
def films():
    """Six short generated films of features."""
    from dataclasses import replace

    from moviescenes.data.generated import GENERATOR, generate_films

    return generate_films(6, 1, replace(GENERATOR, dim=8, shots=40))
