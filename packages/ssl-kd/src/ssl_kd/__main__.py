"""``python -m ssl_kd``."""

from ssl_kd.cli import main

if __name__ == "__main__":
    main()
