"""``python -m wheels.matrix [PYTHON:TORCH ...]``: does a wheel work with these Pythons and torches?

A cell is a Python and a torch, such as ``3.12:2.8``; without one, this Python and the pinned torch; ``default`` stands
for ``DEFAULT``. For each, in a temporary folder: an environment with that torch; a wheel, built there from the source
distribution; a second environment with the wheel alone beside that torch; the selftest there, away from any source
tree; and some of the tests. Then the folder is deleted, and the row of what was seen is written into matrix.md. A
Python is looked for on PATH and under ~/.pyenv.
"""

from __future__ import annotations

import argparse
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
    for command in (f"python{version}", *map(str, installed)):
        done = (
            subprocess.run([command, "--version"], capture_output=True, text=True)
            if shutil.which(command)
            else None
        )
        if done and done.stdout.startswith(f"Python {version}."):
            return command
    raise Failed("not seen: no such Python here")


def run_cell(python: str, torch: str, folder: Path) -> list[str]:
    """The columns of the cell's row, from the third on."""
    base, clean = folder / "base" / "bin" / "python", folder / "clean" / "bin" / "python"
    source, elsewhere = folder / "source", folder / "elsewhere"
    elsewhere.mkdir()
    _say(folder, "environment", find_python(python), "-m", "venv", str(base.parents[1]))
    pinned = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line.startswith(TOOLS)]
    _say(
        folder,
        "torch",
        str(base),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-compile",
        f"torch=={torch}.*",
        *pinned,
    )
    with tarfile.open(build_sdist(folder)) as archive:
        archive.extractall(folder)
    next(folder.glob("retinanet_fast-*/")).rename(source)
    built = _say(
        folder, "build", str(base), "-m", "wheels", "--out", str(folder), "--source", str(source), cwd=ROOT
    )
    wheel = next(folder.glob("*.whl"))
    facts = _say(folder, "facts", str(base), "-c", "import torch; print(torch.__version__)")

    _say(folder, "environment", str(base), "-m", "venv", "--without-pip", str(clean.parents[1]))
    packages = _say(
        folder, "facts", str(base), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"
    ).strip()
    next(clean.parents[1].glob("lib/python*/site-packages")).joinpath("torch.pth").write_text(packages)
    _say(
        folder,
        "install",
        str(base),
        "-m",
        "pip",
        "--python",
        str(clean),
        "install",
        "--quiet",
        "--no-index",
        str(wheel),
    )
    selftest = _say(folder, "selftest", str(clean), "-m", "retinanet_fast.selftest", cwd=elsewhere)
    shutil.copytree(ROOT / "tests", elsewhere / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    files = [f"tests/test_{name}.py" for name in TESTS]
    tests = _say(
        folder, "tests", str(clean), "-m", "pytest", "-q", "-p", "no:cacheprovider", *files, cwd=elsewhere
    )
    return [
        facts.strip(),
        wheel.name,
        built.split()[-2],
        selftest.splitlines()[-1],
        tests.splitlines()[-1].strip("= "),
    ]


def _say(folder: Path, step: str, *command: str, cwd: Path | None = None) -> str:
    """Runs a step and returns what it prints; everything goes into the folder's log."""
    print(f"  {step}", flush=True)
    log = folder / f"{step}.log"
    with log.open("a") as file:
        done = subprocess.run(command, cwd=cwd or folder, stdout=subprocess.PIPE, stderr=file, text=True)
        file.write(done.stdout)
    if done.returncode:
        text = log.read_text()
        print(text[-6000:], file=sys.stderr)
        failures = re.findall(r"^\d+ failed.*|^FAILED.*", text, flags=re.MULTILINE)
        raise Failed("; ".join([f"{step} failed", *failures]))
    return done.stdout


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
                columns = run_cell(python, torch, Path(folder))
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
