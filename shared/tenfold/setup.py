"""Build of the core's wheel: the C++ sources travel in it, and the kernels where they can be compiled.

The kernels use no CPython API except in the optional NumPy module, so one wheel per platform serves every
Python: its tag is py3-none-<platform>. Without a compiler or an importable torch the wheel is pure Python.
"""

import shutil
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py
from setuptools.dist import Distribution

ROOT = Path(__file__).parent.resolve()
sys.path.insert(0, str(ROOT / "src"))

from tenfold.build import BuildError, Layout, build, wheel_platform  # noqa: E402


class TenfoldDistribution(Distribution):
    """Remembers whether this build has native code, which decides the wheel's tag."""

    native_folder: Path | None = None

    def has_ext_modules(self) -> bool:
        return self.native_folder is not None


class BuildPy(build_py):
    """Copies the C++ sources into the package and compiles them beside it."""

    def run(self) -> None:
        super().run()
        package = Path(self.build_lib).resolve() / "tenfold"
        # The emulator is for tests and stays out of the wheel.
        ignored = shutil.ignore_patterns("emu")
        shutil.copytree(ROOT / "csrc", package / "_csrc", dirs_exist_ok=True, ignore=ignored)
        work = ROOT / "build" / "native"  # the objects of a build in place serve here too
        try:
            build(Layout(ROOT / "csrc", work, package))
        except BuildError as reason:
            print(f"tenfold: pure-Python wheel, the kernels are not compiled ({reason})")
        else:
            self.distribution.native_folder = package


class BdistWheel(bdist_wheel):
    """Tags a native wheel py3-none-manylinux_2_N by the glibc that it really needs."""

    def run(self) -> None:
        # Whether the wheel is pure is known only after the build, and decides where its files go.
        self.run_command("build")
        self.root_is_pure = self.distribution.native_folder is None
        self.skip_build = True
        super().run()

    def get_tag(self) -> tuple[str, str, str]:
        folder = self.distribution.native_folder
        if folder is None:
            return "py3", "none", "any"
        return "py3", "none", wheel_platform(super().get_tag()[2], folder)


setup(distclass=TenfoldDistribution, cmdclass={"build_py": BuildPy, "bdist_wheel": BdistWheel})
