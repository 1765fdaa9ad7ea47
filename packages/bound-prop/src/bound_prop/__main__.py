"""``python -m bound_prop``."""

from bound_prop.cli import main

if __name__ == "__main__":
    main()
