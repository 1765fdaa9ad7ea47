"""``python -m unix_kd``."""

from unix_kd.cli import main

if __name__ == "__main__":
    main()
