"""``python -m tenfold`` is the console script ``tenfold``."""

import sys

from tenfold.cli import main

if __name__ == "__main__":
    sys.exit(main())
