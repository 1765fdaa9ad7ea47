"""``python -m bound_prop``."""

import sys

from bound_prop.cli import main

sys.exit(main())
