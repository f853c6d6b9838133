"""What works with torch and numpy alone, and what is said where a package of an extra is missing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from retinanet_fast.engine import errors
from retinanet_fast.engine.recipe.files import tomllib

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


def without(packages: list[str], code: str) -> subprocess.CompletedProcess[str]:
    """Runs `code` in a fresh interpreter in which `packages` cannot be imported; not in the source folder, which would
    hide an installed package."""
    blocked = "".join(f"sys.modules[{package!r}] = None\n" for package in packages)
    words = [sys.executable, "-c", f"import sys\n{blocked}{code}"]
    return subprocess.run(words, cwd="/", capture_output=True, text=True, timeout=300)


def test_ops_and_models_need_torch_and_numpy_alone() -> None:
    done = without(
        list(errors.TRAIN_PACKAGES),
        "import torch\n"
        "from retinanet_fast import models, nn, ops, reference\n"
        "from retinanet_fast.cli import main\n"
        "assert ops.sigmoid_focal_loss(torch.zeros(2, 3), torch.zeros(2, 3)).shape == (2, 3)\n"
        "models.retinanet_resnet18_fpn(num_classes=3).eval()([torch.zeros(3, 64, 64)])\n"
        "sys.exit(main(['info']))",
    )
    assert done.returncode == 0, done.stderr


def test_a_command_names_the_extra_that_it_lacks() -> None:
    commands = [
        ["demo", "--out", "run"],
        ["train", "--recipe", "demo", "--data", "data", "--out", "run"],
        ["eval", "--checkpoint", "run", "--data", "data"],
        ["predict", "--checkpoint", "run", "picture.jpg"],
    ]
    code = f"from retinanet_fast.cli import main\nprint([main(words) for words in {commands!r}])"
    done = without(["PIL"], code)
    assert done.stdout == "[1, 1, 1, 1]\n"
    said = (
        'retinanet-fast: this needs pillow, which is not installed here: pip install "retinanet_fast[train]"'
    )
    assert done.stderr.splitlines() == [said] * 4


@pytest.mark.parametrize(
    ("extra", "module", "package"),
    [(extra, *names) for extra, packages in errors.EXTRAS.items() for names in packages.items()],
)
def test_every_package_of_an_extra_is_named(extra: str, module: str, package: str) -> None:
    error = ModuleNotFoundError(f"No module named '{module}.part'", name=f"{module}.part")
    said = errors.describe_import_error(error)
    assert f"needs {package}, " in said
    assert f'"retinanet_fast[{extra}]"' in said
    assert errors.describe_import_error(ImportError("built for another torch")) == "built for another torch"


def test_the_extras_are_what_the_errors_know() -> None:
    if not PYPROJECT.exists():
        pytest.skip("the tests lie outside the source tree")
    project = tomllib.loads(PYPROJECT.read_text())["project"]
    for extra, packages in errors.EXTRAS.items():
        listed = {entry.split(">")[0] for entry in project["optional-dependencies"][extra]}
        assert listed == set(packages.values())
    assert [dependency.split(">")[0] for dependency in project["dependencies"][:2]] == ["torch", "numpy"]
