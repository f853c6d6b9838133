"""``python -m wheels.matrix [PYTHON:TORCH ...]``: does a wheel work with these Pythons and torches?

A cell is a Python and a torch, such as ``3.12:2.8``; without one, this Python and the pinned torch; ``default`` stands
for ``DEFAULT``. For each, in a temporary folder: an environment with that torch; a wheel, built there from the source
distribution; a second environment with the wheel alone beside that torch; the selftest there, away from any source
tree; and some of the tests. Then the folder is deleted, and the row of what was seen is written into matrix.md. A
Python is looked for on PATH and under ~/.pyenv.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

from wheels.__main__ import ROOT, build_sdist

DEFAULT = ("3.10:2.6", "3.12:2.8", "3.12:2.11", "3.11:2.13", "3.13:2.14", "3.14:2.14")
TABLE = Path(__file__).with_name("matrix.md")
# Of requirements.txt, what a build and the tests below need.
TOOLS = (
    "setuptools",
    "wheel",
    "cmake",
    "ninja",
    "pybind11",
    "numpy",
    "tomli",
    "pytest",
    "hypothesis",
    "mypy",
)
# Every op's schema, fake, autograd and compilation; calls with wrong arguments; the models; the package itself.
TESTS = (
    "registration",
    "nms",
    "batched_nms",
    "encode_boxes",
    "retinanet_loss_calls",
    "retinanet_detect_calls",
    "sigmoid_focal_loss_calls",
    "models",
    "nn",
    "package",
    "surface",
    "structures",
)


class Failed(Exception):
    """What went wrong in a cell, in a few words."""


def find_python(version: str) -> str:
    """The command of that Python."""
    if version == ".".join(platform.python_version_tuple()[:2]):
        return sys.executable
    installed = sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python"))
    for command in filter(shutil.which, (f"python{version}", *map(str, installed))):
        # pyenv puts a command of that name on PATH that may only say that it is not switched on.
        said = subprocess.run([command, "--version"], capture_output=True, text=True).stdout
        if said.startswith(f"Python {version}."):
            return command
    raise Failed("not seen: no such Python here")


class Cell:
    """A folder with the two environments and a log for each step."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.base, self.clean = (folder / name / "bin" / "python" for name in ("base", "clean"))

    def run(self, step: str, command: str | Path, *words: str | Path, cwd: Path | None = None) -> str:
        """Run a part of a step, and return what it prints; its log has everything."""
        print(f"  {step}", flush=True)
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        log = self.folder / f"{step}.log"
        with log.open("a") as file:
            done = subprocess.run(
                [command, *words],
                cwd=cwd or self.folder,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
            )
            file.write(done.stdout)
        if done.returncode:
            text = log.read_text()
            print(text[-6000:], file=sys.stderr)
            failures = re.findall(r"^FAILED [^ ]+|^\d+ failed.*", text, flags=re.MULTILINE)
            raise Failed("; ".join([f"{step} failed", *failures]))
        return done.stdout

    def row(self, python: str, torch: str) -> list[str]:
        """The columns of the row, from the third on."""
        version = self.install_torch(python, torch)
        wheel, size = self.build()
        self.install(wheel)
        elsewhere = self.folder / "elsewhere"
        shutil.copytree(ROOT / "tests", elsewhere / "tests", ignore=shutil.ignore_patterns("__pycache__"))
        selftest = self.run("selftest", self.clean, "-m", "retinanet_fast.selftest", cwd=elsewhere)
        files = [f"tests/test_{name}.py" for name in TESTS]
        tests = self.run("tests", self.clean, "-m", "pytest", "-q", *files, cwd=elsewhere)
        return [version, wheel.name, size, selftest.splitlines()[-1], tests.splitlines()[-1].strip("= ")]

    def install_torch(self, python: str, torch: str) -> str:
        """Make the environment that builds, and return torch's full version."""
        self.run("environment", find_python(python), "-m", "venv", self.base.parents[1])
        lines = (ROOT / "requirements.txt").read_text().splitlines()
        tools = [line for line in lines if line.startswith(TOOLS)]
        options = ("--quiet", "--no-compile", f"torch=={torch}.*")
        self.run("torch", self.base, "-m", "pip", "install", *options, *tools)
        return self.run("torch", self.base, "-c", "import torch; print(torch.__version__)").strip()

    def build(self) -> tuple[Path, str]:
        """The wheel, from the source distribution, and its size in MB."""
        with tarfile.open(build_sdist(self.folder)) as archive:
            archive.extractall(self.folder / "source")
        (source,) = (self.folder / "source").iterdir()
        words = ("-m", "wheels", "--out", self.folder, "--source", source)
        said = self.run("build", self.base, *words, cwd=ROOT)
        (wheel,) = self.folder.glob("*.whl")
        return wheel, said.split()[-2]

    def install(self, wheel: Path) -> None:
        """The environment that has the wheel, and all else from the first by a line in a .pth file."""
        self.run("install", self.base, "-m", "venv", "--without-pip", self.clean.parents[1])
        where = "import sysconfig; print(sysconfig.get_path('purelib'))"
        packages, own = (
            self.run("install", python, "-c", where).strip() for python in (self.base, self.clean)
        )
        Path(own, "torch.pth").write_text(packages)
        pip = (self.base, "-m", "pip", "--python", self.clean)
        self.run("install", *pip, "install", "--quiet", "--no-index", wheel)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cells, print their rows, and put them into the table; the exit code is the number of failures."""
    parser = argparse.ArgumentParser(prog="python -m wheels.matrix", description=__doc__.splitlines()[0])
    pinned = re.search(r"^torch==(\d+\.\d+)", (ROOT / "requirements.txt").read_text(), flags=re.MULTILINE)
    assert pinned is not None
    this = f"{sys.version_info[0]}.{sys.version_info[1]}:{pinned[1]}"
    parser.add_argument("cells", nargs="*", default=[this], metavar="PYTHON:TORCH", help=f"by default {this}")
    parser.add_argument("--no-table", action="store_true", help=f"leave {TABLE.name} as it is")
    parser.add_argument(
        "--folder", type=Path, help="where the environments are made, 6 GB for a torch with CUDA"
    )
    options = parser.parse_args(arguments)
    failures = 0
    for cell in DEFAULT if options.cells == ["default"] else options.cells:
        python, torch = cell.split(":")
        print(cell, flush=True)
        with tempfile.TemporaryDirectory(prefix="matrix_", dir=options.folder) as folder:
            try:
                columns = Cell(Path(folder)).row(python, torch)
            except Failed as failed:
                columns = ["", "", "", str(failed), ""]
                failures += not str(failed).startswith("not seen")
        row = [python, torch, *columns]
        print("| " + " | ".join(row) + " |", flush=True)
        if not options.no_table:
            write_row(row)
    return failures


def write_row(row: Sequence[str]) -> None:
    """Put a row into the table, in place of that of the same Python and torch."""
    lines = TABLE.read_text().splitlines()
    first = next(index for index, line in enumerate(lines) if line.startswith("|---")) + 1
    rows = [
        [column.strip() for column in line.strip("|").split("|")] for line in lines[first:] if line[:1] == "|"
    ]
    rows = [*(other for other in rows if other[:2] != list(row[:2])), list(row)]
    rows.sort(key=lambda row: [[int(number) for number in version.split(".")] for version in row[:2]])
    TABLE.write_text("\n".join([*lines[:first], *("| " + " | ".join(row) + " |" for row in rows)]) + "\n")


if __name__ == "__main__":
    sys.exit(main())
