"""``python -m wheels``: a wheel for the torch that this Python has, in dist/ (or ``--out DIR``); ``--sdist`` too.

A compiled extension fits one minor version of torch, whose C++ interface changes with each. So a wheel says in its
local version (PEP 440) what it was built for, and requires that torch: ``0.1.0+torch2.13.cpu`` needs ``torch==2.13.*``.
For a torch with CUDA it names CUDA and the architectures, ``+torch2.14.cu130.sm80.sm90.ptx``, or ``.cpuops`` where it
holds no CUDA kernels. A build from source (``pip install .``) stays where it is built, and keeps the plain version and
the range of torches, as the source distribution does.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FACTS = """
import json, torch
from retinanet_fast import build_info
print(json.dumps([torch.__version__, torch.version.cuda or "", build_info()["cuda_architectures"]]))
"""


def wheel_tag(torch: str, torch_cuda: str, architectures: str) -> str:
    """The local version of a wheel.

    ``torch`` and ``torch_cuda`` are the versions of torch and of its CUDA ("" for a CPU build), ``architectures`` those
    of the kernels, as ``build_info()`` has them: ``"8.0 9.0+PTX"``.
    """
    parts = ["torch" + ".".join(re.split(r"[.+]", torch)[:2])]
    if not torch_cuda:
        return ".".join([*parts, "cpu"])
    parts.append("cu" + torch_cuda.replace(".", ""))
    if not architectures:
        return ".".join([*parts, "cpuops"])
    parts += ["sm" + name.removesuffix("+PTX").replace(".", "") for name in architectures.split()]
    return ".".join(parts + ["ptx"] * architectures.endswith("+PTX"))


def build_wheel(out: Path, source: Path = ROOT) -> Path:
    """Build the wheel from the tree ``source``, and return its path."""
    with tempfile.TemporaryDirectory(prefix="retinanet_fast_wheel_") as folder:
        built = Path(folder)
        _run(source, "setup.py", "--quiet", "build", "--build-lib", str(built / "lib"))
        facts = subprocess.run(
            [sys.executable, "-c", FACTS], cwd=built / "lib", check=True, stdout=subprocess.PIPE, text=True
        )
        options = ("--no-build-isolation", "--no-deps", "--quiet", "--wheel-dir", str(built))
        _run(
            source,
            "-m",
            "pip",
            "wheel",
            *options,
            ".",
            RETINANET_FAST_WHEEL_TAG=wheel_tag(*json.loads(facts.stdout)),
        )
        (wheel,) = built.glob("*.whl")
        out.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copy(wheel, out))


def build_sdist(out: Path) -> Path:
    """Make the source distribution, and return its path."""
    out.mkdir(parents=True, exist_ok=True)
    _run(ROOT, "setup.py", "--quiet", "sdist", "--dist-dir", str(out))
    return max(out.glob("retinanet_fast-*.tar.gz"), key=lambda file: file.stat().st_mtime)


def _run(source: Path, *words: str, **environment: str) -> None:
    """Runs Python in a source tree, with its environment's cmake first on PATH; what it says goes to stderr."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, **environment}
    subprocess.run([sys.executable, *words], cwd=source, check=True, stdout=sys.stderr, env=environment)


def main(arguments: Sequence[str] | None = None) -> None:
    """Build what was asked for, and print the path of each file, with its size."""
    parser = argparse.ArgumentParser(prog="python -m wheels", description="A wheel for the installed torch.")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="the folder that it goes to; dist/")
    parser.add_argument("--sdist", action="store_true", help="the source distribution instead")
    parser.add_argument("--source", type=Path, default=ROOT, help="the tree to build from, if not this one")
    options = parser.parse_args(arguments)
    out = options.out.resolve()
    file = build_sdist(out) if options.sdist else build_wheel(out, options.source.resolve())
    print(f"{file}  {file.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(
            f"python -m wheels: {' '.join(error.cmd[:4])} ... ended with {error.returncode}; its output is above"
        )
