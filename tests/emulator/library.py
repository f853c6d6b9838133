"""The emulated kernels: how they are built, and how `retinanet_fast._C` becomes the build whose ops run them."""

import ctypes
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]


def build(target: str) -> Path:
    """Builds beside the extension (setup.py), whose object files it shares; returns the folder of the libraries."""
    folder = ROOT / "build" / f"{sys.implementation.cache_tag}-torch{torch.__version__}"
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    options = (
        []
        if (folder / "CMakeCache.txt").exists()
        else ["-G", "Ninja", f"-DPython_EXECUTABLE={sys.executable}"]
    )
    commands = [
        ["cmake", "-S", str(ROOT), "-B", str(folder), *options],
        ["cmake", "--build", str(folder), "--target", target, "--parallel", str(os.cpu_count() or 1)],
    ]
    for command in commands:
        result = subprocess.run(command, env=environment, capture_output=True, text=True)
        if result.returncode != 0:
            raise RuntimeError(result.stdout + result.stderr)
    return folder / "emulator"


def load(kernels: Path) -> tuple[ctypes.CDLL, ctypes.CDLL]:
    """Loads a variant's library (build/.../emulator/VARIANT/libemulated_kernels.so) and the `_C` that calls it, which
    needs a library of that name and gets this one because it is loaded before. Returns both."""
    library = ctypes.CDLL(str(kernels), mode=ctypes.RTLD_GLOBAL)
    path = kernels.parent.parent / "_C.so"
    spec = importlib.util.spec_from_file_location("retinanet_fast._C", path)
    assert spec is not None
    assert spec.loader is not None
    sys.modules["retinanet_fast._C"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return library, ctypes.CDLL(str(path))
