"""A command with a time limit, whose output goes into the one log line by line as it comes."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from benchmarks.gpu_check.machine import ROOT, environment

OUT_OF_TIME = 124
GRACE = 10.0  # seconds from SIGINT, on which pytest still writes its report, to SIGKILL; less where the limit is short
ALL: list[Process] = []  # that were started and may run


class Process:
    """Runs from its construction on; `wait` ends it."""

    def __init__(self, name: str, command: Sequence[str], log: Path, **more: str) -> None:
        self.name = name
        self.log = log
        self.lines: list[str] = []
        self.begin = time.monotonic()
        self.write(f"+ {' '.join(command)}")
        try:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment(**more),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,  # so that what it starts can be ended with it
            )
        except OSError as error:  # as a shell says that there is no such command
            self.process = subprocess.Popen(["sh", "-c", "exit 127"], stdout=subprocess.PIPE, text=True)
            self.write(str(error))
        ALL.append(self)
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            self.write(line.rstrip("\n"))

    def write(self, line: str) -> None:
        with self.log.open("a") as log:  # one write a line: processes side by side share the file
            log.write(f"{self.name}| {line}\n")

    @property
    def seconds(self) -> float:
        return round(time.monotonic() - self.begin, 1)

    def wait(self, limit: float) -> tuple[int, str]:
        """Its exit code (OUT_OF_TIME where it had to be ended within `limit` seconds from now) and output."""
        limit = max(limit, 0.1)
        grace = min(GRACE, limit / 4)
        try:
            status = self.process.wait(limit - grace)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(grace)
            status = OUT_OF_TIME
        self.kill()
        self.reader.join(5.0)
        return status, "".join(self.lines)

    def kill(self) -> None:
        """It and all that it started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        if self in ALL:
            ALL.remove(self)


def kill_all() -> None:
    for process in list(ALL):
        process.kill()


def run(name: str, command: Sequence[str], log: Path, limit: float, **more: str) -> tuple[int, str]:
    return Process(name, command, log, **more).wait(limit)
