"""What this machine has: the GPU, the tools, and their versions."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def find_gpu() -> dict[str, str] | None:
    """Name, compute capability, driver and memory of the first GPU, by torch and nvidia-smi; None without one."""
    try:
        import torch
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    major, minor = torch.cuda.get_device_capability(0)
    return {
        "name": torch.cuda.get_device_name(0),
        "capability": f"{major}.{minor}",
        "driver": first_line("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "memory": first_line("nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader"),
    }


def find_tool(name: str) -> str | None:
    """On PATH, beside this Python, or in the CUDA toolkit's usual place."""
    return shutil.which(name, path=search_path())


def find_module(name: str) -> bool:
    return find_spec(name) is not None


def search_path() -> str:
    scripts = Path(sys.executable).parent
    return os.pathsep.join([str(scripts), os.environ.get("PATH", os.defpath), "/usr/local/cuda/bin"])


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def environment(**more: str) -> dict[str, str]:
    """The package is the source tree's, into which it is built; the build's tools are on PATH."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return os.environ | {"PYTHONPATH": path, "PATH": search_path(), "PYTHONUNBUFFERED": "1"} | more


def versions() -> dict[str, str]:
    import torch

    nvcc = find_tool("nvcc")
    release = re.search(r"V([\d.]+)", output(nvcc, "--version") if nvcc else "")
    describe = ("describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")
    return {
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "cuda": str(torch.version.cuda),
        "nvcc": release[1] if release else "none",
        "compiler": first_line("c++", "--version"),
        "commit": first_line("git", "-C", str(ROOT), *describe),
        "cores": str(cores()),
    }


def first_line(*command: str) -> str:
    return output(*command).partition("\n")[0].strip() or "unknown"


def output(*command: str) -> str:
    """What the command prints; nothing where it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
