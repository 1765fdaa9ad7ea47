"""``python -m xview3d``."""

from xview3d.cli import main

if __name__ == "__main__":
    main()
