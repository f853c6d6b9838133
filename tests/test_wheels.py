"""What a wheel is called and asks for, what the source distribution holds, and whose module a build takes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from wheels import matrix
from wheels.__main__ import wheel_tag

ROOT = Path(__file__).parents[1]
MODULE = Path("retinanet_fast", f"_C{EXTENSION_SUFFIXES[0]}")

pytestmark = pytest.mark.skipif(
    not (ROOT / "setup.py").exists(), reason="the tests lie outside the source tree"
)


@pytest.mark.parametrize(
    ("torch", "cuda", "architectures", "tag"),
    [
        ("2.13.0+cpu", "", "", "torch2.13.cpu"),
        (
            "2.13.0+cpu",
            "",
            "8.0 9.0+PTX",
            "torch2.13.cpu",
        ),  # RETINANET_FAST_CUDA=compile: they are not linked
        ("2.6.0", "12.4", "", "torch2.6.cu124.cpuops"),
        ("2.14.1+cu130", "13.0", "8.0 9.0a 12.0+PTX", "torch2.14.cu130.sm80.sm90a.sm120.ptx"),
        ("2.14.1+cu130", "13.0", "9.0", "torch2.14.cu130.sm90"),
        ("2.15.0a0+git1234", "", "", "torch2.15.cpu"),
    ],
)
def test_the_local_version_says_what_a_wheel_is_for(
    torch: str, cuda: str, architectures: str, tag: str
) -> None:
    assert wheel_tag(torch, cuda, architectures) == tag
    assert re.fullmatch(r"[a-z0-9]+(\.[a-z0-9]+)*", tag)  # PEP 440


# Stands for CMake: the module that it "builds" holds the name of the build folder.
CMAKE = f"""#!{sys.executable}
import pathlib, sys
if sys.argv[1] == "--build":
    build = pathlib.Path(sys.argv[2])
    (build / "module").mkdir(exist_ok=True)
    for file in ("{MODULE.name}", "libretinanet_fast_ops.so"):
        (build / "module" / file).write_text(build.name)
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small source tree with a stand-in for CMake."""
    tree = tmp_path / "tree"
    (tree / "retinanet_fast").mkdir(parents=True)
    (tree / "bin").mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, tree)
    (tree / "retinanet_fast" / "__init__.py").touch()
    cmake = tree / "bin" / "cmake"
    cmake.write_text(CMAKE)
    cmake.chmod(0o755)
    return tree


def setup(tree: Path, torch: str, *words: str, tag: str = "") -> subprocess.CompletedProcess[str]:
    """Runs setup.py in an environment whose torch is no more than a version."""
    fake = tree / "environments" / torch / "torch"
    fake.mkdir(parents=True, exist_ok=True)
    (fake / "__init__.py").write_text("raise ImportError('not imported for its version')")
    (fake / "version.py").write_text(f"__version__ = {torch!r}")
    environment = {
        **os.environ,
        "PATH": f"{tree / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(fake.parent),
        "RETINANET_FAST_WHEEL_TAG": tag,
    }
    done = subprocess.run(
        [sys.executable, "setup.py", *words], cwd=tree, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done


def test_two_environments_never_take_each_others_module(tree: Path) -> None:
    newest = sys.implementation.cache_tag + "-torch"
    for torch in ("2.6.0+cu124", "2.13.0+cpu", "2.6.0+cu124"):
        setup(tree, torch, "build_ext", "--inplace")
        assert (tree / MODULE).read_text() == newest + torch


def test_a_module_in_place_is_replaced_whatever_its_time(tree: Path) -> None:
    (tree / MODULE).write_text("another torch's")
    os.utime(tree / MODULE, (4e9, 4e9))
    setup(tree, "2.13.0+cpu", "build_ext", "--inplace")
    assert (tree / MODULE).read_text().endswith("-torch2.13.0+cpu")


def test_what_was_deleted_does_not_come_back_in_a_wheel(tree: Path) -> None:
    deleted = tree / "retinanet_fast" / "deleted.py"
    deleted.touch()
    setup(tree, "2.13.0+cpu", "build")
    (copied,) = tree.glob("build/*/lib*/retinanet_fast/deleted.py")
    deleted.unlink()
    setup(tree, "2.13.0+cpu", "build")
    assert copied.with_name("__init__.py").exists()
    assert not copied.exists()


@pytest.mark.parametrize(
    ("tag", "version", "torch"),
    [("", "0.1.0", "torch>=2.6"), ("torch2.13.cpu", "0.1.0+torch2.13.cpu", "torch==2.13.*")],
)
def test_a_wheel_asks_for_the_torch_that_it_was_built_for(
    tree: Path, tag: str, version: str, torch: str
) -> None:
    setup(tree, "2.13.0+cpu", "egg_info", tag=tag)
    metadata = (tree / "retinanet_fast.egg-info" / "PKG-INFO").read_text()
    assert f"\nVersion: {version}\n" in metadata
    assert re.findall(r"Requires-Dist: (torch.*)", metadata) == [torch]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names in a source distribution, made where no torch is, as `python -m build --sdist` makes it."""
    tree, out = tmp_path_factory.mktemp("sdist") / "tree", tmp_path_factory.mktemp("dist")
    ignored = shutil.ignore_patterns(".*", "build", "dist", "runs", "*.egg-info", "__pycache__", "benchmarks")
    shutil.copytree(ROOT, tree, ignore=ignored)
    code = f"""import sys
sys.modules["torch"] = None
from setuptools.build_meta import build_sdist
build_sdist({str(out)!r})"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tree, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with tarfile.open(out / "retinanet_fast-0.1.0.tar.gz") as archive:
        return {name.partition("/")[2] for name in archive.getnames()}


def test_the_sdist_holds_what_a_build_needs(sdist: set[str]) -> None:
    needed = {
        "CMakeLists.txt",
        "setup.py",
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "retinanet_fast/py.typed",
    }
    folders = ("csrc", "cmake", "retinanet_fast")
    kinds = {".h", ".cuh", ".cpp", ".cu", ".cmake", ".in", ".py", ".pyi", ".toml", ".html"}
    needed |= {
        str(path.relative_to(ROOT))
        for folder in folders
        for path in (ROOT / folder).rglob("*")
        if path.suffix in kinds
    }
    assert needed <= sdist


def test_the_sdist_holds_no_tests_and_nothing_built(sdist: set[str]) -> None:
    assert [name for name in sdist if name.startswith(("tests", "benchmarks", "build"))] == []
    assert [name for name in sdist if name.endswith((".so", ".pyc"))] == []


def test_a_row_of_the_matrix_replaces_that_of_its_python_and_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matrix, "TABLE", tmp_path / "matrix.md")
    matrix.TABLE.write_text("# Title\n\n| Python | torch | seen |\n|---|---|---|\n")
    for row in (
        ["3.12", "2.11", "bad"],
        ["3.12", "2.8", "good"],
        ["3.9", "2.8", "good"],
        ["3.12", "2.11", "good"],
    ):
        matrix.write_row(row)
    assert matrix.TABLE.read_text().splitlines()[4:] == [
        "| 3.9 | 2.8 | good |",
        "| 3.12 | 2.8 | good |",
        "| 3.12 | 2.11 | good |",
    ]


def test_a_python_that_is_not_here_is_no_failure_of_the_wheel(capsys: pytest.CaptureFixture[str]) -> None:
    assert matrix.main(["--no-table", "4.0:2.13"]) == 0
    assert "not seen: no such Python here" in capsys.readouterr().out


def test_a_step_that_fails_is_the_cells_result(tmp_path: Path) -> None:
    code = (
        "print('FAILED tests/test_nms.py::test_ties - AssertionError\\n1 failed in 2 s'); raise SystemExit(1)"
    )
    with pytest.raises(
        matrix.Failed, match=r"tests failed; FAILED tests/test_nms.py::test_ties; 1 failed in 2 s"
    ):
        matrix.Cell(tmp_path).run("tests", sys.executable, "-c", code)


def test_the_tests_of_a_cell_are_there() -> None:
    assert [name for name in matrix.TESTS if not (ROOT / "tests" / f"test_{name}.py").exists()] == []
