"""Runs the program, or a part of it, in a process of its own, and reads what it says as it comes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.environment import ROOT
from benchmarks.training_step.program import clean


class ChildError(Exception):
    """A measured process failed; the message is the end of what it said."""


def lines_of(words: list[str], environment: dict[str, str] | None = None) -> Iterator[tuple[float, str]]:
    """Each line of ``python -m WORDS``, with the seconds since the process was started.

    Nothing about threads is set in its environment.

    Raises:
        ChildError: the process failed.
    """
    env = {**clean(os.environ), "PYTHONUNBUFFERED": "1", **(environment or {})}
    env["PYTHONPATH"] = os.pathsep.join([env["PYTHONPATH"], str(ROOT)])
    start = time.perf_counter()
    said: list[str] = []
    with (
        subprocess.Popen(
            [sys.executable, "-m", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=env,
            cwd=tempfile.gettempdir(),  # and not the source tree, whose package would hide the one that is measured
        ) as process
    ):
        assert process.stdout is not None
        try:
            for line in process.stdout:
                said.append(line.rstrip())
                yield time.perf_counter() - start, said[-1]
        finally:
            process.kill()  # of no effect on one that has ended
    if process.returncode != 0:
        raise ChildError(" | ".join(said[-3:]) or f"{words[0]}: exit code {process.returncode}")


def reports_of(words: list[str]) -> list[dict[str, Any]]:
    """The lines of json that ``python -m WORDS`` says; it may say others, such as warnings.

    Raises:
        ChildError: the process failed.
    """
    return [json.loads(line) for _, line in lines_of(words) if line.startswith("{")]


def drop_caches(files: list[Path]) -> str:
    """Have the next reader of files read them from the disk; says what has been dropped."""
    try:
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("3\n")
        return "all of the page cache dropped"
    except OSError:
        pass  # for root alone
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
    return "the json dropped from the page cache"
