"""``python -m denfi``."""

from denfi.cli import main

if __name__ == "__main__":
    main()
