"""csrc/README.md, "Add an op": in a copy of the tree one is added as the table there says, built and called.

What builds is marked slow, and run by `make test-slow`: the extension is compiled once more, for one x86-64 level.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
COPIED = ["CMakeLists.txt", "setup.py", "pyproject.toml", "README.md", "LICENSE"]
COPIED += ["csrc", "cmake", "retinanet_fast", "tests"]
NOT_COPIED = shutil.ignore_patterns("*.so", "__pycache__")
OP = "box_perimeter"
CREATED = ROOT / "tests" / "added_op"  # the files of a small op, each in its folder

# What is written into files that are there, and before which text of them.
ADDED = {
    "csrc/kernels/cpu/kernels.h": [
        ('#include "kernels/common.h"', '#include "kernels/box_perimeter.h"\n'),
        ("  X(encode_boxes, ", "  X(box_perimeter, BoxPerimeterParams) \\\n"),
    ],
    "CMakeLists.txt": [("  decode_boxes\n", "  box_perimeter\n")],
    "tests/kernel_cases.py": [
        (
            "CASES: dict",
            "def perimeter(device: str, dtype: torch.dtype) -> list[Tensor]:\n"
            "    return [ops.box_perimeter(random_boxes(301, device=device, dtype=dtype))]\n\n\n",
        ),
        ('    "encode_boxes": ', '    "box_perimeter": perimeter,\n'),
    ],
    "retinanet_fast/selftest.py": [
        (
            "ALL: list[Case]",
            "def box_perimeter(f: ModuleType, draw: Inputs) -> list[Tensor]:\n"
            "    return [f.box_perimeter(draw.boxes(30))]\n\n\n",
        ),
        ("    box_iou,\n", "    box_perimeter,\n"),
    ],
    "tests/test_fakes.py": [
        ('    "sigmoid_focal_loss": [', f'    "{OP}": [lambda: ops.{OP}(BOXES[:, :3])],\n'),
    ],
    "tests/test_default_device.py": [
        ('    "sigmoid_focal_loss": lambda', f'    "{OP}": lambda: ops.{OP}(BOXES),\n'),
    ],
    **{
        f"retinanet_fast/{package}/__init__.py": [
            (f"from retinanet_fast.{package}.decode", f"from retinanet_fast.{package}.{OP} import {OP}\n"),
            ('    "decode_boxes"', f'    "{OP}",\n'),
        ]
        for package in ("ops", "reference")
    },
}
STUB = "retinanet_fast/_C.pyi"  # as `make format` writes it


def files_of(tree: Path) -> dict[str, bytes]:
    return {str(path.relative_to(tree)): path.read_bytes() for path in tree.rglob("*") if path.is_file()}


def run(tree: Path, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """With the package of the tree, and this Python's cmake and ninja."""
    environment = os.environ | {
        "PYTHONPATH": str(tree),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        **variables,
    }
    return subprocess.run(
        command, cwd=tree, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def run_tests(tree: Path) -> subprocess.CompletedProcess[str]:
    """Of the op, and those that look for its parts."""
    files = [f"tests/test_{name}.py" for name in (OP, "layering", "registration")]
    tables = [
        "test_fakes.py::test_every_op_has_wrong_calls",
        "test_default_device.py::test_every_op_is_called",
    ]
    names = [name for name in files if (tree / name).exists()] + [f"tests/{name}" for name in tables]
    return run(tree, sys.executable, "-m", "pytest", "-q", *names)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = tmp_path_factory.mktemp("original") / "tree"
    tree.mkdir()
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tree / name, ignore=NOT_COPIED)
        else:
            shutil.copy(ROOT / name, tree / name)
    return tree


@pytest.fixture(scope="module")
def tree(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy with the op."""
    tree = tmp_path_factory.mktemp("with_an_op") / "tree"
    shutil.copytree(original, tree)
    shutil.copytree(CREATED, tree, dirs_exist_ok=True, ignore=NOT_COPIED)
    for name, additions in ADDED.items():
        text = (tree / name).read_text()
        for before, addition in additions:
            assert text.count(before) == 1, f"{name}: {before}"
            text = text.replace(before, addition + before)
        (tree / name).write_text(text)
    sources = sorted(str(path) for path in (tree / "csrc" / "tensor").glob("*.cpp"))
    stub = run(tree, sys.executable, "cmake/generate_bindings.py", "stub", *sources)
    assert stub.returncode == 0, stub.stdout
    (tree / STUB).write_text(stub.stdout)
    return tree


@pytest.fixture(scope="module")
def built(tree: Path) -> Path:
    options = {"RETINANET_FAST_CUDA": "off"}
    if platform.machine() == "x86_64":
        options["RETINANET_FAST_CPU_LEVELS"] = "x86_64_v2"
    done = run(tree, sys.executable, "setup.py", "build_ext", "--inplace", **options)
    assert done.returncode == 0, done.stdout
    return tree


def table() -> set[str]:
    rows = re.findall(
        r"^\| \d+ \| `([^`]+)` \|", (ROOT / "csrc" / "README.md").read_text(), flags=re.MULTILINE
    )
    paths = [row.replace("<op>", OP) for row in rows]
    return {f"csrc/{path}" if path.startswith(("math/", "kernels/", "tensor/")) else path for path in paths}


def test_the_table_lists_what_an_op_needs_and_no_more(original: Path, tree: Path) -> None:
    before, after = files_of(original), files_of(tree)
    assert {name for name in after if after[name] != before.get(name)} == table()


@pytest.mark.slow
def test_the_op_is_built_and_called(built: Path) -> None:
    done = run_tests(built)
    assert done.returncode == 0, done.stdout
    cases = run(built, sys.executable, "tests/kernel_cases.py", "--device", "cpu")
    assert cases.returncode == 0, cases.stdout


# A file forgotten under csrc/ is an error of the build; the case in kernel_cases.py is missed by the emulator's tests.
FORGETTABLE = [
    STUB,
    *(f"retinanet_fast/{package}/{name}.py" for package in ("ops", "reference") for name in (OP, "__init__")),
    f"tests/test_{OP}.py",
    "retinanet_fast/selftest.py",
    "tests/test_fakes.py",
    "tests/test_default_device.py",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", FORGETTABLE)
def test_a_forgotten_python_file_is_found(name: str, original: Path, built: Path) -> None:
    text = (built / name).read_text()
    try:
        if (original / name).exists():
            shutil.copy(original / name, built / name)
        else:
            (built / name).unlink()
        # A test failed, or its file could not be imported (4: a file of which one test is asked for).
        assert run_tests(built).returncode in (1, 2, 4)
    finally:
        (built / name).write_text(text)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc on PATH")
def test_nvcc_compiles_the_kernel(tree: Path) -> None:
    options = ["-G", "Ninja", f"-DPython_EXECUTABLE={sys.executable}", "-DRETINANET_FAST_CUDA=compile"]
    plan = run(tree, "cmake", "-S", ".", "-B", "build/nvcc", *options, TORCH_CUDA_ARCH_LIST="9.0")
    assert plan.returncode == 0, plan.stdout
    done = run(tree, "cmake", "--build", "build/nvcc", "--target", f"cuda/{OP}.cu.o")
    assert done.returncode == 0, done.stdout
    assert f"{OP}.cu: 4 kernels" in done.stdout  # one for each dtype
