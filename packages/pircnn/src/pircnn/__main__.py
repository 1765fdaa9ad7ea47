"""``python -m pircnn``."""

from pircnn.cli import main

if __name__ == "__main__":
    main()
