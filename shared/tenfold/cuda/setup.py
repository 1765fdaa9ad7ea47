"""Build of the add-on wheel: one shared object that registers the CUDA kernels on the operators of tenfold.

It uses no CPython API: the wheel's tag is py3-none-<platform>, and any torch of the same CUDA major version loads it.
"""

import re
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py
from setuptools.dist import Distribution

HERE = Path(__file__).parent.resolve()
CORE = HERE.parent
sys.path.insert(0, str(CORE / "src"))

from tenfold.build import Layout, wheel_platform  # noqa: E402
from tenfold.build_cuda import build_cuda, cuda_version  # noqa: E402

MAJOR = cuda_version().split(".")[0]
PACKAGE = f"tenfold_cu{MAJOR}"
VERSION = re.search(r'__version__ = "(.+)"', (CORE / "src" / "tenfold" / "__init__.py").read_text())[1]


class NativeDistribution(Distribution):
    """Has no source in C, but is not pure either."""

    def has_ext_modules(self) -> bool:
        return True


class BuildPy(build_py):
    """Compiles the kernels into the package."""

    def run(self) -> None:
        super().run()
        package = Path(self.build_lib).resolve() / PACKAGE
        build_cuda(Layout(CORE / "csrc", CORE / "build" / "cuda", package))


class BdistWheel(bdist_wheel):
    """Tags the wheel py3-none-manylinux_2_N: for every Python, by the glibc that it really needs."""

    def get_tag(self) -> tuple[str, str, str]:
        package = Path(self.get_finalized_command("build").build_lib) / PACKAGE
        return "py3", "none", wheel_platform(super().get_tag()[2], package)


setup(
    name=f"tenfold-cu{MAJOR}",
    version=VERSION,
    description=f"CUDA {MAJOR} kernels of tenfold",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    install_requires=[f"tenfold=={VERSION}"],
    packages=[PACKAGE],
    package_dir={PACKAGE: "src/tenfold_cu"},
    distclass=NativeDistribution,
    cmdclass={"build_py": BuildPy, "bdist_wheel": BdistWheel},
)
