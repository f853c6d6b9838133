"""What a process that a test starts needs to import what the test itself imports."""

from __future__ import annotations

import os
from pathlib import Path

import retinanet_fast

HERE = Path(__file__).resolve().parent
# Of the package that is tested, installed or in the source tree; the project's folder, for `benchmarks`, comes last.
IMPORTED = (Path(retinanet_fast.__file__).resolve().parents[1], HERE, HERE.parent)


def child_environment(**values: str) -> dict[str, str]:
    """This process's environment with ``values``; start the process in ``HERE``, where no package lies."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, IMPORTED)), **values}
