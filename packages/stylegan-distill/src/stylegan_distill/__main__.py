"""``python -m stylegan_distill``."""

from stylegan_distill.cli import main

if __name__ == "__main__":
    main()
