"""A thin driver of CMake: `pip install --no-build-isolation .` builds retinanet_fast._C with CMakeLists.txt.

Environment: RETINANET_FAST_CUDA=auto|on|off|compile, RETINANET_FAST_CPU_LEVELS, TORCH_CUDA_ARCH_LIST, CUDACXX,
MAX_JOBS, CMAKE_ARGS; RETINANET_FAST_WHEEL_TAG is for `python -m wheels`, which makes a wheel to be installed elsewhere.
"""

import importlib.util
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import setuptools
from setuptools import Extension, setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext
from setuptools.command.egg_info import egg_info

ROOT = Path(__file__).resolve().parent
OPS_LIBRARY = "libretinanet_fast_ops"
WHEEL_TAG = os.environ.get("RETINANET_FAST_WHEEL_TAG", "")
OLDEST_SETUPTOOLS = 77  # older ones refuse the form of pyproject.toml's licence, in 60 lines


def torch_version() -> str:
    """The installed torch's version, "" if there is none: an sdist needs none. torch itself is not imported for it."""
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        return ""
    return str(runpy.run_path(str(Path(found.origin).with_name("version.py")))["__version__"])


# One folder for each pair of Python and torch, for what CMake and setuptools build: none ever takes another's files.
BUILD = ROOT / "build" / f"{sys.implementation.cache_tag}-torch{torch_version()}"


class Build(build):
    """Builds below ``BUILD``, without what an earlier build left for the wheel, such as a module since deleted."""

    def finalize_options(self) -> None:
        if self.build_base == "build":
            self.build_base = str(BUILD)
        super().finalize_options()

    def run(self) -> None:
        if BUILD in Path(self.build_lib).resolve().parents:
            shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()


class EggInfo(egg_info):
    """What a wheel says that travels: its local version, and the torch whose C++ interface it was compiled for."""

    def finalize_options(self) -> None:
        if WHEEL_TAG:
            self.tag_build = f"+{WHEEL_TAG}"
            minor = ".".join(torch_version().split(".")[:2])
            metadata = self.distribution.metadata
            metadata.install_requires = [
                f"torch=={minor}.*" if re.match(r"torch\b", requirement) else requirement
                for requirement in self.distribution.install_requires
            ]
        super().finalize_options()


class CMakeBuild(build_ext):
    """Configures and builds in ``BUILD``, which is kept so that the next build is short, and copies the module."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.force = True  # copy the module where an older one is, whatever their times

    def get_ext_filename(self, fullname: str) -> str:
        # The library of the ops is no module: its name says nothing of Python, and a C++ program loads it too.
        package, _, name = fullname.rpartition(".")
        return (
            os.path.join(package, f"{name}.so") if name == OPS_LIBRARY else super().get_ext_filename(fullname)
        )

    def build_extension(self, ext: Extension) -> None:
        if ext.name.endswith(OPS_LIBRARY):  # the first of the two
            self.build_files()
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        self.copy_file(str(BUILD / "module" / target.name), str(target))

    def build_files(self) -> None:
        if not torch_version():
            sys.exit(
                "retinanet_fast is built against the torch that it will run with, and this Python has none.\n"
                "Install torch (>= 2.6) first, then: pip install --no-build-isolation ."
            )
        BUILD.mkdir(parents=True, exist_ok=True)
        configure = [
            "cmake",
            *("-S", str(ROOT), "-B", str(BUILD), "-G", "Ninja"),
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-DRETINANET_FAST_VERSION={self.distribution.get_version().split('+')[0]}",
            f"-DRETINANET_FAST_OUTPUT_DIR={BUILD / 'module'}",
            f"-DRETINANET_FAST_WHEEL={'ON' if WHEEL_TAG else 'OFF'}",
            f"-DRETINANET_FAST_CUDA={os.environ.get('RETINANET_FAST_CUDA', 'auto')}",
            f"-DRETINANET_FAST_CPU_LEVELS={os.environ.get('RETINANET_FAST_CPU_LEVELS', '')}",
            *shlex.split(os.environ.get("CMAKE_ARGS", "")),
        ]
        jobs = os.environ.get("MAX_JOBS") or str(os.cpu_count() or 1)
        plan = self.run_cmake(configure)
        print("\n".join(re.findall(r"retinanet_fast build plan: .*", plan)), flush=True)
        self.run_cmake(["cmake", "--build", str(BUILD), "--parallel", jobs])

    def run_cmake(self, command: list[str]) -> str:
        print("+", shlex.join(command), flush=True)
        lines = []
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                print(line, end="", flush=True)
                lines.append(line)
        if process.returncode != 0:
            sys.exit(
                f"retinanet_fast: {command[0]} failed with exit status {process.returncode}; its output is above"
            )
        return "".join(lines)


if int(setuptools.__version__.split(".")[0]) < OLDEST_SETUPTOOLS:
    sys.exit(
        f"retinanet_fast is built with setuptools >= {OLDEST_SETUPTOOLS}, this Python has {setuptools.__version__}.\n"
        "Without build isolation pip takes the one that is installed: pip install --upgrade setuptools"
    )
files = [f"retinanet_fast.{name}" for name in (OPS_LIBRARY, "_C")]
setup(
    ext_modules=[Extension(name, sources=[]) for name in files],
    cmdclass={"build": Build, "build_ext": CMakeBuild, "egg_info": EggInfo},
)
