"""A thin driver of CMake: `pip install --no-build-isolation .` builds retinanet_fast._C with CMakeLists.txt.

Environment: RETINANET_FAST_CUDA=auto|on|off|compile, RETINANET_FAST_CPU_LEVELS, TORCH_CUDA_ARCH_LIST, CUDACXX,
MAX_JOBS, CMAKE_ARGS.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import setuptools
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
OPS_LIBRARY = "libretinanet_fast_ops"
OLDEST_SETUPTOOLS = 77  # older ones refuse the form of pyproject.toml's licence, in 60 lines


class CMakeBuild(build_ext):
    """Configures and builds in build/<python>-torch<version>/, which is kept so that the next build is short."""

    def get_ext_filename(self, fullname: str) -> str:
        # The library of the ops is no module: its name says nothing of Python, and a C++ program loads it too.
        package, _, name = fullname.rpartition(".")
        return (
            os.path.join(package, f"{name}.so") if name == OPS_LIBRARY else super().get_ext_filename(fullname)
        )

    def build_extension(self, ext: Extension) -> None:
        if ext.name.endswith(OPS_LIBRARY):
            return  # written with the module, which links it
        try:
            import torch
        except ImportError:
            sys.exit(
                "retinanet_fast is built against the torch that it will run with, and this Python has none.\n"
                "Install torch (>= 2.6) first, then: pip install --no-build-isolation ."
            )
        output = Path(self.get_ext_fullpath(ext.name)).resolve().parent
        build = ROOT / "build" / f"{sys.implementation.cache_tag}-torch{torch.__version__}"
        build.mkdir(parents=True, exist_ok=True)
        configure = [
            "cmake",
            *("-S", str(ROOT), "-B", str(build), "-G", "Ninja"),
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-DRETINANET_FAST_VERSION={self.distribution.get_version()}",
            f"-DRETINANET_FAST_OUTPUT_DIR={output}",
            f"-DRETINANET_FAST_CUDA={os.environ.get('RETINANET_FAST_CUDA', 'auto')}",
            f"-DRETINANET_FAST_CPU_LEVELS={os.environ.get('RETINANET_FAST_CPU_LEVELS', '')}",
            *shlex.split(os.environ.get("CMAKE_ARGS", "")),
        ]
        jobs = os.environ.get("MAX_JOBS") or str(os.cpu_count() or 1)
        plan = self.run_cmake(configure)
        print("\n".join(re.findall(r"retinanet_fast build plan: .*", plan)), flush=True)
        self.run_cmake(["cmake", "--build", str(build), "--parallel", jobs])

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
setup(ext_modules=[Extension(name, sources=[]) for name in files], cmdclass={"build_ext": CMakeBuild})
