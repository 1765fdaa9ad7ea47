"""``python -m ttfnet``."""

from ttfnet.cli import main

if __name__ == "__main__":
    main()
