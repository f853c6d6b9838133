"""The package as a user meets it: what importing it costs, and what it says where it cannot work."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import retinanet_fast


def python(code: str, *, folder: Path | None = None, path: str | None = None) -> str:
    """What a fresh interpreter prints, or its error's last line."""
    environment = None if path is None else {"PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )
    return done.stdout.strip() or done.stderr.strip()


@pytest.mark.parametrize("name", ["models", "nn", "ops", "reference"])
def test_a_part_is_an_attribute(name: str) -> None:
    found = python(f"import retinanet_fast; print(retinanet_fast.{name}.__name__)")
    assert found == f"retinanet_fast.{name}"
    assert name in dir(retinanet_fast)


def test_the_import_alone_does_not_import_torch() -> None:
    assert python("import sys, retinanet_fast; print('torch' in sys.modules)") == "False"


def test_an_unknown_attribute() -> None:
    with pytest.raises(AttributeError, match="module 'retinanet_fast' has no attribute 'opps'"):
        retinanet_fast.opps  # noqa: B018
