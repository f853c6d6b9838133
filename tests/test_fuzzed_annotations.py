"""A thousand mutated annotation files, of every format: each ends in one line or in a split that is what it promises,
within 2 GB, and does not hang."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from children import HERE, child_environment

from retinanet_fast.engine.data.sources import FORMATS

pytest.importorskip("resource", reason="memory is limited by setrlimit, which only POSIX has")
COUNT = 200  # of each of the five formats, and of files of detections
SEED = 1


@pytest.mark.parametrize("format", [*FORMATS, "results"])
def test_a_mutated_file_ends_in_one_line(tmp_path: Path, format: str) -> None:
    environment = child_environment(OMP_NUM_THREADS="1", RETINANET_FAST_CACHE=str(tmp_path / "cache"))
    found = subprocess.run(
        [sys.executable, "fuzzed_annotations.py", format, str(COUNT), str(SEED), str(tmp_path)],
        cwd=HERE,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    lines = found.stdout.splitlines()
    assert found.returncode == 0, found.stderr[-2000:]
    assert lines[:-1] == []
    ends = json.loads(lines[-1])
    # Each is read twice, with and without --skip-bad. The mutations neither leave all as it was nor spoil all.
    assert sum(ends.values()) == 2 * COUNT
    assert ends["error"] > COUNT / 2
    assert ends["read"] + ends.get("read, some left out", 0) > COUNT / 20
