"""``python -m sparsepoint``."""

from sparsepoint.cli import main

if __name__ == "__main__":
    main()
