"""What several tests share."""

import logging

from tenfold.testing import cli_fixture

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
cli = cli_fixture("ssl_kd.cli:app")
