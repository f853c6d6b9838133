"""The package as a user meets it: what importing it costs, and what it says where it cannot work."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest
import torch

import retinanet_fast
from retinanet_fast import _ext

SOURCE = Path(retinanet_fast.__file__).parent


SITE = Path(torch.__file__).parents[1]


def python(code: str, *folders: Path) -> str:
    """What a fresh interpreter prints, or its error. ``folders`` come first on its search path."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [*folders, SOURCE.parent, SITE]))}
    # Without site (-S) no editable install adds its own way of finding the package.
    words = [sys.executable, "-S", "-c", code]
    done = subprocess.run(words, env=environment, cwd="/", capture_output=True, text=True, timeout=120)
    return done.stdout.strip() or done.stderr.strip()


def package_without_extension(folder: Path) -> Path:
    """A source tree that has not been built."""
    copied = folder / "retinanet_fast"
    copied.mkdir(parents=True)
    for name in ("__init__.py", "_ext.py"):
        shutil.copy(SOURCE / name, copied)
    return copied


@pytest.mark.parametrize("name", ["acceleration", "models", "nn", "ops", "reference"])
def test_a_part_is_an_attribute(name: str) -> None:
    found = python(f"import retinanet_fast; print(retinanet_fast.{name}.__name__)")
    assert found == f"retinanet_fast.{name}"
    assert name in dir(retinanet_fast)


def test_the_import_alone_does_not_import_torch() -> None:
    assert python("import sys, retinanet_fast; print('torch' in sys.modules)") == "False"


def test_an_unknown_attribute() -> None:
    with pytest.raises(AttributeError, match="module 'retinanet_fast' has no attribute 'opps'"):
        retinanet_fast.opps  # noqa: B018


def test_a_source_folder_that_hides_the_installed_package_is_named(tmp_path: Path) -> None:
    package_without_extension(tmp_path)
    found = python("from retinanet_fast import _ext", tmp_path)
    assert f"the source folder {tmp_path} hides the package that is installed in {SOURCE.parent}" in found


def test_an_extension_that_is_absent_or_of_another_python(tmp_path: Path) -> None:
    copied = package_without_extension(tmp_path)
    load = (
        f"import sys, torch; sys.path[:] = [folder for folder in sys.path if folder != {str(SOURCE.parent)!r}]; "
        "from retinanet_fast import _ext"
    )
    assert "cannot be loaded: it has not been built.\nBuild it against" in python(load, tmp_path)
    (copied / "_C.cpython-38-x86_64-linux-gnu.so").touch()
    assert "built for another Python (_C.cpython-38-x86_64-linux-gnu.so)" in python(load, tmp_path)


def test_an_extension_built_for_another_torch_is_named(tmp_path: Path) -> None:
    copied = package_without_extension(tmp_path)
    broken = b"not an object file\0retinanet_fast is built for torch 1.9.1+cu111\0"
    (copied / f"_C{EXTENSION_SUFFIXES[0]}").write_bytes(broken)
    found = python("from retinanet_fast import _ext", tmp_path)
    assert f"it is built for torch 1.9.1+cu111, and torch {torch.__version__} is running." in found
    assert 'Install that torch:\n    pip install "torch==1.9.*"\nOr keep this one. Build it against' in found
    assert "in retinanet_fast's source folder:\n    pip install --no-build-isolation ." in found


def test_one_that_loads_under_another_minor_version_of_torch_is_an_error_too(tmp_path: Path) -> None:
    copied = package_without_extension(tmp_path)
    (copied / "_C.py").write_text("def build_info():\n    return {'torch': '1.9.1'}\n")
    (tmp_path / "setup.py").touch()  # a source folder: what has to be done is known
    found = python("from retinanet_fast import _ext", tmp_path)
    assert (
        f"it is built for torch 1.9.1, and torch {torch.__version__} is running.\nBuild it against" in found
    )
    assert f"in {tmp_path}:\n    pip install --no-build-isolation ." in found


def test_a_patch_of_the_same_torch_is_none(tmp_path: Path) -> None:
    copied = package_without_extension(tmp_path)
    minor = ".".join(torch.__version__.split(".")[:2])
    (copied / "_C.py").write_text(f"def build_info():\n    return {{'torch': '{minor}.99+cpu'}}\n")
    assert python("from retinanet_fast import _ext; print(_ext._C.__name__)", tmp_path) == "retinanet_fast._C"


def test_the_extension_says_which_torch_it_is_built_for() -> None:
    content = Path(_ext._C.__file__).read_bytes()
    built = re.search(rb"retinanet_fast is built for torch ([\w.+]+)", content)
    assert built is not None
    assert built[1].decode() == retinanet_fast.build_info()["torch"]


@pytest.mark.skipif(shutil.which("nm") is None, reason="no nm, the binutils' reader of symbols")
def test_the_extension_has_no_standard_library_of_its_own() -> None:
    """A static libstdc++, which g++ takes where there is no other, has locales of its own: an error message that holds
    a number would be a crash."""
    assert "PyInit__C" in symbols_of(str(_ext._C.__file__), "--defined-only")
    for file in (str(_ext._C.__file__), str(retinanet_fast.ops_library())):
        assert "_ZNSt6locale7classicEv" not in symbols_of(file, "--defined-only")


@pytest.mark.skipif(shutil.which("nm") is None, reason="no nm, the binutils' reader of symbols")
def test_the_library_of_the_ops_needs_no_python() -> None:
    """A program without Python loads it; every symbol that it lacks must be in torch or in the system."""
    assert " PyErr_SetString" in symbols_of(str(_ext._C.__file__), "--undefined-only")
    missing = symbols_of(str(retinanet_fast.ops_library()), "--undefined-only")
    assert re.findall(r" _?Py\w+", missing) == []


def symbols_of(file: str, kind: str) -> str:
    return subprocess.run(["nm", "-D", kind, file], capture_output=True, text=True, check=True).stdout


def test_there_are_no_late_errors_on_the_cpu() -> None:
    with pytest.raises(IndexError, match="got 7 at row 0"):
        retinanet_fast.ops.sigmoid_focal_loss(torch.zeros(1, 3), torch.tensor([7]))
    retinanet_fast.synchronize_errors()


def resident_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="no /proc, which says what memory is in use"
)
def test_kept_memory_is_released() -> None:
    size = 64 << 20
    logits = torch.zeros(size // 4 // 80, 80, requires_grad=True)
    loss = retinanet_fast.ops.sigmoid_focal_loss(
        logits, torch.zeros(len(logits), dtype=torch.int64), reduction="sum"
    )
    del loss  # and with it the gradient, as large as the logits
    kept = resident_bytes()
    retinanet_fast.release_kept_memory()
    assert kept - resident_bytes() > size // 2
