"""The CUDA kernels' object files as CMakeLists.txt builds them, what ptxas said of them, and their machine code."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from benchmarks.kernel_report.sass import Instruction, parse_functions

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "csrc" / "kernels" / "cuda"


class Missing(Exception):
    """A tool is not there; the message is one line."""


@dataclass(frozen=True)
class CompiledKernels:
    """One source's object file, for every architecture that the build was for."""

    object: Path

    @property
    def source(self) -> str:
        return self.object.name.removesuffix(".o")

    def resources(self) -> dict[tuple[str, str], tuple[int, int, int]]:
        return parse_resources(Path(f"{self.object}.resources").read_text())

    def functions(self, architecture: str) -> dict[tuple[str, str], list[Instruction]]:
        command = [find_cuobjdump(), "-arch", f"sm_{architecture}", "-sass", str(self.object)]
        return parse_functions(run(*command))


def sources() -> list[Path]:
    return sorted(SOURCES.glob("*.cu"))


def compile_kernels(architectures: Sequence[str], pattern: str = "") -> list[CompiledKernels]:
    """Compiles those sources whose names contain `pattern`, by the rules of CMakeLists.txt, in a folder of its own."""
    build = ROOT / "build" / "kernel-report"
    objects = [f"cuda/{source.name}.o" for source in sources() if pattern in source.name]
    cmake = shutil.which("cmake", path=search_path())
    if cmake is None:
        raise Missing("kernel_report: no cmake on PATH; make install")
    options = [f"-DPython_EXECUTABLE={sys.executable}", "-DRETINANET_FAST_CUDA=compile"]
    wanted = " ".join(f"{name[:-1]}.{name[-1]}" for name in architectures)
    run(cmake, "-S", str(ROOT), "-B", str(build), "-G", "Ninja", *options, TORCH_CUDA_ARCH_LIST=wanted)
    jobs = os.environ.get("MAX_JOBS") or str(os.cpu_count() or 1)
    run(cmake, "--build", str(build), "--parallel", jobs, "--target", *objects)
    return [CompiledKernels(build / name) for name in objects]


def search_path() -> str:
    """Beside this Python, PATH, and where the CUDA toolkit usually is."""
    scripts = str(Path(sys.executable).parent)
    return os.pathsep.join([scripts, os.environ.get("PATH", os.defpath), "/usr/local/cuda/bin"])


def find_cuobjdump() -> str:
    """On PATH, in the CUDA toolkit, or in the wheel of Triton, which CUDA builds of torch bring along."""
    tool = shutil.which("cuobjdump", path=search_path())
    if tool is not None:
        return tool
    triton = find_spec("triton")
    if triton is not None and triton.origin is not None:
        tool = shutil.which(Path(triton.origin).parent / "backends" / "nvidia" / "bin" / "cuobjdump")
        if tool is not None:
            return tool
    raise Missing(
        f"kernel_report: no cuobjdump on PATH, in /usr/local/cuda/bin or in the Triton of {sys.executable}; "
        "pip install triton, or run with a Python that has a CUDA build of torch"
    )


def run(*command: str, **environment: str) -> str:
    result = subprocess.run(
        command,
        env=os.environ | {"PATH": search_path()} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{result.stdout}")
    return result.stdout


def demangle(names: Iterable[str]) -> dict[str, str]:
    """'_ZN14retinanet_fast...' -> 'decode_boxes_kernel<float>'."""
    names = list(names)
    texts = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True)
    return {name: short_name(text) for name, text in zip(names, texts.stdout.splitlines(), strict=True)}


def short_name(kernel: str) -> str:
    """'void retinanet_fast::decode_boxes_cu::decode_boxes_kernel<float>(...)' -> 'decode_boxes_kernel<float>'."""
    for noise in (
        "void ",
        "retinanet_fast::",
        r"\w+_cu::",
        r"\(anonymous namespace\)::",
        "<unnamed>::",
        "math::",
    ):
        kernel = re.sub(noise, "", kernel)
    return re.sub(r"\((bool|int|long)\)", "", kernel).split("(")[0]


def parse_resources(log: str) -> dict[tuple[str, str], tuple[int, int, int]]:
    """ptxas -v's (architecture, mangled name) -> registers, bytes spilled, bytes of static shared memory."""
    found = {}
    pattern = (
        r"entry function '(\w+)' for 'sm_(\d+)a?'.*?(\d+) bytes spill stores, (\d+) bytes spill loads"
        r".*?Used (\d+) registers([^\n]*)"
    )
    for name, architecture, stored, loaded, registers, rest in re.findall(pattern, log, flags=re.DOTALL):
        shared = re.search(r"(\d+) bytes smem", rest)
        found[architecture, name] = (
            int(registers),
            int(stored) + int(loaded),
            int(shared[1]) if shared else 0,
        )
    return found
