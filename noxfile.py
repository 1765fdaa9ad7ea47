"""Every job anyone runs. `nox -l` lists them; the README's two commands are `nox -s demo` and `nox -s tests`.

All sessions share one environment, `.nox/env`: torch alone is more than five gigabytes. It is made by the
first session that needs it and updated when the list of requirements or constraints.txt changes. Nothing is
installed from this checkout: PYTHONPATH and pytest's `pythonpath` name the sources, the kernels are built in
place.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import nox

ROOT = Path(__file__).parent.resolve()
ENV = ROOT / ".nox" / "env"
BIN = ENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = str(BIN / "python")
CORE = ROOT / "shared" / "tenfold"
PACKAGES = sorted(p.parent.name for p in (ROOT / "packages").glob("*/pyproject.toml"))

# torch and torchvision go together: pip then takes the pair of builds that belong to each other.
TORCH = ["torch", "torchvision"]
BUILD = ["numpy", "setuptools", "wheel", "ninja", "pybind11"]
DEVELOPMENT = [
    *(
        "scipy",
        "shapely",
        "pycocotools",
        "safetensors",
        "Pillow",
        "jsonargparse[signatures]",
        "PyYAML",
    ),
    *("lightning", "tensorboard", "av"),
    *("onnx", "onnxscript", "onnxruntime", "scikit-learn", "h5py"),
    *("scenedetect-headless", "opentimelineio", "otio-cmx3600-adapter"),
    *("pytest", "pytest-xdist", "hypothesis", "ruff", "mypy", "types-PyYAML", "import-linter", "playwright"),
    "nox",
]
SITE = ["mkdocs<2", "mkdocs-material", "mkdocstrings-python"]
# Peers of the benchmarks and oracles of the tests; each is optional, whoever cannot install one goes without.
PEERS = ["open3d-cpu", "spconv"]
# The torch under which the tests try the wheel that was built with another one.
ABI = "2.13.0"

# Nothing is compiled by pip (see `_environment`): without the files that Python keeps of what it has compiled, every
# process would compile torch and the rest anew, which takes longer than most tests.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

nox.options.sessions = ["demo"]
nox.options.default_venv_backend = "none"


def _pip(session: nox.Session, *args: str) -> None:
    session.run(PYTHON, "-m", "pip", "--disable-pip-version-check", *args, external=True)


def _environment(
    session: nox.Session, *beside: Callable[[], object], start: Callable[[], object] | None = None
) -> None:
    """Create or update the shared environment; a stamp makes this free the second time.

    Installing keeps less than one core busy, so other jobs run beside it.

    Args:
        session: of nox.
        beside: jobs that need torch and the tools that compile, nothing else.
        start: called when the tools are there and torch is not; left out where nothing is installed.
    """
    wanted = "\n".join(
        [*TORCH, *BUILD, *DEVELOPMENT, *PEERS, (ROOT / "constraints.txt").read_text(), sys.version]
    )
    digest = hashlib.sha256(wanted.encode()).hexdigest()
    stamp = ENV / "requirements.sha256"
    if stamp.is_file() and stamp.read_text() == digest:
        for job in beside:
            job()
        return
    if not (BIN / "python").exists():
        session.run(sys.executable, "-m", "venv", str(ENV), external=True)
    # Python compiles the few modules that are used when they are used; pip would compile all of torch first.
    install = ("install", "-q", "--no-compile", "-c", str(ROOT / "constraints.txt"))
    _pip(session, *install, *BUILD)
    if start is not None:
        start()
    _pip(session, *install, *TORCH)
    _at_once(lambda: _tools(session, *install), *beside)
    stamp.write_text(digest)


def _tools(session: nox.Session, *install: str) -> None:
    """What is neither torch nor needed to compile."""
    try:
        _pip(session, *install, *DEVELOPMENT, *PEERS)
        return
    except nox.command.CommandFailed:
        session.warn("some of the packages cannot be installed here: trying without the peers")
    _pip(session, *install, *DEVELOPMENT)
    for peer in PEERS:
        try:
            _pip(session, *install, peer)
        except nox.command.CommandFailed:
            session.warn(f"{peer} cannot be installed here: its benchmark rows and oracles are left out")


def _run(session: nox.Session, *args: str, threads: int = 1, silent: bool = False, **env: str) -> None:
    """Run a program of the shared environment with our sources on its path; a silent one speaks when it fails."""
    sources = [CORE / "src", ROOT / "benchmarks", *((ROOT / "packages" / name / "src") for name in PACKAGES)]
    variables = {
        "PYTHONPATH": os.pathsep.join(map(str, sources)),
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": str(threads),
        **env,
    }
    program = args[0] if os.path.isabs(args[0]) else str(BIN / args[0])
    session.run(program, *args[1:], env=variables, external=True, silent=silent)


def _build(session: nox.Session, *options: str) -> None:
    _run(session, PYTHON, "-m", "tenfold.build", "--inplace", *options)


def _prepare(session: nox.Session, *beside: Callable[[], object]) -> None:
    """The environment and the kernels, most of which compile while torch is installed."""
    begun: list[Future[None]] = []
    with ThreadPoolExecutor(1) as pool:

        def begin() -> None:
            begun.append(pool.submit(_build, session, "--kernels-only", "--jobs", "2"))

        def finish() -> None:
            for first in begun:
                first.result()
            _build(session)

        _environment(session, finish, *beside, start=begin)


def _at_once(*jobs: Callable[[], object]) -> None:
    """Run jobs side by side, wait for all of them and raise the first failure."""
    with ThreadPoolExecutor(len(jobs)) as pool:
        for done in [pool.submit(job) for job in jobs]:
            done.result()


def _test_folders(name: str | None) -> list[str]:
    if name is None:
        return []  # pyproject.toml's testpaths
    if name == "tenfold":
        return [str(CORE / "tests")]
    folder = ROOT / "packages" / name
    if not folder.is_dir():
        raise SystemExit(
            f"tests: no package named {name}; there are tenfold, {', '.join(PACKAGES) or 'none yet'}"
        )
    return [str(folder / "tests")]


def _package_argument(session: nox.Session) -> tuple[str | None, list[str]]:
    """The package named after `--`, and what is left for pytest."""
    args = list(session.posargs)
    if args and not args[0].startswith("-"):
        return args[0], args[1:]
    return None, args


@nox.session
def demo(session: nox.Session) -> None:
    """Build the kernels, run them on LiDAR frames and against their peers, write build/report/index.html."""
    _prepare(session)
    _run(session, PYTHON, "-m", "report", *session.posargs, threads=2)


@nox.session
def tests(session: nox.Session) -> None:
    """Everything a contributor must pass; `-- <package>` runs one package's tests alone."""
    package, rest = _package_argument(session)
    _prepare(session, *(() if package else (lambda: _other_torch(session, ABI),)))
    # A worker keeps to its half of the files, whose fixtures are then made once, until the other has nothing left.
    split = ("-n", "2", "--dist", "worksteal")

    def test() -> None:
        _run(session, PYTHON, "-m", "pytest", *split, "-m", "not slow", *_test_folders(package), *rest)

    def test_wheel_and_checkout() -> None:
        _abi(session, ABI)
        # Python compiles what the tests import, once: their processes would do it at the same time.
        _run(session, PYTHON, "-m", "pytest", "-q", "--collect-only", silent=True)
        test()

    if package is None:
        _lint(session)
        # The types take one core for longer than the wheel and the collection take the other.
        _at_once(lambda: _types(session), test_wheel_and_checkout)
    else:
        test()
    session.log("tests: all passed")


@nox.session
def slow(session: nox.Session) -> None:
    """The slow tests."""
    _prepare(session)
    package, rest = _package_argument(session)
    _run(session, PYTHON, "-m", "pytest", "-m", "slow", *_test_folders(package), *rest)


@nox.session
def sanitize(session: nox.Session) -> None:
    """Kernels under ASan, UBSan and TSan with C++ drivers; 10,000 drawn calls an operator against the references."""
    _prepare(session)
    native = str(CORE / "tests" / "native" / "run.py")
    _run(session, PYTHON, native, "address", "--count", "2000")
    _run(session, PYTHON, native, "address", "--count", "500", "--level", "v2")
    _run(session, PYTHON, native, "thread", "--count", "200")
    fuzz = str(CORE / "tests" / "fuzz")
    _run(session, PYTHON, "-m", "pytest", "-n", "2", fuzz, *session.posargs, TENFOLD_FUZZ_CASES="10000")


@nox.session
def cuda(session: nox.Session) -> None:
    """Compile every CUDA kernel for real GPUs, run all of them under the emulator; `-- wheel` builds the add-on."""
    _prepare(session)
    if "wheel" in session.posargs:
        wheel = _wheel(session, CORE / "cuda")
        session.log(f"cuda: {wheel}")
        return
    _run(session, PYTHON, "-m", "devices", "compile", threads=2)
    _run(session, PYTHON, "-m", "devices", "link", threads=2)
    tests = str(CORE / "tests" / "cuda")
    variables = {
        "TENFOLD_CUDA_LIBRARY": str(CORE / "build" / "cuda" / "_tenfold_cuda.so"),
        "TENFOLD_EMULATED": "1",
        "TENFOLD_EMULATED_ORDERS": "10",
        "TENFOLD_EMULATED_RECORD": str(ROOT / "benchmarks" / "results" / "cuda-emulated.json"),
    }
    _run(session, PYTHON, "-m", "pytest", "-q", tests, *session.posargs, **variables)
    _run(session, PYTHON, "-m", "devices", "page")


@nox.session
def gpu(session: nox.Session) -> None:
    """For whoever has a GPU: oracles, compute-sanitizer, benchmark; fills the last column of docs/kernels/cuda.md."""
    _prepare(session)
    _run(session, PYTHON, "-m", "tenfold.build", "--inplace", "--cuda")
    tests = str(CORE / "tests" / "cuda" / "test_gpu.py")
    calls = ROOT / "build" / "gpu-calls.json"
    variables = {"TENFOLD_GPU": "1", "TENFOLD_GPU_RECORD": str(calls)}
    _run(session, PYTHON, "-m", "pytest", "-q", tests, **variables)
    passed = []
    if shutil.which("compute-sanitizer"):
        # Without torch's pool every tensor is an allocation with ends that the tools know; a graph needs the pool.
        sanitized = {"TENFOLD_GPU": "1", "TENFOLD_EMULATED_CALLS": "2", "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
        for tool in ("memcheck", "racecheck", "initcheck", "synccheck"):
            session.run(
                *("compute-sanitizer", "--tool", tool, "--error-exitcode", "1", "--target-processes", "all"),
                *(PYTHON, "-m", "pytest", "-q", "-k", "not graph_capture", tests),
                env={"PYTHONPATH": str(CORE / "src"), **sanitized},
                external=True,
            )
            passed.append(tool)
    else:
        session.warn("compute-sanitizer is not installed: memory, races and barriers go unchecked")
    _run(session, PYTHON, "-m", "devices", "run", "--calls", str(calls), "--sanitizers", *passed)


@nox.session
def bench(session: nox.Session) -> None:
    """Kernels, then packages, against every installable peer: JSON, Markdown, plots, the README's table."""
    _prepare(session)
    # Peers' BLAS must not be slowed by settings meant for old processors.
    for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
        os.environ.pop(name, None)
    _run(session, PYTHON, "-m", "kernels", *session.posargs, threads=2)
    if not session.posargs:
        _run(session, PYTHON, "-m", "speed", threads=2)
        _run(session, PYTHON, "-m", "kernels.readme", "--write")
        _run(session, PYTHON, "-m", "speed.docs", "--write")


@nox.session
def claims(session: nox.Session) -> None:
    """`-- <package>[:arm[:seed]]`: the small-scale experiments; fresh cells are skipped."""
    _prepare(session)
    _run(session, PYTHON, "-m", "claims", *session.posargs, threads=2)


def _lint(session: nox.Session) -> None:
    _run(session, "ruff", "check", ".")
    _run(session, "ruff", "format", "--check", ".")
    _run(session, "lint-imports", "--config", str(ROOT / "pyproject.toml"))


def _types(session: nox.Session) -> None:
    _run(session, "mypy")


@nox.session
def lint(session: nox.Session) -> None:
    """Style (ruff) and the import rules."""
    _environment(session)
    _lint(session)


@nox.session
def types(session: nox.Session) -> None:
    """Strict types of all public code."""
    _environment(session)
    _types(session)


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation site, without a warning, into build/site; `-- serve` shows it while one writes."""
    python = _thin_environment(session, "docs", "-c", str(ROOT / "constraints.txt"), *SITE)
    verb = session.posargs or ["build"]
    session.run(python, "-m", "mkdocs", *verb, env={"NO_MKDOCS_2_WARNING": "1"}, external=True)


def _wheel(session: nox.Session, project: Path = CORE) -> Path:
    """Build the wheel of the core (with its kernels) or of a package and return its path."""
    folder = ROOT / "build" / "wheels" / project.name
    shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(project / "build" / "lib", ignore_errors=True)  # setuptools would pack files deleted since
    _run(
        session,
        *(PYTHON, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"),
        *("-w", str(folder), str(project)),
    )
    (wheel,) = folder.glob("*.whl")
    session.log(f"built {wheel.name}, {wheel.stat().st_size / 1e6:.2f} MB")
    return wheel


@nox.session
def wheels(session: nox.Session) -> None:
    """Build the wheels of the core and of every package into build/wheels."""
    _environment(session)
    for project in (CORE, *(ROOT / "packages" / name for name in PACKAGES)):
        _wheel(session, project)


def _thin_environment(session: nox.Session, name: str, *requirements: str) -> str:
    """A small environment with just these requirements, made anew when they change; returns its python."""
    folder = ROOT / ".nox" / name
    python, stamp = str(folder / "bin" / "python"), folder / "requirements.txt"
    wanted = "\n".join(Path(word).read_text() if word.endswith(".txt") else word for word in requirements)
    if not stamp.is_file() or stamp.read_text() != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        session.run(sys.executable, "-m", "venv", str(folder), external=True)
        session.run(python, "-m", "pip", "install", "-q", "--no-compile", *requirements, external=True)
        stamp.write_text(wanted)
    return python


def _other_torch(session: nox.Session, version: str) -> str:
    """An environment of another torch alone; all that it depends on comes from the shared one, searched after it."""
    python = _thin_environment(session, f"abi-{version}", "--no-deps", f"torch=={version}")
    (site,) = (ROOT / ".nox" / f"abi-{version}" / "lib").glob("python*/site-packages")
    (shared,) = (ENV / "lib").glob("python*/site-packages")
    (site / "shared.pth").write_text(f"{shared}\n")
    return python


def _abi(session: nox.Session, version: str) -> None:
    """Run the built wheel under another torch than the one it was compiled with."""
    wheel = _wheel(session)
    python = _other_torch(session, version)
    session.run(
        python, "-m", "pip", "install", "-q", "--no-deps", "--force-reinstall", str(wheel), external=True
    )
    session.run(
        *(python, "-m", "pytest", "-q", "-c", os.devnull, "--rootdir", str(CORE), "-p", "no:cacheprovider"),
        str(CORE / "tests" / "abi"),
        env={
            "PYTHONPATH": "",
            "TENFOLD_REQUIRE_NATIVE": "1",
            "TENFOLD_ABI_TORCH": version,
            "OMP_NUM_THREADS": "1",
        },
        external=True,
    )


@nox.session
def abi(session: nox.Session) -> None:
    """`-- <torch version>`: the built wheel under another torch."""
    _environment(session)
    for version in session.posargs or [ABI]:
        _abi(session, version)


@nox.session
def isolation(session: nox.Session) -> None:
    """`-- [package ...]`: install each wheel alone, with its declared dependencies, and use it as a newcomer would."""
    _environment(session)
    wheel = _wheel(session)
    for name in session.posargs or ["tenfold", *PACKAGES]:
        if name == "tenfold":
            _isolated(session, CORE, wheel)
        else:
            project = ROOT / "packages" / name
            _isolated(session, project, wheel, _wheel(session, project))


def _isolated(session: nox.Session, project: Path, *wheels: Path) -> None:
    """Install wheels into an environment that has torch and nothing else of ours; run the project's smoke.

    torch and torchvision come from the shared environment through a .pth file. A package declares the rest, which
    pip installs; the core needs numpy alone, which torch brings.
    """
    folder = ROOT / ".nox" / f"isolation-{project.name}"
    shutil.rmtree(folder, ignore_errors=True)
    python = _thin_environment(session, folder.name, "pip")
    site = next((folder / "lib").glob("python*/site-packages"))
    shared = next((ENV / "lib").glob("python*/site-packages"))
    target = ROOT / ".nox" / "torch-only"
    _link_torch(shared, target, vision=len(wheels) > 1)
    (site / "torch-only.pth").write_text(f"{target}\n")
    options = ("--no-deps",) if len(wheels) == 1 else ("-c", str(ROOT / "constraints.txt"))
    session.run(
        *(python, "-m", "pip", "--disable-pip-version-check", "install", "-q", *options, *map(str, wheels)),
        external=True,
    )
    session.run(
        *(python, "-c", (project / "tests" / "isolation_smoke.py").read_text()),
        env={"PYTHONPATH": "", "TENFOLD_REQUIRE_NATIVE": "1"},
        external=True,
    )


def _link_torch(shared: Path, target: Path, *, vision: bool) -> None:
    """Show torch (and torchvision) with what it declares, and nothing else, through one folder of links."""
    needed = (
        *(
            "torch",
            "torchgen",
            "functorch",
            "numpy",
            "numpy.libs",
            "nvidia",
            "triton",
            "sympy",
            "mpmath",
            "networkx",
        ),
        *("jinja2", "markupsafe", "filelock", "fsspec", "typing_extensions.py", "setuptools", "cuda"),
    )
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    names = [*needed, *(("torchvision", "torchvision.libs") if vision else ())]
    # pip knows what is installed by the metadata folders; nvidia and cuda are several distributions each.
    roots = {name.partition(".")[0] for name in names}
    for path in shared.glob("*.dist-info"):
        distribution = path.name.partition("-")[0]
        if distribution in roots or distribution.startswith(("nvidia_", "cuda_")):
            names.append(path.name)
    for name in names:
        if (shared / name).exists():
            (target / name).symlink_to(shared / name)
