"""The names that the package shows, what importing them brings along, and their types in a user's file."""

from __future__ import annotations

import importlib
import importlib.util
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import retinanet_fast

FOLDER = Path(retinanet_fast.__file__).parents[1]
USER_FILE = Path(__file__).with_name("typed_user.py")
PACKAGES = ("acceleration", "compat", "models", "nn", "ops", "reference")


@pytest.mark.parametrize("name", PACKAGES)
def test_dir_shows_what_is_meant(name: str) -> None:
    module = importlib.import_module(f"retinanet_fast.{name}")
    assert dir(module) == sorted(module.__all__)
    assert [public for public in module.__all__ if not hasattr(module, public)] == []


def test_dir_of_the_package() -> None:
    assert dir(retinanet_fast) == sorted([*retinanet_fast.__all__, "__version__"])
    assert [public for public in dir(retinanet_fast) if not hasattr(retinanet_fast, public)] == []
    assert set(PACKAGES) < set(retinanet_fast.__all__)


@pytest.mark.parametrize("name", ["importlib", "TYPE_CHECKING", "Any", "ModuleType"])
def test_no_helper_is_importable_from_the_package(name: str) -> None:
    assert not hasattr(retinanet_fast, name)
    assert not hasattr(retinanet_fast.compat, name)


def test_ops_and_models_import_nothing_beyond_torch() -> None:
    """This, and not a time, which differs by machine: 0.06 s of a processor's time are the package's own modules."""
    code = (
        "import sys, torch; before = {*sys.modules}; import retinanet_fast; from retinanet_fast import models, ops;"
        "print(*sorted({name.partition('.')[0] for name in {*sys.modules} - before}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=FOLDER,
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(done.stdout.split()) - {"retinanet_fast"} <= set(sys.stdlib_module_names)


@pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="mypy is not installed here")
def test_a_users_file_is_clean_under_mypy_strict(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--follow-imports=silent"]
    # A source tree is named to mypy; an installed package must be found through its py.typed.
    found = {"MYPYPATH": str(FOLDER)} if (FOLDER / "setup.py").exists() else {}
    done = subprocess.run(
        [*words, "--cache-dir", str(tmp_path / "cache"), str(USER_FILE)],
        cwd=tmp_path,
        env=os.environ | found,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_users_file_runs(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(USER_FILE), run_name="__main__")
    assert retinanet_fast.__version__ in capsys.readouterr().out


def test_types_are_shipped() -> None:
    assert (FOLDER / "retinanet_fast" / "py.typed").exists()
