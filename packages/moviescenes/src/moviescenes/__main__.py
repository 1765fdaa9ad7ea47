"""``python -m moviescenes``."""

from moviescenes.cli import main

if __name__ == "__main__":
    main()
