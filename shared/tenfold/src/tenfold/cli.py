"""The console script ``tenfold``."""

from tenfold import __version__
from tenfold.train.cli import App, Verb

__all__ = ["app", "config", "main"]


def config() -> None:
    """Print how tenfold was built and what it found here: versions, CPU level, threads, devices."""
    from tenfold import show_config

    print(show_config())


app = App(
    name="tenfold",
    version=__version__,
    summary="3D-vision kernels and the shared rooms of ten research packages.",
    verbs=(
        Verb(
            "config",
            "tenfold.cli:config",
            "print build, versions, CPU level and devices",
            ("tenfold config",),
        ),
        Verb(
            "lidar",
            "tenfold.lidar.cli:app",
            "LiDAR detectors: demo, fit, test, predict, export, prepare",
            ("tenfold lidar demo",),
            group=True,
        ),
    ),
)


def main() -> int:
    """Entry point of the console script."""
    return app()
