"""Five hundred mutated image files: each ends in one line or in an image of the size it says, within 2 GB."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from children import HERE, child_environment

pytest.importorskip("resource", reason="memory is limited by setrlimit, which only POSIX has")
COUNT = 500
SEED = 1


def test_a_mutated_image_ends_in_one_line(tmp_path: Path) -> None:
    found = subprocess.run(
        [sys.executable, "fuzzed_images.py", str(COUNT), str(SEED), str(tmp_path)],
        cwd=HERE,
        env=child_environment(OMP_NUM_THREADS="1"),
        capture_output=True,
        text=True,
        timeout=900,
    )
    lines = found.stdout.splitlines()
    assert found.returncode == 0, found.stderr[-2000:]
    assert lines[:-1] == []
    ends = json.loads(lines[-1])
    assert sum(ends.values()) == COUNT
    assert ends["error"] > COUNT / 4
    assert ends["read"] > COUNT / 5
    assert [line for line in found.stderr.splitlines() if "Warning" in line] == []
